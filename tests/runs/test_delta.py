"""A delta report holds a row wherever anything that was decided is another than before, and no row beside."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from nsfwscan.workflows.scan import ScanResult
from tests.runs.rows import Row, scanned, staged_row

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
MD5 = "0" * 32


def row(uri: str) -> Row:
    """A row that the next night carries over: its file is as it was in 2020."""
    return staged_row(uri, nsfw_score=0.9, md5=MD5, modified_at=LONG_AGO, scanned_at=datetime.now(UTC))


def night(folder: Path, run_id: str, rule: dict[str, Any], banks: dict[str, Any]) -> ScanResult:
    decided = {"name": "explicit", "when": "nsfw_score > 0.5", "decision": "block", "queue": "adult", "severity": 2}
    said = {"name": "made", "version": "1", "rules": [{**decided, **rule}], "otherwise": {"decision": "allow"}}
    (folder / f"{run_id}.yaml").write_text(yaml.safe_dump(said))
    settings: dict[str, Any] = {"policy": str(folder / f"{run_id}.yaml"), "banks": banks, "report": {"mode": "delta"}}
    return scanned(folder / "media", folder / "out", row, run_id=run_id, **settings)


@pytest.mark.parametrize(
    ("rule", "other", "held"),
    [
        ({}, False, []),
        ({"queue": "others"}, False, ["routed"]),
        ({"severity": 3}, False, ["routed"]),
        ({"name": "renamed"}, False, []),
        ({}, True, []),
    ],
)
def test_what_alone_changed_is_in_a_delta(tmp_path: Path, rule: dict[str, Any], other: bool, held: list[str]) -> None:
    """The queue, the severity, the rule or the bank alone: the row is there. Nothing: it is left to the run before."""
    (tmp_path / "media").mkdir()
    file = tmp_path / "media" / "a.jpg"
    file.write_bytes(b"a" * 1000)
    os.utime(file, (LONG_AGO.timestamp(), LONG_AGO.timestamp()))
    bank = tmp_path / "bank.txt"
    bank.write_text(f"{MD5}\n")
    named = {name: {"uri": str(bank), "kind": "block", "hash": "md5"} for name in ("old", "new")}
    night(tmp_path, "1", {}, {"old": named["old"]})
    second = night(tmp_path, "2", rule, {"new" if other else "old": named["new"]})
    assert second.record.plan.actions["carried"] == 1
    rows = [found for path in second.report_files for found in pq.read_table(path).to_pylist()]
    assert len(rows) == bool(rule or other)
    changes = [file.path for file in second.record.files_in("changes")]
    assert [r["change"] for path in changes for r in pq.read_table(f"{second.uri}/{path}").to_pylist()] == held


def test_a_policy_may_ask_for_copies(tmp_path: Path) -> None:
    """How many are alike is known at the commit alone: a rule on it stops no shard, and decides there."""
    (tmp_path / "media").mkdir()
    for name in "abc":
        (tmp_path / "media" / f"{name}.jpg").write_bytes(b"a")
    rule = {"name": "often", "when": "cluster_size > 2 or duplicate_of is not null", "decision": "review"}
    said = {"name": "made", "version": "1", "rules": [rule], "otherwise": {"decision": "allow"}}
    (tmp_path / "copies.yaml").write_text(yaml.safe_dump(said))

    def copy(uri: str) -> Row:
        return staged_row(uri, sha256="0" * 64)

    found = scanned(tmp_path / "media", tmp_path / "out", copy, policy=str(tmp_path / "copies.yaml"))
    assert found.record.summary.decision == {"allow": 1, "review": 2}
