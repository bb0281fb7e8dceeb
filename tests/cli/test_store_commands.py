"""Commands over a store: what they find, what they remove, and what they leave alone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.runs.run import Run
from nsfwscan.storage.filesystems import filesystem
from nsfwscan.storage.store import Store, to_json
from tests.cli.commands import assert_one_clear_line, call
from tests.runs.rows import begun, files, finished, scanned

# verify and gc


def nights(media: Path, out: str) -> Store:
    """A report store with two nights and a run that was cut off after one of its shards."""
    for run_id in ("1", "2"):
        scanned(media, out, run_id=run_id)
    run, plan = begun(out, ["/a", "/b"], shard_rows=1, run_id="cut-off")
    finished(run, plan.shards[:1])
    return run.store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a store."""
    folder = tmp_path_factory.mktemp("made")
    return Path(nights(files(folder / "media", 4), str(folder / "out")).uri)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.long)])
def reports(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Such a store on S3, or a copy of one on local disk."""
    if request.param == "local":
        made = request.getfixturevalue("made")
        return Store.at(str(shutil.copytree(made, tmp_path / "out")), StorageConfig())
    request.getfixturevalue("moto")
    bucket = re.sub("[^a-z0-9]+", "-", tmp_path.name.lower()).strip("-")
    boto3.client("s3").create_bucket(Bucket=bucket)
    return nights(files(tmp_path / "media", 4), f"s3://{bucket}/reports")


def everything(store: Store) -> dict[str, bytes]:
    """Return all files of a store, with their content."""
    fs = filesystem(store.location, store.storage)
    fs.invalidate_cache()
    return {str(path).partition(store.uri.split("/")[-1])[2]: fs.cat_file(path) for path in fs.find(store.uri)}


def test_verify(reports: Store) -> None:
    """What is as it was committed says so and is exit code 0, one run or all of a store; nothing is written."""
    before = everything(reports)
    done = call("verify", f"{reports.uri}/runs/2")
    assert (done.exit_code, done.stdout) == (0, "2  as committed\n")
    done = call("verify", reports.uri)
    digest = Run(reports, "2").digest()
    assert (done.exit_code, done.stdout) == (0, f"1  as committed\n2  as committed\nhead  2  {digest}\n")
    assert call("verify", reports.uri, "--expect", digest.upper()).exit_code == 0
    assert call("verify", reports.uri, "--expect", Run(reports, "1").digest()).exit_code == 0
    assert call("verify", reports.uri, "--expect", "7").exit_code == 2
    assert everything(reports) == before


def test_verify_as_json(reports: Store) -> None:
    """One object has the findings of each run; the exit code is as without it."""
    reports.write(f"runs/1/{Run(reports, '1').record().files[0].path}", b"PAR1 no more")
    done = call("verify", reports.uri, "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == told["exit_code"] == 7
    assert told["runs"][0]["findings"][0]["kind"] == "tampered"
    assert [one["sha256"] for one in told["runs"] if one["is_head"]] == [Run(reports, "2").digest()]
    assert [(one["run_id"], one["sound"], len(one["findings"])) for one in told["runs"]] == [
        ("1", False, 1),
        ("2", True, 0),
    ]
    done = call("verify", f"{reports.uri}/absent", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {"exit_code": 1, "error": done.stderr.strip().removeprefix("nsfwscan: ")}


def test_verify_finds_what_is_wrong(reports: Store) -> None:
    """A damaged file and a broken record are named; the exit code tells what was tampered with from what is absent or
    cannot be read."""
    record = Run(reports, "1").record().as_json()
    path = record["files"][0]["path"]
    reports.write(f"runs/1/{path}", b"PAR1 no more")
    done = call("verify", f"{reports.uri}/runs/1/")
    assert done.exit_code == 7
    assert done.stdout.splitlines()[0] == "1  findings: 1"
    assert done.stdout.splitlines()[1].startswith(f"  tampered: {path}: 12 bytes with SHA-256 ")
    record["files"] = []
    reports.write("runs/2/run.json", to_json({**record, "run_id": "\x1b[2J"}))
    done = call("verify", reports.uri)
    assert done.exit_code == 7 and "\x1b" not in done.stdout
    said = "  damaged: run.json is broken: it is not what a commit writes (run_id: '\\x1b[2J' is no run id)"
    assert said in done.stdout.splitlines()
    done = call("verify", f"{reports.uri}/runs/cut-off")
    assert done.exit_code == 8 and "run.json is absent: the run was not committed" in done.stdout


def test_verify_of_nothing(reports: Store) -> None:
    """Where there is no run, that is one clear line and exit code 1."""
    for place in ("/absent", "/runs/absent", "/staging"):
        done = call("verify", reports.uri + place)
        assert (done.exit_code, done.stdout) == (1, ""), place
        assert_one_clear_line(done.stderr, f"{place}: neither a run's folder nor a store with committed runs")


def test_gc(reports: Store) -> None:
    """Young work is kept; what is given up goes, and is named; a dry run only says so. Nothing else is touched."""
    before = everything(reports)
    done = call("gc", reports.uri)
    assert (done.exit_code, done.stdout) == (0, f"nothing abandoned in {reports.uri}\n")
    done = call("gc", reports.uri, "--older-than", "0", "--dry-run")
    assert done.exit_code == 0
    assert done.stdout.startswith("would remove staging/cut-off  1 files  not committed, last worked on 20")
    assert everything(reports) == before
    done = call("gc", reports.uri, "--older-than", "0")
    assert done.exit_code == 0
    assert done.stdout.startswith("removed staging/cut-off  1 files  not committed, last worked on 20")
    kept = {name: data for name, data in before.items() if not name.startswith("/staging/")}
    assert everything(reports) == kept and len(kept) == len(before) - 1
    reports.write("staging/2/00000-0000.parquet", b"left by a commit")
    assert call("gc", reports.uri).stdout == "removed staging/2  1 files  committed\n"
    assert everything(reports) == kept
    assert call("gc", f"{reports.uri}/absent").exit_code == 0


def test_prune(reports: Store) -> None:
    """It says what would go and what stays, asks, and removes; a held run stays; on local disk and on S3."""
    scanned(str(Run(reports, "1").record().config.source.uris[0]), reports.uri, run_id="3")
    before = everything(reports)
    done = call("prune", reports.uri, "--keep", "90d")
    assert (done.exit_code, done.stdout) == (0, f"nothing to remove from {reports.uri}\n")
    told = call("prune", reports.uri, "--keep", "0d", "--dry-run").stdout.splitlines()
    sizes = [len(data) for name, data in before.items() if name.startswith("/runs/1/") and "run.json" not in name]
    assert told[0].startswith(f"1 run, {len(sizes)} files, ") and told[0].endswith(f" to remove from {reports.uri}:")
    assert told[1].startswith("  1  scan    committed 20")
    assert told[2] == "2 runs older than 0d to keep:"
    assert told[3].endswith("  run 3 goes on from it") and told[4].endswith(" the next scan or match goes on from it")
    done = call("prune", reports.uri, "--keep", "0d")
    assert done.exit_code == 2 and "nobody is there to ask" in done.stderr
    assert everything(reports) == before
    done = call("hold", reports.uri, "1", "--reason", "case 7", "--by", "L. Lawyer")
    assert done.exit_code == 0 and "run 1  held by L. Lawyer since 20" in done.stdout
    assert call("prune", reports.uri, "--keep", "0d", "--yes").stdout.startswith("nothing to remove")
    assert call("hold", reports.uri, "1", "--release", "--by", "L. Lawyer").exit_code == 0
    assert "case 7; released by L. Lawyer on 20" in call("hold", reports.uri).stdout
    done = call("prune", reports.uri, "--keep", "0d", "--yes")
    assert done.exit_code == 0 and done.stdout.endswith("removed  1\n")
    after = everything(reports)
    assert [name for name in after if name.startswith("/runs/1/")] == ["/runs/1/pruned.json", "/runs/1/run.json"]
    assert after["/runs/1/run.json"] == before["/runs/1/run.json"]
    assert call("runs", reports.uri).stdout.splitlines()[0].endswith(f" (nsfwscan prune {reports.uri} --keep 0d)")
    assert call("verify", reports.uri).exit_code == 0
    assert call("queues", f"{reports.uri}/runs/1").exit_code == 1
    assert json.loads(call("runs", reports.uri, "--json").stdout)["runs"][0]["pruned"]["run_id"] == "1"


def test_prune_asks_in_a_terminal(reports: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is removed but by a yes."""
    scanned(str(Run(reports, "1").record().config.source.uris[0]), reports.uri, run_id="3")
    monkeypatch.setattr("nsfwscan.cli.retention._can_ask", lambda: True)
    for answer, is_there in (("n\n", True), ("y\n", False)):
        done = CliRunner().invoke(main, ["prune", reports.uri, "--keep", "0d"], input=answer)
        assert (done.exit_code, "Remove them?" in done.stdout) == (0, True)
        assert Run(reports, "1").is_committed() is is_there


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prune", "OUT", "--keep", "90"], "--keep '90': no age"),
        (["prune", "OUT", "--keep", "-1d"], "--keep '-1d': no age"),
        (["hold", "OUT", "--release"], "RUN is missing"),
        (["hold", "OUT", "r", "--reason", "case 7"], "--by is missing"),
        (["hold", "OUT", "r", "--by", "L. Lawyer"], "--reason is missing"),
        (["hold", "OUT", "r", "--by", "L. Lawyer", "--reason", "case 7"], "has no committed run 'r'"),
        (["hold", "OUT", "../r", "--by", "L. Lawyer", "--reason", "case 7"], "'../r' is no run id"),
        (["hold", "OUT", "r", "--by", "L. Lawyer", "--release"], "run 'r' has no active hold"),
    ],
)
def test_wrong_usage_of_retention(tmp_path: Path, arguments: list[str], words: str) -> None:
    """It is exit code 2, is named, and writes nothing."""
    done = call(*(str(tmp_path / "out") if word == "OUT" else word for word in arguments))
    assert (done.exit_code, done.stdout) == (2, "") and words in done.stderr
    assert not (tmp_path / "out").exists()


# runs


def test_runs_of_a_store(media: Path, tmp_path: Path) -> None:
    """A line for each run with its state, in the order of time and not of names, as JSON, too."""
    scanned(media, tmp_path / "out", run_id="b")
    scanned(media, tmp_path / "out", run_id="a")
    run, plan = begun(tmp_path / "out", ["/x", "/y"], run_id="0", shard_rows=1)
    finished(run, plan.shards[:1])
    begun(tmp_path / "out", ["/x"], run_id="broken")[0].folder.write("plan.json", b"{")
    done = call("runs", tmp_path / "out")
    assert done.exit_code == 0
    states = [["b", "committed"], ["a", "committed"], ["0", "unfinished"], ["broken", "broken"]]
    assert [line.split()[:2] for line in done.stdout.splitlines()] == states
    assert "1 of 2 objects done  resume it: the same command with --run-id 0" in done.stdout
    told = json.loads(call("runs", tmp_path / "out", "--json").stdout)
    assert [[one["run_id"], one["state"]] for one in told["runs"]] == states
    first, second, begun_one, broken = told["runs"]
    assert (told["store"], first["objects"], first["kind"], first["exit_code"]) == (f"{tmp_path}/out", 4, "scan", 0)
    assert (second["parent"], begun_one["done"], begun_one["total"]) == ("b", 1, 2)
    assert [one["at"] for one in told["runs"]] == sorted(one["at"] for one in told["runs"])
    assert "plan.json is broken" in broken["problem"]


def test_runs_of_an_empty_store(tmp_path: Path) -> None:
    """A store without runs, or one that is not there yet, has none, and that is no error."""
    for store in (tmp_path, tmp_path / "absent"):
        done = call("runs", store)
        assert (done.exit_code, done.stdout) == (0, f"no runs in {store}\n")
    assert not (tmp_path / "absent").exists()
