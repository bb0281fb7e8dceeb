"""Listings, as a test asks for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from nsfwscan.config import SourceConfig, StorageConfig
from nsfwscan.schema import LISTING_SCHEMA
from nsfwscan.sources.listing import list_sources
from nsfwscan.warning import Warnings

LOCAL = StorageConfig()


def tables(
    *uris: str | Path,
    store: str | None = None,
    storage: StorageConfig = LOCAL,
    warnings: Warnings | None = None,
    **options: Any,
) -> list[pa.Table]:
    source = SourceConfig(uris=tuple(map(str, uris)), **options)
    return list(list_sources(source, storage, store=store, warnings=warnings))


def rows(*uris: str | Path, **options: Any) -> list[dict[str, Any]]:
    found = tables(*uris, **options)
    assert all(table.schema == LISTING_SCHEMA for table in found)
    return [row for table in found for row in table.to_pylist()]


def uris_in(*uris: str | Path, **options: Any) -> list[str]:
    return [row["uri"] for row in rows(*uris, **options)]


def noticed(warnings: Warnings) -> dict[str, tuple[int, str]]:
    return {entry["name"]: (entry["count"], entry["example"]) for entry in warnings.as_json()}


def names_in(folder: Path, **options: Any) -> list[str]:
    return [os.path.relpath(uri, folder) for uri in uris_in(folder, **options)]


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder
