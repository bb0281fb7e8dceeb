"""A replay is what a scan under its policy would have been: row by row, in what the next run carries over, and for the night after it."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from nsfwscan.config import StorageConfig
from nsfwscan.errors import RunConflict, StoreError
from nsfwscan.policy.compare import COMPARED
from nsfwscan.policy.rules import Policy, load_policy
from nsfwscan.runs import plan as planning
from nsfwscan.runs.run import Run, find_run, unfinished
from nsfwscan.runs.verify import verify
from nsfwscan.schema import DECISION_COLUMNS, Decision
from nsfwscan.storage.store import Store
from nsfwscan.workflows import replay as replaying
from nsfwscan.workflows.replay import commit_replay, replay
from nsfwscan.workflows.scan import ScanResult
from tests.runs.rows import Row, scanned, staged_row

OLD: dict[str, Any] = {
    "version": "old",
    "rules": [
        {"name": "explicit", "when": "nsfw_score >= 0.9", "decision": "block", "queue": "adult", "severity": 3},
        {"name": "unreadable", "when": "status <> 'ok'", "decision": "undetermined", "queue": "ingest"},
    ],
    "otherwise": {"decision": "allow"},
}
NEW: dict[str, Any] = {
    "version": "new",
    "thresholds": {"explicit": 0.8, "borderline": 0.4},
    "regions": {"kids": ["*/kids/*"]},
    "rules": [
        {
            "name": "explicit",
            "when": "nsfw_score >= $explicit",
            "decision": "block",
            "queue": "adult",
            "shield": "blur",
        },
        {"name": "borderline", "when": "nsfw_score >= $borderline", "decision": "review", "skill": "calm"},
        {"name": "spot", "when": "nsfw_score < 0.3", "sample": 0.2, "decision": "review", "queue": "quality"},
        {"name": "unsure", "when": "score_neutral < 0.8", "decision": "escalate"},
    ],
    "otherwise": {"decision": "allow"},
    "overrides": [{"region": "kids", "thresholds": {"borderline": 0.2}, "rules": {"explicit": {"severity": 4}}}],
}
"""Scoreless rows match no rule of it, so that the guard has work."""
NAMES = [f"{'kids' if i % 4 == 0 else 'all'}/{i:03}.jpg" for i in range(60)]


@pytest.fixture(autouse=True)
def _several_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "RANGE_ROWS", 25)


def policy_file(folder: Path, name: str, policy: dict[str, Any]) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(policy))
    return str(path)


@pytest.fixture
def old(tmp_path: Path) -> str:
    return policy_file(tmp_path, "old", OLD)


@pytest.fixture
def new(tmp_path: Path) -> str:
    return policy_file(tmp_path, "new", NEW)


def made(uri: str) -> Row:
    """A row that follows from the URI: a score, a truth, or an error."""
    chance = random.Random(Path(uri).name)
    if chance.random() < 0.15:
        return staged_row(uri, status=chance.choice(["decode_error", "unsupported"]), etag=etag(uri))
    truth = chance.choice([None, "neutral", "porn"])
    return staged_row(uri, nsfw_score=chance.choice([0.05, 0.25, 0.5, 0.85, 0.95]), truth=truth, etag=etag(uri))


def etag(uri: str) -> str:
    return hashlib.md5(uri.encode()).hexdigest()


def night(
    folder: Path, run_id: str, policy: str, names: list[str], tags: dict[str, str] | None = None, **sections: Any
) -> ScanResult:
    """A scan of objects that a manifest lists, with made-up rows; `tags` has the versions of those that changed."""
    manifest = folder / "listed.jsonl"
    rows = [{"uri": str(folder / name), "truth": made(str(folder / name)).get("truth")} for name in names]
    listed = [{**row, "size": 1000, "etag": (tags or {}).get(row["uri"], etag(row["uri"]))} for row in rows]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in listed))

    def row(uri: str) -> Row:
        return {**made(uri), "etag": (tags or {}).get(uri, etag(uri))}

    report = {"max_error_rate": 1, **sections.pop("report", {})}
    return scanned(manifest, folder / "out", row, run_id=run_id, policy=policy, report=report, **sections)


def run_of(folder: Path, run_id: str) -> Run:
    return Run(Store.at(str(folder / "out"), StorageConfig()), run_id)


def table(result: ScanResult, kind: str = "report") -> list[dict[str, Any]]:
    """Return the rows that a run's record names, by URI."""
    paths = [f.path for f in result.record.files if f.path.startswith(f"{kind}/")]
    rows = [row for path in paths for row in pq.read_table(f"{result.uri}/{path}").to_pylist()]
    return sorted(rows, key=lambda row: (row["uri"], row.get("change", "")))


def decisions(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return all that was decided of each object, and all that follows from it."""
    columns = [field.name for field in DECISION_COLUMNS] + ["false_positive", "truth", "nsfw_score", "status"]
    return {row["uri"]: {name: row[name] for name in columns} for row in rows}


def replayed(folder: Path, parent: str, policy: str, run_id: str) -> ScanResult:
    return commit_replay(run_of(folder, parent), load_policy(policy), policy, run_id)


def test_a_replay_equals_a_fresh_scan(tmp_path: Path, old: str, new: str) -> None:
    """Every decision column of every row, the false positives, the counts; nothing of the rows is lost or doubled."""
    night(tmp_path, "scan", old, NAMES)
    again = replayed(tmp_path, "scan", new, "replay")
    fresh = night(tmp_path, "fresh", new, NAMES, previous={"reuse": False})
    assert decisions(table(again)) == decisions(table(fresh))
    assert {row["decision"] for row in table(again)} == set(Decision)
    for name in ("decision", "rule", "queue", "label", "status", "truth", "flagged", "errors", "nsfw_score_histogram"):
        assert getattr(again.record.summary, name) == getattr(fresh.record.summary, name), name
    wrong = [
        [{k: v for k, v in row.items() if k != "carried_from"} for row in table(run, "false_positives")]
        for run in (again, fresh)
    ]
    assert wrong[0] == wrong[1] and wrong[0]


def test_a_replay_is_a_run_as_any_other(tmp_path: Path, old: str, new: str) -> None:
    """It names its parent and the policy, says that it carried all rows, and stands the check of every file."""
    scan = night(tmp_path, "scan", old, NAMES)
    result = replayed(tmp_path, "scan", new, "replay")
    record = result.record
    assert (record.kind, record.parent.run_id, result.exit_code) == ("replay", "scan", 0)
    assert record.policy.identity == load_policy(new).identity
    assert record.balance.model_dump() == {**dict.fromkeys(record.balance.model_dump(), 0), "listed": 60, "carried": 60}
    assert record.model == scan.record.model and record.reuse_keys == scan.record.reuse_keys
    assert {row["carried_from"] for row in table(result)} == {"scan"} == {row["run_id"] for row in table(scan)}
    assert [list(verify(run_of(tmp_path, name))) for name in ("scan", "replay")] == [[], []]
    assert "decided again" not in Path(scan.uri, "summary.html").read_text()
    assert "decided again by another policy; no image was read" in Path(result.uri, "summary.html").read_text()
    assert find_run(str(tmp_path / "out"), StorageConfig()).run_id == "replay"


def test_the_changes_of_a_replay_are_those_of_its_policy(tmp_path: Path, old: str, new: str) -> None:
    """What is flagged now and was not, and the other way round, against its parent; nothing is deleted."""
    flagged = {"review", "block", "escalate"}
    before = decisions(table(night(tmp_path, "scan", old, NAMES)))
    result = replayed(tmp_path, "scan", new, "replay")
    after = decisions(table(result))
    expected = Counter[str]()
    for uri in after:
        was, now = ([decided[uri][name] for name in COMPARED] for decided in (before, after))
        if was != now:
            raised, cleared = now[0] in flagged and was[0] not in flagged, was[0] in flagged and now[0] not in flagged
            other = "decided" if now[0] != was[0] else "routed"
            expected["newly_flagged" if raised else "cleared" if cleared else other] += 1
    changes = table(result, "changes")
    assert expected and Counter(row["change"] for row in changes) == expected
    assert {tuple(row["causes"]) for row in changes} == {("policy",)}
    assert {row["previous_run"] for row in table(result, "changes")} == {"scan"}


def test_what_would_change_is_what_changes(tmp_path: Path, old: str, new: str) -> None:
    """The comparison of a replay that is not committed tells what the committed one does, and writes nothing."""
    scan = night(tmp_path, "scan", old, NAMES)
    there = sorted(tmp_path.rglob("*"))
    found = replay(run_of(tmp_path, "scan"), load_policy(new))
    assert sorted(tmp_path.rglob("*")) == there
    before, after = decisions(table(scan)), decisions(table(replayed(tmp_path, "scan", new, "replay")))
    moves = Counter((before[uri]["decision"], after[uri]["decision"]) for uri in before)
    assert found.moves == Counter({move: n for move, n in moves.items() if move[0] != move[1]})
    assert found.after["queue"] == Counter(row["queue"] for row in after.values())
    assert found.rows == 60


@pytest.mark.long
def test_the_next_night_goes_on_from_a_replay(tmp_path: Path, old: str, new: str) -> None:
    """It carries what the replay carried, from the run that looked at it, and tells changes since the replay alone."""
    night(tmp_path, "scan", old, NAMES)
    replayed(tmp_path, "scan", new, "replay")
    changed = {str(tmp_path / NAMES[3]): "v2"}
    result = night(tmp_path, "next", new, [*NAMES[1:], "all/new.jpg"], changed)
    assert result.record.previous_runs == ("replay",)
    assert result.record.plan.actions == {"carried": 58, "changed": 1, "new": 1}
    assert {row["carried_from"] for row in table(result)} == {"scan", None}
    changes = Counter(row["change"] for row in table(result, "changes"))
    assert changes["deleted"] == 1 and changes["cleared"] == 0 and changes["newly_flagged"] <= 1  # at most the new one
    assert list(verify(run_of(tmp_path, "next"))) == []


@pytest.mark.long
def test_a_delta_is_replayed_with_the_runs_before_it(tmp_path: Path, old: str, new: str) -> None:
    """A replay of a delta is a delta: laid over the reports before it, it is what a scan of everything would be."""
    whole = night(tmp_path, "whole", old, NAMES)
    changed = {str(tmp_path / name): "v2" for name in NAMES[5:9]}
    tonight = [*NAMES[2:], "all/new.jpg"]
    delta = night(tmp_path, "delta", old, tonight, changed, report={"mode": "delta"})
    result = replayed(tmp_path, "delta", new, "replay")
    fresh = night(tmp_path, "fresh", new, tonight, changed, previous={"reuse": False})
    over = {row["uri"]: row for run in (whole, delta, result) for row in table(run)}
    gone = {str(tmp_path / name) for name in NAMES[:2]}
    compared = ("decision", "rule", "queue", "skill", "shield", "severity")
    expected = decisions(table(fresh))
    moved = {row["uri"] for row in table(result)}
    assert over.keys() - gone == expected.keys()
    for uri, row in expected.items():
        if uri in moved:
            assert {name: over[uri][name] for name in compared} == {name: row[name] for name in compared}
        assert over[uri]["decision"] == row["decision"]
    assert result.record.previous_runs == ("delta", "whole") and 0 < len(moved) < 59
    assert result.record.summary.decision == fresh.record.summary.decision
    assert list(verify(run_of(tmp_path, "replay"))) == []


@pytest.mark.long
def test_a_replay_is_replayed(tmp_path: Path, old: str, new: str) -> None:
    """Back again under the first policy, all is as it was."""
    scan = night(tmp_path, "scan", old, NAMES)
    replayed(tmp_path, "scan", new, "there")
    back = replayed(tmp_path, "there", old, "back")
    assert decisions(table(back)) == decisions(table(scan))
    assert (back.record.parent.run_id, {row["carried_from"] for row in table(back)}) == ("there", {"scan"})
    assert list(verify(run_of(tmp_path, "back"))) == []


# Again, cut off, in the way


def test_a_committed_replay_is_left_alone(tmp_path: Path, old: str, new: str) -> None:
    """The same again writes nothing, and says that it was done before."""
    night(tmp_path, "scan", old, NAMES)
    first = replayed(tmp_path, "scan", new, "replay")
    again = replayed(tmp_path, "scan", new, "replay")
    assert again.already_committed and not first.already_committed and again.record == first.record


@pytest.mark.parametrize("cut", ["write_report", "commit_record"])
def test_a_replay_that_was_cut_off_is_gone_on_with(
    tmp_path: Path, old: str, new: str, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    """With the same run id; a scan does not take it for one of its own, and other settings are refused."""
    night(tmp_path, "scan", old, NAMES)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(replaying, cut, interrupted)
        with pytest.raises(KeyboardInterrupt):
            replayed(tmp_path, "scan", new, "replay")
    assert run_of(tmp_path, "replay").state() == "unfinished"
    assert unfinished(run_of(tmp_path, "scan").store, [str(tmp_path / "listed.jsonl")]) == []
    with pytest.raises(RunConflict, match="policy was 'new@"):
        replayed(tmp_path, "scan", old, "replay")
    assert not replayed(tmp_path, "scan", new, "replay").already_committed
    assert list(verify(run_of(tmp_path, "replay"))) == []


def test_a_commit_without_its_last_write_is_sealed(tmp_path: Path, old: str, new: str) -> None:
    """`run.json` is there, `_SUCCESS` is not: only that is written."""
    night(tmp_path, "scan", old, NAMES)
    first = replayed(tmp_path, "scan", new, "replay")
    Path(first.uri, "_SUCCESS").unlink()
    again = replayed(tmp_path, "scan", new, "replay")
    assert again.record == first.record and Path(first.uri, "_SUCCESS").exists()


def test_the_name_of_a_scan_is_refused(tmp_path: Path, old: str, new: str) -> None:
    """A replay never passes for the run that it is of."""
    night(tmp_path, "scan", old, NAMES)
    with pytest.raises(RunConflict, match="replay_of was None, is 'scan'"):
        replayed(tmp_path, "scan", new, "scan")


def test_what_was_never_committed_cannot_be_replayed(tmp_path: Path, old: str) -> None:
    """A run that is unfinished has decided nothing yet."""
    night(tmp_path, "scan", old, NAMES)
    Path(tmp_path, "out/runs/scan/_SUCCESS").unlink()
    with pytest.raises(StoreError, match="scan is not committed"):
        find_run(str(tmp_path / "out/runs/scan"), StorageConfig())
    with pytest.raises(StoreError, match="neither a run's folder nor a store with committed runs"):
        find_run(str(tmp_path / "out"), StorageConfig())


def test_a_damaged_parent_is_no_parent(tmp_path: Path, old: str, new: str) -> None:
    """A part that is not what its run recorded stops a commit; one that is gone stops a comparison, too."""
    scan = night(tmp_path, "scan", old, NAMES)
    part = next(Path(scan.uri).glob("report/*.parquet"))
    part.write_bytes(b"?" + part.read_bytes()[1:])
    with pytest.raises(StoreError, match="absent or damaged"):
        replayed(tmp_path, "scan", new, "replay")
    assert run_of(tmp_path, "replay").state() == "unfinished"
    part.unlink()
    with pytest.raises(StoreError, match="is absent, although"):
        replay(run_of(tmp_path, "scan"), load_policy(new))


@pytest.mark.long
def test_a_report_from_before_a_column_was_added(tmp_path: Path, old: str, new: str) -> None:
    """Columns are only ever added: a report without `skill` is compared, replayed and carried over as one without any."""
    scan = night(tmp_path, "scan", old, NAMES)
    fresh = replayed(tmp_path, "scan", new, "fresh")
    folder = Path(scan.uri)
    record = json.loads((folder / "run.json").read_text())
    for file in record["files"]:
        if file["path"].startswith("report/"):
            rows = pq.read_table(folder / file["path"]).drop_columns("skill")
            pq.write_table(rows, folder / file["path"])
            data = (folder / file["path"]).read_bytes()
            file.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    (folder / "run.json").write_text(json.dumps(record))
    assert replay(run_of(tmp_path, "scan"), load_policy(new)).before["skill"] == Counter({None: 60})
    again = replayed(tmp_path, "scan", new, "again")
    assert decisions(table(again)) == decisions(table(fresh))
    assert pa.types.is_string(pq.read_table(next(Path(again.uri).glob("report/*.parquet"))).schema.field("skill").type)


def test_memory_does_not_grow_with_the_report(tmp_path: Path, old: str, new: str) -> None:
    """Rows are read in batches, and only the columns that are asked for."""
    night(tmp_path, "scan", old, NAMES)
    seen: list[pa.Table] = []

    class Watching(replaying.Comparison):
        def add(self, rows: pa.Table) -> None:
            seen.append(rows)
            super().add(rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replaying, "Comparison", Watching)
        patch.setattr("nsfwscan.runs.parts._BATCH_ROWS", 10)
        policy: Policy = load_policy(old)
        replay(run_of(tmp_path, "scan"), policy)
    assert {rows.num_rows for rows in seen} == {10, 5} and sum(rows.num_rows for rows in seen) == 60
    assert set(seen[0].column_names) == {
        *("uri", "decision", "queue", "skill", "shield", "severity"),
        *("nsfw_score", "status", "filtered_by", "match_kind", "verdict"),
    }


# Shadows


def test_shadow_policies_change_no_row(tmp_path: Path, old: str, new: str) -> None:
    """With and without them the report is the same but for its run's name and time; what they would have decided is
    what a replay tells."""
    plain = night(tmp_path, "plain", old, NAMES)
    shadowed = night(tmp_path, "shadowed", old, NAMES, previous={"reuse": False}, shadow_policies=[new, "open-nsfw"])
    for kind in ("report", "false_positives"):
        rows = [
            [{k: v for k, v in row.items() if k != "run_id"} for row in table(run, kind)] for run in (plain, shadowed)
        ]
        assert rows[0] == rows[1]
    columns = [field.name for field in DECISION_COLUMNS]
    bytes_of = [[pq.read_table(path, columns=columns) for path in run.report_files] for run in (plain, shadowed)]
    assert all(a.equals(b) for a, b in zip(*bytes_of, strict=True))
    first, second = shadowed.record.shadow_policies
    shown = shadowed.record.as_json()["shadow_policies"][0]
    would = replay(run_of(tmp_path, "plain"), load_policy(new)).as_dict()
    assert [first.policy, second.policy] == [load_policy(new).identity, load_policy("open-nsfw").identity]
    for name in ("rows", "moved", "elsewhere", "decision", "queue", "skill", "severity", "shield"):
        assert shown[name] == would[name], name
    assert [{k: m[k] for k in ("from", "to", "objects")} for m in shown["moves"]] == [
        {k: m[k] for k in ("from", "to", "objects")} for m in would["moves"]
    ]
    assert plain.record.shadow_policies == ()
    assert list(verify(run_of(tmp_path, "shadowed"))) == []
    page = Path(shadowed.uri, "summary.html").read_text()
    assert first.policy in page and 'id="shadows"' in page
    assert 'id="shadows"' not in Path(plain.uri, "summary.html").read_text()
