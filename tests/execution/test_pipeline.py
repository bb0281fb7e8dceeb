"""The whole pipeline in one process, over the demo store, against what each object was declared to be."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import nsfwscan
from nsfwscan.config import ScanConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.inline import run_inline
from nsfwscan.execution.pipeline import Job, finish
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.staging import ShardResult, read_part
from nsfwscan.schema import DUPLICATE_COLUMNS, LISTING_SCHEMA, REPORT_SCHEMA, STAGED_SCHEMA
from nsfwscan.stages.base import fresh
from nsfwscan.workflows.scan import ScanResult, run_scan
from tests.runs.rows import is_of_schema

Demo = tuple[Path, list[DemoObject]]


class Scanned:
    """One scan of the demo store: what it returned, what it staged, what it reported."""

    def __init__(self, media: Path, out: Path) -> None:
        self.staged: dict[str, pa.Table] = {}
        self.told: list[ShardResult] = []
        self.began = datetime.now(UTC)
        config = ScanConfig.load(None, {"source": {"uris": [str(media)]}, "out": str(out)})
        self.result: ScanResult = run_scan(config, "demo", self._inline, Silent())
        [path] = self.result.report_files
        self.report: pa.Table = pq.read_table(io.BytesIO(Path(path).read_bytes()))
        self.rows: dict[str, dict[str, Any]] = {
            str(Path(row["uri"]).relative_to(media)): row for row in self.report.to_pylist()
        }

    def _inline(self, job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        named = {shard.name: shard for shard in shards}
        for told in run_inline(job, shards, deadline):
            self.staged[told.shard] = read_part(job.run.staging, named[told.shard])
            self.told.append(told)
            yield told


@pytest.fixture(scope="module")
def scan(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Scanned:
    return Scanned(demo[0], tmp_path_factory.mktemp("reports"))


def test_every_object_is_there_once(demo: Demo, scan: Scanned) -> None:
    """Each of the store's objects has exactly one row, whatever its name or content, and nothing else has one."""
    assert scan.report.num_rows == len(scan.rows) == len(demo[1])
    assert set(scan.rows) == {declared.path for declared in demo[1]}
    assert is_of_schema(scan.report, REPORT_SCHEMA)


def test_every_row_is_as_declared(demo: Demo, scan: Scanned) -> None:
    """Row by row: outcome, content, truth, score and decision are those of the object, and what is unknown is null."""
    for declared in demo[1]:
        row, data = scan.rows[declared.path], (demo[0] / declared.path).read_bytes()
        ok = declared.status == "ok"
        for name in ("status", "format", "width", "height", "truth", "camera", "software"):
            assert row[name] == getattr(declared, name), (declared, name)
        assert row["frames"] == declared.frames or not ok
        assert (row["size"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert row["object_id"] == hashlib.sha256(row["uri"].encode()).hexdigest()[:32]
        copied = row["duplicate_of"] is not None
        assert row["accounted_as"] == ("duplicate" if copied else "scored" if ok else "errored")
        assert (row["error"] is None) == ok
        for name in ("model", "label", "confidence", "nsfw_score", "score_neutral", "score_nsfw"):
            assert (row[name] is not None) == ok, (declared, name)
        assert row["decision"] == ("allow" if ok else "undetermined")
        assert (row["rule"] == "no-image") == (declared.status == "unsupported")
        assert (row["decided_by"], row["run_id"]) == ("policy", "demo")
        assert row["false_positive"] == (False if ok and declared.truth else None)
        assert scan.began - timedelta(seconds=1) <= row["scanned_at"].replace(tzinfo=UTC) <= datetime.now(UTC)


def test_the_same_bytes_have_the_same_scores(scan: Scanned) -> None:
    """Copies of one file, in different shards and batches, are scored alike to the bit."""
    copies = [row for row in scan.rows.values() if row["sha256"] == scan.rows["neutral/rocket.jpg"]["sha256"]]
    assert len(copies) == 3
    assert len({(row["nsfw_score"], row["score_neutral"]) for row in copies}) == 1
    first, *others = sorted(copies, key=lambda row: str(row["uri"]))
    assert first["duplicate_of"] is None and {row["duplicate_of"] for row in others} == {first["uri"]}
    assert {(row["cluster"], row["cluster_places"]) for row in copies} == {(first["cluster"], 5)}  # and two near them


def test_the_record_adds_up(demo: Demo, scan: Scanned) -> None:
    """Balance, counts and exit code in `run.json` are those of the declared objects."""
    record = scan.result.record
    statuses = Counter(declared.status for declared in demo[1])
    readable = [scan.rows[declared.path]["sha256"] for declared in demo[1] if declared.status == "ok"]
    copies = len(readable) - len(set(readable))
    terms = {"scored": len(set(readable)), "duplicate": copies, "errored": len(demo[1]) - len(readable)}
    assert copies == record.duplicates.copies > 0
    assert record.balance.model_dump() == {
        "listed": len(demo[1]),
        "matched": 0,
        "filtered": 0,
        "carried": 0,
        **terms,
    }
    assert record.summary.status == statuses
    assert record.summary.bytes == sum((demo[0] / declared.path).stat().st_size for declared in demo[1])
    assert record.summary.truth.by_category == Counter(d.truth for d in demo[1] if d.truth)
    unreadable = statuses["decode_error"] + statuses["too_large"]
    rate = unreadable / (len(demo[1]) - statuses["unsupported"])
    assert record.summary.error_rate == pytest.approx(rate)
    assert scan.result.exit_code == (4 if rate > 0.05 else 0)
    assert json.loads(Path(scan.result.uri, "run.json").read_text()) == record.as_json()


def test_shards_come_one_by_one(demo: Demo, scan: Scanned) -> None:
    """A shard is staged when its result is told, in the staged columns, with the errors that are in it."""
    assert [told.shard for told in scan.told] == list(scan.staged)
    for told, part in zip(scan.told, scan.staged.values(), strict=True):
        assert part.schema == STAGED_SCHEMA
        statuses = part["status"].to_pylist()
        assert (told.rows, told.flagged) == (part.num_rows, 0)
        assert told.errors == sum(status not in ("ok", "unsupported") for status in statuses)
    assert sum(part.num_rows for part in scan.staged.values()) == len(demo[1])


def test_classify_agrees_with_the_scan(demo: Demo, scan: Scanned) -> None:
    """The same stages run for a few images: status, score and decision are those of the report, to the bit."""
    paths = ["neutral/coffee.png", "drawings/pie_chart.webp", "broken/garbage.jpg", "broken/document.pdf"]
    for path, verdict in zip(paths, nsfwscan.classify([demo[0] / path for path in paths]), strict=True):
        row = scan.rows[path]
        assert (verdict.status, verdict.error) == (row["status"], row["error"])
        assert (verdict.nsfw_score, verdict.decision, verdict.rule) == (row["nsfw_score"], row["decision"], row["rule"])
        assert (verdict.model, verdict.policy) == (row["model"], row["policy"])


def test_a_second_scan_reports_the_same(demo: Demo, scan: Scanned, tmp_path: Path) -> None:
    """Nothing depends on the order of the shards, their size, the batch or the threads: other sizes, same rows."""
    root = demo[0] / "broken"
    config = ScanConfig.load(
        None,
        {
            "source": {"uris": [str(root), str(demo[0] / "neutral")]},
            "out": str(tmp_path),
            "engine": {"shard_rows": 3, "seed": 5},
            "model": {"batch_size": 5},
            "read": {"concurrency": 1},
        },
    )
    result = run_scan(config, "again", run_inline, Silent())
    [path] = result.report_files
    others = ["accounted_as", *(field.name for field in DUPLICATE_COLUMNS)]  # there are fewer objects
    apart = dict.fromkeys(["run_id", "scanned_at", *others])
    for row in pq.read_table(io.BytesIO(Path(path).read_bytes())).to_pylist():
        before = scan.rows[str(Path(row["uri"]).relative_to(demo[0]))]
        # Another batch size is another shape for the model: its last bits may differ.
        scores = [name for name, value in row.items() if isinstance(value, float)]
        assert {**row, **apart, **dict.fromkeys(scores)} == {**before, **apart, **dict.fromkeys(scores)}
        assert [row[name] for name in scores] == pytest.approx([before[name] for name in scores], abs=1e-5)


def test_finish_puts_every_column_in_its_place() -> None:
    """Rows without a score are errored and rows with one scored; ids follow from the URI alone."""
    table = fresh(pa.Table.from_pylist([{"uri": "/a"}, {"uri": "s3://b/ключ"}], schema=LISTING_SCHEMA))
    for field in STAGED_SCHEMA:
        if field.name not in (*table.column_names, "object_id", "accounted_as", "scanned_at"):
            values = [0.5, None] if field.name == "nsfw_score" else [None, None]
            table = table.append_column(field, pa.array(values, field.type))
    done = finish(table.select(sorted(table.column_names)))
    assert is_of_schema(done, STAGED_SCHEMA)
    assert done["accounted_as"].to_pylist() == ["scored", "errored"]
    assert done["object_id"].to_pylist() == [
        hashlib.sha256(uri.encode()).hexdigest()[:32] for uri in ("/a", "s3://b/ключ")
    ]
    assert finish(table.slice(0, 0)).num_rows == 0
