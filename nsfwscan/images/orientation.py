"""Turn a picture upright, as its EXIF orientation says."""

from __future__ import annotations

from PIL import ExifTags, Image

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


def upright(image: Image.Image, exif: Image.Exif) -> Image.Image:
    """Return the image turned; orientations other than 2 to 8 turn nothing."""
    orientation = exif.get(ExifTags.Base.Orientation)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info.pop("exif", None)  # or the next reader would turn it again
    return turned


def upright_size(size: tuple[int, int], exif: Image.Exif) -> tuple[int, int]:
    """Return (width, height) after `upright`."""
    return (size[1], size[0]) if exif.get(ExifTags.Base.Orientation) in _SIDEWAYS else size
