"""Reach the memory of a Pillow image without a copy, through the Arrow C data interface that Pillow exports.

Pillow keeps RGB as four bytes a pixel. `np.asarray` packs them into three, and `Image.fromarray` unpacks them again;
for a photograph each takes longer than resizing it. Nothing is raised but `MemoryError`.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging

_CHANNELS = {"L": 1, "RGB": 4}
"""Bytes a pixel, by mode; the fourth of RGB is padding."""


class _ArrowArray(ctypes.Structure):
    """`struct ArrowArray` (https://arrow.apache.org/docs/format/CDataInterface.html)."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def blank(mode: str, size: tuple[int, int]) -> Image.Image:
    """Return a black image whose memory `memory_of` can reach, whatever its size."""
    return Image.Image()._new(_imaging.new_block(mode, size))


def memory_of(image: Image.Image) -> NDArray[np.uint8] | None:
    """Return a loaded image's own memory: uint8, [H, W, 4] of an RGB image (the fourth byte means nothing), [H, W, 1]
    of a grey one. None for other modes, and where it is not in one piece, as images of over 16 MB that Pillow made.

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
    memory: Any = (ctypes.c_uint8 * int(np.prod(shape))).from_address(values.buffers[1])
    memory.owner = capsules
    return np.frombuffer(memory, np.uint8).reshape(shape)
