"""Commands in this process, and what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import nsfwscan
import nsfwscan.execution.choose
from nsfwscan.cli.main import main
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.pipeline import Job
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.staging import ShardResult
from tests.runs.rows import Row, engine, staged_row


def without_ray(monkeypatch: pytest.MonkeyPatch, row: Callable[[str], Row] = staged_row, lost: int = 0) -> None:
    """Put made-up rows in the place of a Ray; `lost` shards are passed over."""

    def run_shards(job: Job, shards: Sequence[Shard], deadline: Deadline, **_: object) -> Iterator[ShardResult]:
        yield from engine(row)(job, shards[lost:], deadline)

    monkeypatch.setattr(nsfwscan.execution.choose, "choose_executor", run_shards)


def call(*arguments: str | Path) -> Result:
    """One command, in this process; what goes past Python to standard error is not in its result."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def record(out: Path, run_id: str = "r") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "runs" / run_id / "run.json").read_text())
    return found


def unstamped(logged: str) -> list[str]:
    """Return the lines that a scan logged, without their times and levels."""
    return [re.sub(r"^\d{4}-\S+Z (?:INFO|WARNING|ERROR) +", "", line, count=1) for line in logged.splitlines()]


def assert_one_clear_line(said: str, words: str) -> None:
    [line] = unstamped(said)
    assert line.startswith("nsfwscan: ") and words in line, said
