"""Make the pixels that a checkpoint was trained on: resize and crop on the CPU, normalise on the device.

A `Geometry` works without torch. Only a preprocessor that is reproduced is accepted; the torch backend checks the
result against the checkpoint's own processor when it loads.

Bilinear resizing is that of `cykooz-resizer`, which takes a fraction of Pillow's time. It goes across, then down, as
Pillow does, and computes in whole numbers: a pixel is at most one level of 255 from Pillow's, the same on every
processor, and on photographs what transformers' fast processors make. Other filters are up to 50 levels from Pillow's
on noise, so Pillow resizes with them. So it does before a round trip through JPEG, which would make several levels of
one, and move scores of open_nsfw by up to 0.008. And so it does for a sliver, which would become enormous by its
shortest edge: of that only what the crop keeps is made, where two passes may round ties the other way (two levels off,
seldom; Pillow takes the place of a crop in 32-bit floats).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from math import ceil, floor, prod, sqrt
from typing import Any, Literal

import numpy as np
from cykooz_resizer import FilterType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image

from nsfwscan.errors import ModelError
from nsfwscan.images.raster import blank

_RESIZER, _BILINEAR = Resizer(), ResizeOptions(ResizeAlg.convolution(FilterType.bilinear))
_MOST_WHOLE = 100_000_000
"""Pixels of a resized picture that is made whole before it is cropped: 400 MB."""
_WIDEST = 3
"""Pixels on each side that a filter of Pillow's looks at, at the larger of both scales: Lanczos."""


@dataclass(frozen=True)
class Geometry:
    """Resize, then centre crop, to H x W x 3 uint8.

    Args:
        resize: (height, width) in pixels; or the length of the shortest edge, the aspect kept.
        resample: a `PIL.Image.Resampling` value.
        crop: (height, width) in pixels, from the centre; None: nothing is cut.
        reencode_jpeg: a round trip through JPEG at Pillow's default quality, as open_nsfw's reference does.
        letterbox: `start`: the aspect is kept, the picture lies at the top left of (height, width), and the rest is
            black. `within`: it keeps its aspect and is never enlarged; it has at most as many pixels as (height,
            width), row after row from the start, and zeros after them. None: the aspect is not kept.
    """

    resize: tuple[int, int] | int
    resample: int
    crop: tuple[int, int] | None = None
    reencode_jpeg: bool = False
    letterbox: Literal["start", "within"] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, 3) of the result."""
        height, width = self.crop or self.resize  # type: ignore[misc]  # __post_init__ refuses an edge without a crop
        return height, width, 3

    @property
    def nbytes(self) -> int:
        """Bytes of one image."""
        return int(np.prod(self.shape))

    def __post_init__(self) -> None:
        if isinstance(self.resize, int) and self.crop is None:
            raise ModelError(
                "the preprocessor resizes to a shortest edge and does not crop: images would differ in size"
            )
        edges = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if min(*edges, *(self.crop or ())) < 1:
            raise ModelError(f"the preprocessor resizes to {self.resize} and crops to {self.crop}: no pixels are left")
        if self.crop and (self.crop[0] > edges[0] or self.crop[1] > edges[1]):
            raise ModelError(f"the preprocessor crops to {self.crop}, which is more than it resizes to, {self.resize}")

    def apply(self, image: Image.Image) -> bytes:
        """Return the model's pixels of an RGB image: H*W*3 bytes, row by row."""
        size = self.resized(image.size)
        is_sliver = isinstance(self.resize, int) and prod(size) > _MOST_WHOLE
        image = self._middle(image, size) if is_sliver else self._resize(image, size)
        if self.letterbox == "within":
            return image.tobytes().ljust(self.nbytes, b"\0")
        if self.letterbox:
            height, width, _ = self.shape
            image = image.crop((0, 0, width, height))  # beyond the picture's edges Pillow gives black
        if self.crop:
            height, width = self.crop
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        if self.reencode_jpeg:
            buffer = io.BytesIO()
            image.save(buffer, format="JPEG")
            image = Image.open(buffer)
        return image.tobytes()

    def _middle(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Return what a picture resized to `size`, across, then down, has in its middle, of the pixels there."""
        (height, width, _), resample = self.shape, Image.Resampling(self.resample)
        across, down = _Span.of(image.width, size[0], width), _Span.of(image.height, size[1], height)
        near = image.crop((across.first, down.first, across.last, down.last))
        near = near.resize((width, near.height), resample, (across.start, 0, across.end, near.height))
        return near.resize((width, height), resample, (0, down.start, width, down.end))

    def _resize(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        resample = Image.Resampling(self.resample)
        if resample != Image.Resampling.BILINEAR or self.reencode_jpeg or image.mode != "RGB":
            return image.resize(size, resample)
        for target in ((size[0], image.height), size):  # across, then down, as Pillow does: at once it is the other way
            if image.size != target:
                source, (image, _) = image, blank("RGB", target)
                _RESIZER.resize_pil(source, image, _BILINEAR)
        return image

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (width, height) after resizing, before cropping; a sliver becomes enormous by its shortest edge.
        The long edge is rounded down, as in transformers."""
        width, height = size
        if not isinstance(self.resize, int):
            if not self.letterbox:
                return self.resize[1], self.resize[0]
            if self.letterbox == "within":
                scale = min(1.0, sqrt(self.resize[0] * self.resize[1] / (width * height)))
                width = max(1, int(width * scale))
                return width, max(1, min(int(height * scale), self.resize[0] * self.resize[1] // width))
            scale = min(self.resize[1] / width, self.resize[0] / height)
            return max(1, round(width * scale)), max(1, round(height * scale))
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize


@dataclass(frozen=True)
class _Span:
    """The part of an edge behind the middle of the resized one, in pixels.

    Attributes:
        first, last: of the pixels that a filter looks at.
        start, end: of the part itself, from `first` on.
    """

    first: int
    last: int
    start: float
    end: float

    @classmethod
    def of(cls, edge: int, resized: int, kept: int) -> _Span:
        scale, start = edge / resized, (resized - kept) // 2 * edge / resized
        end, beside = min(edge, start + kept * scale), _WIDEST * max(1.0, scale) + 1
        first, last = max(0, floor(start - beside)), min(edge, ceil(end + beside))
        return cls(first, last, start - first, end - first)


@dataclass(frozen=True)
class Normalisation:
    """`(pixel * scale - mean) / std` of the channels R, G, B; `bgr` reverses their order at the end."""

    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False


# Defaults of transformers 5 for what a file leaves out. `edge`: a bare number as size means the shortest edge, not a
# square.
_HALF = [0.5] * 3
_CLIP, _CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_SQUARE: dict[str, Any] = {"size": {"height": 224, "width": 224}}
_EDGE: dict[str, Any] = {"size": {"shortest_edge": 224}, "edge": True}
_NORMALISED: dict[str, Any] = {"image_mean": _HALF, "image_std": _HALF}
_CROPPED: dict[str, Any] = {"crop_size": 224, "do_center_crop": True}
_CLIPPED: dict[str, Any] = {**_EDGE, **_CROPPED, "resample": 3, "image_mean": _CLIP, "image_std": _CLIP_STD}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {**_SQUARE, **_NORMALISED, "resample": 2},
    "Siglip": {**_SQUARE, **_NORMALISED, "resample": 3, "edge": True},
    "DeiT": {**_NORMALISED, **_CROPPED, "size": {"height": 256, "width": 256}, "resample": 3},
    "Bit": _CLIPPED,
    "CLIP": _CLIPPED,
    "ConvNext": {**_NORMALISED, "size": {"shortest_edge": 384}, "resample": 3, "crop_pct": 224 / 256, "edge": True},
}


def family_of(settings: dict[str, Any]) -> str:
    """Return `ViT`, `Bit`, `ConvNext`, … from `preprocessor_config.json`."""
    name = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "unnamed")
    for suffix in ("Pil", "Fast", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(suffix)
    return name


def read_preprocessor(settings: dict[str, Any], model: str) -> tuple[Geometry, Normalisation]:
    """Return geometry and normalisation by the content of `preprocessor_config.json`.

    Raises:
        ModelError: the processor does something that is not reproduced here, or leaves a step open.
    """
    family = family_of(settings)
    merged = {**_DEFAULTS.get(family, {}), **{k: v for k, v in settings.items() if v is not None}}
    if not merged.get("do_resize", True) or merged.get("do_pad"):
        raise ModelError(
            f"{model}: its {family} preprocessor does not resize, or pads; such checkpoints cannot be scanned with"
        )
    missing = [key for key in ("size", "resample", "image_mean", "image_std") if key not in merged]
    if missing:
        raise ModelError(f"{model}: its preprocessor_config.json ({family}) does not give {', '.join(missing)}")
    try:
        return _geometry(merged, family, model), _normalisation(merged)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{model}: its preprocessor_config.json ({family}) is not understood: {error!r}") from error


def _geometry(merged: dict[str, Any], family: str, model: str) -> Geometry:
    resize, crop = _resize_and_crop(merged, family, model)
    letterbox = merged.get("letterbox")
    if letterbox not in (None, "start"):
        raise ValueError(f"a letterbox {letterbox!r}")
    return Geometry(resize, Image.Resampling(merged["resample"]), crop, letterbox=letterbox)


def _normalisation(merged: dict[str, Any]) -> Normalisation:
    normalise = merged.get("do_normalize", True)
    if normalise and 0 in _three(merged["image_std"]):
        raise ValueError("a standard deviation of 0")
    return Normalisation(
        scale=float(merged.get("rescale_factor", 1 / 255)) if merged.get("do_rescale", True) else 1.0,
        mean=_three(merged["image_mean"]) if normalise else (0.0, 0.0, 0.0),
        std=_three(merged["image_std"]) if normalise else (1.0, 1.0, 1.0),
    )


def _resize_and_crop(
    merged: dict[str, Any], family: str, model: str
) -> tuple[tuple[int, int] | int, tuple[int, int] | None]:
    size = merged["size"]
    if isinstance(size, int):
        size = {"shortest_edge": size} if merged.get("edge") else {"height": size, "width": size}
    if family == "ConvNext":
        edge = int(size["shortest_edge"])
        return ((edge, edge), None) if edge >= 384 else (int(edge / merged["crop_pct"]), (edge, edge))
    if {"height", "width"} <= set(size):
        resize: tuple[int, int] | int = (int(size["height"]), int(size["width"]))
    elif "shortest_edge" in size and not size.get("longest_edge"):
        resize = int(size["shortest_edge"])
    else:
        raise ModelError(f"{model}: its preprocessor's size {size} is not a height and width, nor a shortest edge")
    crop = merged.get("crop_size") if merged.get("do_center_crop") else None
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    return resize, (int(crop["height"]), int(crop["width"])) if crop else None


def _three(values: Any) -> tuple[float, float, float]:
    numbers = [float(values)] * 3 if isinstance(values, int | float) else [float(v) for v in values]
    if len(numbers) != 3:
        raise ModelError(
            f"the preprocessor's mean or std has {len(numbers)} channels; only RGB models can be scanned with"
        )
    return numbers[0], numbers[1], numbers[2]
