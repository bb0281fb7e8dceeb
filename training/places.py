"""Make the places of a command absolute, for other machines too, and open an OUT that can be written."""

from __future__ import annotations

import os

from nsfwscan.config import StorageConfig
from nsfwscan.location import Location
from nsfwscan.storage.store import Store

_PROBE = ".writable"


def absolute(uri: str) -> str:
    """Return a path as an absolute one, since workers may stand elsewhere; a hub id or an embedded model as it is."""
    place = Location.of(uri)
    return uri if place.is_local and not os.path.exists(place.path) else place.absolute().uri


def open_out(uri: str, storage: StorageConfig) -> Store:
    """Return the store to write to; reading anonymously, or at the requester's cost, is a matter of the sources alone.
    Raises StoreError where it cannot be written."""
    store = Store.at(uri, storage.model_copy(update={"anonymous": False, "requester_pays": False}))
    store.write(_PROBE, b"")
    store.delete(_PROBE)
    return store
