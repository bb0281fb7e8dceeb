"""What there is to know of a model before it is loaded: light enough to travel from the driver to every worker.

In: a resolved checkpoint. Out: `ModelSpec`. No weights, no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nsfwscan.models.geometry import Geometry, Normalisation
from nsfwscan.schema import Category

Classifier = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 [batch, H, W, 3] to float32 probabilities [batch, labels], in the order of `ModelSpec.categories`. The batch
must be exactly `batch_size` long: a fixed shape makes a score independent of its neighbours."""


@dataclass(frozen=True)
class ModelSpec:
    """A checkpoint: where its weights are, which exactly they are, what goes in and what comes out."""

    name: str
    uri: str
    digest: str
    """Hex SHA-256 over weights, configuration and preprocessor."""
    backend: Literal["torch", "onnx"]
    labels: tuple[str, ...]
    """As the checkpoint spells them, in its order."""
    categories: tuple[Category, ...]
    """What they mean, in the same order."""
    geometry: Geometry
    normalisation: Normalisation
    policy: str
    """The policy preset that comes with it."""

    @property
    def identity(self) -> str:
        """`name@digest`, as it stands in the report."""
        return f"{self.name}@{self.digest[:16]}"


@dataclass(frozen=True)
class Hardware:
    """What a classifier runs on, as found on the worker itself."""

    device: Literal["cuda", "cpu"]
    dtype: Literal["float32", "bfloat16", "float16"]
    batch_size: int
    threads: int
