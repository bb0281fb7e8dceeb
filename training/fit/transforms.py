"""Turn an encoded image into the model's pixels, by the scan's own code, and augment it lightly for training.

Pixels are uint8 [H, W, 3], normalised later on the device. No random number comes from a global state: an image is
augmented by seed, epoch and index alone, so that it does not matter who loads it, when, or after which interruption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch.utils.data import Dataset, Sampler

from nsfwscan.errors import RowError, SourceError
from nsfwscan.images.decoder import decode, to_pixels
from nsfwscan.images.preprocessing import Geometry

LEAST_EDGE = 0.85
"""Least share of width and height that a crop keeps: what makes an image explicit may lie at its edge."""
JITTER = 0.1
"""Largest change of brightness, contrast and saturation, as a share."""

ImageKey = tuple[int, int]
"""(epoch, image index)."""


class Rows(Protocol):
    """A split of the data; `datasets.Dataset` is one."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return `uri`, `bytes` (encoded) and `label` of one row."""


@dataclass(frozen=True)
class Augmentation:
    """Flip, crop and colour jitter. The seed is the training's."""

    seed: int

    def crop(self, image: Image.Image, place: ImageKey) -> Image.Image:
        """Mirror a decoded image, or not, and cut off some of its edges."""
        random = np.random.default_rng((self.seed, 0, *place))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        width, height = (max(1, round(edge * random.uniform(LEAST_EDGE, 1.0))) for edge in image.size)
        left = int(random.integers(0, image.width - width + 1))
        top = int(random.integers(0, image.height - height + 1))
        return image.crop((left, top, left + width, top + height))

    def jitter(self, pixels: bytes, geometry: Geometry, place: ImageKey) -> bytes:
        """Change brightness, contrast and saturation of the model's pixels a little."""
        random = np.random.default_rng((self.seed, 1, *place))
        height, width, _ = geometry.shape
        image = Image.frombytes("RGB", (width, height), pixels)
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhancer(image).enhance(random.uniform(1 - JITTER, 1 + JITTER))
        return image.tobytes()


class Pixels(Dataset[dict[str, Any]]):
    """A split as the model takes it, decoded on access; without an augmentation it gives exactly the pixels of a
    scan."""

    def __init__(
        self, rows: Rows, geometry: Geometry, *, max_pixels: int, augmentation: Augmentation | None = None
    ) -> None:
        self._rows, self._geometry, self._max_pixels = rows, geometry, max_pixels
        self._augmentation = augmentation

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: ImageKey | int) -> dict[str, Any]:
        """Return `pixel_values`: uint8 [H, W, 3], and `labels`: an index. Raises SourceError where the image does not
        decode, though it did when the data were prepared."""
        place = key if isinstance(key, tuple) else (0, key)
        row = self._rows[place[1]]
        try:
            pixels = self._load(row["bytes"], place)
        except RowError as error:
            raise SourceError(f"cannot train with {row['uri']}: {error}; leave it out of the data") from None
        values: NDArray[np.uint8] = np.frombuffer(bytearray(pixels), np.uint8).reshape(self._geometry.shape)
        return {"pixel_values": torch.from_numpy(values), "labels": int(row["label"])}

    def _load(self, data: bytes, place: ImageKey) -> bytes:
        if self._augmentation is None:
            return to_pixels(data, self._geometry, max_pixels=self._max_pixels)[1]
        image = self._augmentation.crop(decode(data, max_pixels=self._max_pixels).image, place)
        return self._augmentation.jitter(self._geometry.apply(image), self._geometry, place)


class EpochOrder(Sampler[ImageKey]):
    """Yields every image once, in an order of the `epoch`'s own, which the callback sets."""

    def __init__(self, images: int, seed: int) -> None:
        self.epoch = 0
        self._images, self._seed = images, seed

    def __len__(self) -> int:
        return self._images

    def __iter__(self) -> Iterator[ImageKey]:
        order = np.random.default_rng((self._seed, 2, self.epoch)).permutation(self._images)
        return ((self.epoch, int(index)) for index in order)


def collate(images: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch: `pixel_values` uint8 [batch, H, W, 3], `labels` int64 [batch]."""
    return {
        "pixel_values": torch.stack([image["pixel_values"] for image in images]),
        "labels": torch.tensor([image["labels"] for image in images]),
    }
