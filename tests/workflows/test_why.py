"""`why` explains one object's decision from the records, and says in which runs something of it changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.errors import StoreError
from nsfwscan.runs.run import Run
from nsfwscan.storage.store import Store
from nsfwscan.workflows.why import Why, explain_object
from tests.runs.rows import Row, scanned, staged_row

ODD = "b\n\x1b[2J.jpg"


def policy(folder: Path, name: str, limit: float, over: float | None = None) -> str:
    rules = [
        {"name": "small", "when": "width < 5", "decision": "review"},
        {"name": "explicit", "when": "nsfw_score >= $explicit", "decision": "block", "queue": "adult", "severity": 3},
    ]
    said: dict[str, Any] = {"version": name, "thresholds": {"explicit": limit}, "rules": rules}
    said["otherwise"] = {"decision": "allow"}
    if over is not None:
        said["overrides"] = [{"source": f"{folder}/media", "thresholds": {"explicit": over}}]
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(said))
    return str(folder / f"{name}.yaml")


def row(uri: str) -> Row:
    signals = {
        "c2pa.invalid": 1.0,
        "c2pa.invalid.assertion.dataHash.mismatch": 1.0,
        "gate.nudity": 0.0,
        "nudity.FACE": 0.5,
    }
    return staged_row(
        uri, nsfw_score=0.7, sha256=hashlib.sha256(uri.encode()).hexdigest(), signals=list(signals.items())
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nights: a lax policy; one whose override blocks; and a delta, of which one object is gone."""
    folder = tmp_path_factory.mktemp("nights")
    media = folder / "media"
    media.mkdir()
    for name in ("a.jpg", ODD, "gone.jpg"):
        (media / name).write_bytes(name.encode())
    out, lax, strict = folder / "out", policy(folder, "lax", 0.9), policy(folder, "strict", 0.8, 0.5)
    scanned(media, out, row, run_id="1", policy=lax)
    scanned(media, out, row, run_id="2", policy=strict)
    (media / "gone.jpg").unlink()
    scanned(media, out, row, run_id="3", policy=strict, report={"mode": "delta"})
    return folder


def why(folder: Path, name: str, run_id: str | None = None) -> Why:
    store = Store.at(str(folder / "out"), StorageConfig())
    return explain_object(store, str(folder / "media" / name), run_id)


@pytest.mark.parametrize("name", ["a.jpg", ODD])
def test_a_decision_is_explained(folder: Path, name: str) -> None:
    """The rule has the number of its override, what it looked at, and what came before; deciding again is the same."""
    # made-up rows of files without an old etag or time are read again on the third night
    found = why(folder, name, "2")
    assert found.outcome["decision"] == "block" and found.policy["version"] == "strict"
    rule = found.rule
    assert (rule["name"], rule["when"], rule["written"]) == (
        "explicit",
        "nsfw_score >= (0.5)",
        "nsfw_score >= $explicit",
    )
    assert rule["overrides"] == [f"source {folder}/media"] and rule["not_true"] == ["small"] and rule["again"] is True
    assert rule["looked_at"]["nsfw_score"] == pytest.approx(0.7) and found.model and found.model["identity"] == "made@0"
    assert [(h["run_id"], h["change"], h["decision"]) for h in found.history][:2] == [
        ("1", "first known", "allow"),
        ("2", "newly_flagged", "block"),
    ]
    assert len(found.history) == 2 and found.history[1]["causes"] == ["policy"]
    newest = why(folder, name)
    assert (newest.run["run_id"], newest.outcome) == ("3", found.outcome)
    assert why(folder, name, "1").rule["name"] == "otherwise"


def test_what_is_gone_or_unknown_is_said(folder: Path, tmp_path: Path) -> None:
    """A deleted object names the run that has it; an unknown one what has its name, and what is no longer there."""
    with pytest.raises(StoreError, match=r"is gone: run 3 did not list it any more.*--run 2 says why"):
        why(folder, "gone.jpg")
    assert why(folder, "gone.jpg", "2").history[-1]["change"] == "deleted"
    shutil.copytree(folder / "out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "runs" / "1")
    store, known = Store.at(str(tmp_path / "out"), StorageConfig()), str(folder / "media" / "a.jpg")
    with pytest.raises(StoreError, match=r"(?s)is in none of the rows.*no longer in the store: 1.*of the same name"):
        explain_object(store, "s3://elsewhere/a.jpg")
    with pytest.raises(StoreError, match="no committed run nine"):
        explain_object(store, known, "nine")
    assert [h["run_id"] for h in explain_object(store, known).history] == ["2"]


def test_only_files_that_may_hold_the_object_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part whose range of URIs does not hold the object is not opened."""
    read = []
    parquet = Run.parquet
    monkeypatch.setattr(Run, "parquet", lambda self, file, *more: read.append(file.path) or parquet(self, file, *more))
    store = Store.at(str(folder / "out"), StorageConfig())
    with pytest.raises(StoreError, match="nothing there has its name"):
        explain_object(store, "/zzz")
    assert len(read) <= 1  # the newest run's, for the name


def test_the_command_prints_it(folder: Path) -> None:
    """As text, in which no name acts on the terminal, and as one JSON object; an unknown object ends with 1."""
    given = ["why", str(folder / "out"), str(folder / "media" / ODD), "--run", "2"]
    text = CliRunner().invoke(main, given)
    assert text.exit_code == 0 and "\x1b" not in text.output and "b\\n\\x1b[2J.jpg" in text.output
    assert (
        "rule           explicit: nsfw_score >= (0.5)" in text.output and "decided again now: the same" in text.output
    )
    assert "signal         c2pa.invalid.assertion.dataHash.mismatch 1" in text.output
    found = json.loads(CliRunner().invoke(main, [*given, "--json"]).stdout)
    assert found["signals"] == {"c2pa.invalid": 1, "c2pa.invalid.assertion.dataHash.mismatch": 1}
    assert found["uri"].endswith(ODD) and found["outcome"]["decision"] == "block"
    assert CliRunner().invoke(main, [*given[:2], "/nowhere"]).exit_code == 1
