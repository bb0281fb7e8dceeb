"""What cheap filters before the model gain: a scan of a store of which a light model settles nine tenths.

In: a `Workload`, and what the same scan does without filters. Out: figures `cascade.*`. Which pictures are benign is a
matter of the threshold here, not of their content: it is laid where the light model's scores put nine tenths below it.
The tenth above and the shadow sample go to the model, as in any scan.
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
from nsfwscan.execution.pipeline import run_inline
from nsfwscan.reports.progress import Silent
from nsfwscan.workflows.scan import run_scan

_BENIGN = 0.9
_PICTURES = 100
"""Scored for the threshold, whole blocks of the mix."""
_SHARDS, _SHARD_ROWS = 14, 128
"""Scanned. A scan's own shards have 256 rows; of one of eight, as the others here have them, less than one goes to the
model, and a batch is filled up for it."""


def measure_cascade(workload: Workload, expected: float) -> list[Figure]:
    """The steady state of a scan with filters.

    Args:
        expected: images a second, about, that it does without them.
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
    """The light model's score below which nine tenths of the pictures lie."""
    out = tempfile.mkdtemp(prefix="nsfwscan-bench-")
    given = {"source": {"uris": [str(path) for path in pictures]}, "out": out}
    try:
        config = ScanConfig.of({**given, "decode": {"pdq": "off"}, "engine": {"num_cpus": cores}})
        result = run_scan(config, "light", run_inline, Silent())
        scores = pa.concat_tables([pq.read_table(path, columns=["nsfw_score"]) for path in result.report_files])
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return float(np.quantile(scores["nsfw_score"].to_numpy(), _BENIGN))
