"""Find the ICC profile that browsers apply to a picture.

Pillow has others: one after a PNG's pixels, the last of several, and none where it stands after a JPEG's frame header.
"""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from nsfwscan.images.formats.png_chunks import PROFILE_BYTES, SIGNATURE, inflated, side_chunks

_MARK = b"ICC_PROFILE\0"


def settle_profile(image: Image.Image, data: bytes) -> None:
    """Set `info["icc_profile"]` of an opened or loaded image to what browsers apply; None where they apply none.

    Args:
        data: the whole file that it is the picture of.
    """
    if data.startswith(SIGNATURE):
        image.info["icc_profile"] = _of_png(data)
    elif image.format in ("JPEG", "MPO"):
        image.info["icc_profile"] = _of_jpeg(image)


def _of_png(data: bytes) -> bytes | None:
    profile, whole = inflated(side_chunks(data).get(b"iCCP", b"").partition(b"\0")[2][1:], PROFILE_BYTES)
    return profile if whole and profile else None


def _of_jpeg(image: Image.Image) -> bytes | None:
    """Join the parts of a profile, which are numbered from 1 (ICC.1, B.4); None where one is missing or there twice."""
    parts: dict[int, bytes] = {}
    for number, count, part in _parts(image):
        if (number, count) == (1, 1):
            return part
        if number in parts:
            return None
        parts[number] = part
        total = count
    if not parts or sorted(parts) != list(range(1, total + 1)):
        return None
    return b"".join(parts[number] for number in sorted(parts))


def _parts(image: Image.Image) -> Iterator[tuple[int, int, bytes]]:
    """Yield the number of each part, how many there are, and the part."""
    for kind, body in getattr(image, "applist", ()):
        if kind == "APP2" and body.startswith(_MARK) and len(body) >= len(_MARK) + 2:
            yield body[len(_MARK)], body[len(_MARK) + 1], body[len(_MARK) + 2 :]
