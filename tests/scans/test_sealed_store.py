"""A report store gives nothing that was not committed to it, and nothing leads out of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.errors import BrokenRecord, StoreError
from nsfwscan.reports.progress import Silent
from nsfwscan.runs import previous
from nsfwscan.runs.finding import exit_code_of
from nsfwscan.runs.garbage import collect
from nsfwscan.runs.record.inputs import KnownIllegalRecord
from nsfwscan.runs.run import Run
from nsfwscan.runs.verify import verify
from nsfwscan.storage.store import Store
from nsfwscan.workflows.scan import ScanResult, run_scan
from tests.runs.rows import Row, engine, files, scanned, staged_row

LOCAL = StorageConfig()
SECRET = b"PAR1 what lies elsewhere"


def row(uri: str) -> Row:
    data = Path(uri).read_bytes()
    return staged_row(uri, sha256=hashlib.sha256(data).hexdigest(), nsfw_score=0.5)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a committed run over three files, and what lies beside it."""
    folder = tmp_path_factory.mktemp("night")
    scanned(files(folder / "media", 3), folder / "out", row, run_id="one")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "secret").write_bytes(SECRET)
    return folder


@pytest.fixture
def place(night: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged; the media stay where they were."""
    for name in ("out", "elsewhere"):
        shutil.copytree(night / name, tmp_path / name)
    return tmp_path


def run_of(place: Path, run_id: str = "one") -> Run:
    return Run(Store.at(str(place / "out"), LOCAL), run_id)


def said(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def edit(place: Path, change: Callable[[dict[str, Any]], Any], name: str = "run.json") -> None:
    path = place / "out" / "runs" / "one" / name
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def the_part(place: Path) -> Path:
    [part] = (place / "out" / "runs" / "one" / "report").iterdir()
    return part


# --- every reader checks --------------------------------------------------------------------------------------------

ALLOW = "version: '1'\nrules: []\notherwise: {decision: allow}\n"


def _break(place: Path, data: bytes | None) -> None:
    path = place / "out/runs/one/run.json"
    path.unlink() if data is None else path.write_bytes(data)


def _export(place: Path, kind: str) -> Result:
    return said("export", place / "out" / "runs" / "one", "--format", kind, "--out", place / "file")


def _scan(place: Path, night: Path) -> Result:
    try:
        scanned(night / "media", place / "out", row, run_id="two")
    except StoreError as error:
        return said("scan") if not str(error) else _failed(str(error))
    return said("--version")


def _failed(message: str) -> Any:
    return type("Failed", (), {"exit_code": 1, "output": message})()


READERS: dict[str, Callable[[Path, Path], Any]] = {
    "export csv": lambda place, night: _export(place, "csv"),
    "export azure": lambda place, night: _export(place, "azure"),
    "queues": lambda place, night: said("queues", place / "out", "--out", place / "queues"),
    "policy replay": lambda place, night: said("policy", "replay", place / "out", "--policy", place / "p.yaml"),
    "policy check": lambda place, night: said("policy", "check", place / "p.yaml", "--on", place / "out"),
    "match": lambda place, night: said("match", place / "out", "--bank", f"b={place / 'bank.txt'},hash=sha256"),
    "the next scan": _scan,
}


def _forged(place: Path) -> None:
    """Another part that is whole in itself, in which nothing is flagged."""
    table = pq.read_table(the_part(place))
    pq.write_table(table.slice(0, 1), the_part(place))


def _link(place: Path) -> None:
    part = the_part(place)
    shutil.move(part, place / "elsewhere" / "part")
    part.symlink_to(place / "elsewhere" / "part")


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "absent": lambda place: the_part(place).unlink(),
    "cut": lambda place: the_part(place).write_bytes(the_part(place).read_bytes()[:-1]),
    "forged": _forged,
    "a link": _link,
    "a path out": lambda place: edit(place, lambda r: r["files"][0].update(path="../../../elsewhere/secret")),
    "an absolute path": lambda place: edit(place, lambda r: r["files"][0].update(path=str(place / "elsewhere/secret"))),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_reader_checks(
    place: Path, night: Path, monkeypatch: pytest.MonkeyPatch, damage: str, reader: str
) -> None:
    """A part that is absent, damaged, forged or elsewhere is an error that says so and what to do, for whoever reads it;
    no row of it is used, and nothing of what lies elsewhere is shown."""
    monkeypatch.setattr(previous, "_SETTLED", timedelta(days=-1))
    (place / "p.yaml").write_text(ALLOW)
    (place / "bank.txt").write_text("0" * 64)
    DAMAGES[damage](place)
    found = READERS[reader](place, night)
    assert found.exit_code == 1
    assert "report/" in found.output or "run.json" in found.output
    assert "put it back from a backup" in found.output or "--ignore-run" in found.output or "link" in found.output
    assert not (place / "file").exists() and not list((place / "out").glob("runs/*/_SUCCESS"))[1:]
    digest = hashlib.sha256(SECRET).hexdigest()
    assert digest not in found.output and digest not in said("verify", place / "out").output


def test_verify_tells_nothing_of_what_lies_elsewhere(place: Path) -> None:
    """A record that names files outside of the run is a finding, without a digest of theirs."""
    for path in ("../../../elsewhere/secret", str(place / "elsewhere" / "secret"), f"file://{place}/elsewhere/secret"):
        edit(place, lambda record, path=path: record["files"][0].update(path=path))
        findings = list(map(str, verify(run_of(place))))
        assert any("no name of a file within the run's folder" in finding for finding in findings), findings
        assert hashlib.sha256(SECRET).hexdigest() not in "".join(findings)


def test_a_plan_cannot_lead_out(place: Path) -> None:
    """A listing file of a plan that lies elsewhere is refused, committed or not."""

    def lead_out(plan: dict[str, Any]) -> None:
        plan["plan"]["files"][0]["path"] = "../../../elsewhere/secret"
        plan.pop("sha256")

    edit(place, lead_out, "plan.json")
    with pytest.raises(BrokenRecord, match=r"plan\.json is damaged"):
        run_of(place).plan()
    for name in ("_SUCCESS", "run.json"):
        (place / "out/runs/one" / name).unlink()
    with pytest.raises(BrokenRecord, match="is no name of a file within the run's folder"):
        run_of(place).plan()


# --- a broken record fails closed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [None, b"", b'{"run_id": "one"', b"[]", b'{"run_id": "one"}', b'{"record_version": 3, "run_id": "one"}']
)
def test_no_scan_rests_on_a_broken_record(place: Path, night: Path, data: bytes | None) -> None:
    """Behind a `_SUCCESS`: the next scan stops and says the way out; the list of runs and an export show it."""
    _break(place, data)
    out = place / "out"
    with pytest.raises(StoreError, match=r"one/run\.json is (absent|broken|of version 1,).*--ignore-run one"):
        scanned(night / "media", out, row, run_id="two")
    listed = said("runs", out)
    assert listed.exit_code == 0 and "one  broken" in listed.output
    assert _export(place, "csv").exit_code == 1


@pytest.mark.parametrize("data", [None, b'{"run_id": "one"}'], ids=["absent", "broken"])
def test_the_way_past_a_broken_record(place: Path, night: Path, data: bytes | None) -> None:
    """A match stops and says it; another source is scanned; and --ignore-run, which the new run records, goes on without
    the broken run, for good."""
    _break(place, data)
    out, media = place / "out", night / "media"
    (place / "bank.txt").write_text("0" * 64)
    matched = said("match", out, "--bank", f"b={place / 'bank.txt'},hash=sha256")
    assert matched.exit_code == 1 and "--ignore-run one" in matched.output
    other = scanned(files(place / "other", 2), out, row, run_id="other")
    assert other.exit_code == 0 and other.record.previous_runs == ()
    two = scanned(media, out, row, run_id="two", previous={"ignore_runs": ["one"]})
    assert two.record.config.previous.ignore_runs == ("one",) and two.record.previous_runs == ()
    assert scanned(media, out, row, run_id="three").record.previous_runs == ("two",)
    exported = said("export", out, "--format", "csv", "--out", place / "all.csv")
    assert exported.exit_code == 0 and "run one is passed over" in exported.stderr
    assert said("queues", out, "--out", place / "queues").exit_code == 0


def test_a_cut_plan_lets_nothing_go_on(place: Path, night: Path) -> None:
    """A run whose plan is cut off or was changed does not go on, under these settings or others."""
    path, media = place / "out/runs/one/plan.json", night / "media"
    for name in ("_SUCCESS", "run.json"):
        (place / "out/runs/one" / name).unlink()
    whole = path.read_bytes()
    for data in (
        whole[:-20],
        b"",
        whole.replace(b'"limit": null', b'"limit": 1', 1).replace(b'"listed": 3', b'"listed": 4'),
    ):
        path.write_bytes(data)
        with pytest.raises(StoreError, match=r"plan\.json is broken.*delete .*runs/one"):
            scanned(media, place / "out", row, run_id="one", report={"mode": "delta"})
        assert path.read_bytes() == data


@pytest.mark.parametrize("what", ["record", "part"])
def test_what_is_cut_off_is_not_sealed(night: Path, tmp_path: Path, what: str) -> None:
    """A commit that ended before `_SUCCESS` is completed only where its record and every file are whole; else the staged
    work stays, and without the record the same command commits it."""
    media, out = night / "media", tmp_path / "out"
    real = scanned(media, out, row, run_id="one")
    folder = Path(real.uri)
    (folder / "_SUCCESS").unlink()
    staged = run_of(tmp_path).staging
    staged.write("00000-0000.parquet", b"work")
    path = folder / "run.json" if what == "record" else next((folder / "report").iterdir())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(StoreError, match=r"delete .*runs/one/run\.json, then the same command"):
        scanned(media, out, row, run_id="one")
    assert not (folder / "_SUCCESS").exists() and staged.read("00000-0000.parquet") == b"work"
    (folder / "run.json").unlink()
    staged.delete("00000-0000.parquet")
    assert scanned(media, out, row, run_id="one").exit_code == 0
    assert list(verify(run_of(tmp_path))) == []


# --- what is illegal stays so ---------------------------------------------------------------------------------------


class Illegal:
    """Nights over a folder in which one of three files is illegal by its bytes."""

    def __init__(self, folder: Path) -> None:
        self.media, self.out, self.bank = files(folder / "media", 3), folder / "out", folder / "csam.txt"
        self.content = b"known to be illegal"
        (self.media / "0001.jpg").write_bytes(self.content)
        self.bank.write_text(hashlib.sha256(self.content).hexdigest() + "\n")

    def night(self, run_id: str, *, bank: bool = False, **sections: Any) -> dict[str, dict[str, Any]]:
        """One scan with real matching of made-up rows; its rows by name."""
        banks = {"csam": {"uri": str(self.bank), "kind": "illegal", "hash": "sha256"}} if bank else {}
        result = self.scan(run_id, banks=banks, **sections)
        assert exit_code_of(verify(Run(Store.at(str(self.out), LOCAL), run_id))) == 0
        self.record = result.record
        return {Path(r["uri"]).name: r for path in result.report_files for r in pq.read_table(path).to_pylist()}

    def scan(self, run_id: str, **sections: Any) -> ScanResult:
        config = ScanConfig.load(None, {"source": {"uris": [str(self.media)]}, "out": str(self.out), **sections})
        return run_scan(config, run_id, matching, Silent())


def matching(job: Any, shards: Any, deadline: Any) -> Iterator[Any]:
    """Return the made-up rows, matched by their bytes as the stages do it."""
    from nsfwscan.banks.matcher import BankSet
    from nsfwscan.schema import STAGED_SCHEMA, as_schema
    from nsfwscan.stages.match import _with_hashes
    from tests.runs.rows import staged

    banks = BankSet(job.banks, job.config.storage, known=job.known)

    def matched(uri: str) -> Row:
        made = row(uri)
        [found] = banks.match(_with_hashes(as_schema(staged([made]), STAGED_SCHEMA))).to_pylist()
        return {**made, **{name: value for name, value in found.items() if value is not None}}

    return engine(matched)(job, shards, deadline)


@pytest.fixture
def illegal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Illegal:
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(previous, "_SETTLED", timedelta(days=-1))
    return Illegal(tmp_path)


@pytest.mark.long
def test_an_illegal_content_stays_so(illegal: Illegal) -> None:
    """Touched, renamed, gone for a night, read again with --full, and the bank left out all the while: it is escalated
    by its bytes, under the bank that knew it."""
    assert illegal.night("1", bank=True)["0001.jpg"]["decision"] == "escalate"
    os.utime(illegal.media / "0001.jpg")
    assert illegal.night("2")["0001.jpg"]["decision"] == "escalate"
    (illegal.media / "0001.jpg").unlink()
    assert "0001.jpg" not in illegal.night("3")
    (illegal.media / "other name.jpg").write_bytes(illegal.content)
    for run_id, sections in (("4", {}), ("5", {"previous": {"reuse": False}}), ("6", {"report": {"mode": "delta"}})):
        rows = illegal.night(run_id, **sections)
        if run_id != "6":
            found = rows["other name.jpg"]
            assert (found["decision"], found["match_bank"], found["shield"]) == ("escalate", "csam", "hidden")
            assert {r["decision"] for name, r in rows.items() if name != "other name.jpg"} == {"review"}
    assert illegal.record.known_illegal == KnownIllegalRecord(runs=("1", "2", "3", "4", "5"), contents=1, released=0)


def test_a_bank_without_the_entry_releases_it(illegal: Illegal) -> None:
    """The bank of that name given again without the entry is the decision that is recorded; it holds on later nights."""
    illegal.night("1", bank=True)
    illegal.bank.write_text("0" * 64 + "\n")
    assert illegal.night("2", bank=True)["0001.jpg"]["decision"] == "review"
    assert illegal.record.known_illegal.released == 1
    os.utime(illegal.media / "0001.jpg")
    assert illegal.night("3")["0001.jpg"]["decision"] == "review"


def test_runs_side_by_side_forget_nothing(illegal: Illegal) -> None:
    """What either of two sources' runs knew is known, also of a copy under the other source."""
    illegal.night("1", bank=True)
    illegal.media = files(illegal.media.parent / "elsewhere", 2)
    (illegal.media / "copy.jpg").write_bytes(illegal.content)
    assert illegal.night("2")["copy.jpg"]["decision"] == "escalate"


def test_a_broken_record_makes_nothing_legal(illegal: Illegal) -> None:
    """Gone on without the run that found it, its content is known from the files that it left."""
    illegal.night("1", bank=True)
    (illegal.out / "runs/1/run.json").write_bytes(b"{")
    os.utime(illegal.media / "0001.jpg")
    with pytest.raises(StoreError, match="--ignore-run 1"):
        illegal.night("2")
    assert illegal.night("3", previous={"ignore_runs": ["1"]})["0001.jpg"]["decision"] == "escalate"


# --- links, leftovers, permissions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["staging", "runs", "runs/one", "runs/one/report", "staging/one"])
def test_no_link_is_followed(place: Path, night: Path, step: str) -> None:
    """A folder of a store that is a link: neither gc nor a scan writes or removes anything where it leads."""
    out, elsewhere = place / "out", place / "elsewhere"
    if (out / step).exists():
        shutil.rmtree(out / step)
    (out / step).parent.mkdir(parents=True, exist_ok=True)
    for name in ("one/x.parquet", "x.parquet", "alive.json"):
        (elsewhere / name).parent.mkdir(exist_ok=True)
        (elsewhere / name).write_bytes(b"theirs")
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    (out / step).symlink_to(elsewhere)
    said("gc", out, "--older-than", "0")
    for run_id in ("one", "two"):
        said("scan", night / "media", "--out", out, "--run-id", run_id)
        said("runs", out)
    assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before


def test_gc_goes_on_past_what_it_cannot_remove(place: Path) -> None:
    """A link goes as a link; a run whose folder cannot be looked into is told, exit code 1; the others are removed."""
    out = place / "out"
    staging = out / "staging"
    for name in ("a", "z"):
        (staging / name).mkdir(parents=True)
        (staging / name / "x.parquet").write_bytes(b"x")
    (staging / "a" / "alive.json").mkdir()
    (staging / "b").symlink_to(place / "elsewhere")
    (staging / "z" / "link").symlink_to(place / "elsewhere" / "secret")
    done = said("gc", out, "--older-than", "0")
    assert done.exit_code == 1 and "staging/a could not be removed" in done.stderr
    assert sorted(os.listdir(staging)) == ["a"]
    assert (place / "elsewhere" / "secret").read_bytes() == SECRET


def test_what_a_kill_leaves_is_removed(place: Path) -> None:
    """Files under a temporary name go after an hour, in staging and in runs; nothing else of a run does."""
    run = place / "out/runs/one"
    kept = sorted(path.name for path in run.rglob("*"))
    for name in (".tmp-1", "report/.tmp-2"):
        (run / name).write_bytes(b"half")
        os.utime(run / name, (time.time() - 7200,) * 2)
    (run / ".tmp-now").write_bytes(b"half")
    [found] = collect(run_of(place).store)
    assert (found.folder, found.run_id, found.files) == ("runs", "one", 2)
    assert sorted(path.name for path in run.rglob("*")) == sorted([*kept, ".tmp-now"])
    assert list(verify(run_of(place))) == []


@pytest.mark.parametrize(
    ("storage", "umask", "expected"),
    [
        ({}, 0o022, 0o640),
        ({}, 0o077, 0o600),
        ({"file_mode": "0660"}, 0o002, 0o660),
        ({"file_mode": "0644"}, 0o022, 0o644),
    ],
)
def test_who_may_read_a_report(night: Path, tmp_path: Path, storage: dict[str, str], umask: int, expected: int) -> None:
    """Owner and group, unless it is set otherwise; a stricter umask counts. Folders can be searched by the same."""
    before = os.umask(umask)
    try:
        scanned(night / "media", tmp_path / "out", row, storage=storage)
        exported = said("export", tmp_path / "out", "--format", "csv", "--out", tmp_path / "all.csv")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_file()} == {expected}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {expected | 0o100 | (expected & 0o044) >> 2}
    assert exported.exit_code == 0
    assert stat.S_IMODE((tmp_path / "all.csv").stat().st_mode) == 0o640 & ~umask


# --- leases ---------------------------------------------------------------------------------------------------------


def _lease(**values: Any) -> bytes:
    return json.dumps({"host": "elsewhere", "pid": 1, "token": "t", "time": time.time(), **values}).encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty or malformed"),
        (b"{", "empty or malformed"),
        (b"[" * 100_000, "empty or malformed"),
        (b'{"time": 1}', "empty or malformed"),
        (_lease(time="now"), "empty or malformed"),
        (_lease(pid=-1), "empty or malformed"),
        (_lease(pid=2**80), "empty or malformed"),
        (_lease(time=float("inf")), "empty or malformed"),
        (_lease(time=time.time() + 10**9), "s from now, and nobody has renewed it"),
    ],
    ids=[
        "empty",
        "cut",
        "deep",
        "partial",
        "time-in-words",
        "pid-below-0",
        "pid-of-80-bits",
        "time-infinite",
        "time-to-come",
    ],
)
def test_no_lease_locks_a_run_out_for_ever(tmp_path: Path, data: bytes, words: str) -> None:
    """One that is empty, malformed, or of a far future and no longer renewed is said, and taken over."""
    run, told = Run(Store.at(str(tmp_path), LOCAL), "one"), list[str]()
    run.staging.write("alive.json", data)
    path = tmp_path / "staging/one/alive.json"
    os.utime(path, (time.time() - 600,) * 2)
    assert not run.is_alive()
    with run.lease(told.append):
        assert run.is_alive()
    assert len(told) == 1 and words in told[0] and "taken over" in told[0]


def test_a_clock_that_is_ahead_is_no_dead_process(tmp_path: Path) -> None:
    """A lease from the future that is being renewed, by the store's clock, is alive."""
    run = Run(Store.at(str(tmp_path), LOCAL), "one")
    run.staging.write("alive.json", _lease(time=time.time() + 3600))
    assert run.is_alive()
