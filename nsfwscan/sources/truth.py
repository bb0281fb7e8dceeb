"""Read ground truth: from class folders, a list's column, or a file of its own with `uri` and `truth`.

It never decides anything; it measures the decisions.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.location import Location
from nsfwscan.schema import Category
from nsfwscan.sources.manifests import read_manifest
from nsfwscan.storage.failures import in_words
from nsfwscan.warning import WarningKind, Warnings

TRUTH_SCHEMA = pa.schema([("uri", pa.string()), ("truth", pa.string())])

_CATEGORIES = frozenset(str(c) for c in Category)


def truth_from_path(uri: str) -> str | None:
    """Return the category that the innermost class folder names (`…/neutral/2026/a.jpg` → `neutral`), or None.

    Only the categories' own names count: a folder called `safe` or `normal` is more likely no label at all.
    """
    for folder in reversed(uri.split("/")[:-1]):
        if folder.lower() in _CATEGORIES:
            return folder.lower()
    return None


def read_truth(place: Location, storage: StorageConfig, warnings: Warnings | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a truth file (any list with a column `truth`), as `TRUTH_SCHEMA`; rows without a truth are
    passed over, and counted as warnings. Raises SourceError where the file is absent, malformed or no list, or no row
    has a truth."""
    uri, noticed = place.uri, Warnings() if warnings is None else warnings
    rows: list[dict[str, str]] = []
    number = judged = wrong = 0
    with in_words(f"cannot read the truth file {uri}", SourceError):
        for number, row in enumerate(read_manifest(place, storage, noticed), start=1):
            if row["truth"] is None:
                if wrong == (wrong := noticed.count(WarningKind.LISTED_TRUTH)):  # else it is counted already
                    noticed.add(WarningKind.NO_TRUTH, f"{uri}, row {number}: {row['uri']}")
                continue
            judged += 1
            rows.append({"uri": row["uri"], "truth": row["truth"]})
            if len(rows) == 4096:
                yield pa.RecordBatch.from_pylist(rows, schema=TRUTH_SCHEMA)
                rows.clear()
    if not judged:
        raise SourceError(f"{uri}: none of its {number:,} rows has a `truth` ({', '.join(Category)})")
    yield pa.RecordBatch.from_pylist(rows, schema=TRUTH_SCHEMA)
