"""The page on policies says what its own example does: row by row, and in scans and matches with hash banks."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image
from skimage import data

import nsfwscan
from nsfwscan.cli.main import main
from nsfwscan.config import BankConfig, ScanConfig, StorageConfig
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import parse_policy
from nsfwscan.policy.sql import VISIBLE
from nsfwscan.schema import REPORT_SCHEMA, BankKind, Decision, Shield
from nsfwscan.storage.store import Store
from nsfwscan.workflows.doctor import examine
from nsfwscan.workflows.match import match_store
from nsfwscan.workflows.scan import ScanResult

PAGE = (Path(nsfwscan.__file__).parent / "policy" / "README.md").read_text(encoding="utf-8")
EXAMPLE, _SEATS, BY_NAME, BY_VERDICT = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
ROWS = re.findall(r"^\| `(\{.*?\})` \| (\w+) \| (\w*) ?\| `([\w-]+)` \|$", PAGE, re.MULTILINE)
REPORTED = pa.schema([REPORT_SCHEMA.field(name) for name in VISIBLE.names])
NAMES = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "moon", "page")


@pytest.mark.parametrize(("row", "decision", "queue", "rule"), ROWS)
def test_the_example_decides_as_its_table_says(row: str, decision: str, queue: str, rule: str) -> None:
    """Each row of the table, but that the spot check takes its thousandth."""
    given = {"uri": "s3://media/a.jpg", "status": "ok", **yaml.safe_load(row)}
    decide = Decider(parse_policy({"name": "page", **yaml.safe_load(EXAMPLE)}))
    [found] = decide(pa.Table.from_pylist([given], schema=REPORTED)).to_pylist()
    assert (found["decision"], found["queue"] or "", found["rule"]) == (decision, queue, rule)


def test_the_table_names_every_decision_kind_and_shield() -> None:
    """And the language's own tables name all that there is."""
    assert {decision for _, decision, _, _ in ROWS} == set(Decision)
    assert all(f"`{kind}` |" in PAGE for kind in BankKind) and all(f"`{shield}`" in PAGE for shield in Shield)


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight photographs, the policy of the page, and a bank of all eight. Where they lie differs from run to run, so the
    page's spot check would take one of them now and then."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "media"
    folder.mkdir()
    for name in NAMES:
        Image.fromarray(getattr(data, name)()).convert("RGB").save(folder / f"{name}.jpg")
        os.utime(folder / f"{name}.jpg", (time.time() - 60,) * 2)  # a file of this second may change within it
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()]
    (tmp_path / "bad.txt").write_text("".join(f"sha256 {digest}\n" for digest in digests))
    assert "sample: 0.001" in EXAMPLE
    (tmp_path / "policy.yaml").write_text(EXAMPLE.replace("sample: 0.001", "sample: 0.000000001"))
    return folder


def rows_of(result: ScanResult) -> list[dict[str, Any]]:
    return [row for path in result.report_files for row in pq.read_table(path).to_pylist()]


def outcomes(result: ScanResult) -> set[tuple[str, str, str | None]]:
    return {(row["decision"], row["rule"], row["queue"]) for row in rows_of(result)}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("block", ("block", "block-match", "known")),
        ("illegal", ("escalate", "illegal-match", "legal")),
        ("allow", ("allow", "otherwise", None)),
    ],
)
def test_a_bank_means_its_kind_under_the_example(
    media: Path, tmp_path: Path, kind: str, expected: tuple[str, str, str | None]
) -> None:
    """In a first scan that scores nothing, and in `match` and a second night over rows that were scored."""
    options: dict[str, Any] = {"policy": str(tmp_path / "policy.yaml")}
    bank = {"uri": str(tmp_path / "bad.txt"), "kind": kind}
    fresh = nsfwscan.scan([str(media)], out=str(tmp_path / "fresh"), banks={"bad": bank}, **options)
    assert outcomes(fresh) == {expected} and len(rows_of(fresh)) == 8
    nsfwscan.scan([str(media)], out=str(tmp_path / "out"), run_id="scored", **options)
    store = Store.at(str(tmp_path / "out"), StorageConfig())
    matched = match_store(store, (BankConfig.of({"name": "bad", **bank}),), StorageConfig())
    assert outcomes(matched) == {expected} and all(row["nsfw_score"] is not None for row in rows_of(matched))
    night = nsfwscan.scan([str(media)], out=str(tmp_path / "out"), banks={"bad": bank}, **options)
    assert outcomes(night) == {expected} and {row["accounted_as"] for row in rows_of(night)} == {"carried"}


def test_what_overrules_a_bank_is_said(media: Path, tmp_path: Path) -> None:
    """By the scan, `match`, `policy check`, `policy replay` and `doctor`; nothing is said where nothing does."""
    said = "bank 'bad' (block): rule 'quiet' decides its matches as review"
    quiet = tmp_path / "quiet.yaml"
    quiet.write_text(
        EXAMPLE.replace("rules:\n", "rules:\n  - {name: quiet, when: \"match_bank = 'bad'\", decision: review}\n")
    )
    bank = {"uri": str(tmp_path / "bad.txt")}
    result = nsfwscan.scan([str(media)], out=str(tmp_path / "out"), policy=str(quiet), banks={"bad": bank})
    assert outcomes(result) == {("review", "quiet", "review")}
    [warning] = [w for w in result.record.warnings if w.name == "bank_overruled"]
    assert (warning.count, warning.example) == (1, said)
    store = Store.at(str(tmp_path / "out"), StorageConfig())
    matched = match_store(store, (BankConfig.of({"name": "bad", **bank}),), StorageConfig())
    assert [w.example for w in matched.record.warnings] == [said]
    config = ScanConfig.of({"source": {"uris": []}, "out": "", "policy": str(quiet), "banks": {"bad": bank}})
    assert any(said in finding.detail for finding in examine(config) if finding.verdict == "warn")
    for policy, expected in ((quiet, True), (tmp_path / "policy.yaml", False)):
        for command in (["check", str(policy), "--on", result.uri], ["replay", result.uri, "--policy", str(policy)]):
            assert (f"note: {said}" in CliRunner().invoke(main, ["policy", *command]).output) == expected
    done = CliRunner().invoke(main, ["policy", "check", str(tmp_path / "policy.yaml"), "--on", result.uri])
    assert "bad (block)" in done.output and ["bad", "(block)", "8", "block"] in [
        x.split() for x in done.output.splitlines()
    ]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"match_bank": "partner", "match_distance": 30}, ("review", "partner", "partner")),
        ({"match_bank": "bad", "match_distance": 21}, ("review", "close", "adult")),
        ({"match_bank": "bad", "match_distance": 20}, ("block", "block-match", "known")),
        ({"match_kind": "allow", "nsfw_score": 0.99}, ("allow", "known-good", None)),
        ({"match_kind": None, "nsfw_score": 0.99}, ("block", "explicit", "adult")),
    ],
)
def test_the_example_that_names_banks(match: dict[str, Any], expected: tuple[str, str, str | None]) -> None:
    """It decides the matches that it names, and leaves the others to their kind."""
    decide = Decider(parse_policy({"name": "page", **yaml.safe_load(BY_NAME)}))
    [found] = decide(pa.Table.from_pylist([{"uri": "a", "match_kind": "block", **match}], schema=REPORTED)).to_pylist()
    assert (found["decision"], found["rule"], found["queue"]) == expected
