"""A golden set is scored first every night, and a drift of its scores or decisions stops the run before the commit."""

from __future__ import annotations

import hashlib
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from nsfwscan.cli.main import main
from nsfwscan.config import BankConfig, StorageConfig
from nsfwscan.errors import ConfigError, Drifted, SourceError
from nsfwscan.policy.rules import load_policy
from nsfwscan.runs.golden import read_scored
from nsfwscan.runs.pruning import plan_pruning, prune
from nsfwscan.runs.run import Run
from nsfwscan.runs.verify import verify
from nsfwscan.storage.store import Store
from nsfwscan.workflows import golden as workflow
from nsfwscan.workflows.golden import look_again
from nsfwscan.workflows.match import match_store
from nsfwscan.workflows.scan import ScanResult
from tests.scans.test_nightly import night, picture

STRICT = """
name: strict
version: "1"
rules: [{name: all, when: "nsfw_score >= 0", decision: review, queue: adult, shield: blur, severity: 2}]
otherwise: {decision: allow}
"""


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for number in range(3):
        picture(tmp_path / "media" / f"{number}.png", number)
    return tmp_path / "media"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """Forty objects: more than a shard of them."""
    for number in range(40):
        picture(tmp_path / "golden" / f"g{number:02}.png", 100 + number, size=(24, 24))
    return tmp_path / "golden"


def scan(
    media: Path, golden: Path, out: Path, run_id: str, accept: str | None = None, **further: Any
) -> tuple[ScanResult, set[str]]:
    return night(media, out, run_id, golden={"uri": str(golden), "accept": accept}, **further)


def rows_of(result: ScanResult) -> list[dict[str, Any]]:
    parts = [f"{result.uri}/{f.path}" for f in result.record.files if f.path.startswith("golden/part-")]
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_it_is_scored_each_night_and_is_no_row_of_the_report(media: Path, golden: Path, tmp_path: Path) -> None:
    first, _ = scan(media, golden, tmp_path / "reports", "n1")
    second, looked_at = scan(media, golden, tmp_path / "reports", "n2")
    assert second.record.balance.listed == 3 and second.record.balance.carried == 3
    assert looked_at == {path.name for path in golden.iterdir()}
    assert first.record.golden is not None and first.record.golden.before is None
    assert second.record.golden is not None and second.record.golden.before == "n1"
    assert second.record.golden.largest == 0 and second.record.golden.drifted == {}
    assert len(rows_of(second)) == 40 and {row["expected_by"] for row in rows_of(second)} == {"n1"}
    assert not list(verify(Run(Store.at(str(tmp_path / "reports"), StorageConfig()), "n2")))


def test_another_decision_stops_the_run_until_it_is_accepted(media: Path, golden: Path, tmp_path: Path) -> None:
    reports, policy = tmp_path / "reports", tmp_path / "policy.yaml"
    policy.write_text(STRICT)
    scan(media, golden, reports, "n1")
    with pytest.raises(Drifted, match=r"40 are not as in run n1 \(40: it is decided otherwise\)") as stopped:
        scan(media, golden, reports, "n2", policy=str(policy))
    assert "--run-id n2 --accept-drift REASON" in str(stopped.value)
    assert not Run(Store.at(str(reports), StorageConfig()), "n2").is_committed()
    taken, looked_at = scan(media, golden, reports, "n2", accept="a stricter policy", policy=str(policy))
    assert not looked_at & {path.name for path in golden.iterdir()}, "what was scored is not scored again"
    assert taken.record.golden is not None
    assert (taken.record.golden.accepted, taken.record.golden.drifted) == ("a stricter policy", {"flipped": 40})
    assert "accepted: a stricter policy" in Path(taken.uri, "summary.html").read_text()
    after, _ = scan(media, golden, reports, "n3", policy=str(policy))
    assert after.record.golden is not None and after.record.golden.drifted == {}
    assert {row["expected_by"] for row in rows_of(after)} == {"n2"}


def test_a_replay_decides_it_again_and_stops_until_that_is_accepted(media: Path, golden: Path, tmp_path: Path) -> None:
    """Without --commit it tells; with it, nothing is committed without a reason; the next scan by that policy then finds
    what it expects. Golden rows that an earlier version kept cannot be decided again, which is told, too."""
    reports, policy = tmp_path / "reports", tmp_path / "policy.yaml"
    policy.write_text(STRICT)
    scan(media, golden, reports, "n1")
    store = Store.at(str(reports), StorageConfig())
    replayed = ["policy", "replay", str(reports), "--policy", str(policy)]
    told = CliRunner().invoke(main, replayed)
    assert told.exit_code == 0 and "40 of 40 objects are not as in run n1" in told.stdout, told.output
    assert "allow, now review" in told.stdout and "  … and 35 more" in told.stdout
    stopped = CliRunner().invoke(main, [*replayed, "--commit", "--run-id", "r1"])
    assert stopped.exit_code == 10 and "--accept-drift REASON commits it all the same" in stopped.stderr, stopped.output
    assert not Run(store, "r1").is_committed()
    taken = CliRunner().invoke(main, [*replayed, "--commit", "--run-id", "r1", "--accept-drift", "a stricter policy"])
    assert taken.exit_code == 0 and "accepted: a stricter policy" in taken.stdout, taken.output
    assert not list(verify(Run(store, "r1")))
    after, _ = scan(media, golden, reports, "n2", policy=str(policy))
    assert after.record.golden is not None and (after.record.golden.before, after.record.golden.drifted) == ("r1", {})
    alone = CliRunner().invoke(main, [*replayed, "--accept-drift", "why"])
    assert alone.exit_code == 2 and "for the run that --commit writes" in alone.stderr
    [part] = (reports / "runs/n2/golden").glob("part-*.parquet")
    pq.write_table(pq.read_table(part).select(["uri", "status", "sha256", "nsfw_score", "decision"]), part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "read", lambda run, file: run.folder.read(file.path))
        again = look_again(Run(store, "n2"), load_policy(str(policy)))
    assert again is not None and again.accepted(None) is None and "an earlier version" in again.describe()


def test_a_match_warns_of_a_bank_that_has_a_golden_object(media: Path, golden: Path, tmp_path: Path) -> None:
    """The next scan with it would stop; the match itself is committed, since what it finds must not wait."""
    scan(media, golden, tmp_path / "reports", "n1")
    entry = hashlib.sha256((golden / "g00.png").read_bytes()).hexdigest()
    (tmp_path / "bank.txt").write_text(f"{entry}\n")
    bank = BankConfig.of({"name": "new", "uri": str(tmp_path / "bank.txt"), "hash": "sha256"})
    found = match_store(Store.at(str(tmp_path / "reports"), StorageConfig()), (bank,), StorageConfig(), run_id="m1")
    [warning] = [one for one in found.record.warnings if one.name == "golden_matched"]
    assert warning.count == 1 and warning.example == f"{golden}/g00.png: new {entry}"


def test_scores_cannot_creep_from_night_to_night(
    media: Path, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each night moves the scores by less than the tolerance; two of them together by more."""
    for number in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(workflow, "read_scored", lambda *given, up=0.015 * number: raised(read_scored(*given), up))
            if number < 2:
                scan(media, golden, tmp_path / "reports", f"n{number}")
                continue
            with pytest.raises(Drifted, match=r"as in run n1 \(40: its score moved\)") as stopped:
                scan(media, golden, tmp_path / "reports", f"n{number}")
            assert "; still allow" in str(stopped.value) and "allow, now allow" not in str(stopped.value)


def raised(rows: pa.Table, by: float) -> pa.Table:
    scores = pc.add(rows["nsfw_score"], pa.scalar(by, rows["nsfw_score"].type))
    return rows.set_column(rows.schema.get_field_index("nsfw_score"), "nsfw_score", scores)


@pytest.mark.long
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: picture(folder / "g00.png", 7, size=(24, 24)), "its bytes are others"),
        (lambda folder: (folder / "g00.png").unlink(), "it is not listed any more"),
    ],
)
def test_the_set_itself_must_not_change(media: Path, golden: Path, tmp_path: Path, harm: Any, said: str) -> None:
    scan(media, golden, tmp_path / "reports", "n1")
    harm(golden)
    with pytest.raises(Drifted, match=rf"1 are not as in run n1 \(1: {said}\)"):
        scan(media, golden, tmp_path / "reports", "n2")


@pytest.mark.long
def test_nothing_is_expected_of_what_was_forgotten(media: Path, golden: Path, tmp_path: Path) -> None:
    """A golden object that a store must forget, and that is removed from the set, stops neither a replay nor a scan."""
    reports = tmp_path / "reports"
    scan(media, golden, reports, "n1")
    gone = ["--uri", f"{golden}/g00.png", "--reason", "a law", "--by", "me", "--yes"]
    done = CliRunner().invoke(main, ["forget", str(reports), *gone])
    assert done.exit_code == 0, done.output
    replayed = CliRunner().invoke(main, ["policy", "replay", str(reports), "--policy", "open-nsfw"])
    assert "0 of 39 objects are not as in run n1" in replayed.stdout, replayed.output
    (golden / "g00.png").unlink()
    after, _ = scan(media, golden, reports, "n2")
    assert after.record.golden is not None and after.record.golden.drifted == {}


def test_a_new_object_is_expected_from_then_on(media: Path, golden: Path, tmp_path: Path) -> None:
    scan(media, golden, tmp_path / "reports", "n1")
    picture(golden / "new.png", 300)
    second, _ = scan(media, golden, tmp_path / "reports", "n2")
    assert second.record.golden is not None and second.record.golden.objects == 41
    third, _ = scan(media, golden, tmp_path / "reports", "n3")
    assert {Path(row["uri"]).name for row in rows_of(third) if row["expected_by"] == "n2"} == {"new.png"}


def test_a_set_that_cannot_be_used_stops_the_run_at_once(media: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        scan(media, tmp_path / "nowhere", tmp_path / "reports", "n1")
    (tmp_path / "set").mkdir()
    shutil.copy(media / "0.png", tmp_path / "set")
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    with pytest.raises(ConfigError, match=r"notes\.txt is new in the golden set and cannot be scored"):
        scan(media, tmp_path / "set", tmp_path / "reports", "n2")
    with pytest.raises(ConfigError, match="no golden set whose drift could be accepted"):
        night(media, tmp_path / "reports", "n3", golden={"accept": "why not"})


@pytest.mark.long
def test_a_prune_keeps_what_is_expected(media: Path, golden: Path, tmp_path: Path) -> None:
    """Nights without the set do not let the one be pruned that has its expectations, nor does an older one stay for it."""
    for run_id in ("n1", "n2"):
        scan(media, golden, tmp_path / "reports", run_id)
    for run_id in ("n3", "n4"):
        night(media, tmp_path / "reports", run_id)
    store = Store.at(str(tmp_path / "reports"), StorageConfig())
    planned = plan_pruning(store, timedelta(0))
    kept = {one.run.run_id: one.reasons for one in planned.kept}
    assert "it has what is expected of the golden set" in " ".join(kept["n2"])
    assert not any("golden" in reason for reason in kept.get("n1", ()))
    list(prune(store, planned, "test"))
    last, _ = scan(media, golden, tmp_path / "reports", "n5")
    assert last.record.golden is not None and last.record.golden.before == "n2"
    assert {row["expected_by"] for row in rows_of(last)} == {"n1"}


def test_each_night_counts_what_it_looked_at(media: Path, tmp_path: Path) -> None:
    first, _ = night(media, tmp_path / "reports", "n1")
    picture(media / "new.png", 9)
    second, _ = night(media, tmp_path / "reports", "n2")
    counted = [
        sum(row["rows"] for row in pq.read_table(f"{one.uri}/{file.path}").to_pylist() if row["measure"] == "format")
        for one in (first, second)
        for file in one.record.files_in("drift")
    ]
    assert counted == [3, 1]
    assert {(one.measure, one.nights, one.stands_out) for one in second.record.drift} == {
        (measure, 0, False) for measure in ("score", "decision", "format", "size", "error")
    }
    assert "Beside earlier nights" in Path(second.uri, "summary.html").read_text()
    (tmp_path / "reports/runs/n1" / first.record.files_in("drift")[0].path).write_bytes(b"damaged")
    third, _ = night(media, tmp_path / "reports", "n3")
    assert third.record.drift == (), "it looked at nothing"
