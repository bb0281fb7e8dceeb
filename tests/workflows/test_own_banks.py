"""What people decided becomes entries of a store's own banks, labels, the words of others, and plans of what to hide."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from nsfwscan.banks.bank import resolve_banks
from nsfwscan.banks.matcher import BankSet
from nsfwscan.cli.main import main
from nsfwscan.config import BankConfig, StorageConfig
from nsfwscan.errors import BankError
from nsfwscan.schema import Category
from nsfwscan.verdicts.exchange import label_of
from tests.runs.rows import ILLEGAL_MATCH, Row, scanned, staged_row
from tests.verdicts.lines import file, line

NAMES = {"bad": 0.2, "worse": 0.9, "fine": 0.95, "flat": 0.6, "known": 0.9}


def sha256(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def row(uri: str) -> Row:
    name = Path(uri).stem
    match = {**ILLEGAL_MATCH, "match_bank": "csam"}
    pdq = hashlib.sha256(b"pdq" + name.encode()).hexdigest()
    found = staged_row(
        uri, nsfw_score=NAMES[name], sha256=sha256(name), pdq=pdq, pdq_quality=10 if name == "flat" else 90
    )
    return {**found, **(match if name == "known" else {})}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which people removed two contents, approved one, and removed one that matches an illegal bank."""
    folder = tmp_path_factory.mktemp("banks")
    (folder / "media").mkdir()
    for name in NAMES:
        (folder / "media" / f"{name}.jpg").write_bytes(name.encode())
    scanned(folder / "media", folder / "out", row, run_id="1")
    said = {"bad": "remove", "worse": "remove", "flat": "remove", "fine": "approve", "known": "remove"}
    lines = [line(n, n, v, sha256=sha256(n), category="porn" if v == "remove" else "") for n, v in said.items()]
    assert run("verdicts", "import", folder / "out", file(folder / "v.jsonl", lines)).exit_code == 0
    return folder


def confirmed(folder: Path, name: str, kind: str, *more: object) -> Result:
    return run("banks", "confirm", folder / "out", name, "--kind", kind, "--by", "Lee", "--reason", "weekly", *more)


def bank(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(one) for one in (folder / "out" / "banks" / f"{name}.jsonl").read_text().splitlines()]


def test_what_people_decided_becomes_a_bank(folder: Path) -> None:
    """Each entry says who, when, why and by which verdicts; what matches an illegal bank enters none; again adds nothing;
    what is retracted stays there, disabled; a scan by the bank finds what is active."""
    assert "3 entries added, 3 active; 1 content left out" in confirmed(folder, "removed", "block").output
    assert "0 entries added, 3 active" in confirmed(folder, "removed", "block").output
    found = {entry["sha256"]: entry for entry in bank(folder, "removed")}
    assert found.keys() == {sha256("bad"), sha256("worse"), sha256("flat")}
    one = found[sha256("bad")]
    assert (one["confirmed_by"], one["confirmed_for"], one["tags"], len(one["from"])) == ("Lee", "weekly", ["porn"], 1)
    assert "pdq" in one and "pdq" not in found[sha256("flat")]
    out = run(
        "banks", "retract", folder / "out", "removed", "--by", "Kim", "--reason", "wrong", "--sha256", sha256("bad")
    )
    assert "1 entry retracted, 2 active" in out.output
    assert [e["retracted_by"] for e in bank(folder, "removed") if "retracted_by" in e] == ["Kim"]
    config = BankConfig.of({"name": "removed", "uri": str(folder / "out" / "banks" / "removed.jsonl")})
    [spec] = resolve_banks((config,), StorageConfig())
    assert (spec.entries["sha256"], spec.entries["pdq"], spec.passed_over["disabled"]) == (2, 1, 2)
    again = confirmed(folder, "removed", "block").output
    assert "0 entries added, 2 active" in again and "1 content not added: retracted" in again
    by_name = confirmed(folder, "removed", "block", "--sha256", sha256("bad")).output
    assert "1 entry added, 3 active" in by_name and "not added" not in by_name


def test_a_retracted_entry_comes_back_by_a_new_verdict_alone(folder: Path, tmp_path: Path) -> None:
    """A weekly `confirm` does not undo a retraction; when somebody removes the content once more, it does. A bank of which
    all is retracted matches nothing, and stops no scan."""
    confirmed(folder, "weekly", "block")
    gone = [word for name in ("bad", "worse", "flat") for word in ("--sha256", sha256(name))]
    run("banks", "retract", folder / "out", "weekly", "--by", "Kim", "--reason", "wrong", *gone)
    config = BankConfig.of({"name": "weekly", "uri": str(folder / "out" / "banks" / "weekly.jsonl")})
    [spec] = resolve_banks((config,), StorageConfig())
    assert "no hash; 5 disabled" in spec.describe() and not any(spec.entries.values())
    looked_up = pa.table({"sha256": [sha256("bad")], "md5": ["0" * 32], "pdq": ["0" * 64], "pdq_quality": [90]})
    assert BankSet((spec,), StorageConfig()).match(looked_up)["match_bank"].to_pylist() == [None]
    assert "0 entries added, 0 active" in confirmed(folder, "weekly", "block").output
    lines = [line("again", "bad", "remove", sha256=sha256("bad"), reviewer="zoe")]
    assert run("verdicts", "import", folder / "out", file(tmp_path / "v.jsonl", lines)).exit_code == 0
    assert "1 entry added, 1 active" in confirmed(folder, "weekly", "block").output


def test_no_ones_word_makes_illegal(folder: Path) -> None:
    """Neither by the command nor by giving the file as an illegal bank; nor does a bank of one kind become another."""
    assert confirmed(folder, "x", "illegal").exit_code == 2
    assert confirmed(folder, "good", "allow").exit_code == 0
    for kind in ("illegal", "block"):
        config = BankConfig.of({"name": "good", "uri": str(folder / "out" / "banks" / "good.jsonl"), "kind": kind})
        with pytest.raises(BankError, match=f"confirmed as a bank of kind allow .* cannot be {kind}"):
            resolve_banks((config,), StorageConfig())
    assert "is of kind allow, not negative" in confirmed(folder, "good", "negative").output
    assert "the verdict on it is not approve" in confirmed(folder, "other", "allow", "--sha256", sha256("bad")).output
    assert "is no name of a bank" in confirmed(folder, "../x", "allow").output


def test_verdicts_in_other_words(folder: Path) -> None:
    """Labels with the hardest first and none of illegal content; descriptors that a bank reads; Coop's callbacks."""
    out = folder / "labels.jsonl"
    assert run("verdicts", "export", folder / "out", "--format", "labels", "--out", out).exit_code == 0
    labels = [json.loads(one) for one in out.read_text().splitlines()]
    assert [(Path(one["uri"]).stem, one["verdict"]) for one in labels] == [
        ("fine", "neutral"),
        ("bad", "porn"),
        ("flat", "porn"),
        ("worse", "porn"),
    ]
    from training.data.tables import kind_of, read_labels

    assert kind_of(str(out), StorageConfig()) == "verdicts"
    assert next(read_labels(str(out), StorageConfig(), {}, "verdict")).label == Category.NEUTRAL
    assert (
        run("verdicts", "export", folder / "out", "--format", "threatexchange", "--out", folder / "te.jsonl").exit_code
        == 0
    )
    [spec] = resolve_banks((BankConfig.of({"name": "te", "uri": str(folder / "te.jsonl")}),), StorageConfig())
    assert spec.entries["sha256"] == 4 and spec.entries["pdq"] == 4  # not the one that was approved
    shown = run("verdicts", "export", folder / "out", "--format", "coop", "--out", "-")
    first = json.loads(shown.stdout.splitlines()[0])
    assert (first["item"]["typeId"] == "image" and first["action"] == {"id": "remove"}) or first["action"][
        "id"
    ] == "approve"


def test_labels_of_words() -> None:
    """A category that no model has is no label; what was approved is neutral, or drawn where it was called so."""
    assert label_of("approve", None) == label_of("approve", "porn") == Category.NEUTRAL
    assert (label_of("approve", "drawings"), label_of("remove", "hentai")) == (Category.DRAWINGS, Category.HENTAI)
    assert label_of("remove", "gore") is label_of("remove", "neutral") is label_of("disputed", "porn") is None


def test_a_plan_of_what_to_hide(folder: Path) -> None:
    """One line an object, with its version, hashes, reason and run; the condition reaches the report alone."""
    given = ["--where", "decision = 'block' AND signals['x'] IS NULL", "--reason", "rule 7", "--out"]
    done = run("quarantine", folder / "out", *given, folder / "plan.jsonl")
    assert done.exit_code == 0 and "nothing was touched" in done.output, done.output
    plan = [json.loads(one) for one in (folder / "plan.jsonl").read_text().splitlines()]
    assert [Path(one["uri"]).stem for one in plan] == ["fine", "worse"]
    assert plan[0]["action"] == "quarantine" and plan[0]["sha256"] == sha256("fine") and plan[0]["reason"] == "rule 7"
    assert plan[0]["run_id"] == "1" and len(plan[0]["run_sha256"]) == 64 and "modified_at" in plan[0]["version"]
    assert "--by is missing" in run("quarantine", folder / "out", *given, "-", "--hold").output
    held = run(
        "quarantine",
        folder / "out",
        "--where",
        "match_kind = 'illegal'",
        "--reason",
        "case 7",
        "--hold",
        "--by",
        "L",
        "--out",
        "-",
    )
    assert [json.loads(one)["action"] for one in held.stdout.splitlines()] == ["hold"]
    wrong = run("quarantine", folder / "out", "--where", "no_such = 1", "--reason", "x", "--out", folder / "no.jsonl")
    assert wrong.exit_code == 2 and "no_such" in wrong.output and not (folder / "no.jsonl").exists()
