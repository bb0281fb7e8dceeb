"""Describe a model without its weights and without torch, light enough to travel from the driver to every worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nsfwscan.images.preprocessing import Geometry, Normalisation
from nsfwscan.schema import Category
from nsfwscan.texts.patterns import PatternList
from nsfwscan.texts.rules import TextRules

Score = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Boxes = NDArray[np.float32]
"""[boxes, 6]: number of the label, score, and left, top, width and height in shares of a picture."""
Gives = Literal["probabilities", "boxes", "embedding", "lines"]
"""What a model gives: a probability for each label; boxes, by the head of YOLOv8; a vector, which has no labels; or
lines of text, and what else is written in a picture."""
Takes = Literal["pixels", "picture", "text"]
"""What a model takes: pixels of its geometry; the picture as people see it, which is read again for it; or the text
that another has read there."""
Judge = Callable[[str], NDArray[np.float32]]
"""A loaded classifier of text: from a text to float32 probabilities [labels]."""


@dataclass(frozen=True)
class Findings:
    """What a model found in a batch of views.

    Attributes:
        numbers: float32 [batch, labels]: probabilities; of boxes, the highest score of each label; or float32 [batch,
            dimensions]: vectors.
        boxes: of each view; None where the model gives none.
    """

    numbers: NDArray[np.float32]
    boxes: Sequence[Boxes] | None = None


class Classifier:
    """A loaded model: from uint8 [batch, H, W, 3] to float32 probabilities [batch, labels], as `ModelSpec.labels`, or,
    where it gives boxes, to what `boxes.read_boxes` takes.

    A batch has exactly `Hardware.batch_size` images: a fixed shape makes a score independent of its neighbours.
    """

    def __init__(self, score: Score) -> None:
        self._score = score

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of one batch."""
        return self._score(pixels)

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """Yield the probabilities of each batch, in order. A device may fetch the next batch while it works on one."""
        return map(self, batches)


@dataclass(frozen=True)
class ModelSpec:
    """A checkpoint: its weights' place and digest, its input and its output."""

    name: str
    uri: str
    digest: str
    """Hex SHA-256 over weights, configuration, preprocessor and temperature."""
    backend: Literal["torch", "onnx"]
    labels: tuple[str, ...]
    """As the checkpoint spells them, in its order."""
    categories: tuple[Category, ...]
    """Their meanings, in the same order. Probabilities of labels with one meaning are added."""
    geometry: Geometry
    normalisation: Normalisation
    policy: str
    """Policy preset that comes with it."""
    temperature: float | None = None
    """Its logits are divided by this before the softmax (Guo et al. 2017, 4.2); None: it comes with none."""
    gives: Gives = "probabilities"
    dimensions: int = 0
    """Numbers of a vector; 0 of a model that gives none."""
    takes: Takes = "pixels"

    @property
    def width(self) -> int:
        """Numbers that it gives for a view: one for each label, or those of its vector."""
        return self.dimensions or len(self.labels)

    @property
    def identity(self) -> str:
        """`name@digest`, as in the report."""
        return f"{self.name}@{self.digest[:16]}"

    @property
    def known(self) -> tuple[Category, ...]:
        """Return its categories, each once."""
        return tuple(dict.fromkeys(self.categories))

    def by_category(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [rows, known categories], 0 to 1, from probabilities [rows, labels]; NaN stays NaN."""
        if len(self.known) == len(self.labels):
            return probabilities
        columns = [[one == category for one in self.categories] for category in self.known]
        return np.stack([probabilities[:, column].sum(axis=1) for column in columns], axis=1).clip(0, 1)


@dataclass(frozen=True)
class AuxiliaryModels:
    """Models beside the primary one, by which the policy goes."""

    prefilter: ModelSpec | None = None
    detectors: tuple[ModelSpec, ...] = ()
    """`name` is the detector's; its labels mean no category."""
    text: TextRules | None = None
    """What becomes of text; None where no detector reads any."""

    @property
    def all(self) -> tuple[ModelSpec, ...]:
        """Return every one of them."""
        return (*((self.prefilter,) if self.prefilter else ()), *self.detectors)

    @property
    def lists(self) -> tuple[PatternList, ...]:
        """Return the patterns that text is searched for."""
        return () if self.text is None else self.text.lists


ALONE = AuxiliaryModels()


def digests_of(spec: ModelSpec, auxiliary_models: AuxiliaryModels) -> dict[str, str]:
    """Return the digests of the `model`, and of the detectors by their names."""
    return {**{one.name: one.digest for one in auxiliary_models.detectors}, "model": spec.digest}


def pixel_columns(spec: ModelSpec, auxiliary_models: AuxiliaryModels) -> dict[Geometry, str]:
    """Return the columns of pixels that the models need, one per geometry; `pixels` is the primary model's."""
    geometries = dict.fromkeys(model.geometry for model in (spec, *auxiliary_models.all) if model.takes == "pixels")
    return {geometry: f"pixels_{i}" if i else "pixels" for i, geometry in enumerate(geometries)}


@dataclass(frozen=True)
class Hardware:
    """Device and precision of a classifier, as found on the worker itself."""

    device: Literal["cuda", "cpu"]
    dtype: Literal["float32", "bfloat16", "float16"]
    batch_size: int
    threads: int
    compiled: bool = False
    """True where torch.compile has compiled it, for this batch size."""
