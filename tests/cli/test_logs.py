"""Off a terminal, each line that a scan logs has its time and its level."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from nsfwscan.cli.main import main
from nsfwscan.text import log_line
from tests.runs.rows import files, scanned


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logged")
    Image.new("RGB", (64, 64), "teal").save(folder / "a.png")
    return folder


def test_text(media: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On standard error, errors too, while the result on standard output is as ever."""
    result = CliRunner().invoke(main, ["scan", str(media), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0 and result.stdout.startswith("committed: run ")
    words = [line.split(maxsplit=3) for line in capfd.readouterr().err.splitlines()]
    assert [(level, first) for _, level, first, *_ in words] == [
        ("INFO", first) for first in ("model", "listed", "scanned", "committing")
    ]
    for at, *_ in words:
        assert abs((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()) < 600 and at.endswith("Z")
    failed = CliRunner().invoke(main, ["scan", str(media / "none"), "--out", str(tmp_path / "out")])
    assert failed.exit_code == 1
    assert [line.split(maxsplit=2)[1] for line in capfd.readouterr().err.splitlines()] == ["INFO", "ERROR"]


def test_json(media: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every line of both streams is an object; the last one is the result, or the error."""
    words = ["--out", str(tmp_path / "out"), "--log-format", "json"]
    result = CliRunner().invoke(main, ["scan", str(media), *words])
    logged = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert {one["level"] for one in logged} == {"info"} and json.loads(result.stdout)["state"] == "committed"
    CliRunner().invoke(main, ["scan", str(media / "none"), *words])
    assert [json.loads(line)["level"] for line in capfd.readouterr().err.splitlines()] == ["info", "error"]


def test_several_lines_of_one_message() -> None:
    """Each has its time as text; as JSON they stay one object."""
    assert [line[25:] for line in log_line("text", "error", "a\nb").split("\n")] == ["ERROR   a", "ERROR   b"]
    assert json.loads(log_line("json", "error", "a\nb"))["message"] == "a\nb"


def test_a_reader_that_is_gone(tmp_path: Path) -> None:
    """`nsfwscan … | head` ends with code 1 and no traceback, whatever the command is."""
    scanned(files(tmp_path / "media", 1), tmp_path / "out")
    command = [sys.executable, "-c", "from nsfwscan.cli.main import main; main()", "runs", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == ("", 1)
