"""Choose the JPEGs that are left to a GPU, and describe them by their headers alone.

This runs in the decode child, so that a file is first looked at where it can do no harm. What is not ordinary is
decoded there as ever: what is no JPEG; CMYK, RGB and 12 bits; a profile that changes colours; several pictures; what is
cut into tiles; what was cut off, or goes on after its end; and what is too large for a batch on the GPU (`MOST_BYTES`,
`MOST_PIXELS`). So is a file with a thumbnail whose signals are wanted, since one of them compares both pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec

from PIL import ExifTags, Image, JpegImagePlugin

from nsfwscan.errors import ConfigError, RowError
from nsfwscan.images.decoder import exif_of, makers_of
from nsfwscan.images.formats.file_end import end_of
from nsfwscan.images.formats.orientation import orientation_of, upright_size
from nsfwscan.images.opening import Facts, as_row_error, open_within
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.profiles import settle_profile
from nsfwscan.images.provenance.signals import Verify, signals_of
from nsfwscan.images.srgb import is_srgb
from nsfwscan.images.tiles import tiles_of

INSTALL = "pip install 'nsfwscan[nvjpeg]'"
RESAMPLED = {int(Image.Resampling.BILINEAR): "bilinear", int(Image.Resampling.BICUBIC): "bicubic"}
"""How a GPU resizes, in torch's words."""
MOST_BYTES = 4 * 2**20
"""Of a file: whole shards of them travel to the GPU's process."""
MOST_PIXELS = 50_000_000
"""Of a picture, and of what it is resized to: 600 MB as float32, on the device, one at a time."""
_LEAST_EDGE = 16
_SAMPLINGS = {((1, 1),), ((1, 1),) * 3, *(((h, v), (1, 1), (1, 1)) for h, v in ((2, 1), (2, 2), (1, 2)))}
"""(across, down) of each component: grey, 4:4:4, 4:2:2, 4:2:0, 4:4:0."""
_YCBCR = 1
"""Adobe's transform of what is not RGB (Adobe Technical Note 5116)."""


def can_decode() -> bool:
    """Return whether the extra is installed."""
    return find_spec("nvidia") is not None and find_spec("nvidia.nvimgcodec") is not None


def refuse_without_library() -> None:
    """Raise ConfigError where the extra is not installed."""
    if not can_decode():
        raise ConfigError(f"--decode gpu needs the package nvidia-nvimgcodec-cu12, with nvJPEG: {INSTALL}")


def refuse_geometry(geometry: Geometry, model: str) -> None:
    """Raise ConfigError where a GPU cannot make a model's pixels."""
    if geometry.resample not in RESAMPLED or geometry.reencode_jpeg or geometry.letterbox == "within":
        how = "makes its pixels by a round trip through JPEG" if geometry.reencode_jpeg else f"wants {geometry}"
        raise ConfigError(f"--decode gpu resizes bilinearly or bicubically, and {model} {how}: use --decode fast")


def left_to_gpu(
    data: bytes,
    *geometries: Geometry,
    max_pixels: int,
    formats: Sequence[str],
    examined: bool,
    verify: Verify | None,
    tiles: int = 0,
) -> Facts | None:
    """Return the facts of a JPEG that is left to a GPU, as `to_views` gives them, and its `orientation`, 1 to 8; None
    of every other file. Raises MemoryError.

    Args:
        data: the whole file.
        geometries, max_pixels, formats, examined, verify: as for `to_pixels`.
        tiles: number of tiles that a picture is cut into at most.
    """
    if len(data) > MOST_BYTES or end_of(data, "JPEG") != len(data):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            image, facts = open_within(data, max_pixels, formats)
            with as_row_error(facts):
                settle_profile(image, data)
                size = upright_size(image.size, orientation_of(image, data))
                if tiles_of(size, tiles) or not _is_ordinary(image, size, geometries, max_pixels):
                    return None
                return _described(
                    data, image, {**facts, "width": size[0], "height": size[1]}, verify, examined=examined
                )
    except RowError:  # decoding it says why
        return None


def _described(data: bytes, image: Image.Image, facts: Facts, verify: Verify | None, *, examined: bool) -> Facts | None:
    """Return the facts; None where a signal asks for pixels."""
    exif, stored = exif_of(image), image.size
    if examined:
        if exif.get_ifd(ExifTags.IFD.IFD1):
            return None
        image.draft(None, (1, 1))  # at a reduced scale, no signal but that of a thumbnail asks for pixels
        facts["signals"] = signals_of(data, image, stored, verify) or None
    facts |= {"frames": 1, **makers_of(exif), "media": "image", "views": 1, "duration_s": None, "looked": 1}
    return {**facts, "orientation": orientation_of(image, data)}


def _is_ordinary(image: Image.Image, size: tuple[int, int], geometries: Sequence[Geometry], max_pixels: int) -> bool:
    """Return whether all decoders see the same in an opened image, and a GPU has room for it."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or image.format != "JPEG" or not is_srgb(image):
        return False
    pixels = [across * down for across, down in (size, *(geometry.resized(size) for geometry in geometries))]
    sampling = tuple((across, down) for _, across, down, _ in image.layer)
    if max(pixels) > min(MOST_PIXELS, max_pixels) or min(size) < _LEAST_EDGE or sampling not in _SAMPLINGS:
        return False
    transform, ids = image.info.get("adobe_transform"), [layer[0] for layer in image.layer]
    return len(ids) == 1 or transform == _YCBCR or (transform is None and ids in ([1, 2, 3], [0, 1, 2]))
