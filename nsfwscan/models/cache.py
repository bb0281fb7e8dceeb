"""Say where this node keeps what was downloaded: models, packs, and in folders beside them banks and data sets."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return where this node keeps downloaded models, in $NSFWSCAN_CACHE or ~/.cache/nsfwscan."""
    return Path(os.environ.get("NSFWSCAN_CACHE") or Path.home() / ".cache" / "nsfwscan") / "models"


def pack_folder() -> Path:
    """Return where this node keeps packs: in $NSFWSCAN_PACKS, which an image may bring along, or beside the models."""
    given = os.environ.get("NSFWSCAN_PACKS")
    return Path(given) if given else cache_folder().with_name("packs")
