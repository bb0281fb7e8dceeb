"""A run's name, its state, and the lease that keeps a second process off it."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import BrokenRecord, ConfigError, RunConflict, StoreError
from nsfwscan.runs import run as run_module
from nsfwscan.runs.plan import Known, ShardReader, make_plan
from nsfwscan.runs.run import Begun, Run, runs_of, unfinished
from nsfwscan.schema import LISTING_SCHEMA
from nsfwscan.storage.confined import Confined
from nsfwscan.storage.store import Store, to_json
from tests.runs.rows import as_record, begun, finished, record_of


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.named(Store.at(str(tmp_path / "out"), StorageConfig()), "night-1")


def left_behind(run: Run, **values: Any) -> None:
    """A lease as another process would have written it."""
    holder = {"host": socket.gethostname(), "pid": os.getppid(), "token": "another", "time": time.time(), **values}
    run.staging.write("alive.json", to_json(holder))


def holder(run: Run) -> dict[str, Any]:
    found = run.staging.read_json("alive.json")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def dead_pid() -> int:
    """Id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_run_without_a_name_is_named_by_the_time(run: Run) -> None:
    """Its id is the time in UTC, so that ids sort by age."""
    assert re.fullmatch(r"\d{8}T\d{6}Z", Run.named(run.store, None).run_id)


@pytest.mark.parametrize("run_id", ["a", "2026-11-22", "x" * 100, "A.b_c-1"])
def test_good_names(run: Run, run_id: str) -> None:
    """Letters, digits, dots, hyphens and underscores make a name."""
    assert Run.named(run.store, run_id).folder.uri == f"{run.store.uri}/runs/{run_id}"


@pytest.mark.parametrize("run_id", ["..", ".hidden", "a/b", "../x", "a b", "é", "x" * 101, "a\n", "-x", "a\0"])
def test_bad_names(run: Run, run_id: str) -> None:
    """A name that could leave the store's folder, or that a shell or store would trip over, is refused."""
    with pytest.raises(ConfigError, match="letters, digits"):
        Run.named(run.store, run_id)


# --- the lease ------------------------------------------------------------------------------------------------------


def test_a_lease_is_held_and_given_back(run: Run) -> None:
    """While a run is leased it is running; afterwards nothing of the lease is left, even if the work failed."""
    with run.lease():
        assert run.state() == "running"
        assert (holder(run)["pid"], holder(run)["host"]) == (os.getpid(), socket.gethostname())
    assert run.state() == "unfinished"
    with pytest.raises(ZeroDivisionError), run.lease():
        raise ZeroDivisionError
    assert not run.staging.exists("alive.json")
    assert [thread for thread in threading.enumerate() if thread.name == "lease"] == []


def test_a_lease_that_may_not_be_deleted_undoes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work was done; that the lease stays behind is told, and it ends with its heartbeat."""

    def denied(self: Confined, name: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    told: list[str] = []
    monkeypatch.setattr(Confined, "remove", denied)
    with run.lease(told.append):
        pass
    [line] = told
    assert line.startswith("run night-1: its lease stays behind: cannot delete ") and "Permission denied" in line
    assert run.state() == "unfinished"


def test_a_run_alive_in_this_process_is_refused(run: Run) -> None:
    """A second scan of the same run id is refused while the first lasts, and does not disturb it."""
    with run.lease():
        before = holder(run)
        with pytest.raises(RunConflict, match=f"night-1 is alive: process {os.getpid()}"), run.lease():
            pass
        assert holder(run)["token"] == before["token"]


def test_a_run_alive_on_another_machine_is_refused(run: Run, dead_pid: int) -> None:
    """A fresh heartbeat from elsewhere counts, whatever processes are here."""
    left_behind(run, host="another-machine", pid=dead_pid)
    assert run.state() == "running"
    with pytest.raises(RunConflict, match=r"another-machine; wait for it or stop it"), run.lease():
        pass


def test_a_stale_lease_is_taken_over(run: Run) -> None:
    """A lease without a heartbeat for a minute and a half is given up, wherever it was held."""
    left_behind(run, host="another-machine", time=time.time() - 91)
    assert run.state() == "unfinished"
    with run.lease():
        assert holder(run)["token"] != "another"
        assert run.state() == "running"
    assert not run.staging.exists("alive.json")


def test_the_lease_of_a_dead_process_is_taken_over_at_once(run: Run, dead_pid: int) -> None:
    """After a crash the same command goes on without waiting for the lease to run out."""
    left_behind(run, pid=dead_pid)
    assert run.state() == "unfinished"
    with run.lease():
        assert holder(run)["pid"] == os.getpid()


def test_a_process_of_another_user_is_alive(run: Run) -> None:
    """A process that may not be signalled exists all the same."""
    left_behind(run, pid=1)
    assert run.state() == "running"


def test_a_broken_lease_holds_nobody_off(run: Run) -> None:
    """A lease file that is no JSON, as a full disk leaves it, does not lock the run for ever."""
    run.staging.write("alive.json", b"{")
    assert run.state() == "unfinished"


def test_the_heartbeat_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is renewed while it is held, by the same holder."""
    monkeypatch.setattr(run_module, "_HEARTBEAT_S", 0.05)
    with run.lease():
        first = holder(run)
        deadline = time.monotonic() + 60
        while holder(run)["time"] == first["time"] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert holder(run)["time"] > first["time"]
        assert holder(run)["token"] == first["token"]


def test_a_lease_that_is_lost_is_noticed(run: Run) -> None:
    """Who works on a run can ask whether it still has it: not where another took it over, nor where it was moved."""
    with run.lease() as check_held:
        check_held()
        left_behind(run, host="another-machine", pid=7)
        with pytest.raises(RunConflict, match="night-1 was taken over by process 7 on another-machine"):
            check_held()
        run.staging.delete("alive.json")
        with pytest.raises(StoreError, match=r"the report store was moved or deleted while the run was at work"):
            check_held()


def test_of_several_that_begin_at_once_one_wins(run: Run) -> None:
    """Ten threads that want the lease of a new run at the same moment: exactly one gets it."""
    begun_together, all_tried = threading.Barrier(10), threading.Barrier(10)
    outcomes: list[str] = []

    def begin() -> None:
        begun_together.wait(60)
        try:
            with run.lease():
                outcomes.append("held")
                all_tried.wait(60)
        except RunConflict:
            outcomes.append("refused")
            all_tried.wait(60)

    threads = [threading.Thread(target=begin) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] + ["refused"] * 9


# --- states ---------------------------------------------------------------------------------------------------------


def test_states_follow_the_files(run: Run) -> None:
    """A run is unfinished, failed once it did not balance, and committed once `_SUCCESS` is there, whatever else is."""
    assert run.state() == "unfinished"
    run.folder.write("run.json", b"{}")
    assert (run.state(), run.is_committed()) == ("unfinished", False)
    run.folder.write("failure.json", b"{}")
    assert run.state() == "failed"
    left_behind(run)
    assert run.state() == "running"
    run.folder.write("_SUCCESS", b"")
    assert (run.state(), run.is_committed()) == ("committed", True)


def test_runs_are_listed_oldest_first(run: Run) -> None:
    """A store's runs come sorted by id; a store without any has none."""
    assert runs_of(run.store) == []
    for name in ("20261123T000000Z", "20261121T000000Z"):
        Run(run.store, name).folder.write("plan.json", b"{}")
    assert [r.run_id for r in runs_of(run.store)] == ["20261121T000000Z", "20261123T000000Z"]


def test_the_record_is_that_of_the_commit(run: Run) -> None:
    """`run.json` comes back as written; where it is absent, the message says that nothing was committed."""
    with pytest.raises(StoreError, match="was not committed"):
        run.record()
    record = record_of("night-1", further={"rows": 1})  # as a later version may write
    record["summary"] |= {"rows": 1, "further": None}
    record["config"]["read"]["further"] = 2
    run.folder.write("run.json", json.dumps(record).encode())
    assert run.record().as_json() == as_record(record).as_json()
    assert run.record().summary.rows == 1


def altered(**over: Any) -> bytes:
    return json.dumps({**record_of("night-1"), **over}).encode()


_FILE = {"path": "report/part-0.parquet", "rows": 1, "bytes": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is broken: it is empty"),
        (b" \n", "is broken: it is empty"),
        (altered()[:-1], "is broken: it is no JSON; it was cut off, or overwritten"),
        (b"\xff\xfe\x00", "is broken: it is no JSON"),
        (b"[" * 100_000, "is broken: it is no JSON"),
        (b"[]", "is broken: it holds a list, not a record"),
        (
            b'{"record_version": 3}',
            r"is broken: it is not what a commit writes \(run_id: Field required, and \d+ more\)",
        ),
        (altered(kind="backup"), "not what a commit writes .kind: "),
        (altered(files=None), "not what a commit writes .files: "),
        (altered(run_id="night-2"), "is broken: it is that of run night-2"),
        (altered(run_id="../x"), "not what a commit writes .run_id: "),
        (altered(files=[_FILE, _FILE]), r"it names report/part-0\.parquet twice"),
        *(
            (
                altered(files=[{**_FILE, "path": path}]),
                r"files\.0\.path: .* is no name of a file within the run's folder",
            )
            for path in (
                "../2/report/x",
                "/etc/passwd",
                "report/../../x",
                "file:///etc/passwd",
                "s3://b/k",
                "",
                "a//b",
                "~",
            )
        ),
        (altered(files=[{**_FILE, "sha256": "0"}]), r"files\.0\.sha256: "),
        (altered(files=[{**_FILE, "bytes": -1}]), r"files\.0\.bytes: "),
    ],
)
def test_a_record_that_is_none(run: Run, data: bytes, said: str) -> None:
    """Cut off, empty, of another kind, run or version, with a file outside of the run: said by name, with a way out."""
    run.folder.write("run.json", data)
    with pytest.raises(BrokenRecord, match=rf"night-1/run\.json {said}" if said.startswith("is") else said) as caught:
        run.record()
    assert "; put it back from a backup" in str(caught.value)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (4, "is of version 4, written by a newer nsfwscan; this one reads version 3; upgrade it"),
        (1, "is of version 1, written by an older nsfwscan; this one reads version 3; read it with that one, and"),
        (None, "is of version 1, written by an older nsfwscan"),
    ],
)
def test_a_record_of_another_version(run: Run, version: int | None, said: str) -> None:
    """A record of a newer or an older version, or without one, is refused by name, with what to do, whatever else it says."""
    run.folder.write("run.json", json.dumps({"record_version": version, "files": 7} if version else {}).encode())
    with pytest.raises(BrokenRecord, match=re.escape(f"night-1/run.json {said}")):
        run.record()


_HOSTILE = [None, True, -1, 2**70, 1e999, "x\x00", "9" * 5000, [], [[]], {}, {"": {}}]


def test_hostile_values_of_every_key(run: Run) -> None:
    """Whatever stands in the place of any value, the record is read, or refused by file and key: no other error."""
    record = record_of("night-1", files=[_FILE])
    places = [(key,) for key in record] + [
        (key, inner) for key, section in record.items() if isinstance(section, dict) for inner in section
    ]
    refused = 0
    for *outer, key in places:
        for value in _HOSTILE:
            made = json.loads(json.dumps(record))
            (made[outer[0]] if outer else made)[key] = value
            run.folder.write("run.json", json.dumps(made).encode())
            said = _refused(run)
            refused += bool(said)
            assert not said or ("night-1/run.json is " in said and "pydantic" not in said)
            assert not said or key == "record_version" or ".".join([*outer, key]) in said, said
    assert refused > len(places) * 5


def _refused(run: Run) -> str:
    try:
        run.record()
    except BrokenRecord as error:
        return str(error)
    return ""


# --- plans ----------------------------------------------------------------------------------------------------------


def test_runs_of_one_second_are_several(tmp_path: Path) -> None:
    """A run named by the time never takes the name of another one, begun or committed."""
    store, names = Store.at(str(tmp_path / "out"), StorageConfig()), []
    for folder in ("runs", "staging", "runs"):
        run = Run.named(store, None)
        store.write(f"{folder}/{run.run_id}/x", b"")
        names.append(run.run_id)
    assert len(set(names)) == 3 and names == sorted(names)


def test_a_plan_survives_the_process(tmp_path: Path) -> None:
    """The plan that a resumed run reads is the plan that was written."""
    uris = [f"/media/{i:04}.jpg" for i in range(100)]
    run, plan = begun(tmp_path, [*uris, *uris[:7]], shard_rows=5)
    assert run.load_plan({}) == plan
    assert (plan.listed, plan.distinct, plan.repeated, plan.bytes) == (107, 100, 7, 100_000)
    assert [shard.rows for shard in plan.shards] == [5] * 20


def test_a_new_run_has_no_plan(run: Run) -> None:
    """Before its plan is written, a run has none."""
    assert run.load_plan({"model": "m"}) is None


def test_a_plan_of_other_settings_is_refused(run: Run, tmp_path: Path) -> None:
    """A run begun with another model or policy is not mixed with this one, and the message says what differs."""
    _, plan = begun(tmp_path / "other", ["/a"])
    begun_with = {"source.uris": ["/a"], "model": "old", "policy": "p", "gone": 1}
    run.save_plan(plan, begun_with)
    assert run.load_plan(begun_with) == plan
    with pytest.raises(RunConflict) as caught:
        run.load_plan({"source.uris": ["/a"], "model": "new", "policy": "q", "come": [2]})
    assert str(caught.value).splitlines() == [
        "run night-1 was begun with other settings; use those, or a new --run-id:",
        "  come was None, is [2]",
        "  gone was 1, is None",
        "  model was 'old', is 'new'",
        "  policy was 'p', is 'q'",
    ]


# --- runs that were begun -------------------------------------------------------------------------------------------


def test_how_far_a_run_came(tmp_path: Path) -> None:
    """An uncommitted run says what it was begun with, and how many of its objects are staged."""
    uris = [f"/media/{i}" for i in range(25)]
    run, plan = begun(tmp_path, uris, shard_rows=5)
    assert run.begun() == Begun(run, {}, 0, 25)
    finished(run, plan.shards[1:])
    run.staging.write("alive.json", b"{}")
    run.staging.write("stranger.arrow", b"")
    assert run.begun() == Begun(run, {}, 20, 25)
    finished(run, plan.shards)
    assert run.begun() == Begun(run, {}, 25, 25)
    run.folder.write("_SUCCESS", b"")
    assert run.begun() is None


def test_a_run_without_a_plan_was_not_begun(run: Run) -> None:
    """A run that was cut off while it listed has nothing to go on from."""
    assert run.begun() is None
    run.folder.write("listing/part-00000.parquet", b"")
    run.folder.write("plan.json", b"{")
    assert run.begun() is None


def test_unfinished_runs_over_the_same_sources(tmp_path: Path) -> None:
    """Exactly these sources, the newest id first; neither committed ones, nor others', nor what else lies there."""
    _, plan = begun(tmp_path, ["/a"], run_id="no-settings")
    store = Store.at(str(tmp_path), StorageConfig())
    sources = {
        "20261121": ["/media"],
        "20261123": ["/media"],
        "20261122": ["/media"],
        "larger": ["/media", "/more"],
        "other": ["/more"],
        "done": ["/media"],
        "signed": ["https://store/a?X-Amz-Signature=***"],
    }
    for name, uris in sources.items():
        Run(store, name).save_plan(plan, {"source.uris": uris})
    Run(store, "done").folder.write("_SUCCESS", b"")
    for stranger in (".DS_Store", "README"):
        (tmp_path / "runs" / stranger).touch()

    def found(*uris: str) -> list[str]:
        return [begun.run.run_id for begun in unfinished(store, uris)]

    assert found("/media") == ["20261123", "20261122", "20261121"]
    assert found("/media", "/more") == ["larger"]
    assert found("https://store/a?X-Amz-Signature=another") == ["signed"]
    assert found("/media/2026") == []
    assert unfinished(Store.at(str(tmp_path / "absent"), StorageConfig()), ["/media"]) == []


def test_of_several_plans_one_holds(tmp_path: Path) -> None:
    """Ten threads that plan one run at once, each from another listing, go on with the same plan, whose files are
    whole whoever wrote last."""
    run = Run(Store.at(str(tmp_path), StorageConfig()), "r")
    together, held = threading.Barrier(10), []

    def make(number: int) -> None:
        uris = [{"uri": f"/media/{number}/{i}", "size": 1} for i in range(number + 1)]
        listing = pa.Table.from_pylist(uris, schema=LISTING_SCHEMA)
        together.wait(60)
        plan = make_plan([listing], [], Known(), run.folder, 4)
        held.append(run.save_plan(plan, {"model": "m"}))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plan = run.load_plan({"model": "m"})
    assert plan is not None and held == [plan] * 10
    read = ShardReader(run.folder)
    listed = [uri for shard in plan.shards for uri in read(shard)["uri"].to_pylist()]
    assert len(listed) == plan.distinct and len({uri.split("/")[2] for uri in listed}) == 1


ROOT = Path(__file__).parents[2]
_PLANNING = """
import sys, time
from pathlib import Path
from tests.runs.rows import begun

out, number = Path(sys.argv[1]), sys.argv[2]
(out / f"ready-{number}").touch()
while not (out / "go").exists():
    time.sleep(0.001)
run, _ = begun(out, [f"/{number}/{i}" for i in range(200)], shard_rows=10, run_id="r")
print(run.load_plan({}).files[0].sha256)
"""


@pytest.mark.long
def test_two_processes_plan_at_once(tmp_path: Path) -> None:
    """Two processes that begin a run at the same moment end with one plan, and both know which."""
    at_once = [
        subprocess.Popen(
            [sys.executable, "-c", _PLANNING, tmp_path, str(n)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for n in range(2)
    ]
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert all(process.poll() is None for process in at_once)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    told = [process.communicate(timeout=60)[0] for process in at_once]
    assert [process.returncode for process in at_once] == [0, 0]
    assert told[0] == told[1] and len(told[0]) == 65
    [run] = runs_of(Store.at(str(tmp_path), StorageConfig()))
    plan = run.load_plan({})
    assert plan is not None and plan.distinct == 200


def test_another_process_planned_otherwise(run: Run, tmp_path: Path) -> None:
    """Where the plan that holds was made with other settings, the second process is refused."""
    _, plan = begun(tmp_path / "other", ["/a"])
    assert run.save_plan(plan, {"model": "one"}) == plan
    with pytest.raises(RunConflict, match="model was 'one', is 'two'"):
        run.save_plan(plan, {"model": "two"})


# --- leases that were lost ------------------------------------------------------------------------------------------


def test_a_dead_lease_is_taken_over_once(tmp_path: Path) -> None:
    """Of five threads that find the lease of a dead process at the same moment, exactly one gets the run."""
    run = Run(Store.at(str(tmp_path), StorageConfig()), "r")
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "token": "dead", "time": time.time()}
    run.staging.write("alive.json", json.dumps(dead).encode())
    start, got = threading.Barrier(5), []

    def take() -> None:
        start.wait()
        with suppress(RunConflict), run.lease():
            got.append(run.staging.read_json("alive.json"))
            time.sleep(0.5)

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_a_lost_lease_is_not_given_back(tmp_path: Path) -> None:
    """A process that slept until another took its run over leaves the other's lease alone."""
    run = Run(Store.at(str(tmp_path), StorageConfig()), "r")
    other = json.dumps({"host": "elsewhere", "pid": 1, "token": "other", "time": time.time()}).encode()
    with run.lease():
        run.staging.write("alive.json", other)
    assert run.staging.read("alive.json") == other


def test_a_lease_of_an_earlier_container(tmp_path: Path) -> None:
    """A restarted container has the host name and the process id of the one before; its lease is dead all the same."""
    run = Run(Store.at(str(tmp_path), StorageConfig()), "r")
    before = {"host": socket.gethostname(), "pid": os.getpid(), "token": "before", "time": time.time()}
    run.staging.write("alive.json", json.dumps(before).encode())
    assert run.state() == "unfinished"
    with run.lease():
        assert run.state() == "running"
