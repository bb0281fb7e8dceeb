"""One object, fetched or not."""

from __future__ import annotations

from typing import Any

import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import RowError
from nsfwscan.location import Location
from nsfwscan.storage.objects import Fetched, fetch
from tests.later import later

pd = later("pandas")

LOCAL = StorageConfig()


BODY = bytes(range(256)) * 1024


def get(uri: str, storage: StorageConfig = LOCAL, **limits: Any) -> Fetched:
    return fetch(Location.of(uri), storage, **{"max_bytes": 2**20, "timeout_s": 20.0, "attempts": 3, **limits})


def failure(uri: str, storage: StorageConfig = LOCAL, **limits: Any) -> RowError:
    with pytest.raises(RowError) as error:
        get(uri, storage, **limits)
    return error.value
