"""What there is to know of a model before it is loaded: light enough to travel from the driver to every worker.

In: a resolved checkpoint. Out: `ModelSpec`. No weights, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nsfwscan.images.preprocessing import Geometry, Normalisation
from nsfwscan.schema import Category

Score = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class Classifier:
    """uint8 [batch, H, W, 3] to float32 probabilities [batch, labels], in the order of `ModelSpec.labels`.

    A batch must be exactly `Hardware.batch_size` long: a fixed shape makes a score independent of its neighbours.

    Args:
        score: does so for one batch.
    """

    def __init__(self, score: Score) -> None:
        self._score = score

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probabilities of one batch."""
        return self._score(pixels)

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """The probabilities of each batch, in order. A device may fetch the next batch while it works on one."""
        return map(self, batches)


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
    """What they mean, in the same order. Several may mean the same: their probabilities are added."""
    geometry: Geometry
    normalisation: Normalisation
    policy: str
    """The policy preset that comes with it."""

    @property
    def identity(self) -> str:
        """`name@digest`, as it stands in the report."""
        return f"{self.name}@{self.digest[:16]}"

    @property
    def known(self) -> tuple[Category, ...]:
        """The categories that it knows, each once."""
        return tuple(dict.fromkeys(self.categories))

    def by_category(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 [rows, known categories], 0 to 1, of the labels' probabilities [rows, labels]; NaN stays NaN."""
        if len(self.known) == len(self.labels):
            return probabilities
        columns = [[one == category for one in self.categories] for category in self.known]
        return np.stack([probabilities[:, column].sum(axis=1) for column in columns], axis=1).clip(0, 1)


@dataclass(frozen=True)
class AuxiliaryModels:
    """The models beside the one that the policy goes by."""

    prefilter: ModelSpec | None = None
    detectors: tuple[ModelSpec, ...] = ()
    """`name` is the detector's; their labels mean no category."""

    @property
    def all(self) -> tuple[ModelSpec, ...]:
        """Every one of them."""
        return (*((self.prefilter,) if self.prefilter else ()), *self.detectors)


ALONE = AuxiliaryModels()


def pixel_columns(spec: ModelSpec, auxiliary_models: AuxiliaryModels) -> dict[Geometry, str]:
    """The columns of pixels that the models take, one for each geometry; `pixels` is the first model's."""
    geometries = dict.fromkeys(model.geometry for model in (spec, *auxiliary_models.all))
    return {geometry: f"pixels_{i}" if i else "pixels" for i, geometry in enumerate(geometries)}


@dataclass(frozen=True)
class Hardware:
    """What a classifier runs on, as found on the worker itself."""

    device: Literal["cuda", "cpu"]
    dtype: Literal["float32", "bfloat16", "float16"]
    batch_size: int
    threads: int
    compiled: bool = False
    """By torch.compile, for this batch size."""
