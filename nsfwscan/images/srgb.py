"""Convert an image of any of Pillow's modes to 8-bit sRGB, with white behind what is transparent."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from nsfwscan.images.formats.levels import Range, range_of


def to_srgb(image: Image.Image) -> Image.Image:
    """Return the image as RGB, its ICC profile applied."""
    profile = image.info.get("icc_profile")
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        image = _eight_bit(image)
    elif profile and (image.mode == "LA" or (image.mode == "L" and "transparency" in image.info)):
        image = _grey_over_white(image.convert("LA"), bytes(profile))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = _over_white(image)
    elif image.mode in ("P", "1", "YCbCr", "HSV"):
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK", "L", "LAB"):
        transform = _transform(bytes(profile), image.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(image, transform)
            if converted is not None:
                return converted
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")  # type: ignore[assignment]
    return image if image.mode == "RGB" else image.convert("RGB")


def is_srgb(image: Image.Image) -> bool:
    """Return whether `to_srgb` leaves the colours of an RGB or grey image as they are."""
    profile = image.info.get("icc_profile")
    return image.mode in ("RGB", "L") and not (profile and _transform(bytes(profile), image.mode))


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return a transform to sRGB; None where the profile is sRGB already, broken, or meant for another mode."""
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        if mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(source):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale grey levels of 16 or 32 bits, or floats, to 8 bits over the range that their type stands for."""
    values = np.asarray(image)
    strips = _strips(len(values))
    found = Range(shift=8) if image.mode.startswith("I;16") else range_of((values[s] for s in strips), 32)
    grey = np.empty(values.shape, np.uint8)
    for strip in strips:
        grey[strip] = found.levels(values[strip])
    return Image.fromarray(grey)


def _grey_over_white(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image with alpha as RGBA, the profile of its greys applied; as it is where that is none of greys."""
    grey, alpha = image.split()
    transform = _transform(profile, "L")
    if transform is None:
        return image
    shown = ImageCms.applyTransform(grey, transform)
    assert shown is not None
    shown.putalpha(alpha)
    return shown


def _over_white(image: Image.Image) -> Image.Image:
    flat = Image.new("RGB", image.size)
    for strip in _strips(image.height):
        box = (0, strip.start, image.width, strip.stop)
        rgba = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        flat.paste(Image.alpha_composite(white, rgba).convert("RGB"), box)
    return flat


def _strips(height: int, rows: int = 256) -> list[slice]:
    """Return an image's rows in small groups, so that intermediate results take little memory."""
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
