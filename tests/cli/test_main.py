"""The command line: options reach the configuration, results and errors reach the person, exit codes the shell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from click.testing import CliRunner, Result

import nsfwscan
import nsfwscan.execution.choose
from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import BalanceError
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.pipeline import Job
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult
from nsfwscan.storage.filesystems import filesystem
from nsfwscan.storage.store import Store, to_json
from nsfwscan.workflows.cost import PRICES
from tests.runs.rows import Row, begun, engine, files, finished, scanned, staged_row

Demo = tuple[Path, list[DemoObject]]
Cli = Callable[..., Result]


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return files(tmp_path / "media", 4)


def without_ray(monkeypatch: pytest.MonkeyPatch, row: Callable[[str], Row] = staged_row, lost: int = 0) -> None:
    """Puts made-up rows in the place of a Ray; `lost` shards are passed over."""

    def run_shards(job: Job, shards: Sequence[Shard], deadline: Deadline, **_: object) -> Iterator[ShardResult]:
        yield from engine(row)(job, shards[lost:], deadline)

    monkeypatch.setattr(nsfwscan.execution.choose, "choose_executor", run_shards)


def call(*arguments: str | Path) -> Result:
    """One command, in this process; what goes past Python to standard error is not in its result."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def record(out: Path, run_id: str = "r") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "runs" / run_id / "run.json").read_text())
    return found


def in_a_shell(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsfwscan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- options --------------------------------------------------------------------------------------------------------

_OPTIONS: dict[tuple[str, str], tuple[list[str], Any]] = {
    ("source", "include"): (["--include", "*.jpg", "--include", "*.png"], ["*.jpg", "*.png"]),
    ("source", "exclude"): (["--exclude", "*/thumbs/*"], ["*/thumbs/*"]),
    ("source", "limit"): (["--limit", "3"], 3),
    ("source", "truth"): (["--truth", "none"], "none"),
    ("storage", "endpoint_url"): (["--endpoint-url", "http://localhost:9000"], "http://localhost:9000"),
    ("storage", "region"): (["--region", "eu-central-1"], "eu-central-1"),
    ("storage", "profile"): (["--profile", "media"], "media"),
    ("storage", "anonymous"): (["--anonymous"], True),
    ("storage", "requester_pays"): (["--requester-pays"], True),
    ("read", "max_bytes"): (["--max-bytes", "1000"], 1000),
    ("read", "max_requests_per_s"): (["--max-requests-per-s", "2.5"], 2.5),
    ("decode", "max_pixels"): (["--max-pixels", "2000"], 2000),
    ("model", "uri"): (["--model", "embedded:open-nsfw"], "embedded:open-nsfw"),
    ("model", "dtype"): (["--dtype", "float32"], "float32"),
    ("model", "batch_size"): (["--batch-size", "2"], 2),
    ("model", "labels"): (["--label", "a=b=neutral", "--label", "X=porn"], {"a=b": "neutral", "X": "porn"}),
    ("report", "save_images"): (["--save-images"], True),
    ("report", "max_error_rate"): (["--max-error-rate", "0.5"], 0.5),
    ("report", "max_unsupported_rate"): (["--max-unsupported-rate", "0.5"], 0.5),
    ("report", "mode"): (["--report", "delta"], "delta"),
    ("previous", "reuse"): (["--full"], False),
    ("cost", "prices"): (["--prices", str(PRICES)], str(PRICES)),
    ("cost", "rates"): (["--rates", str(PRICES)], str(PRICES)),
    ("engine", "deadline"): (["--deadline", "90m"], "90m"),
    ("engine", "num_cpus"): (["--num-cpus", "1"], 1),
}


def test_options_reach_the_configuration(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option of a scan is the field of the configuration that it is meant to be, and wins over the file's."""
    without_ray(monkeypatch)
    other: dict[str, dict[str, Any]] = {
        "source": {"include": ["x"], "exclude": ["y"], "limit": 1, "truth": "path"},
        "storage": {"endpoint_url": "http://other", "region": "r", "profile": "p"},
        "read": {"max_bytes": 9},
        "model": {"labels": {"Y": "sexy"}, "batch_size": 9},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**other, "policy": "binary", "shadow_policies": ["five-class"]}))
    options = [word for words, _ in _OPTIONS.values() for word in words]
    done = call(
        *("scan", media, "--out", tmp_path / "out", "--run-id", "r", "--policy", "five-class"),
        *("--shadow-policy", "binary", "--shadow-policy", "open-nsfw", "--config", tmp_path / "c.yaml", *options),
    )
    assert done.exit_code == 0, done.output
    config = record(tmp_path / "out")["config"]
    expected = {key: value for key, (_, value) in _OPTIONS.items()}
    expected["model", "labels"] = {"Y": "sexy", **expected["model", "labels"]}
    assert {(section, name): config[section][name] for section, name in expected} == expected
    assert (config["source"]["uris"], config["out"], config["policy"]) == (
        [str(media)],
        str(tmp_path / "out"),
        "five-class",
    )
    assert config["shadow_policies"] == ["binary", "open-nsfw"]


def test_options_that_are_not_given_leave_the_file_alone(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value of a YAML file holds where the command line says nothing."""
    without_ray(monkeypatch)
    sections: dict[str, Any] = {}
    for (section, name), (_, value) in _OPTIONS.items():
        sections.setdefault(section, {})[name] = value
    sections["read"]["timeout_s"] = 7.0
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**sections, "policy": "binary"}))
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r", "--config", tmp_path / "c.yaml")
    assert done.exit_code == 0, done.output
    config = record(tmp_path / "out")["config"]
    for section, values in sections.items():
        assert {name: config[section][name] for name in values} == values, section
    assert config["policy"] == "binary"


def test_defaults(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any option, a scan has the embedded model and the documented limits, and its run is named by the time."""
    without_ray(monkeypatch)
    assert call("scan", media, "--out", tmp_path / "out").exit_code == 0
    [run] = (tmp_path / "out" / "runs").iterdir()
    config = record(tmp_path / "out", run.name)["config"]
    assert config["model"] == {
        "uri": "embedded:open-nsfw",
        "dtype": "auto",
        "batch_size": None,
        "compile": False,
        "labels": {},
    }
    assert config["decode"]["mode"] == "fast"
    assert (config["read"]["max_bytes"], config["decode"]["max_pixels"]) == (64 * 2**20, 100_000_000)
    assert (config["report"]["max_error_rate"], config["report"]["save_images"]) == (0.05, False)
    assert (config["policy"], config["source"]["truth"], config["engine"]["address"]) == (None, "path", None)


def test_a_preset_lies_under_the_options(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--preset` sets model and policy; what is given besides wins over it."""
    without_ray(monkeypatch)
    done = call(
        *("scan", media, "--out", tmp_path / "out", "--run-id", "r"),
        *("--preset", "falconsai", "--model", "embedded:open-nsfw", "--policy", "five-class"),
    )
    assert done.exit_code == 0, done.output
    config = record(tmp_path / "out")["config"]
    assert (config["model"]["uri"], config["policy"]) == ("embedded:open-nsfw", "five-class")
    assert config["model"]["labels"] == {"normal": "neutral", "nsfw": "nsfw"}


# --- wrong usage: exit code 2 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scan", "MEDIA", "--out", "OUT", "--max-byte", "1", "--nonsense"], "No such option"),
        (["scan", "MEDIA"], "Missing option '--out'"),
        (["scan", "--out", "OUT"], "Missing argument 'SOURCES...'"),
        (["classify"], "Missing argument 'IMAGES...'"),
        (["scan", "MEDIA", "--out", "OUT", "--label", "porn"], "'porn' is not LABEL=CATEGORY"),
        (["classify", "MEDIA", "--label", "porn"], "'porn' is not LABEL=CATEGORY"),
        (["scan", "MEDIA", "--out", "OUT", "--limit", "0"], "0 is not in the range"),
        (["scan", "MEDIA", "--out", "OUT", "--max-error-rate", "1.5"], "1.5 is not in the range"),
        (["scan", "MEDIA", "--out", "OUT", "--dtype", "int8"], "'int8' is not one of"),
        (["scan", "MEDIA", "--out", "OUT", "--preset", "none"], "'none' is not one of"),
        (
            ["scan", "MEDIA", "--out", "OUT", "--config", "/absent.yaml"],
            "cannot read the configuration /absent.yaml: No such file",
        ),
        (["scan", "MEDIA", "--out", "OUT", "--resume", "first"], "'first' is not"),
        (["scan", "MEDIA", "--out", "OUT", "--report", "all"], "'all' is not one of"),
        (["scan", "MEDIA", "--out", "OUT", "--max-requests-per-s", "0"], "0.0 is not in the range"),
        (["verify"], "Missing argument 'RUN'"),
        (["scan", "MEDIA", "--out", "s3:/reports"], "a slash is missing: s3://reports"),
        (["scan", "MEDIA", "--out", "S3://"], "it names no bucket"),
        (["scan", "MEDIA", "--out", ""], "it is empty"),
        (["scan", "MEDIA", "--out", "OUT", "--policy", ""], "it is empty"),
        (["runs", "http:/"], "a slash is missing"),
        (["gc", "OUT", "--older-than", "-1"], "-1.0 is not in the range"),
        (["scna"], "No such command 'scna'"),
    ],
)
def test_wrong_usage(
    media: Path, tmp_path: Path, arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """An option that there is not, or of the wrong form, is exit code 2, is named, and begins nothing."""
    places = {"MEDIA": str(media), "OUT": str(tmp_path / "out")}
    done = call(*(places.get(word, word) for word in arguments))
    assert done.exit_code == 2
    assert words in done.output + capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("read: {max_byte: 1}", "read.max_byte: Extra inputs are not permitted"),
        ("reed: {}", "reed: Extra inputs are not permitted"),
        ("decode: {max_pixels: many}", "decode.max_pixels: Input should be a valid integer"),
        ("decode: {max_pixels: 0}", "decode.max_pixels: Input should be greater than or equal to 1"),
        ("[1, 2]", "must be a mapping of sections, not a list"),
        ("a: [", "is not YAML"),
        ("\x00", "is not YAML"),
    ],
)
def test_a_wrong_configuration(
    media: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    """A key or value that is wrong in the file is exit code 2, with the file's and the key's name."""
    (tmp_path / "c.yaml").write_text(text)
    done = call("scan", media, "--out", tmp_path / "out", "--config", tmp_path / "c.yaml")
    said = "\n".join(unstamped(capfd.readouterr().err))
    assert (done.exit_code, done.stdout) == (2, "")
    assert said.startswith("nsfwscan: ") and str(tmp_path / "c.yaml") in said and words in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--deadline", "soon"], "deadline 'soon': neither a duration (90m, 6h30m) nor an ISO 8601 time"),
        (["--deadline", "1999-12-31"], "deadline '1999-12-31' has passed"),
        (["--run-id", "r", "--resume", "last"], "--run-id and --resume last name two runs: give one of them"),
    ],
)
def test_options_that_make_no_sense(
    media: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    """A deadline that nobody can mean, or two runs at once, is exit code 2 and begins nothing."""
    assert call("scan", media, "--out", tmp_path / "out", *options).exit_code == 2
    assert_one_clear_line(capfd.readouterr().err, words)
    assert not (tmp_path / "out").exists()


def test_a_bad_run_id_is_wrong_usage(media: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A run id that is no file name is exit code 2."""
    assert call("scan", media, "--out", tmp_path / "out", "--run-id", "a/b").exit_code == 2
    assert "run id 'a/b': letters, digits" in capfd.readouterr().err


# --- could not run: exit code 1 -------------------------------------------------------------------------------------


def unstamped(logged: str) -> list[str]:
    """Return the lines that a scan logged, without their times and levels."""
    return [re.sub(r"^\d{4}-\S+Z (?:INFO|WARNING|ERROR) +", "", line, count=1) for line in logged.splitlines()]


def assert_one_clear_line(said: str, words: str) -> None:
    [line] = unstamped(said)
    assert line.startswith("nsfwscan: ") and words in line, said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "OUT", "/absent"], "/absent: no such file or directory"),
        (["--out", "OUT", "MEDIA", "--include", "*.png"], "the sources list no object"),
        (["--out", "FILE/out", "MEDIA"], "FILE/out"),
        (["--out", "OUT", "MEDIA", "--model", "/absent"], "/absent: no such model directory"),
        (["--out", "OUT", "MEDIA", "--model", "embedded:x"], "no embedded model 'embedded:x'"),
        (["--out", "OUT", "MEDIA", "--policy", "/absent"], "cannot read the policy /absent"),
        (["--out", "OUT", "MEDIA", "--truth", "/absent.csv"], "cannot read the truth file /absent.csv"),
        (["--out", "OUT", "nosuch://bucket/"], "cannot read nosuch:// URIs"),
        (["--out", "OUT", "MEDIA", "--address", "127.0.0.1:1"], "cannot reach Ray at 127.0.0.1:1"),
    ],
)
def test_a_broken_set_up_is_one_clear_line(
    media: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    """What keeps a scan from running is one line that names it, exit code 1, no traceback and nothing committed."""
    without_ray(monkeypatch)
    (tmp_path / "file").touch()
    places = {"MEDIA": media, "OUT": tmp_path / "out", "FILE/out": tmp_path / "file" / "out"}
    done = call("scan", *(places.get(word, word) for word in arguments))
    said = [line for line in unstamped(capfd.readouterr().err) if not line.startswith(("model ", "listed "))]
    assert (done.exit_code, done.stdout) == (1, "")
    assert_one_clear_line("\n".join(said), str(places.get(words, words)))
    assert not list(tmp_path.rglob("_SUCCESS"))


def test_in_a_real_shell(tmp_path: Path) -> None:
    """Standard output stays empty, standard error has the line, and the exit status is 1; Ray is not started for it."""
    done = in_a_shell("scan", "/absent", "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert unstamped(done.stderr)[-1] == "nsfwscan: /absent: no such file or directory"
    assert "Traceback" not in done.stderr


def test_verbose_shows_the_traceback(tmp_path: Path) -> None:
    """With --verbose the traceback comes before the line, for whoever mends it."""
    done = call("scan", "/absent", "--out", tmp_path / "out", "--verbose")
    assert done.exit_code == 1
    assert "SourceError" in done.stderr
    assert unstamped(done.stderr)[-1] == "nsfwscan: /absent: no such file or directory"


def test_an_interrupted_scan_says_how_to_go_on(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C is no traceback but the hint that the same command goes on, and the run is not held any more."""

    def interrupted(job: Job, shards: Sequence[Shard], deadline: Deadline, **_: object) -> Iterator[ShardResult]:
        yield from engine()(job, shards[:0], deadline)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(nsfwscan.execution.choose, "choose_executor", interrupted)
        done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
    assert done.exit_code == 1
    assert (
        "nsfwscan: interrupted; the same command with --resume last goes on where it stopped" in capfd.readouterr().err
    )
    without_ray(monkeypatch)
    assert call("scan", media, "--out", tmp_path / "out", "--run-id", "r").exit_code == 0


# --- scans ----------------------------------------------------------------------------------------------------------


def test_a_scan_is_described(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The result goes to standard output, the progress to standard error; the same again says that it was done."""
    without_ray(monkeypatch)
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
    assert done.exit_code == 0
    assert done.stdout.startswith("committed: run r\n\n  4 listed = 4 scored")
    assert "Open it in DuckDB:" in done.stdout
    assert [line.split()[0] for line in unstamped(capfd.readouterr().err)] == [
        "model",
        "listed",
        "scanned",
        "committing",
    ]
    again = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
    assert (again.exit_code, again.stdout.splitlines()[0]) == (0, "already committed: run r")


def test_a_scan_as_json(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One object on standard output, however the scan ends; all else is on standard error."""
    without_ray(monkeypatch)
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r", "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["exit_code"], told["state"], told["run_id"]) == (0, 0, "committed", "r")
    assert told["balance"]["listed"] == told["objects"] == 4 and told["already_committed"] is False
    assert [Path(file).is_file() for file in told["report_files"]] == [True]
    assert (told["changes"], told["decisions"]) == (None, {"allow": 4})
    again = json.loads(call("scan", media, "--out", tmp_path / "out", "--run-id", "r", "--json").stdout)
    assert again == {**told, "already_committed": True}
    without_ray(monkeypatch, lost=1)
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "s", "--json", "--full")
    assert done.exit_code == 3 and json.loads(done.stdout)["exit_code"] == 3
    assert "was never finished" in json.loads(done.stdout)["error"] and "was never finished" in capfd.readouterr().err
    done = call("scan", media, "--out", tmp_path / "out", "--json", "--explain")
    assert done.exit_code == 2 and "--explain prints a table" in json.loads(done.stdout)["error"]


def test_over_the_error_rate_is_exit_4(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A committed report with too many unreadable images is exit code 4, the first time and again."""
    without_ray(monkeypatch, lambda uri: staged_row(uri, status="ok" if uri.endswith("0000.jpg") else "timeout"))
    for head in ("committed", "already committed"):
        done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
        assert done.exit_code == 4
        reason = "3 images could not be read: 75.0%, over --max-error-rate 5.0%"
        assert done.stdout.splitlines()[0] == f"{head}: run r — {reason}"


def test_nothing_scored_is_exit_5(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night in which no object has a score is exit code 5, unless a source may be without images."""
    without_ray(monkeypatch, lambda uri: staged_row(uri, status="unsupported", error="looks like a ZIP archive"))
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
    assert done.exit_code == 5
    reason = "nothing could be scored: 4 of 4 objects: looks like a ZIP archive"
    assert done.stdout.splitlines()[0] == f"committed: run r — {reason}"
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "s", "--max-unsupported-rate", "1")
    assert done.exit_code == 0


def test_a_report_with_a_hole_is_exit_3(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A report that does not balance is exit code 3 and not committed; its run is listed as failed."""
    without_ray(monkeypatch, lost=1)
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "nsfwscan: shard 00000-0000 (4 objects) was never finished" in capfd.readouterr().err
    line = call("runs", tmp_path / "out").stdout
    assert line.startswith("r  failed     ") and "0 of 4 objects done  did not balance; see failure.json" in line


def test_a_run_that_is_alive_is_exit_1(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A second scan of a run that is at work is refused, with who is at it."""
    without_ray(monkeypatch)
    run, _ = begun(tmp_path / "out", ["/a"], run_id="r")
    with run.lease():
        done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
    assert done.exit_code == 1
    assert "run r is alive: process" in capfd.readouterr().err


def test_out_of_time_is_exit_1_and_resumes(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A scan whose deadline has come stops with exit code 1 and says how to resume; `--resume last` does."""

    def slow(job: Job, shards: Sequence[Shard], deadline: Deadline, **_: object) -> Iterator[ShardResult]:
        yield from engine()(job, shards[:0], deadline)
        deadline.check()
        patch.setattr(Deadline, "left_s", lambda self: 0.0)  # an hour goes by
        deadline.check()

    with monkeypatch.context() as patch:
        patch.setattr(nsfwscan.execution.choose, "choose_executor", slow)
        done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r", "--deadline", "1h")
    said = unstamped(capfd.readouterr().err)
    assert (done.exit_code, done.stdout) == (1, "")
    assert said[-2].startswith("nsfwscan: the deadline (") and said[-2].endswith(") has come")
    assert said[-1].strip() == "0 of 4 objects are done; --run-id r or --resume last goes on from there"
    without_ray(monkeypatch)
    done = call("scan", media, "--out", tmp_path / "out", "--resume", "last")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "committed: run r")
    assert "resuming run r" in capfd.readouterr().err


def test_an_unfinished_run_is_told_of(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A plain command says, before its work, which run over the same sources waits to be resumed."""
    without_ray(monkeypatch)
    with pytest.raises(BalanceError):
        scanned(media, tmp_path / "out", run_id="left", run_shards=lambda job, shards, deadline: ())
    assert call("scan", media, "--out", tmp_path / "out", "--run-id", "new").exit_code == 0
    assert unstamped(capfd.readouterr().err)[0] == (
        "run left over the same sources is failed: 0 of 4 objects done; "
        "--run-id left (the newest: --resume last) goes on with it"
    )


# --- verify and gc --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["local", "s3"])
def reports(request: pytest.FixtureRequest, media: Path, tmp_path: Path) -> Store:
    """A report store, on local disk or S3, with two nights and a run that was cut off after one of its shards."""
    out = str(tmp_path / "out")
    if request.param == "s3":
        request.getfixturevalue("moto")
        bucket = re.sub("[^a-z0-9]+", "-", tmp_path.name.lower()).strip("-")
        boto3.client("s3").create_bucket(Bucket=bucket)
        out = f"s3://{bucket}/reports"
    for run_id in ("1", "2"):
        scanned(media, out, run_id=run_id)
    run, plan = begun(out, ["/a", "/b"], shard_rows=1, run_id="cut-off")
    finished(run, plan.shards[:1])
    return run.store


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


# --- classify -------------------------------------------------------------------------------------------------------


def test_classify_as_json(demo: Demo) -> None:
    """One JSON object a line, in order, for readable and unreadable images alike; exit code 0."""
    paths = [demo[0] / name for name in ("neutral/chelsea.jpg", "broken/notes.jpg", "absent.jpg")]
    done = call("classify", "--json", *paths)
    assert done.exit_code == 0
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["uri"] for row in found] == [str(path) for path in paths]
    assert [row["status"] for row in found] == ["ok", "unsupported", "not_found"]
    assert [len(row["scores"]) for row in found] == [2, 0, 0]
    names = (
        "uri, status, error, scores, nsfw_score, decision, rule, borderline, model, policy, match, filtered_by, "
        "signals, detections"
    )
    assert set(found[0]) == set(names.split(", "))
    assert list(found[0]["scores"]) == ["neutral", "nsfw"] and found[0]["decision"] == "allow"
    assert all(isinstance(row["signals"], dict) for row in found)
    assert found[1]["nsfw_score"] is None and found[1]["decision"] == "undetermined"


def test_classify_for_a_person(demo: Demo) -> None:
    """The ranked distribution as bars, and the reason where there is none."""
    done = call("classify", demo[0] / "neutral" / "chelsea.jpg", demo[0] / "broken" / "empty.jpg")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == str(demo[0] / "neutral" / "chelsea.jpg")
    assert lines[1].startswith("  neutral ") and "█" in lines[1]
    assert lines[-1] == "  unsupported: empty: 0 bytes"


def test_classify_with_a_broken_set_up(demo: Demo) -> None:
    """A model that is not there is one line and exit code 1."""
    done = call("classify", demo[0] / "neutral" / "chelsea.jpg", "--model", "/absent")
    assert (done.exit_code, done.stdout) == (1, "")
    assert_one_clear_line(done.stderr, "/absent: no such model directory")


# --- runs -----------------------------------------------------------------------------------------------------------


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


# --- the rest -------------------------------------------------------------------------------------------------------


def test_version_and_help() -> None:
    """`--version` is the package's, and every command explains itself."""
    assert call("--version").stdout == f"nsfwscan, version {nsfwscan.__version__}\n"
    for command in ("scan", "classify", "runs", "verify", "export", "gc", "doctor", "policy"):
        assert command in call("--help").stdout
        shown = call(command, "-h")
        assert shown.exit_code == 0
        assert shown.stdout.startswith(f"Usage: main {command} [OPTIONS] ")


def test_the_command_is_installed_and_light() -> None:
    """`python -m nsfwscan` is the command, and answers without importing ray or torch."""
    assert in_a_shell("--version").stdout.endswith(f"{nsfwscan.__version__}\n")
    script = (
        "import sys, nsfwscan, nsfwscan.cli.main; print(sorted({'ray', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_public_names() -> None:
    """The package offers `scan`, `explain` and `classify`, and nothing that there is not."""
    assert set(nsfwscan.__all__) == {"__version__", "scan", "explain", "classify"}
    assert callable(nsfwscan.scan) and callable(nsfwscan.explain) and callable(nsfwscan.classify)
    with pytest.raises(AttributeError, match="has no attribute 'scna'"):
        _ = nsfwscan.scna


# --- names from strangers -------------------------------------------------------------------------------------------

_HOSTILE = [
    "esc\x1b[2J\x1b]0;owned\x07.jpg",
    "bidi\u202egpj.exe",
    "line\nnsfwscan: all is well",
    "c1\x9b31m",
    "cr\rover",
]


def is_harmless(shown: str) -> bool:
    """Return whether a terminal would do no more with it than start lines of ours."""
    return all(line.isprintable() and not line.startswith("nsfwscan: all is well") for line in shown.split("\n"))


@pytest.mark.parametrize("name", [_HOSTILE[0], *(pytest.param(name, marks=pytest.mark.long) for name in _HOSTILE[1:])])
def test_names_do_not_act_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """Escape sequences, overrides of direction and newlines in a name are shown, in results, errors and tracebacks."""
    media = tmp_path / "media"
    media.mkdir()
    (media / name).write_bytes(b"no image")
    without_ray(monkeypatch, lambda uri: staged_row(uri, status="fetch_error", error=f"cannot read {uri}"))
    absent = tmp_path / f"absent{name}"
    manifest = tmp_path / f"manifest{name}.jsonl"
    manifest.write_text('{"size": 3}\n')
    calls: list[list[str | Path]] = [
        ["scan", media, "--out", tmp_path / "out", "--run-id", "r"],
        ["scan", absent, "--out", tmp_path / "out"],
        ["scan", absent, "--out", tmp_path / "out", "--verbose"],
        ["scan", manifest, "--out", tmp_path / "out"],
        ["scan", media, "--out", media / name],
        ["classify", media / name, absent],
        ["doctor", media, absent, "--out", media / name],
        ["runs", media / name],
        ["runs", tmp_path / f"absent{name}"],
    ]
    for arguments in calls:
        shown = call(*arguments).output + capfd.readouterr().err  # the scan's messages go past Python
        assert is_harmless(shown), (arguments, shown)
        escaped = name.encode("unicode_escape").decode()
        said = re.sub(r"(?m)^\S+Z (?:INFO   |WARNING|ERROR  ) ", "", shown)  # the rest of a message is indented
        assert escaped in said or escaped.replace("\\n", "\n  ") in said, (arguments, shown)


# Hash banks


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank of one digest, and of something that is none."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a,b.txt"
    path.write_text(f"sha256 {'a' * 64}\nsha256 x\n")
    return path


def test_banks_of_a_scan_and_of_a_match(
    media: Path, tmp_path: Path, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--bank` names it, with its settings behind commas; malformed entries and matches are told."""
    without_ray(monkeypatch, lambda uri: staged_row(uri, sha256="a" * 64))
    option = f"csam={bank},kind=illegal,distance=20,quality=60"
    shown = call("scan", media, "--out", tmp_path / "out", "--run-id", "one", "--bank", option)
    assert shown.exit_code == 0, shown.output
    [recorded] = Run(Store.at(str(tmp_path / "out"), StorageConfig()), "one").record().banks
    assert recorded.model_dump(include={"name", "uri", "kind", "distance", "quality", "malformed"}) == {
        "name": "csam",
        "uri": str(bank),
        "kind": "illegal",
        "distance": 20,
        "quality": 60,
        "malformed": 1,
    }
    assert "csam: 1 malformed entries, e.g. line 2: 'x' is not 64 hex digits" in shown.stdout
    matched = call("match", tmp_path / "out", "--bank", option, "--run-id", "two", "--policy", "binary")
    assert matched.exit_code == 0, matched.output
    assert "looked at  4 objects" in matched.stdout and "escalated  4 illegal matches" in matched.stdout
    assert str(media) not in matched.stdout.replace(str(tmp_path / "out"), "")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("x.csv", "is not NAME=URI"),
        ("a=", "is not NAME=URI"),
        ("a=x.csv,kind=evil", "kind"),
        ("a=x.csv,distance=40", "distance"),
        ("a=no-such.csv", "bank a: cannot read"),
    ],
)
def test_a_bank_that_is_wrong(
    media: Path, tmp_path: Path, bank: Path, option: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Said before anything is scanned."""
    shown = call("scan", media, "--out", tmp_path / "out", "--bank", option)
    assert shown.exit_code in (1, 2) and words in shown.output + capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_match_needs_a_bank(tmp_path: Path) -> None:
    """Without one it says how to name one."""
    shown = call("match", tmp_path)
    assert shown.exit_code == 2 and "--bank NAME=URI" in shown.output
