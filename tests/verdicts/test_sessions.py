"""What reviewing cost people is taken in with their verdicts, counts, and loses its names in time."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.review.dealing import PastDecisions
from nsfwscan.review.roster import Roster
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.kept import all_verdicts
from nsfwscan.verdicts.sessions import all_sessions
from nsfwscan.verdicts.standing import standing
from tests.runs.rows import scanned, staged_row
from tests.verdicts.lines import Line, file, line, sha256_of

NOW = datetime.now(UTC)


def session(name: str, day: datetime = NOW, **values: Any) -> Line:
    said = {"session": str(uuid.uuid5(uuid.NAMESPACE_URL, name)), "pack": "p", "run_id": "1", "reviewer": "ann"}
    counted = {"items": 9, "decided": 3, "unopened": 2, "opens": 4, "seconds": 60.0, "breaks": [], "changes": []}
    at = day.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {**said, "day": at[:10], **counted, "at": at, **values}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a night over two files, and old and new verdicts and sessions of two people."""
    folder = tmp_path_factory.mktemp("sessions")
    (folder / "media").mkdir()
    for name in ("a", "b"):
        (folder / "media" / f"{name}.jpg").write_bytes(name.encode())
    scanned(folder / "media", folder / "out", lambda uri: staged_row(uri, sha256=sha256_of(Path(uri).stem)), run_id="1")
    old = (NOW - timedelta(100)).isoformat()
    lines = [
        line("1", "a", "remove", decided_at=old),
        line("2", "a", "remove", decided_at=old, reviewer="ben"),
        line("3", "b", "approve", decided_at=old, opened=True),
        line("4", "b", "approve", decided_at=(NOW - timedelta(1)).isoformat(), reviewer="ben"),
    ]
    pause = {"at": old, "opens": 20, "seconds": 900.5, "taken": True}
    lines += [session("old", NOW - timedelta(100), breaks=[pause, {**pause, "taken": False}]), session("new", opens=7)]
    done = run("verdicts", "import", folder / "out", file(folder / "v.jsonl", lines))
    assert done.exit_code == 0 and "4 verdicts taken" in done.output and "2 sessions of the page" in done.output
    return folder


def test_sessions_are_taken_in_once_and_count(made: Path) -> None:
    """The latest word on a session counts; opens that no verdict followed fill a person's budget and the summary."""
    store = Store.at(str(made / "out"), StorageConfig())
    again = run("verdicts", "import", made / "out", made / "v.jsonl", "--json")
    assert json.loads(again.stdout) | {"store": ""} == {
        "exit_code": 0, "store": "", "new": 0, "there": 4, "part": None, "strange_runs": 0, "sessions": 0,
        "forgotten": 0,
    }  # fmt: skip
    later = file(made / "later.jsonl", [session("new", NOW + timedelta(seconds=5), opens=9, seconds=120)])
    assert "1 session of the page" in run("verdicts", "import", made / "out", later).output
    rows = {row["day"]: row for row in all_sessions(store).to_pylist()}
    assert [(row["opens"], row["breaks"], row["breaks_refused"]) for _, row in sorted(rows.items())] == [
        (4, 1, 1),
        (9, 0, 0),
    ]
    roster = Roster.of({"reviewers": [{"name": "ann", "opens": 10}]})
    past = PastDecisions.of(all_verdicts(store), roster, NOW, all_sessions(store))
    assert past.opened_today["ann"] == 9
    night = scanned(
        made / "media", made / "out", lambda uri: staged_row(uri, sha256=sha256_of(Path(uri).stem)), run_id="2"
    )
    assert night.record.verdicts is not None and night.record.verdicts.opens == 13
    assert "13 originals opened" in (made / "out" / "runs" / "2" / "summary.html").read_text()


def test_names_are_taken_out_in_time(made: Path) -> None:
    """Of what is older nobody can tell who decided it, nor which verdicts were one person's; what stands is as before, the
    store verifies, and the same files can be imported again."""
    store = Store.at(str(made / "out"), StorageConfig())
    before = standing(store).contents
    told = run("verdicts", "thin", made / "out", "--keep", "90d", "--by", "lee", "--dry-run")
    assert told.output.startswith("3 verdicts and 1 session older than 90d would lose"), told.output
    assert {row["reviewer"] for row in all_verdicts(store).to_pylist()} == {"ann", "ben"}
    assert run("verdicts", "thin", made / "out", "--keep", "90d", "--by", "lee").exit_code == 0
    rows = all_verdicts(store).to_pylist()
    names = [row["reviewer"] for row in rows if row["reviewer"].startswith("former:")]
    assert len(names) == len(set(names)) == 3 and [row["reviewer"] for row in rows if row["reviewer"] == "ben"] == [
        "ben"
    ]
    assert standing(store).contents.equals(before)
    assert "ann" not in {row["reviewer"] for row in all_sessions(store).to_pylist() if row["pack"] == ""}
    checked = run("verify", made / "out")
    assert checked.exit_code == 0, checked.output
    assert run("verdicts", "import", made / "out", made / "v.jsonl").exit_code == 0
    assert run("verdicts", "thin", made / "out", "--keep", "90d", "--by", "lee").output.startswith("0 verdicts")
    assert "by 1 reviewer" in run("verdicts", "list", made / "out").output
    [part] = [path for path in (made / "out" / "sessions").iterdir() if path.stat().st_mtime][:1]
    part.write_bytes(part.read_bytes() + b" ")
    assert run("verify", made / "out").exit_code == 7


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"opens": -1}, "opens: "), ({"day": "May"}, "day: "), ({"reviewer": ""}, "reviewer: "), ({"clicks": 1}, "clicks: an unknown key")],
)  # fmt: skip
def test_a_session_that_is_none_is_refused(made: Path, tmp_path: Path, wrong: Line, said: str) -> None:
    """With its line, and then nothing of the file is taken in."""
    path = file(tmp_path / "v.jsonl", [line("9", "a", "approve"), {**session("x"), **wrong}])
    done = run("verdicts", "import", made / "out", path)
    assert done.exit_code == 1 and f"line 2: {said}" in done.output and "nothing was taken in" in done.output
