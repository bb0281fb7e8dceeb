"""What people decided holds: the next scan, replay and queue know it, and the report says whose word it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.errors import BrokenRecord
from nsfwscan.policy.rules import load_policy
from nsfwscan.runs.run import Run
from nsfwscan.storage.store import Store
from nsfwscan.workflows.replay import commit_replay, replay
from nsfwscan.workflows.scan import ScanResult
from tests.runs.rows import ILLEGAL_MATCH, Row, scanned, staged_row
from tests.s3.servers import S3Endpoint
from tests.verdicts.lines import Line, file, line

SCORES = {"allowed": 0.1, "review": 0.5, "copy": 0.5, "block": 0.9, "escalated": 0.5, "disputed": 0.1, "odd": 0.5}


def sha256(name: str) -> str:
    return hashlib.sha256({"copy": "review"}.get(name, name).encode()).hexdigest()


def row(uri: str) -> Row:
    name = Path(uri).stem
    pdq = {"near": "0" * 64, "near-too": "0" * 63 + "1"}.get(name)
    return staged_row(uri, nsfw_score=SCORES.get(name, 0.5), sha256=sha256(name), pdq=pdq, pdq_quality=pdq and 100)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one night."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "media").mkdir()
    for name in (*SCORES, "near", "near-too"):
        (folder / "media" / f"{name}.jpg").write_bytes(name.encode())
    scanned(folder / "media", folder / "out", row, run_id="1")
    return folder


@pytest.fixture
def folder(first: Path, tmp_path: Path) -> Path:
    shutil.copytree(first / "out", tmp_path / "out")
    (tmp_path / "media").symlink_to(first / "media")
    return tmp_path


def decide(folder: Path, *lines: Line) -> None:
    taken = run("verdicts", "import", folder / "out", file(folder / "v.jsonl", lines))
    assert taken.exit_code == 0, taken.output


def on(name: str, verdict: str, **values: Any) -> Line:
    return line(f"{name}{verdict}{values}", name, verdict, sha256=sha256(name), **values)


def rows(result: ScanResult) -> dict[str, dict[str, Any]]:
    return {Path(row["uri"]).stem: row for row in result.to_arrow().to_pylist()}


def night(folder: Path, first: Path, run_id: str, **sections: Any) -> dict[str, dict[str, Any]]:
    return rows(scanned(first / "media", folder / "out", row, run_id=run_id, **sections))


ALL = [
    on("allowed", "remove", category="gore"),
    on("review", "approve"),
    on("block", "approve"),
    on("escalated", "escalate"),
    on("disputed", "approve"),
    on("disputed", "remove", reviewer="bob"),
    on("odd", "remove"),
]


def test_the_next_night_knows_what_people_decided(folder: Path, first: Path) -> None:
    """What was removed is blocked and what was approved is allowed, both without a queue, copies too; what was escalated
    or is disputed goes to a lead. The changes name the verdict as the cause, and the store still verifies."""
    decide(folder, *ALL)
    found = night(folder, first, "2")
    told = {
        name: [r[c] for c in ("decision", "rule", "queue", "skill", "decided_by", "verdict")]
        for name, r in found.items()
    }
    approved = ["allow", "verdict-approve", None, None, "person", "approve"]
    lead = ["escalate", "verdict-escalate", "escalate", "lead", "person", "escalate"]
    assert told["allowed"] == told["odd"] == ["block", "verdict-remove", None, None, "person", "remove"]
    assert told["review"] == told["copy"] == told["block"] == approved
    assert told["escalated"] == lead
    assert told["disputed"] == [*lead[:1], "verdict-disputed", *lead[2:5], "disputed"]
    assert told["near"][0] == "review"
    changes = json.loads(run("why", folder / "out", first / "media" / "review.jpg", "--json").output)
    assert changes["history"][-1]["causes"] == ["verdict"] and changes["values"]["verdict"] == "approve"
    assert changes["rule"]["again"] is True
    checked = run("verify", folder / "out")
    assert checked.exit_code == 0, checked.output


def test_a_second_look_changes_it_back(folder: Path, first: Path) -> None:
    """An undo, an appeal: the next night decides by what stands then, and a delta holds each row whose verdict moved."""
    decide(folder, *ALL)
    night(folder, first, "2")
    removed = on("odd", "remove")
    decide(
        folder,
        on("odd", "undo", supersedes=removed["id"], decided_at="2026-11-21T00:00:00Z"),
        on("allowed", "approve", kind="appeal", decided_at="2026-11-21T00:00:00Z", reviewer="lee"),
    )
    found = night(folder, first, "3", report={"mode": "delta"})
    assert found["odd"]["verdict"] is None and found["odd"]["decision"] == "review"
    assert [found["allowed"][name] for name in ("decision", "verdict", "appeals")] == ["allow", "approve", 1]


def test_a_policy_may_name_the_verdict(folder: Path, first: Path) -> None:
    """A rule that asks for it decides; others are passed over. A replay knows verdicts too, before it is committed."""
    decide(folder, *ALL)
    policy = folder / "policy.yaml"
    policy.write_text(
        "version: 1\nrules:\n"
        "  - {name: gone, when: \"verdict = 'remove'\", decision: block, queue: takedown}\n"
        '  - {name: all, when: "nsfw_score >= 0", decision: review}\n'
        "otherwise: {decision: allow}\n"
    )
    store = Store.at(str(folder / "out"), StorageConfig())
    loaded, parent = load_policy(str(policy)), Run(store, "1")
    before = replay(parent, loaded)
    found = rows(commit_replay(parent, loaded, str(policy), "r"))
    assert (found["odd"]["rule"], found["odd"]["queue"]) == ("gone", "takedown")
    assert found["review"]["rule"] == "verdict-approve" and found["near"]["rule"] == "all"
    decided = [r["decision"] for r in found.values()]
    assert {word: before.after["decision"][word] for word in set(decided)} == {
        w: decided.count(w) for w in set(decided)
    }


def test_queues_know_verdicts_at_once(folder: Path, first: Path) -> None:
    """Without another run: what was decided is in no queue, what was escalated is in the lead's, and a near-duplicate
    says what became of those like it."""
    decide(folder, *ALL, on("near", "remove"))
    done = run("queues", folder / "out", "--out", folder / "q")
    assert done.exit_code == 0, done.output
    items = [json.loads(one) for path in (folder / "q").glob("*.jsonl") for one in path.read_text().splitlines()]
    found = {Path(item["uri"]).stem: item for item in items}
    assert found.keys() == {"escalated", "disputed", "near-too"}
    assert found["near-too"]["near_verdicts"] == {"remove": 1} and found["near-too"]["verdict"] is None
    assert (found["escalated"]["queue"], found["escalated"]["skill"]) == ("escalate", "lead")


def test_verify_misses_and_finds_verdicts(folder: Path, first: Path) -> None:
    """A file of verdicts that was changed or that a run knew and is gone; a scan stops at once at a changed one."""
    decide(folder, *ALL)
    night(folder, first, "2")
    [part] = (folder / "out" / "verdicts").iterdir()
    whole = part.read_bytes()
    part.write_bytes(whole + b" ")
    checked = run("verify", folder / "out")
    assert checked.exit_code == 7 and "was changed: its content" in checked.output
    with pytest.raises(BrokenRecord, match="was changed"):
        night(folder, first, "3")
    part.unlink()
    checked = run("verify", folder / "out", "--json")
    assert checked.exit_code == 8 and "although run 2 knew it" in checked.output


def test_an_illegal_match_stays_one(tmp_path: Path, first: Path) -> None:
    """No approval takes it out of its queue, nor out of the escalations."""
    bank = tmp_path / "bank.txt"
    bank.write_text(f"sha256 {sha256('review')}\n")
    banks = {"known": {"uri": str(bank), "kind": "illegal"}}

    def matched(uri: str) -> Row:
        found = row(uri)
        match = {**ILLEGAL_MATCH, "match_bank": "known"}
        return {**found, **match} if found["sha256"] == sha256("review") else found

    scanned(first / "media", tmp_path / "out", matched, run_id="1", banks=banks)
    decide(tmp_path, on("review", "approve"))
    found = rows(scanned(first / "media", tmp_path / "out", matched, run_id="2", banks=banks))
    told = [found["review"][name] for name in ("decision", "rule", "queue", "verdict")]
    assert told == ["escalate", "illegal-match", "legal", "approve"]


@pytest.mark.long
def test_verdicts_on_s3(tmp_path: Path, first: Path, moto: S3Endpoint) -> None:
    """The same where store and verdict file lie on S3: taken in once, known by the next night, verified, exported."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="verdicts")
    client.put_object(Bucket="verdicts", Key="v.jsonl", Body=Path(file(tmp_path / "v.jsonl", ALL)).read_bytes())
    scanned(first / "media", "s3://verdicts/out", row, run_id="1")
    for new in (len(ALL), 0):
        done = run("verdicts", "import", "s3://verdicts/out", "s3://verdicts/v.jsonl", "--json")
        assert json.loads(done.stdout)["new"] == new, done.output
    found = rows(scanned(first / "media", "s3://verdicts/out", row, run_id="2"))
    assert (found["odd"]["rule"], found["copy"]["rule"]) == ("verdict-remove", "verdict-approve")
    assert run("verify", "s3://verdicts/out").exit_code == 0
    assert (
        run("verdicts", "export", "s3://verdicts/out", "--format", "jsonl", "--out", "s3://verdicts/all").exit_code == 0
    )
    again = run("verdicts", "import", "s3://verdicts/out", "s3://verdicts/all", "--json")
    assert json.loads(again.stdout)["there"] == len(ALL)
    [key] = [one["Key"] for one in client.list_objects_v2(Bucket="verdicts", Prefix="out/verdicts/")["Contents"]]
    client.delete_object(Bucket="verdicts", Key=key)
    assert run("verify", "s3://verdicts/out").exit_code == 8


def test_nothing_is_taken_into_a_place_without_runs(tmp_path: Path) -> None:
    """A mistyped store is not made; a refused file leaves nothing behind."""
    lines = file(tmp_path / "v.jsonl", ALL)
    done = run("verdicts", "import", tmp_path / "typo", lines)
    assert done.exit_code == 1 and "has no runs" in done.output and not (tmp_path / "typo").exists()
