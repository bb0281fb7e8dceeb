"""Tell what an ISO base media file says that it is: its brands (ISO 14496-12, 4.3)."""

from __future__ import annotations

import struct

MOST_BYTES = 4096
"""Of the box of brands that are read."""


def brands_of(data: bytes) -> frozenset[bytes]:
    """Return the major and the compatible brands; none of a file that does not begin with them."""
    if data[4:8] != b"ftyp":
        return frozenset()
    box = data[8 : min(struct.unpack_from(">I", data)[0], MOST_BYTES)]
    return frozenset(box[at : at + 4] for at in (0, *range(8, len(box) - 3, 4)))
