"""Explore labelled images: one self-contained HTML page, and beside it a CSV of all findings.

A bad file is a finding. Data that cannot be listed, or without a readable image, are a `SourceError`; a page that
cannot be written is a `StoreError`.
"""

from __future__ import annotations

from nsfwscan.config import StorageConfig
from nsfwscan.models.onnx_backend import EMBEDDED
from nsfwscan.storage.failures import in_words
from nsfwscan.storage.output import Output
from nsfwscan.text import write_csv
from training.config import DataConfig
from training.data.thumbnails import pictures_of
from training.explore.context import context, shown_rows
from training.explore.exploration import FINDING_COLUMNS, Exploration, examine, findings, groups_of
from training.explore.page import render
from training.progress import ProgressCallback, quiet


def explore(
    config: DataConfig,
    storage: StorageConfig,
    out: str,
    *,
    model: str | None = None,
    thumbnails: bool = True,
    progress: ProgressCallback = quiet,
) -> list[str]:
    """Write the page and the CSV. Raises ConfigError for an `out` that is no place, SourceError, NsfwscanError.

    Args:
        out: path or URI of the page; the CSV has the same name with `.csv` at its end.
        model: checkpoint whose features tell likely label errors; None: the embedded model; `none`: no label errors.
        thumbnails: whether the page holds pictures.

    Returns:
        lines for a person: what was found, and where the files are.
    """
    page = Output.given(out, storage, "--out")
    if not page.name.endswith((".html", ".htm")):
        page = page.child("explore.html")
    found = examine(config, storage, model or EMBEDDED, progress)
    pictures = None
    if thumbnails:
        pictures = pictures_of(found.catalog.images, shown_rows(found), config.decode, progress)
    ledger = page.with_suffix(".csv")
    with in_words(f"cannot write {page}", errors=(OSError,)):
        page.make_parent()
        with page.appearing() as file, ledger.appearing() as table:
            file.write_text(render(context(found, config, ledger.name, pictures)), encoding="utf-8")
            rows = ([row.get(name, "") for name in FINDING_COLUMNS] for row in findings(found))
            write_csv(table, FINDING_COLUMNS, rows)
    return [*_summary(found), f"the page: {page}", f"all findings: {ledger}"]


def _summary(found: Exploration) -> list[str]:
    duplicates = sum(len(rows) - 1 for rows in groups_of(found.groups.similar))
    errors = "not looked for" if found.label_errors is None else f"{len(found.label_errors.suspects):,}"
    exact = sum(conflict.kind == "exact" for conflict in found.conflicts) + len(found.listing.contradicted)
    return [
        f"{len(found.ok):,} images in {len(found.listing.labels)} classes; {len(found.unreadable):,} unreadable",
        f"similar images: {duplicates:,}; label conflicts: {exact:,}; likely label errors: {errors}",
    ]
