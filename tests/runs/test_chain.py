"""Every run names the runs committed before it, so that a run that is gone, swapped or put in between shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree

import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.runs.chain import Chain, read_chain
from nsfwscan.runs.finding import DAMAGED, TAMPERED, exit_code_of
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.storage.store import Store, to_json
from nsfwscan.workflows.replay import commit_replay
from nsfwscan.workflows.verify import verify_all
from tests.runs.rows import as_record, decider, files, record_of, scanned

LOCAL = StorageConfig()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a scan, a scan of another source, a full scan, and a replay, one after the other."""
    folder = tmp_path_factory.mktemp("chain")
    media, other = files(folder / "media", 2), files(folder / "other", 1)
    scanned(media, folder / "out", run_id="1")
    scanned(other, folder / "out", run_id="2")
    scanned(media, folder / "out", run_id="3", previous={"reuse": False})
    commit_replay(Run(store(folder / "out"), "3"), decider().policy, "open-nsfw", "4")
    return folder / "out"


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    copytree(made, tmp_path / "out")
    return tmp_path / "out"


def store(out: Path) -> Store:
    return Store.at(str(out), LOCAL)


def after(out: Path, run_id: str) -> list[str]:
    return [one.run_id for one in Run(store(out), run_id).record().chain.after]


def found(out: Path, expected: str | None = None) -> tuple[int, dict[str, list[str]]]:
    checked = list(verify_all(str(out), LOCAL, expected))
    exit_code = exit_code_of(finding for one in checked for finding in one.findings)
    return exit_code, {one.name: [str(finding) for finding in one.findings] for one in checked if one.findings}


def test_every_run_is_chained(out: Path) -> None:
    """Whatever it is and whatever it listed, a run names the one before by its digest, and the head vouches for all."""
    assert [after(out, run_id) for run_id in "1234"] == [[], ["1"], ["2"], ["3"]]
    chain = read_chain(store(out))
    [head] = chain.heads
    assert head.run_id == "4" and chain.behind(head) == {"1", "2", "3"}
    assert found(out) == (0, {})


def _swap(out: Path) -> None:
    runs = out / "runs"
    (runs / "2").rename(runs / "x")
    (runs / "3").rename(runs / "2")
    (runs / "x").rename(runs / "3")


def _cut(out: Path) -> None:
    path = out / "runs/2/run.json"
    path.write_bytes(path.read_bytes()[:100])


def _rewritten(out: Path) -> None:
    path = out / "runs/2/run.json"
    path.write_text(json.dumps(json.loads(path.read_text())))


@pytest.mark.parametrize(
    ("damage", "code", "run_id", "words"),
    [
        (_swap, TAMPERED, "2", "run.json is broken: it is that of run 3"),
        (_cut, DAMAGED, "3", "run 2, which was committed before this one, cannot be looked up: its run.json is broken"),
        (_rewritten, TAMPERED, "3", "run 2, which was committed before this one, has another run.json than then"),
        (
            lambda out: rmtree(out / "runs/2"),
            DAMAGED,
            "3",
            "run 2, which was committed before this one, is gone: its rows may be here, its record is not",
        ),
    ],
)
def test_a_broken_chain(out: Path, damage: Callable[[Path], None], code: int, run_id: str, words: str) -> None:
    """Swapped, cut, rewritten and deleted runs are named, and the exit code tells tampered from absent."""
    damage(out)
    exit_code, findings = found(out)
    assert exit_code == code, findings
    assert any(text.startswith(words) for text in findings[run_id]), findings


def test_the_expected_digest(out: Path) -> None:
    """A store whose newest run was deleted, or written anew, does not have the digest that was printed; a store to which
    runs were added does."""
    digest = Run(store(out), "4").digest()
    assert found(out, digest) == found(out, Run(store(out), "1").digest()) == (0, {})
    path = out / "runs/4/run.json"
    whole = path.read_bytes()
    (out / "runs.parquet").unlink()  # it would tell, too, until whoever forges runs forges it as well
    path.write_text(json.dumps(json.loads(whole)))
    assert found(out)[0] == 0 and found(out, digest)[0] == TAMPERED
    rmtree(out / "runs/4")
    assert found(out)[0] == 0
    exit_code, findings = found(out, digest)
    assert exit_code == TAMPERED and digest in findings["store"][0]
    rmtree(out / "runs")
    assert found(out, digest)[0] == TAMPERED


# --- forks ----------------------------------------------------------------------------------------------------------


def committed(out: Path, run_id: str, minute: int, second: int = 0) -> RunRecord:
    """A record that names the heads as a commit at that time does; it is not written yet."""
    at = f"2026-11-20T02:{minute:02}:{second:02}.000+00:00"
    chain = read_chain(store(out)).as_record()
    return as_record(record_of(run_id, committed_at=at, chain=chain))


def put(out: Path, *records: RunRecord) -> None:
    for record in records:
        store(out).write(f"runs/{record.run_id}/run.json", to_json(record.as_json()))


def forks(out: Path) -> list[tuple[str, str]]:
    chain: Chain = read_chain(store(out))
    return [(run_id, f"{f.kind}: {f}") for run_id, link in chain.links.items() for f in chain.forks(link)]


def test_runs_that_commit_at_once(tmp_path: Path) -> None:
    """Two runs that commit at the same time name the same head; that is noted, no tampering, and the next names both."""
    put(tmp_path, committed(tmp_path, "a", 0))
    put(tmp_path, committed(tmp_path, "b", 10), committed(tmp_path, "c", 10, 5))
    chain = read_chain(store(tmp_path))
    assert [link.run_id for link in chain.heads] == ["b", "c"]
    put(tmp_path, committed(tmp_path, "d", 20))
    assert after(tmp_path, "d") == ["b", "c"]
    [(run_id, text)] = forks(tmp_path)
    assert run_id == "c" and text.startswith("note: run b was committed at the same time")


def test_a_run_that_was_put_in_between(tmp_path: Path) -> None:
    """A run that the next one does not name, though it says that it had been committed long before, is a fork; it is
    told once."""
    put(tmp_path, committed(tmp_path, "a", 0))
    late = committed(tmp_path, "b", 10)
    for run_id, minute in (("c", 20), ("d", 30), ("e", 40)):
        put(tmp_path, committed(tmp_path, run_id, minute))
    put(tmp_path, late)
    [(run_id, text)] = forks(tmp_path)
    assert run_id == "c" and text.startswith("tampered: a fork: run b was committed at 2026-11-20T02:10:00+00:00")


def test_a_clock_that_goes_back(tmp_path: Path) -> None:
    """A run that names the one before it came after it, whatever its clock said: that is noted, and no fork."""
    for run_id, minute in (("a", 0), ("b", 40), ("c", 20), ("d", 30), ("e", 50)):
        put(tmp_path, committed(tmp_path, run_id, minute))
    said = "goes on from this one, but is dated 0:{}:00 before it: a clock went back"
    assert forks(tmp_path) == [("b", f"note: run {run_id} {said.format(by)}") for run_id, by in (("c", 20), ("d", 10))]
    assert after(tmp_path, "e") == ["d"]


def test_a_run_that_could_not_be_read(tmp_path: Path) -> None:
    """A commit passes over a broken record and says so; once it is back, it is no fork, and the next run names it."""
    put(tmp_path, committed(tmp_path, "a", 0))
    put(tmp_path, committed(tmp_path, "b", 10))
    path = tmp_path / "runs/b/run.json"
    whole = path.read_bytes()
    path.write_bytes(b"{")
    put(tmp_path, committed(tmp_path, "c", 20))
    assert after(tmp_path, "c") == ["a"] and Run(store(tmp_path), "c").record().chain.passed_over == ("b",)
    path.write_bytes(whole)
    put(tmp_path, committed(tmp_path, "d", 30))
    assert forks(tmp_path) == [] and after(tmp_path, "d") == ["b", "c"]
