"""Reach the memory of a Pillow image without a copy, through the Arrow C data interface that Pillow exports.

Pillow keeps RGB as four bytes a pixel. `np.asarray` packs them into three, and `Image.fromarray` unpacks them again;
for a photograph each takes longer than resizing it. Nothing is raised but `MemoryError`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging

_CHANNELS = {"L": 1, "RGB": 4, "F": 4}
"""Bytes a pixel, by mode; the fourth of RGB is padding."""
_LEVELS = {"L": np.uint8, "F": np.float32}


class _ArrowArray(ctypes.Structure):
    """`struct ArrowArray` (https://arrow.apache.org/docs/format/CDataInterface.html)."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]


class _Memory:
    """Memory that an array is made over (NumPy's array interface), and what keeps it alive. An array type of `ctypes`
    would be made anew for each size, which takes longer than the luma of a small strip."""

    def __init__(self, address: int, shape: tuple[int, ...], owner: object) -> None:
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": "|u1", "version": 3}
        self._owner = owner


_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def blank(mode: str, size: tuple[int, int]) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Return an image of the mode RGB or L with any content, and its memory, as `memory_of` gives it. Pillow would
    clear it first, which takes half as long as resizing a photograph."""
    memory = np.empty((size[1], size[0], _CHANNELS[mode]), np.uint8)
    return _over(memory, mode), memory


def luma_of(image: Image.Image, mode: Literal["L", "F"] = "F") -> Callable[[int, int], NDArray[Any]]:
    """Return a function of the first row and the one after the last, which gives 0.299 R + 0.587 G + 0.114 B of these
    rows of an image (RGB or L), 0 to 255, [rows, W], in memory of their own: float32, or rounded to uint8 (`L`).

    Pillow divides a whole number of thousandths, so there is one rounding, as in PDQ's reference.
    """
    memory = memory_of(image)

    def luma(top: int, bottom: int) -> NDArray[Any]:
        part = image.crop((0, top, image.width, bottom)) if memory is None else _over(memory[top:bottom], image.mode)
        grey = part.convert(mode)
        found = memory_of(grey)
        return np.asarray(grey) if found is None else found.view(_LEVELS[mode])[..., 0]

    return luma


def _over(memory: NDArray[np.uint8], mode: str) -> Image.Image:
    """Return an image in memory [H, W, bytes a pixel], without a copy."""
    size = memory.shape[1], memory.shape[0]
    return Image.Image()._new(_imaging.map_buffer(memory.reshape(-1), size, "raw", 0, (mode, 0, 1)))


def memory_of(image: Image.Image) -> NDArray[np.uint8] | None:
    """Return a loaded image's own memory: uint8, [H, W, 4] of an RGB image (the fourth byte means nothing) or one of
    floats, [H, W, 1] of a grey one. None for other modes, and where it is not in one piece, as images of over 16 MB
    that Pillow made.

    What is written there changes the image. The array keeps the memory alive.
    """
    channels = _CHANNELS.get(image.mode)
    if channels is None or not image.width * image.height:
        return None
    try:
        capsules = image.__arrow_c_array__()
    except ValueError:  # not in one piece
        return None
    array = ctypes.cast(_pointer_of(capsules[1], b"arrow_array"), ctypes.POINTER(_ArrowArray)).contents
    values = array.children[0].contents if array.n_children else array  # a list of four for each pixel
    shape = image.height, image.width, channels
    return np.asarray(_Memory(values.buffers[1], shape, capsules))
