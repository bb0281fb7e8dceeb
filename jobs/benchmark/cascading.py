"""Measure the gain of cheap filters before the model (figures `cascade.*`): the light model settles nine tenths.

Here the threshold decides which pictures are benign, not their content: it lies at the light model's score below which
nine tenths of the pictures fall. The tenth above it and the audit sample go to the model, as in any scan.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmark.figures import Figure
from jobs.benchmark.scans import measure_scan
from jobs.benchmark.timing import apart
from jobs.benchmark.workload import Workload
from nsfwscan.config import ScanConfig
from nsfwscan.execution.inline import run_inline
from nsfwscan.reports.progress import Silent
from nsfwscan.workflows.scan import run_scan

_BENIGN = 0.9
_PICTURES = 100
"""Pictures that are scored for the threshold: whole blocks of the mix."""
_SHARDS, _SHARD_ROWS = 14, 128
"""Size of the scanned store. A scan's own shards have 256 rows. Of a shard of eight rows, as the other parts here have
them, less than one row goes to the model, in a batch that is mostly padding."""


def measure_cascade(workload: Workload, expected: float) -> list[Figure]:
    """Measure the steady state of a scan with filters.

    Args:
        expected: approximate images a second of the same scan without filters.
    """
    pictures = workload.pictures[:_PICTURES]
    threshold = apart(light_threshold, pictures, workload.cores)
    cascade = {"enabled": True, "threshold": threshold, "icon_pixels": 0}
    sections = {"cascade": cascade}
    label = f"nsfwscan scan --cascade, {_BENIGN:.0%} benign"
    least = _SHARDS * _SHARD_ROWS / workload.seconds
    return measure_scan(
        workload, str(workload.model), "cascade", label, max(3 * expected, least), sections=sections, shards=_SHARDS
    )


def light_threshold(pictures: tuple[Path, ...], cores: int) -> float:
    """Return the light model's score below which nine tenths of the pictures lie."""
    out = tempfile.mkdtemp(prefix="nsfwscan-bench-")
    given = {"source": {"uris": [str(path) for path in pictures]}, "out": out}
    try:
        config = ScanConfig.of({**given, "decode": {"pdq": "off"}, "engine": {"num_cpus": cores}})
        result = run_scan(config, "light", run_inline, Silent())
        scores = pa.concat_tables([pq.read_table(path, columns=["nsfw_score"]) for path in result.report_files])
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return float(np.quantile(scores["nsfw_score"].to_numpy(), _BENIGN))
