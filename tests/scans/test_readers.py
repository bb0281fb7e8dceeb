"""A reader who follows `scan.json` sees whole reports at every moment, wherever the scan that writes them is killed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow.parquet as pq
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.runs import plan as planning
from nsfwscan.runs import run
from nsfwscan.runs.garbage import collect
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import runs_of
from nsfwscan.runs.verify import verify
from nsfwscan.storage.store import Store
from nsfwscan.workflows import scan as scanning
from nsfwscan.workflows.scan import ScanResult
from tests.runs.rows import Row, files, scanned, staged_row

HOUR_S = 3600
WRITES = ("write", "create", "delete")


class Killed(BaseException):
    """The process is gone: nothing that it still tries to write arrives."""


@contextmanager
def watching(monkeypatch: pytest.MonkeyPatch, look: Callable[[str, str], None]) -> Iterator[None]:
    """Call `look(verb, full name)` before every write to a store; what it raises keeps the write from happening."""
    with monkeypatch.context() as patch:
        for verb in WRITES:
            really = getattr(Store, verb)

            def watched(
                self: Store, name: str, *data: bytes, _verb: str = verb, _really: Any = really, **how: bool
            ) -> None:
                look(_verb, self.locate(name))
                _really(self, name, *data, **how)

            patch.setattr(Store, verb, watched)
        yield


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of seven objects, so that a report has several parts; no waiting for a dead one's lease."""
    monkeypatch.setattr(planning, "RANGE_ROWS", 7)
    monkeypatch.setattr(run, "_SETTLE_S", 0)


def row(uri: str) -> Row:
    """Flagged wrongly in every third case, unreadable in one."""
    number, data = int(Path(uri).stem), Path(uri).read_bytes()
    if number == 4:
        return staged_row(uri, status="decode_error")
    score = {"nsfw_score": 0.9, "truth": "neutral"} if number % 3 == 0 else {}
    times = {"modified_at": int(os.stat(uri).st_mtime * 1e6), "scanned_at": int(time.time() * 1e6)}
    return staged_row(uri, sha256=hashlib.sha256(data).hexdigest(), size=len(data), **times, **score)


def scan(media: Path, out: Path, run_id: str = "second") -> ScanResult:
    options: dict[str, Any] = {"report": {"save_images": True, "max_error_rate": 1.0}, "engine": {"shard_rows": 3}}
    return scanned(media, out, row, run_id=run_id, **options)


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one night's report; since then objects were changed, added and removed."""
    folder = tmp_path_factory.mktemp("evening")
    media = files(folder / "media", 12)
    for path in media.iterdir():
        os.utime(path, (time.time() - HOUR_S,) * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "RANGE_ROWS", 7)
        scan(media, folder / "out", "first")
    (media / "0000.jpg").unlink()
    (media / "0003.jpg").write_bytes(b"changed")
    (media / "0012.jpg").write_bytes(b"new")
    return folder


@pytest.fixture
def media(evening: Path) -> Path:
    return evening / "media"


@pytest.fixture
def out(evening: Path, tmp_path: Path) -> Path:
    """Store, to be written to."""
    copytree(evening / "out", tmp_path / "out")
    return tmp_path / "out"


def read_as_told(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every committed run, as a reader finds them: `_SUCCESS`, then `scan.json`, then the files it names,
    each with the digest that it has there."""
    found = {}
    for folder in (out / "runs").iterdir():
        if not (folder / "_SUCCESS").exists():
            continue
        record = json.loads((folder / "run.json").read_text())
        rows: list[dict[str, Any]] = []
        for file in record["files"]:
            data = (folder / file["path"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"], file["path"]
            if file["path"].startswith("report/"):
                rows += pq.read_table(folder / file["path"]).to_pylist()
        assert len(rows) == record["balance"]["listed"] == len({r["uri"] for r in rows})
        assert {r["run_id"] for r in rows} == {folder.name}
        found[folder.name] = rows
    return found


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in order, without the time of the attempt."""
    return sorted(({**row, "scanned_at": None} for row in rows), key=lambda row: str(row["uri"]))


# --- the order of writes --------------------------------------------------------------------------------------------


def test_the_record_comes_after_all_that_it_names(media: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that `scan.json` names lies there before it, it is written once, `_SUCCESS` after it, and nothing of a
    report after that, but for the list of all runs; nothing of another run is ever touched."""
    wrote: list[tuple[str, str]] = []
    with watching(monkeypatch, lambda verb, name: wrote.append((verb, os.path.relpath(name, out)))):
        record = scan(media, out).record
    assert [name for _, name in wrote].index("runs.parquet") > wrote.index(("write", "runs/second/_SUCCESS"))
    wrote = [(verb, name) for verb, name in wrote if name != "runs.parquet"]  # the list of all runs
    names = [name for _, name in wrote]
    assert all(name.startswith(("runs/second/", "staging/second")) for name in names)
    made = names.index("runs/second/run.json")
    assert wrote[made][0] == "create" and names.count("runs/second/run.json") == 1
    before = set(names[:made])
    named = {f"runs/second/{file.path}" for file in record.files}
    assert {name.split("/")[2] for name in named} >= {"report", "changes", "false_positives", "listing", "summary.html"}
    assert named <= before
    assert {name for name in before - named if name.startswith("runs/")} == {
        name for name in before if "/images/" in name
    }
    assert wrote[made + 1] == ("write", "runs/second/_SUCCESS")
    assert [(verb, name) for verb, name in wrote[made + 2 :] if not name.startswith("staging/second")] == [
        ("delete", "runs/second/failure.json")
    ]


def test_a_reader_sees_whole_reports_at_every_moment(media: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each write of a scan, whoever follows the records finds every named file as it was recorded."""
    seen: list[frozenset[str]] = []

    def look(verb: str, name: str) -> None:
        seen.append(frozenset(read_as_told(out)))
        record = out / "runs" / "second" / "run.json"
        if record.exists():  # a reader who does not wait for `_SUCCESS`
            named = [file["path"] for file in json.loads(record.read_text())["files"]]
            assert all((record.parent / path).is_file() for path in named)

    with watching(monkeypatch, look):
        record = scan(media, out).record
    assert set(read_as_told(out)) == {"first", "second"}
    alone = list(takewhile(lambda runs: runs == {"first"}, seen))
    assert set(seen[len(alone) :]) == {frozenset({"first", "second"})} and len(alone) > len(record.files)


def facts(record: RunRecord) -> list[Any]:
    """Return what a record says of the objects, whenever they were listed."""
    plan = record.plan.model_copy(update={"listed_at": ""})
    return [record.balance, plan, record.previous_runs, record.changes, record.parent]


# --- killed at any write --------------------------------------------------------------------------------------------


@pytest.mark.long
def test_killed_at_every_write(media: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that is killed before its n-th write, for every n, leaves reports whole, and the same command again ends
    in the same rows, the same files and no finding."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # the power stays on
    monkeypatch.setattr(scanning, "load_policy", cache(scanning.load_policy))
    copytree(out, tmp_path / "undisturbed")
    writes: list[str] = []
    with watching(monkeypatch, lambda verb, name: writes.append(name)):
        record = scan(media, tmp_path / "undisturbed").record
    whole = comparable(read_as_told(tmp_path / "undisturbed")["second"])
    for number in range(len(writes)):
        killed = tmp_path / f"killed-{number}"
        store = Store.at(str(killed), StorageConfig())
        copytree(out, killed)
        left = iter(range(number))

        def die(verb: str, name: str, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Killed

        with watching(monkeypatch, die), pytest.raises(Killed):
            scan(media, killed)
        seen = read_as_told(killed)
        assert seen.keys() <= {"first", "second"} and comparable(seen.get("second", whole)) == whole
        again = scan(media, killed)
        assert comparable(read_as_told(killed)["second"]) == whole, number
        assert facts(again.record) == facts(record)
        assert [finding for found in runs_of(store) for finding in verify(found)] == [], number
        # Only one who was killed while clearing away leaves something, and `gc` takes it.
        assert [left.run_id for left in collect(store)] in ([], ["second"] if "second" in seen else [])
        assert not (killed / "staging" / "second").exists()
