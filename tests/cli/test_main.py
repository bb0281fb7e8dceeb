"""The command line: options reach the configuration, results and errors reach the person, exit codes the shell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import Result
from PIL import Image

import nsfwscan
import nsfwscan.execution.choose
from nsfwscan.config import StorageConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.pipeline import Job
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult
from nsfwscan.storage.store import Store
from nsfwscan.workflows.cost import PRICES
from tests.cli.commands import assert_one_clear_line, call, record, unstamped, without_ray
from tests.runs.rows import engine, staged_row

Demo = tuple[Path, list[DemoObject]]


Cli = Callable[..., Result]


def in_a_shell(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nsfwscan", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# options


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


# wrong usage: exit code 2


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


# could not run: exit code 1


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


@pytest.mark.long
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


# classify


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
        "signals, detections, lines"
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


def test_classify_says_what_a_list_finds(tmp_path: Path) -> None:
    """Whoever keeps a list of hosts or patterns tries it on a picture, without a scan."""
    zxingcpp = pytest.importorskip("zxingcpp")
    code = zxingcpp.create_barcode("https://sub.evil.example/x", zxingcpp.BarcodeFormat.QRCode)
    Image.fromarray(np.asarray(code.to_image(scale=4))).convert("RGB").save(tmp_path / "code.png")
    (tmp_path / "hosts.txt").write_text("evil.example\n")
    done = call(
        "classify", "--json", "--detector", "link", "--block-hosts", tmp_path / "hosts.txt", tmp_path / "code.png"
    )
    assert json.loads(done.stdout)["signals"]["link.blocked"] == 1.0


def test_classify_with_a_broken_set_up(demo: Demo) -> None:
    """A model that is not there is one line and exit code 1."""
    done = call("classify", demo[0] / "neutral" / "chelsea.jpg", "--model", "/absent")
    assert (done.exit_code, done.stdout) == (1, "")
    assert_one_clear_line(done.stderr, "/absent: no such model directory")


# the rest


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


# names from strangers


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
