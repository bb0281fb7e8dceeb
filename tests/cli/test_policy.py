"""`nsfwscan policy`: findings and figures reach the person, exit codes the shell, names do nothing to the terminal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from tests.runs.rows import Row, files, scanned, staged_row

STRICT: dict[str, Any] = {
    "version": "1",
    "thresholds": {"explicit": 0.7},
    "queues": ["adult", "quality"],
    "rules": [
        {"name": "explicit", "when": "nsfw_score >= $explicit", "decision": "block", "queue": "adult", "severity": 3},
        {"name": "unsure", "when": "nsfw_score >= 0.3", "decision": "review", "queue": "quality", "skill": "calm"},
    ],
    "otherwise": {"decision": "allow"},
}


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["policy", *map(str, arguments)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a run over eight objects: two scores each of 0.1, 0.5, 0.75 and 0.9, but one that was denied."""

    def row(uri: str) -> Row:
        number = int(Path(uri).stem)
        return (
            staged_row(uri, nsfw_score=(0.1, 0.5, 0.75, 0.9)[number % 4])
            if number
            else staged_row(uri, status="denied")
        )

    folder = tmp_path_factory.mktemp("made")
    scanned(files(folder / "media", 8), folder / "out", row, run_id="first", report={"max_error_rate": 1})
    return folder / "out"


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy of that store."""
    return Path(shutil.copytree(made, tmp_path / "out"))


@pytest.fixture
def strict(tmp_path: Path) -> Path:
    return written(tmp_path, STRICT)


def written(folder: Path, policy: dict[str, Any], name: str = "strict") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(policy))
    return path


# check


def test_a_sound_policy(strict: Path) -> None:
    """What it is, that nothing is wrong with it, exit code 0; presets have names."""
    done = call("check", strict)
    assert done.exit_code == 0
    assert done.output.startswith("policy strict@") and "version 1: 2 rules, 1 threshold\n" in done.output
    assert done.output.endswith("nothing is wrong\n")
    assert call("check", "open-nsfw").exit_code == 0


def test_findings_are_an_exit_code(tmp_path: Path) -> None:
    """Each is a line; 1 if there is any."""
    turned = {**STRICT, "rules": STRICT["rules"][::-1], "thresholds": {"explicit": 0.7, "other": 1}}
    done = call("check", written(tmp_path, turned))
    assert done.exit_code == 1
    assert "wrong: rule 'explicit' is never reached: 'unsure' before it takes every row" in done.output
    assert "wrong: threshold 'other' is named by no rule" in done.output and "findings: 2\n" in done.output


@pytest.mark.parametrize("run", ["out", "out/runs/first"])
def test_counts_on_a_run(out: Path, strict: Path, run: str) -> None:
    """What each rule matches and decides, what falls through, which rules overlap: on a store's newest run, or on one."""
    done = call("check", strict, "--on", out.parent / run)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert ["explicit", "4", "4", "50.0%"] in lines and ["unsure", "6", "2", "25.0%"] in lines
    assert ["otherwise", "1", "12.5%"] in lines and ["no-score", "1", "12.5%"] in lines
    assert "gaps: 1 rows that no rule matches fall to 'otherwise'; 1 without a score to the guard" in done.output
    assert ["explicit", "4"] in lines and ["unsure", "4", "6"] in lines


def test_rules_that_decide_nothing_on_a_run(tmp_path: Path, out: Path) -> None:
    """What the text does not show, real rows do; many rules are told pair by pair."""
    rules = [
        {"name": f"r{i:02}", "when": f"nsfw_score > 0.{i} or label = 'porn'", "decision": "review"} for i in range(8)
    ]
    rules += [
        {"name": f"s{i}", "when": f"label = 'nsfw' and frames is null and size > {i}", "decision": "block"}
        for i in range(8)
    ]
    done = call("check", written(tmp_path, {**STRICT, "thresholds": {}, "queues": [], "rules": rules}), "--on", out)
    assert done.exit_code == 1
    assert "wrong: rule 's0' matches rows (4) and decides none: they go to 'r00' and 'r01'" in done.output
    assert ["4", "r00,", "s0"] in [line.split() for line in done.output.splitlines()]


def test_what_is_no_policy_or_no_run(tmp_path: Path, out: Path, strict: Path) -> None:
    """A message that says what to do, and exit code 1."""
    done = call("check", written(tmp_path, {**STRICT, "thresholds": {}}, "bad"))
    assert done.exit_code == 1 and "there is no threshold $explicit" in done.stderr
    assert call("check", strict, "--on", tmp_path / "nowhere").exit_code == 1
    (out / "runs/first/_SUCCESS").unlink()
    done = call("check", strict, "--on", out / "runs/first")
    assert done.exit_code == 1 and "is not committed" in done.stderr


def test_names_do_nothing_to_the_terminal(tmp_path: Path, out: Path) -> None:
    """Rules, queues and objects are called what strangers like."""
    evil = "\x1b[2Jx\n\u202e"
    rule = {"name": evil, "when": "nsfw_score >= 0.5", "decision": "review", "queue": evil, "skill": evil}
    policy = written(
        tmp_path, {**STRICT, "name": evil, "thresholds": {}, "queues": [], "rules": [rule, {**rule, "name": "b"}]}
    )
    for done in (call("check", policy, "--on", out), call("replay", out, "--policy", policy)):
        assert "\x1b" not in done.output and "\u202e" not in done.output and "\\x1b[2Jx" in done.output


# replay


def test_a_replay_tells_what_would_change(out: Path, strict: Path, tmp_path: Path) -> None:
    """Moves with examples, loads before and after; as JSON, too. Nothing is written into the store."""
    before = sorted(out.rglob("*"))
    done = call("replay", out, "--policy", strict, "--json", tmp_path / "moves.json")
    assert done.exit_code == 0, done.output
    assert sorted(out.rglob("*")) == before
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert lines[0].startswith("replay of run first: 8 rows under strict@") and "moves: 2 (25.0% of the rows)" in lines
    at = lines.index("2 review → block")
    assert sorted(Path(line).name for line in lines[at + 1 : at + 3]) == ["0002.jpg", "0006.jpg"]
    assert "block 2 4 +2" in lines and "quality 0 2 +2" in lines and "adult 6 4 -2" in lines and "calm 0 2 +2" in lines
    found = json.loads((tmp_path / "moves.json").read_text())
    assert (found["run_id"], found["rows"], found["moved"]) == ("first", 8, 2)
    assert {entry["value"]: entry["after"] for entry in found["queue"]} == {
        None: 1,
        "adult": 4,
        "quality": 2,
        "undetermined": 1,
        "ingest": 0,
    }


def test_a_replay_as_json(out: Path, strict: Path) -> None:
    """Without a file, --json prints the changes, and the run that --commit wrote, as one object."""
    told = json.loads(call("replay", out, "--policy", strict, "--json").stdout)
    assert (told["run_id"], told["moved"], told["committed"]) == ("first", 2, None)
    done = call("replay", out, "--policy", strict, "--commit", "--run-id", "second", "--json")
    committed = json.loads(done.stdout)["committed"]
    assert (committed["run_id"], committed["kind"], committed["parent"]) == ("second", "replay", "first")
    done = call("replay", out / "absent", "--policy", strict, "--json")
    assert done.exit_code == 1 and json.loads(done.stdout)["exit_code"] == 1


def test_a_replay_is_committed(out: Path, strict: Path) -> None:
    """It says what a scan says; `runs` and `verify` know it; the same again says that it is done."""
    done = call("replay", out / "runs/first", "--policy", strict, "--commit", "--run-id", "second")
    assert done.exit_code == 0, done.output
    assert "\ncommitted: run second" in done.output and "8 carried" in done.output
    record = json.loads((out / "runs/second/run.json").read_text())
    assert (record["kind"], record["parent"]["run_id"], record["config"]["policy"]) == ("replay", "first", str(strict))
    assert "replay of first" in CliRunner().invoke(main, ["runs", str(out)]).output
    assert CliRunner().invoke(main, ["verify", str(out)]).exit_code == 0
    again = call("replay", out / "runs/first", "--policy", strict, "--commit", "--run-id", "second")
    assert again.exit_code == 0 and "already committed: run second" in again.output


def test_a_delta_says_that_it_is_one(made: Path, out: Path, strict: Path) -> None:
    """Its report does not hold all that was listed: counts are of what it holds."""
    scanned(made.parent / "media", out, run_id="tonight", report={"mode": "delta", "max_error_rate": 1})
    for done in (call("replay", out, "--policy", strict), call("check", strict, "--on", out)):
        assert "run tonight is a delta: these are the rows that it holds, not all 8 that it listed" in done.output
    assert "is a delta" not in call("replay", out / "runs/first", "--policy", strict).output


def test_a_run_id_is_of_a_commit(out: Path, strict: Path, tmp_path: Path) -> None:
    """Without --commit there is nothing to name; a file that cannot be written is wrong usage, too."""
    done = call("replay", out, "--policy", strict, "--run-id", "second")
    assert done.exit_code == 2 and "--run-id names the run that --commit writes" in done.stderr
    done = call("replay", out, "--policy", strict, "--json", tmp_path / "no" / "such" / "folder.json")
    assert done.exit_code == 2 and "cannot write" in done.stderr


def test_the_error_rate_stays_an_exit_code(tmp_path: Path, strict: Path) -> None:
    """A replay of a run that exited 4 exits 4: as much is missing from it."""
    media = files(tmp_path / "media", 4)
    scanned(
        media,
        tmp_path / "out",
        lambda uri: staged_row(uri, status="ok" if uri.endswith("0000.jpg") else "denied"),
        run_id="first",
    )
    done = call("replay", tmp_path / "out", "--policy", strict, "--commit")
    assert done.exit_code == 4 and "could not be read" in done.output


def test_help_names_the_commands() -> None:
    """`nsfwscan policy` says what there is."""
    done = call("--help")
    assert done.exit_code == 0 and "check" in done.output and "replay" in done.output
