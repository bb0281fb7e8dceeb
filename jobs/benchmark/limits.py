"""The arithmetic of the limit: what the hardware could do if nothing but decoding and the model took time.

In: rates of decoding alone and of the model alone. Out: images a second that no scan on this machine can pass. A rate
of zero or less is a `ValueError`.
"""

from __future__ import annotations


def core_seconds(images_per_s: float, cores: int) -> float:
    """Core-seconds that an image takes, where that many cores together reach that rate."""
    if images_per_s <= 0 or cores < 1:
        raise ValueError(f"a rate of {images_per_s} images/s on {cores} cores is none")
    return cores / images_per_s


def least_core_seconds(*measured: tuple[float | None, int]) -> float | None:
    """The better of several measurements (images a second, cores it took); None where there is none. The limit must be
    that of the best way known, or a scan could pass it."""
    found = [core_seconds(rate, cores) for rate, cores in measured if rate is not None]
    return min(found, default=None)


def limit_on_cores(cores: int, *core_s: float) -> float:
    """Images a second of `cores` cores, where each image takes the sum of these core-seconds:
    `cores / (model + decode)`."""
    return cores / sum(core_s)


def limit_with_gpu(model_images_per_s: float, cores: int, decode_core_s: float) -> float:
    """Images a second where cores decode and a GPU runs the model, at the same time: the slower of the two."""
    return min(model_images_per_s, cores / decode_core_s)


def cores_to_feed(model_images_per_s: float, decode_core_s: float) -> float:
    """Cores that must decode for a GPU to be busy."""
    return model_images_per_s * decode_core_s
