"""Two checkpoints on the same images: is one better, or was it luck?

In: which images each gets right. Out: JSON values: the four counts, the difference in accuracy with a paired interval,
and McNemar's exact test. Nothing goes wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from training.evaluate.intervals import difference


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """How two classifiers differ.

    Args:
        first, second: bool [images], true where the classifier is right.

    Returns:
        `images`; how many `both`, `only_first`, `only_second`, `neither` get right; the `difference` in accuracy, first
        less second; the `p_value` of McNemar's exact test (McNemar 1947): how likely the images that only one gets
        right would be divided so unevenly if both were equally good; None without images.
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
