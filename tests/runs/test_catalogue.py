"""`runs.parquet` lists all committed runs of a store, whoever commits, and answers questions without JSON."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from shutil import copytree, rmtree
from threading import Barrier
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.reports.store_query import query_store, store_sql
from nsfwscan.runs.catalogue import CATALOGUE, catalogue, write_catalogue
from nsfwscan.runs.finding import DAMAGED, TAMPERED, exit_code_of
from nsfwscan.runs.pruning import plan_pruning, prune
from nsfwscan.runs.run import Run
from nsfwscan.storage.store import Store
from nsfwscan.workflows.replay import commit_replay
from nsfwscan.workflows.verify import verify_all
from tests.runs.rows import decider, files, scanned, staged_row

LOCAL = StorageConfig()


def store(out: Path) -> Store:
    return Store.at(str(out), LOCAL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two nights and a replay of the second, in which an object is flagged since."""
    folder = tmp_path_factory.mktemp("catalogue")
    media = files(folder / "media", 3)

    def flagged(uri: str) -> dict[str, Any]:
        return staged_row(uri, nsfw_score=0.9 if uri.endswith("1.jpg") else 0.1)

    scanned(media, folder / "out", run_id="1")
    scanned(media, folder / "out", flagged, run_id="2", previous={"reuse": False})
    commit_replay(Run(store(folder / "out"), "2"), decider().policy, "open-nsfw", "3")
    return folder / "out"


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(copytree(made, tmp_path / "out"))


def written(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / CATALOGUE).to_pylist()
    return rows


def findings(out: Path) -> tuple[int, list[str]]:
    found = [finding for one in verify_all(str(out), LOCAL) for finding in one.findings]
    return exit_code_of(found), [f"{finding.kind}: {finding}" for finding in found]


def test_a_row_for_each_run(made: Path) -> None:
    """It says what the record says, and names exactly its Parquet files."""
    rows = written(made)
    assert [(row["run_id"], row["kind"], row["status"], row["parent"]) for row in rows] == [
        ("1", "scan", "committed", None),
        ("2", "scan", "committed", "1"),
        ("3", "replay", "committed", "2"),
    ]
    for row in rows:
        run = Run(store(made), row["run_id"])
        record = run.record()
        assert (row["sha256"], row["policy"], row["model"]) == (
            run.digest(),
            record.policy.identity,
            record.model.identity,
        )
        assert f"{row['committed_at'].isoformat(timespec='milliseconds')}+00:00" == record.committed_at
        named = {f"runs/{run.run_id}/{file.path}" for file in record.files if file.path.endswith(".parquet")}
        assert {file["path"] for file in row["files"]} == named
        assert {one["name"]: one["objects"] for one in row["decisions"]} == record.summary.decision


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1 no more")])
def test_it_is_made_from_the_records_again(out: Path, damage: Any) -> None:
    """Absent or broken: a question has its answer all the same, and the next commit writes it whole."""
    before = written(out)
    damage(out / CATALOGUE)
    assert catalogue(store(out)).to_pylist() == before
    write_catalogue(store(out))
    assert written(out) == before and findings(out) == (0, [])
    inode = (out / CATALOGUE).stat().st_ino
    write_catalogue(store(out))
    assert (out / CATALOGUE).stat().st_ino == inode, "it was written again, though nothing had changed"


def test_two_commits_at_once_lose_no_run(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have read the file before either writes: who is written over has looked again, or does so now."""
    whole, together, write = written(out), Barrier(2), Store.write
    first = iter(range(2))

    def at_once(self: Store, name: str, data: bytes) -> None:
        if next(first, None) is not None:
            together.wait(20)
        write(self, name, data)

    def commit(run_id: str) -> None:
        (tmp_path / run_id).rename(out / "runs" / run_id)
        write_catalogue(store(out))

    for run_id in "23":
        (out / "runs" / run_id).rename(tmp_path / run_id)
    write_catalogue(store(out), anew=True)
    assert len(written(out)) == 1
    monkeypatch.setattr(Store, "write", at_once)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(commit, "23"))
    assert written(out) == whole


def test_a_pruned_run_stays_in_it(out: Path) -> None:
    """With who pruned it and when, and without files."""
    list(prune(store(out), plan_pruning(store(out), timedelta(0)), "prune"))
    pruned = {row["run_id"]: row for row in written(out) if row["status"] == "pruned"}
    assert list(pruned) == ["1"] and pruned["1"]["pruned_at"] is not None and pruned["1"]["files"] == []
    assert query_store(store(out), "SELECT DISTINCT run_id FROM rows ORDER BY 1")["run_id"].to_pylist() == ["2", "3"]


def test_verify_compares_it(out: Path) -> None:
    """A run that is gone, one that was written anew, and one that it lacks."""
    (out / "runs/3/run.json").write_bytes((out / "runs/3/run.json").read_bytes() + b"\n")
    assert findings(out) == (TAMPERED, ["tampered: run 3 has another run.json than runs.parquet says"])
    rmtree(out / "runs/3")
    code, [text] = findings(out)
    assert code == DAMAGED and text.startswith("damaged: run 3 is gone: runs.parquet names it, with the SHA-256 ")
    pq.write_table(pq.read_table(out / CATALOGUE).slice(0, 1), out / CATALOGUE)
    assert findings(out) == (0, ["note: runs.parquet lacks 2; the next commit adds what is lacking"])


# --- SQL ------------------------------------------------------------------------------------------------------------

QUESTION = """
SELECT run_id, run_kind, uri, decision, runs.policy FROM rows JOIN runs USING (run_id)
WHERE rows.committed_at >= (SELECT committed_at FROM runs WHERE run_id = '2') AND decision <> 'allow' ORDER BY ALL"""


def test_a_question_is_a_sentence(made: Path) -> None:
    """Which objects were not allowed since then, in which run, by which policy; a table that no run has is empty."""
    policy = decider().policy.identity
    uri = str(made.parent / "media/0001.jpg")
    want = [("2", "scan", uri, "block", policy), ("3", "replay", uri, "block", policy)]
    assert [tuple(row.values()) for row in query_store(store(made), QUESTION).to_pylist()] == want
    assert query_store(store(made), "SELECT run_id, change FROM changes").to_pylist() == [
        {"run_id": "2", "change": "newly_flagged"}
    ]
    for table in ("views", "escalations"):
        assert query_store(store(made), f"SELECT run_id, run_kind, uri FROM {table}").num_rows == 0
    assert query_store(store(made), "SELECT uri, verdict FROM verdicts").num_rows == 0
    with duckdb.connect() as shell:  # the same SQL in a DuckDB of its own
        shell.execute(store_sql(store(made)))
        assert shell.execute(QUESTION).fetchall() == want


def test_a_statement_reaches_no_other_file(made: Path, tmp_path: Path) -> None:
    """Neither to read nor to write; what is no SQL is told in words."""
    (tmp_path / "x.csv").write_text("a\n1\n")
    for statement in (f"FROM read_csv('{tmp_path}/x.csv')", f"COPY runs TO '{tmp_path}/y.csv'", "SELEKT"):
        with pytest.raises(ConfigError, match="the statement cannot be run"):
            query_store(store(made), statement)
