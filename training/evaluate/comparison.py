"""Compare two checkpoints on the same images: is one better, or was it luck?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from training.evaluate.intervals import difference


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """Compare two classifiers.

    Args:
        first, second: bool [images], true where the classifier is right.

    Returns:
        `images`; how many `both`, `only_first`, `only_second`, `neither` get right; the `difference` in accuracy, first
        less second, with a paired interval; the `p_value` of McNemar's exact test (McNemar 1947): the probability of so
        uneven a division of the images that only one gets right, if both were equally good; None without images.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    p_value = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    return {
        "images": len(first),
        "both": int((first & second).sum()),
        "only_first": only_first,
        "only_second": only_second,
        "neither": int((~first & ~second).sum()),
        "difference": difference(only_first, only_second, len(first)).as_json(),
        "p_value": p_value if len(first) else None,
    }
