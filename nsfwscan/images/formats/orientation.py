"""Turn a picture upright, as its EXIF orientation says, where browsers go by it.

They read it in the first EXIF of a JPEG, and in the `eXIf` of a PNG before its pixels; it is a single whole number of
16 bits (TIFF 6.0, tag 274). One of another type, in XMP, or in a text of a PNG turns nothing: Pillow would go by these.
"""

from __future__ import annotations

import struct

from PIL import ExifTags, Image

from nsfwscan.images.formats.png_chunks import SIGNATURE, side_chunks

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_ENDIANS = {b"II*\0": "<", b"MM\0*": ">"}
_SHORT = 3
_EXIF = b"Exif\0"


def orientation_of(image: Image.Image, data: bytes) -> int:
    """Return how a picture is to be turned, 1 to 8; 1 turns nothing.

    Args:
        image: opened; what its decoder has turned says 1 in its `info["exif"]`, or has none.
        data: the whole file that it is the picture of.
    """
    if data.startswith(SIGNATURE):
        return _in_tiff(side_chunks(data).get(b"eXIf", b""))
    if image.format in ("JPEG", "MPO"):
        exif = (body for kind, body in getattr(image, "applist", ()) if kind == "APP1" and body.startswith(_EXIF))
        return _in_tiff(next(exif, b"")[len(_EXIF) + 1 :])
    return _in_tiff((image.info.get("exif") or b"").removeprefix(_EXIF + b"\0"))


def _in_tiff(exif: bytes) -> int:
    """Return the orientation in the first directory of EXIF, which is a TIFF."""
    order = _ENDIANS.get(exif[:4])
    if order is None or len(exif) < 10:
        return 1
    start = struct.unpack_from(f"{order}I", exif, 4)[0]
    count = struct.unpack_from(f"{order}H", exif, start)[0] if start + 2 <= len(exif) else 0
    for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, values, value = struct.unpack_from(f"{order}HHIH", exif, at)
        if (tag, kind, values) == (ExifTags.Base.Orientation, _SHORT, 1) and value in range(1, 9):
            return int(value)
    return 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image turned; orientations other than 2 to 8 turn nothing."""
    turn = _TURNS.get(orientation)
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info.pop("exif", None)  # or the next reader would turn it again
    return turned


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return (width, height) after `upright`."""
    return (size[1], size[0]) if orientation in _SIDEWAYS else size
