"""PDQ hashes of an image, and of its mirrored and cropped variants.

PDQ (https://github.com/facebook/ThreatExchange/tree/main/pdq) does not change when an image is resized or encoded
again, but does when it is mirrored or cropped: of photographs cut by 2 % on each side, most are further than 31 bits
from the original. So each image is also compared as mirrored, and as cropped, in steps that one PDQ match covers. Still
missed: crops on one side only (more than 2 %) or far into the image, and blurred or cropped copies of fine textures
without any large structure, such as gravel or a field of stars.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pdqhash
from numpy.typing import NDArray

SIDE = 256
"""Pixels; aspect is not kept: PDQ reduces everything to 64 x 64 anyway."""
HASH_BYTES = 32
MIN_QUALITY = 50
"""Of 100. PDQ's authors trust no hash below it: an image that is nearly flat has no structure to hash."""

_CROPS = (1.0, 0.96, 0.92, 0.88, 0.84)
"""Shares of width and height that are left. Measured on photographs: each covers from 2 % less to 2 % more."""
VARIANTS = 2 * len(_CROPS) - 1


def hashes_of(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the hashes by which an image, uint8 [256, 256, 3], is found again: `pdq` (32 bytes), `pdq_quality` (0 to
    100), and `pdq_variants` (32 bytes for each of `VARIANTS` variants)."""
    fours = pixels.reshape(SIDE // 2, 2, SIDE // 2, 2, 3).astype(np.uint16)
    halved = ((fours[:, 0, :, 0] + fours[:, 0, :, 1] + fours[:, 1, :, 0] + fours[:, 1, :, 1]) // 4).astype(np.uint8)
    hashes: list[bytes] = []
    quality = 0
    for share in _CROPS:
        cut = round(SIDE / 2 * (1 - share) / 2)
        inner = halved[cut : SIDE // 2 - cut, cut : SIDE // 2 - cut]
        for turned in (inner, inner[:, ::-1]):
            bits, of_this = pdqhash.compute(np.ascontiguousarray(turned))
            quality = quality if hashes else int(of_this)
            hashes.append(np.packbits(bits.astype(np.uint8)).tobytes())
    return {"pdq": hashes[0], "pdq_quality": quality, "pdq_variants": b"".join(hashes[1:])}
