"""`diff` compares any two runs: scans, deltas, replays and matches, neighbours or not; and says what moved and why."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, StoreError
from nsfwscan.runs import plan as planning
from nsfwscan.runs.changes import CHANGES_SCHEMA
from nsfwscan.runs.run import Run
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.workflows.diff import Diff, diff_runs
from tests.runs.rows import Row, is_of_schema, scanned, staged_row

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
NAMES = [f"{i:02}.jpg" for i in range(20)]
BROKEN, NEW, GONE = "05.jpg", "99.jpg", "07.jpg"


@pytest.fixture(scope="module", autouse=True)
def _several_ranges(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "RANGE_ROWS", 6)
        patch.setenv("NSFWSCAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def row(uri: str) -> Row:
    """Scores from 0 to 0.95, and one object that cannot be decoded; all carried over on the next night."""
    name = Path(uri).name
    values: dict[str, Any] = {"status": "decode_error"} if name == BROKEN else {"nsfw_score": int(name[:2]) / 20 % 1}
    seen = {"sha256": digest(name), "modified_at": LONG_AGO, "scanned_at": datetime.now(UTC)}
    return staged_row(uri, **values, **seen)


def mended(uri: str) -> Row:
    """Return the same, with the broken object read well."""
    return row(uri) if Path(uri).name != BROKEN else {**staged_row(uri, nsfw_score=0.9), "sha256": digest("mended")}


def add(folder: Path, name: str, size: int = 1000) -> None:
    (folder / "media" / name).write_bytes(b"x" * size)
    os.utime(folder / "media" / name, (LONG_AGO.timestamp(),) * 2)


def policy(folder: Path, limit: float) -> str:
    rules = [
        {"name": "explicit", "when": f"nsfw_score >= {limit}", "decision": "block", "queue": "adult"},
        {"name": "unreadable", "when": "status <> 'ok'", "decision": "undetermined", "queue": "ingest"},
    ]
    path = folder / f"at-{limit}.yaml"
    path.write_text(yaml.safe_dump({"version": "1", "rules": rules, "otherwise": {"decision": "allow"}}))
    return str(path)


def bank(folder: Path, *names: str) -> dict[str, Any]:
    path = folder / "bank.txt"
    path.write_text("".join(f"{digest(name)}\n" for name in names))
    return {"known": {"uri": str(path), "hash": "sha256"}}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four nights: the first; a delta, in which one object came, one went and one could be read; the same with another
    policy, as a delta; and a snapshot with a bank. Then a match with another bank, and a replay of the first night."""
    folder = tmp_path_factory.mktemp("nights")
    (folder / "media").mkdir()
    for name in NAMES:
        add(folder, name)
    out, media, delta = folder / "out", folder / "media", {"mode": "delta"}
    scanned(media, out, row, run_id="1", policy=policy(folder, 0.8))
    add(folder, NEW)
    (media / GONE).unlink()
    add(folder, BROKEN, size=1001)
    scanned(media, out, mended, run_id="2", policy=policy(folder, 0.8), report=delta)
    scanned(media, out, mended, run_id="3", policy=policy(folder, 0.7), report=delta)
    scanned(media, out, mended, run_id="4", policy=policy(folder, 0.7), banks=bank(folder, "01.jpg"))
    found = bank(folder, "02.jpg")["known"]
    assert call("match", out, "--bank", f"fresh={found['uri']},hash=sha256", "--run-id", "m").exit_code == 0
    replayed = call(
        "policy", "replay", out / "runs" / "1", "--policy", policy(folder, 0.5), "--commit", "--run-id", "r"
    )
    assert replayed.exit_code == 0
    return folder


def diff(folder: Path, before: str, now: str, out: str | None = None) -> Diff:
    store = Store.at(str(folder / "out"), StorageConfig())
    return diff_runs(Run(store, before), Run(store, now), out and Output.given(out, StorageConfig(), "--out"))


def moves(found: Diff) -> dict[tuple[str | None, str | None], tuple[dict[str, int], list[str]]]:
    """Causes and samples by decision then and now."""
    told = {
        (then, now): (dict(m.causes), [Path(u).name for u in m.samples]) for (_, then, now), m in found.moves.items()
    }
    assert len(told) == len(found.moves)
    return told


@pytest.mark.long
def test_a_delta_is_laid_over_what_it_rests_on(folder: Path) -> None:
    """All objects of the listing count, and only what moved is told: new, gone, read, each with its cause."""
    found = diff(folder, "1", "2")
    assert found.objects == [20, 20] and found.settings == ()
    assert moves(found) == {
        (None, "block"): ({"listing": 1}, [NEW]),
        ("allow", None): ({"listing": 1}, [GONE]),
        ("undetermined", "block"): ({"content": 1}, [BROKEN]),
    }


def test_runs_that_are_no_neighbours(folder: Path) -> None:
    """Between the first night and the last one stand the causes of all nights between, each object once."""
    found = diff(folder, "1", "4")
    assert moves(found) == {
        (None, "block"): ({"listing": 1}, [NEW]),
        ("allow", None): ({"listing": 1}, [GONE]),
        ("undetermined", "block"): ({"content": 1}, [BROKEN]),
        ("allow", "block"): ({"bank": 1, "policy": 2}, ["01.jpg", "14.jpg", "15.jpg"]),
    }
    assert [one.what for one in found.settings][:3] == ["policy", "rule", "bank"]
    backwards = diff(folder, "4", "1")
    assert {(now, then): causes for (then, now), (causes, _) in moves(backwards).items()} == {
        pair: causes for pair, (causes, _) in moves(found).items()
    }


def test_two_deltas(folder: Path) -> None:
    """Rows that both leave to the first night are no change, and those that only one holds are compared."""
    found = diff(folder, "2", "3")
    assert found.objects == [20, 20] and moves(found) == {("allow", "block"): ({"policy": 2}, ["14.jpg", "15.jpg"])}
    assert diff(folder, "3", "3").changed == 0


def test_a_match_and_a_replay(folder: Path) -> None:
    """A match moves what it matches and nothing else; a replay is compared as a scan."""
    found = diff(folder, "4", "m")
    assert found.objects == [20, 20] and moves(found)[("allow", "block")] == ({"bank": 1}, ["02.jpg"])
    replayed = diff(folder, "1", "r")
    assert replayed.objects == [20, 20]
    assert moves(replayed) == {("allow", "block"): ({"policy": 6}, ["10.jpg", "11.jpg", "12.jpg"])}
    assert {why for causes, _ in moves(diff(folder, "r", "m")).values() for why in causes} >= {"policy", "bank"}


def test_the_file_has_every_change(folder: Path, tmp_path: Path) -> None:
    """As the rows of changes/, in the order of their URIs; one that cannot be written is a clear error."""
    out = tmp_path / "moved.parquet"
    found = diff(folder, "1", "4", str(out))
    table = pq.read_table(out)
    assert is_of_schema(table, CHANGES_SCHEMA) and table.num_rows == found.changed == 6
    assert table["uri"].to_pylist() == sorted(table["uri"].to_pylist())
    assert set(table["previous_run"].to_pylist()) == {"1", None} and oct(out.stat().st_mode)[-3:] == "640"
    diff(folder, "1", "1", str(tmp_path / "none.parquet"))
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    with pytest.raises(ConfigError, match="cannot write"):
        diff(folder, "1", "4", str(tmp_path / "no" / "such.parquet"))
    diff(folder, "1", "4", "memory://moved/all.parquet")
    with fsspec.open("memory://moved/all.parquet") as stored:
        assert pq.read_table(stored).equals(table)


def test_the_command(folder: Path, tmp_path: Path) -> None:
    """Names runs by STORE/runs/ID, or by ids after a STORE; as text and as one JSON object; a lost run stops it."""
    out = folder / "out"
    shown = call("diff", out, "1", "4")
    assert shown.exit_code == 0, shown.output
    for words in (
        "settings that differ:",
        "allow → block  3",
        "by policy 2; bank 1",
        "(not listed) → block  1",
        BROKEN,
    ):
        assert words in shown.stdout, words
    found = json.loads(call("diff", out / "runs" / "1", out / "runs" / "4", "--json").stdout)
    assert (found["before"]["objects"], found["now"]["objects"], found["changed"]) == (20, 20, 6)
    assert found["causes"] == {"policy": 2, "bank": 1, "listing": 2, "content": 1}
    assert {move["objects"] for move in found["moves"]} == {1, 3} and found["settings"][0]["what"] == "policy"
    assert "nothing changed" in call("diff", out, "1", "1").stdout
    assert call("diff", out).exit_code == 2 and call("diff", out, "1", "nine").exit_code == 1
    shutil.copytree(out, tmp_path / "out")
    for path in (tmp_path / "out" / "runs" / "1" / "report").iterdir():
        path.unlink()
    with pytest.raises(StoreError):
        diff(tmp_path, "2", "3")
    assert call("diff", tmp_path / "out", "2", "3").exit_code == 1
