"""Take what a program may give to `classify`: paths, URIs, bytes, open files, Pillow images and NumPy arrays.

Each becomes a `Given`: what its verdict is called, and its bytes where they need not be read. Pixels are encoded as
PNG, without loss, so that they pass the same decoder as files do. What is none of these is a `ConfigError` that says
what was given, at which index, and what is accepted.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.config import PASSWORD_IN_URI
from nsfwscan.errors import ConfigError
from nsfwscan.text import has_password

Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | NDArray[np.uint8]
"""An image: a path or URI, an encoded file (its bytes, or opened for reading bytes), or pixels."""

_ACCEPTED = (
    "a path, a URI, bytes of an image file, a file opened in binary mode, a Pillow image, or a NumPy array of uint8 "
    "[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
)
_MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}
"""Modes of Pillow that PNG holds as they are."""
_CONVERTED = {"CMYK", "YCbCr", "RGBX", "HSV", "LAB"}


@dataclass(frozen=True)
class Given:
    """An image to classify.

    Attributes:
        uri: a path or URI, or what the image is called.
        data: the encoded file; None: it is read from `uri`.
    """

    uri: str
    data: bytes | None = None


def given_images(images: Picture | Iterable[Picture], max_bytes: int) -> Iterator[Given]:
    """Yield the images in order, taking each one only when it is asked for.

    Args:
        images: one image, or an iterable of them.
        max_bytes: bytes after which an open file is read no further: one more is then too large.
    """
    several = images if _is_several(images) else [images]
    for index, image in enumerate(several):  # type: ignore[arg-type]
        yield _given(image, index, max_bytes)


def _is_several(images: Any) -> bool:
    one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
    return not isinstance(images, one) and not hasattr(images, "read") and isinstance(images, Iterable)


def _given(image: Any, index: int, max_bytes: int) -> Given:
    if isinstance(image, str | os.PathLike):
        path = os.fsdecode(image)
        if has_password(path):
            raise ConfigError(f"image {index}: {PASSWORD_IN_URI}")
        return Given(path)
    if isinstance(image, bytes | bytearray | memoryview):
        return Given(f"bytes[{index}]", bytes(image))
    if isinstance(image, Image.Image):
        return Given(f"image[{index}]", _png(_plain(image, index), image))
    if isinstance(image, np.ndarray):
        return Given(f"array[{index}]", _png(_from_array(image, index)))
    if hasattr(image, "read"):
        return Given(f"file[{index}]", _read(image, index, max_bytes))
    raise _refused(index, f"a {type(image).__module__}.{type(image).__qualname__}".replace("builtins.", ""))


def _read(file: Any, index: int, max_bytes: int) -> bytes:
    try:
        data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"image {index} is a file that cannot be read: {error}") from error
    if isinstance(data, str):
        raise _refused(index, "a file opened as text: open it with mode 'rb'")
    return bytes(data)


def _plain(image: Image.Image, index: int) -> Image.Image:
    if image.mode in _MODES:
        return image
    if image.mode in _CONVERTED:
        return image.convert("RGB")
    raise _refused(index, f"a Pillow image of mode {image.mode}: convert it to RGB")


def _from_array(array: NDArray[Any], index: int) -> Image.Image:
    what = f"an array of {array.dtype} {list(array.shape)}"
    if array.dtype != np.uint8:
        raise _refused(index, f"{what}: scale its values to 0 to 255, and cast it to uint8")
    if array.ndim == 4:
        raise _refused(index, f"{what}, which is a batch: give list(array)")
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        raise _refused(index, f"{what}, with its channels first: give array.transpose(1, 2, 0)")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or 0 in array.shape:
        raise _refused(index, what)
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array))


def _png(image: Image.Image, given: Image.Image | None = None) -> bytes:
    """Encode pixels; orientation and colour profile of the image that was given travel with them."""
    buffer, info = io.BytesIO(), {} if given is None else given.info
    beside = {"exif": given.getexif()} if given is not None else {}
    if given is not None and image.mode == given.mode and info.get("icc_profile"):
        beside["icc_profile"] = info["icc_profile"]
    image.save(buffer, format="PNG", compress_level=1, **beside)
    return buffer.getvalue()


def _refused(index: int, what: str) -> ConfigError:
    return ConfigError(f"image {index} is {what}. An image is {_ACCEPTED}")
