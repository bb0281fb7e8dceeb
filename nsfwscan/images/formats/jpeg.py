"""Decode JPEGs with libjpeg-turbo's own interface (`simplejpeg`), straight into the memory of a Pillow image.

The library is the one inside Pillow, and so are the pixels, to the bit: the same (slow, exact) transform and smooth
upsampling, at any scale that `draft` asked for. Pillow hands over line by line and repacks each, which takes a third of
its time. Whatever is unusual is left to Pillow, with its errors and its tolerance: CMYK and YCCK, and everything that
the library warns of, such as a file that is cut off.
"""

from __future__ import annotations

import simplejpeg
from PIL import Image, JpegImagePlugin

from nsfwscan.images.raster import blank

_SPACES = {"RGB": "RGBX", "L": "GRAY"}
"""What to ask the library for, by Pillow's mode of the opened image."""


def load(image: Image.Image, data: bytes) -> bool:
    """Load the pixels of an opened JPEG; return False where that is left to Pillow, which has lost nothing then.

    Args:
        image: opened, perhaps with `draft`.
        data: its whole file.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.mode not in _SPACES or len(image.tile) != 1:
        return False
    loaded, memory = blank(image.mode, image.size)
    width, height = image.size
    try:
        decoded = simplejpeg.decode_jpeg(
            data, _SPACES[image.mode], min_height=height, min_width=width, buffer=memory.reshape(-1), strict=True
        )
    except ValueError:
        return False
    if decoded.shape != memory.shape:
        return False
    image.im, image.tile = loaded.im, []
    return True
