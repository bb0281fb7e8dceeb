"""Read the text that detectors found in pictures, of a committed run, with the private keys where it is encrypted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow.compute as pc

from nsfwscan.config import ScanConfig
from nsfwscan.models.registry import READERS
from nsfwscan.reports.reading import shown_rows
from nsfwscan.runs.beside import TEXT
from nsfwscan.runs.run import Run
from nsfwscan.schema import as_schema
from nsfwscan.texts.sealing import Opener, given_keys


def why_none(config: ScanConfig) -> str:
    """Return why a run may have no text, for people; empty where it kept what it read."""
    if not any(one.uri in READERS for one in config.detectors.values()):
        return ": it read none (scan --detector text)"
    return "" if config.text.keep else ": it was left out (--no-text)"


def read_text_of(run: Run, uri: str | None, key_files: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines of a run, or of one object: `uri, view, detector, line, kind, text, score, x, y, w, h`.

    Args:
        key_files: private keys; beside them, the environment may hold one.

    Raises:
        ConfigError: a key is none, or a text is encrypted for another one; nothing after it is shown.
        StoreError: a file is absent or was changed.
    """
    opener = Opener(given_keys(key_files))
    for file in run.record().files_in(TEXT.folder):
        rows = as_schema(run.parquet(file).read(use_threads=False), TEXT.schema)
        rows = rows.filter(pc.is_valid(rows["detector"]))  # a forgotten one has none
        if uri is not None:
            rows = rows.filter(pc.equal(rows["uri"], uri))
        for row in shown_rows(rows):
            sealed, key = row.pop("sealed"), row.pop("key")
            if sealed is not None:
                row["text"] = opener.open(sealed, key)
            yield row
