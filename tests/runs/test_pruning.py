"""Old runs go whole, and none that anything rests on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import BrokenRecord, ConfigError, RunConflict, StoreError
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.pipeline import Job
from nsfwscan.runs import pruning
from nsfwscan.runs.catalogue import catalogue
from nsfwscan.runs.finding import Kind, exit_code_of
from nsfwscan.runs.garbage import collect
from nsfwscan.runs.holds import hold, holds, release
from nsfwscan.runs.overview import overview
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.previous import live_runs
from nsfwscan.runs.pruning import Pruned, plan_pruning, prune
from nsfwscan.runs.run import Run, find_run
from nsfwscan.runs.staging import ShardResult
from nsfwscan.storage.store import Store, to_json
from nsfwscan.workflows.replay import commit_replay
from nsfwscan.workflows.verify import verify_all
from tests.runs.rows import begun, decider, files, record_of, scanned

NOW = timedelta(0)
ALL = timedelta(days=36_500)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with four nights over the same media."""
    folder = tmp_path_factory.mktemp("nights")
    media = files(folder / "media", 2)
    for night in "1234":
        scanned(media, folder / "out", run_id=night)
    return folder / "out"


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    """A copy to be pruned."""
    copytree(made, tmp_path / "out")
    return Store.at(str(tmp_path / "out"), StorageConfig())


def going(store: Store, keep: timedelta = NOW, ignored: Collection[str] = ()) -> list[str]:
    return [one.run.run_id for one in plan_pruning(store, keep, ignored).removals]


def why(store: Store) -> dict[str, tuple[str, ...]]:
    return {one.run.run_id: one.reasons for one in plan_pruning(store, NOW).kept}


def pruned(store: Store) -> list[Pruned]:
    return list(prune(store, plan_pruning(store, NOW), "prune it"))


def tree(store: Store) -> dict[str, bytes]:
    root = Path(store.uri)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_old_runs_go_whole(store: Store) -> None:
    """All goes but the newest night and the one that it goes on from. Of what goes `run.json` stays as it was, and
    `pruned.json` says when, by whom and why, as `runs.parquet` does; nothing else in the store is touched."""
    before = tree(store)
    plan = plan_pruning(store, NOW)
    assert [one.run.run_id for one in plan.removals] == ["1", "2"]
    held = {name: data for name, data in before.items() if name.startswith("runs/1/") and not name.endswith("run.json")}
    assert (plan.removals[0].files, plan.removals[0].bytes) == (len(held), sum(map(len, held.values())))
    assert list(why(store)) == ["3", "4"]
    assert why(store)["3"] == ("run 4 goes on from it",)
    assert why(store)["4"] == ("it is the newest over its sources", "the next scan or match goes on from it")
    assert tree(store) == before
    assert pruned(store) == [Pruned("1"), Pruned("2")]
    after = tree(store)
    gone = {name: data for name, data in before.items() if name.startswith(("runs/1/", "runs/2/"))}
    stays = {name: data for name, data in before.items() if name not in gone or name.endswith("run.json")}
    new = {name: after.pop(name) for name in ("runs/1/pruned.json", "runs/2/pruned.json")}
    assert after.pop("runs.parquet") != stays.pop("runs.parquet") and after == stays
    assert catalogue(store)["status"].to_pylist() == ["pruned", "pruned", "committed", "committed"]
    record = Run(store, "1").pruned()
    assert record is not None and b'"prune it"' in new["runs/1/pruned.json"]
    assert record.sha256 == Run(store, "1").digest() and "@" in record.by and "no run that stays" in record.reason
    assert going(store) == [] and not Path(store.uri, "runs/1/report").exists()


def test_young_runs_stay(store: Store) -> None:
    """What was committed within the time to keep is not looked at, and is not told."""
    plan = plan_pruning(store, ALL)
    assert (plan.removals, plan.kept) == ((), ())


def test_the_next_night_after_a_prune(store: Store, tmp_path: Path, made: Path) -> None:
    """Everything else goes on as if the pruned runs had never been, and says what became of them where it is asked."""
    pruned(store)
    checked = list(verify_all(store.uri, store.storage))
    assert exit_code_of(finding for one in checked for finding in one.findings) == 0
    first = next(one for one in checked if one.name == "1")
    assert [f.kind for f in first.findings] == [Kind.NOTE] and first.findings[0].text.startswith("pruned on 20")
    assert [one.is_head for one in checked] == [False, False, False, True]
    states = {one.run.run_id: (one.state, one.left) for one in overview(store)}
    assert states == {**dict.fromkeys("12", ("pruned", False)), **dict.fromkeys("34", ("committed", False))}
    assert [base.run.run_id for base in live_runs(store)] == ["4"]
    assert find_run(store.uri, store.storage).run_id == "4"
    assert list(collect(store)) == []
    words = r"run 1 was pruned on 20.* by .*@.* \(prune it\)"
    with pytest.raises(StoreError, match=words):
        find_run(f"{store.uri}/runs/1", store.storage)
    with pytest.raises(RunConflict, match=words):
        scanned(made.parent / "media", store.uri, run_id="1")
    with pytest.raises(StoreError, match="its run was pruned on 20"):
        commit_replay(Run(store, "1"), decider().policy, "open-nsfw", "replay")
    done = scanned(made.parent / "media", store.uri, run_id="5")
    assert done.record.previous_runs == ("4",)
    assert not Run(store, "replay").is_committed()


def test_a_changed_record_of_a_pruned_run(store: Store) -> None:
    """The digest in `pruned.json` shows it, and so does the run that was committed next."""
    pruned(store)
    store.write("runs/1/run.json", store.read("runs/1/run.json").replace(b'"/', b'"//', 1))
    checked = {one.name: one for one in verify_all(store.uri, store.storage)}
    assert [f.kind for f in checked["1"].findings] == [Kind.NOTE, Kind.TAMPERED]
    assert [f.kind for f in checked["2"].findings] == [Kind.NOTE, Kind.TAMPERED]


# --- what stays -----------------------------------------------------------------------------------------------------


def put(store: Store, run_id: str, minute: int, **over: Any) -> None:
    """A committed run that is nothing but its record."""
    at = f"2026-01-20T02:{minute:02}:00.000+00:00"
    record = record_of(run_id, committed_at=at)
    record["plan"]["listed_at"] = at
    config = over.pop("config", {})
    for section, values in config.items():
        record["config"][section].update(values)
    store.write(f"runs/{run_id}/run.json", to_json({**record, **over}))
    store.write(f"runs/{run_id}/_SUCCESS", b"")


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    return Store.at(str(tmp_path / "records"), StorageConfig())


def test_the_reports_behind_a_delta_stay(empty: Store) -> None:
    """Rows of a delta lie in the reports behind it, back to the last snapshot, which is compared with the one before;
    what is behind that goes."""
    delta = {"config": {"report": {"mode": "delta"}}}
    put(empty, "z", 0)
    put(empty, "a", 0, previous_runs=["z"])
    put(empty, "b", 1, previous_runs=["a"])
    put(empty, "c", 2, previous_runs=["b"], **delta)
    put(empty, "d", 3, previous_runs=["c", "b"], **delta)
    assert going(empty) == ["z"]
    assert why(empty)["a"] == ("run b goes on from it",)
    assert {"rows of run c lie in it", "rows of run d lie in it"} <= set(why(empty)["b"])


def test_the_newest_of_each_source_set_stays(empty: Store) -> None:
    """A trial with a limit or a filter, or a scan of another place, replaces no other run; the list of the next night
    does."""
    put(empty, "whole", 0)
    put(empty, "trial", 1, config={"source": {"limit": 10}})
    put(empty, "other", 2, config={"source": {"uris": ["/other"]}})
    put(empty, "match", 3, kind="match", config={"source": {"uris": []}})
    put(empty, "list-1", 4, config={"source": {"uris": ["s3://lists/2026-01-20.csv"]}})
    put(empty, "list-2", 5, config={"source": {"uris": ["s3://lists/2026-01-21.csv"]}})
    assert going(empty) == ["list-1"]


def test_illegal_contents_are_never_forgotten(empty: Store) -> None:
    """A run that knows illegal contents goes only once a run that stays has taken them over."""
    known = [{"path": "known_illegal/part-00000-0.parquet", "rows": 1, "bytes": 1, "sha256": "0" * 64}]
    put(empty, "a", 0, files=known)
    put(empty, "b", 1)
    put(empty, "c", 2)
    assert going(empty) == ["b"]
    assert why(empty)["a"] == ("no run that stays has taken over the illegal contents that it knows",)
    put(empty, "d", 3, known_illegal={"runs": ["a"], "contents": 1, "released": 0}, files=known)
    assert going(empty) == ["a", "b", "c"]


def test_a_held_run_stays(store: Store) -> None:
    """It stays with what it goes on from until each of its holds is released; released holds stay as history."""
    first = hold(Run(store, "2"), "case 7", "L. Lawyer")
    assert going(store) == []
    assert why(store)["2"][0] == f"held by L. Lawyer since {first.held_at[:10]}: case 7"
    assert why(store)["1"] == ("run 2 goes on from it",)
    second = hold(Run(store, "2"), "case 8", "M. Lawyer")
    with pytest.raises(ConfigError, match="2 active holds"):
        release(store, "2", "L. Lawyer")
    release(store, "2", "L. Lawyer", "closed", first.hold_id)
    assert going(store) == []
    release(store, "2", "M. Lawyer")
    assert {one.hold_id: one.released and one.released.reason for one in holds(store)} == {
        first.hold_id: "closed",
        second.hold_id: None,
    }
    assert going(store) == ["1", "2"]
    with pytest.raises(ConfigError, match="no active hold"):
        release(store, "2", "M. Lawyer")
    pruned(store)
    with pytest.raises(RunConflict, match="run 2 cannot be held: it was pruned on"):
        hold(Run(store, "2"), "too late", "L. Lawyer")
    with pytest.raises(ConfigError, match="no committed run 'absent'"):
        hold(Run(store, "absent"), "case 9", "L. Lawyer")
    assert len(holds(store)) == 2


def cut_off(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
    raise StoreError("cut off")


def test_what_an_unfinished_run_goes_on_from_stays(store: Store, made: Path) -> None:
    """It can be resumed, also after newer runs were committed."""
    media = made.parent / "media"
    with pytest.raises(StoreError, match="cut off"):
        scanned(
            media, store.uri, run_id="5", run_shards=cut_off, previous={"reuse": True, "ignore_runs": ["2", "3", "4"]}
        )
    assert going(store) == ["2"]
    assert why(store)["1"] == ("run 5 goes on from it, and is not finished",)
    pruned(store)
    done = scanned(media, store.uri, run_id="5", previous={"reuse": True, "ignore_runs": ["2", "3", "4"]})
    assert done.record.previous_runs == ("1",)


def test_a_run_that_has_just_begun(store: Store) -> None:
    """Until it has its plan, nobody knows what it rests on."""
    with Run(store, "new").lease(), pytest.raises(RunConflict, match="run new has begun, and not said yet"):
        plan_pruning(store, NOW)
    assert going(store) == ["1", "2"]


def test_broken_records(store: Store) -> None:
    """Nothing is pruned where it is unknown what rests on what: a broken run, plan or hold; but as the user says so."""
    store.write("runs/3/run.json", b"{")
    with pytest.raises(BrokenRecord, match=r"runs/3/run.json is broken: .* nothing is pruned: .* --ignore-run 3"):
        plan_pruning(store, NOW)
    assert going(store, ignored=["3"]) == ["1", "2"]
    run, _ = begun(store.uri, ["/a"], run_id="plan")
    run.folder.write("plan.json", b"")
    with pytest.raises(BrokenRecord, match=r"runs/plan/plan.json is broken"):
        plan_pruning(store, NOW, ["3"])
    assert going(store, ignored=["3", "plan"]) == ["1", "2"]
    store.write("holds/x.json", b"{}")
    with pytest.raises(BrokenRecord, match=r"holds/x.json"):
        plan_pruning(store, NOW, ["3", "plan"])


# --- killed, and in between -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["mark", "success", "report"])
def test_a_killed_prune_is_finished_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    """Wherever it was killed: the run counts as pruned, is told so, and goes whatever its age is by now."""
    first = Run(store, "1")
    if after == "mark":
        monkeypatch.setattr(pruning, "_needed_meanwhile", _killed)
    else:
        monkeypatch.setattr(pruning, "_remove", lambda run: (run.folder.delete("_SUCCESS"), _killed()))
    if after == "report":
        monkeypatch.setattr(
            pruning, "_remove", lambda run: (run.folder.delete("_SUCCESS"), run.folder.delete("report"), _killed())
        )
    with pytest.raises(KeyboardInterrupt):
        pruned(store)
    monkeypatch.undo()
    assert not first.is_committed() and first.state() == "pruned"
    assert [one.left for one in overview(store)][:2] == [True, True]
    [one] = [one for one in verify_all(store.uri, store.storage) if one.name == "1"]
    assert [f.kind for f in one.findings] == [Kind.NOTE, Kind.NOTE] and "prune again" in one.findings[1].text
    assert going(store, ALL) == ["1", "2"]
    assert pruned(store) == [Pruned("1"), Pruned("2")]
    assert first.folder.names("") == ["pruned.json", "run.json"]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def _held_meanwhile(store: Store) -> None:
    store.write("holds/x.json", store.read("holds/y.json").replace(b'"3"', b'"1"'))


def _begun_meanwhile(store: Store) -> None:
    store.write("staging/new/alive.json", Path(store.uri, "staging/.prune/alive.json").read_bytes())


@pytest.mark.parametrize(
    ("meanwhile", "words"), [(_held_meanwhile, "held by L. Lawyer"), (_begun_meanwhile, "run new has begun")]
)
def test_what_happens_while_a_prune_asks(
    store: Store, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Store], None], words: str
) -> None:
    """A hold or a run that came after the plan was made keeps the run, whole, as it was."""
    hold(Run(store, "3"), "case 7", "L. Lawyer")
    (held,) = Path(store.uri, "holds").iterdir()
    held.rename(held.with_name("y.json"))
    before = {name: data for name, data in tree(store).items() if name.startswith("runs/")}
    mark = pruning._mark

    def marked(*arguments: Any) -> None:
        mark(*arguments)
        meanwhile(store)

    monkeypatch.setattr(pruning, "_mark", marked)
    [done] = pruned(store)
    assert done.run_id == "1" and words in str(done.kept)
    assert {name: data for name, data in tree(store).items() if name.startswith("runs/")} == before
    assert Run(store, "1").is_committed()


def test_two_prunes_at_once(store: Store) -> None:
    """The second one is refused."""
    plan = plan_pruning(store, NOW)
    with Run(store, ".prune").lease(), pytest.raises(RunConflict, match="alive"):
        list(prune(store, plan, "prune it"))
    assert going(store) == ["1", "2"]
