"""Abandoned staging goes; nothing else in a store ever does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.runs.garbage import Abandoned, collect
from nsfwscan.runs.run import Run
from nsfwscan.runs.verify import verify
from nsfwscan.storage.store import Store, to_json
from tests.runs.rows import begun, engine, files, finished, scanned

DAY_S = 86_400
URIS = [f"/media/{i}.jpg" for i in range(6)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with a committed run and one in the making, of three shards, two of which are staged."""
    folder = tmp_path_factory.mktemp("made")
    scanned(files(folder / "media", 4), folder / "out", run_id="committed")
    run, plan = begun(folder / "out", URIS, shard_rows=2, run_id="unfinished")
    finished(run, plan.shards[:2])
    return folder / "out"


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    """A copy of that store."""
    return Store.at(str(shutil.copytree(made, tmp_path / "out")), StorageConfig())


def tree(store: Store) -> dict[str, bytes]:
    """Return every file of a store, with its content."""
    root = Path(store.uri)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def outside(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if not name.startswith("staging/")}


def age(folder: Path, days: float) -> None:
    """As if nobody had touched it for so long."""
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (time.time() - days * DAY_S,) * 2)


def staging(store: Store, run_id: str = "unfinished") -> Path:
    return Path(store.uri, "staging", run_id)


def leave_a_lease(store: Store, **values: Any) -> None:
    """A heartbeat of another process, of just now unless said otherwise."""
    holder = {"host": socket.gethostname(), "pid": os.getppid(), "token": "another", "time": time.time(), **values}
    staging(store).joinpath("alive.json").write_bytes(to_json(holder))


def test_a_young_unfinished_run_is_kept(store: Store) -> None:
    """What was worked on within the week, somebody may come back for."""
    age(staging(store), 6.9)
    before = tree(store)
    assert list(collect(store)) == []
    assert tree(store) == before


def test_an_old_unfinished_run_is_removed(store: Store) -> None:
    """What nobody worked on for a week goes, its lease and folder too; its plan and every report stay."""
    leave_a_lease(store, host="gone", time=time.time() - 8 * DAY_S)
    age(staging(store), 8)
    before = tree(store)
    [found] = collect(store)
    last = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 8 * DAY_S))
    assert found == Abandoned("unfinished", f"not committed, last worked on {last}", 3)
    assert tree(store) == outside(before)
    assert not staging(store).exists()


def test_how_old_is_old_can_be_said(store: Store) -> None:
    """With another age, younger work goes as well; the newest file counts, not the oldest."""
    age(staging(store), 30)
    newest = next(staging(store).iterdir())
    os.utime(newest, (time.time() - 2 * DAY_S,) * 2)
    assert list(collect(store, older_than=timedelta(days=3))) == []
    assert [found.run_id for found in collect(store, older_than=timedelta(days=1))] == ["unfinished"]


def test_what_a_commit_left_is_removed(store: Store) -> None:
    """Parts of a run that was committed since are of no use, however young."""
    Run(store, "unfinished").folder.write("_SUCCESS", b"")
    before = tree(store)
    assert list(collect(store)) == [Abandoned("unfinished", "committed", 2)]
    assert tree(store) == outside(before)


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_run_that_is_alive_is_kept(store: Store, is_committed: bool) -> None:
    """Whoever holds a run is at work on it, old parts or not."""
    if is_committed:
        Run(store, "unfinished").folder.write("_SUCCESS", b"")
    with Run(store, "unfinished").lease():
        age(staging(store), 100)
        before = tree(store)
        assert list(collect(store)) == list(collect(store, dry_run=True)) == []
        assert tree(store) == before


def test_a_run_that_somebody_came_back_for_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the removal a run may be resumed: then it is not touched."""
    age(staging(store), 8)
    before = tree(store)
    really = Store.newest

    def meanwhile(self: Store, folder: str) -> Any:
        last = really(self, folder)
        leave_a_lease(store)
        return last

    monkeypatch.setattr(Store, "newest", meanwhile)
    assert list(collect(store)) == []
    after = tree(store)
    after.pop("staging/unfinished/alive.json")
    assert after == before


def test_a_dry_run_only_says(store: Store) -> None:
    """Told to only say, it says the same and removes nothing."""
    age(staging(store), 8)
    before = tree(store)
    said = list(collect(store, dry_run=True))
    assert tree(store) == before
    assert list(collect(store)) == said and len(said) == 1


def test_an_empty_folder_goes(store: Store) -> None:
    """A folder without a file, as a killed process leaves it, is nobody's."""
    staging(store, "empty").mkdir()
    assert list(collect(store)) == [Abandoned("empty", "empty", 0)]
    assert not staging(store, "empty").exists()


def test_a_store_without_staging(tmp_path: Path) -> None:
    """Nothing to remove is no error, and nothing is made to look for it."""
    assert list(collect(Store.at(str(tmp_path / "absent"), StorageConfig()))) == []
    assert not (tmp_path / "absent").exists()


def test_nothing_but_staging_is_touched(store: Store, tmp_path: Path) -> None:
    """Whatever lies beside staging, or is named like it, stays; so does what a link leads to."""
    for name in ("runs/staging/x.parquet", "staging.old/unfinished/x", "stagingx", "runs/abandoned/report/x.parquet"):
        path = Path(store.uri, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "photo").write_bytes(b"x")
    (staging(store) / "link.parquet").symlink_to(elsewhere / "photo")
    age(Path(store.uri), 100)
    before = tree(store)
    assert [found.run_id for found in collect(store, older_than=timedelta(0))] == ["unfinished"]
    assert tree(store) == outside(before)
    assert (elsewhere / "photo").read_bytes() == b"x"


def test_strangers_in_staging_do_no_harm(store: Store) -> None:
    """What no run could be called, such as what a file manager leaves everywhere, is passed over."""
    Path(store.uri, "staging", ".DS_Store").write_bytes(b"x")
    age(staging(store), 8)
    assert [found.run_id for found in collect(store)] == ["unfinished"]
    assert Path(store.uri, "staging", ".DS_Store").exists()


def test_a_run_is_resumed_after_its_staging_went(tmp_path: Path) -> None:
    """A run whose staged work was removed begins its work anew from its plan, and ends right."""
    media, out = files(tmp_path / "media", 10), tmp_path / "out"
    small = {"engine": {"shard_rows": 4}}

    def cut(job: Any, shards: Any, deadline: Any) -> Any:
        yield from engine()(job, shards[:2], deadline)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scanned(media, out, run_shards=cut, **small)
    store = Store.at(str(out), StorageConfig())
    age(out / "staging", 8)
    assert [found.files for found in collect(store)] == [3]  # two shards, and the note of what the attempt took
    (media / "new.jpg").write_bytes(b"not planned")
    result = scanned(media, out, **small)
    assert result.record.balance.listed == 10 and result.record.timings.resumed_shards == 0
    assert list(verify(Run(store, "made"))) == []
    assert json.loads((out / "runs" / "made" / "run.json").read_text()) == result.record.as_json()
