"""Arithmetic of the limit: the rate of the hardware if only decoding and the model took time.

From the rates of decoding alone and of the model alone follow the images a second that no scan on this machine can
exceed. A rate of zero or less is a `ValueError`.
"""

from __future__ import annotations


def core_seconds(images_per_s: float, cores: int) -> float:
    """Return the core-seconds per image if `cores` cores together reach that rate."""
    if images_per_s <= 0 or cores < 1:
        raise ValueError(f"a rate of {images_per_s} images/s on {cores} cores is none")
    return cores / images_per_s


def least_core_seconds(*measured: tuple[float | None, int]) -> float | None:
    """Return the core-seconds of the best of several measurements (images a second, cores used); None without any.

    The limit must follow the best known way, or a scan could exceed it.
    """
    found = [core_seconds(rate, cores) for rate, cores in measured if rate is not None]
    return min(found, default=None)


def limit_on_cores(cores: int, *core_s: float) -> float:
    """Return the images a second of `cores` cores if each image takes the sum of these core-seconds:
    `cores / (model + decode)`."""
    return cores / sum(core_s)


def limit_with_gpu(model_images_per_s: float, cores: int, decode_core_s: float) -> float:
    """Return the images a second if cores decode while a GPU runs the model: the slower of the two."""
    return min(model_images_per_s, cores / decode_core_s)


def cores_to_feed(model_images_per_s: float, decode_core_s: float) -> float:
    """Return the number of cores that must decode to keep a GPU busy."""
    return model_images_per_s * decode_core_s
