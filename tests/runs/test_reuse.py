"""What a row of an earlier night is worth: whether this run, over the same bytes, would make it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.banks.bank import resolve_banks
from nsfwscan.banks.matcher import BankSet
from nsfwscan.config import BankConfig, StorageConfig
from nsfwscan.runs.previous import PreviousReports, PreviousRun
from nsfwscan.runs.record.inputs import BankRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.schema import REPORT_SCHEMA, BankKind
from tests.runs.previous_runs import MADE_WITH, REUSE_POLICY, base_of, entry, made, made_with, run_in

OTHER_MODEL = made_with(scoring="other")
OTHER_DECODING = made_with(decoding="other")
OTHER_LIMITS = made_with(max_bytes=9, max_pixels=9, timeout_s=9.0)
PIXELS = {"width": 100, "height": 100}


@pytest.mark.parametrize(
    ("row", "record", "standing"),
    [
        ({"nsfw_score": 0.5}, MADE_WITH, "good"),
        ({"nsfw_score": 0.0, "size": 1000, **PIXELS}, MADE_WITH, "good"),
        ({"nsfw_score": 0.5}, OTHER_MODEL, "stale"),
        ({"nsfw_score": 0.5}, OTHER_DECODING, "good"),
        ({"nsfw_score": 0.5}, OTHER_LIMITS, "good"),
        ({"nsfw_score": 0.5, "size": 1001}, MADE_WITH, "stale"),
        ({"nsfw_score": 0.5, "width": 100, "height": 101}, OTHER_LIMITS, "stale"),
        ({"nsfw_score": 0.5, "width": 2**40, "height": 2**40}, MADE_WITH, "stale"),
        ({"status": "decode_error"}, MADE_WITH, "good"),
        ({"status": "decode_error"}, OTHER_MODEL, "good"),
        ({"status": "decode_error"}, OTHER_DECODING, "stale"),
        ({"status": "unsupported"}, OTHER_LIMITS, "good"),
        ({"status": "unsupported"}, OTHER_DECODING, "stale"),
        ({"status": "too_large", "size": 1001}, MADE_WITH, "good"),
        ({"status": "too_large", "size": 1001}, OTHER_MODEL, "good"),
        ({"status": "too_large", "size": 1001}, OTHER_LIMITS, "stale"),
        ({"status": "too_large", "size": 1001}, OTHER_DECODING, "stale"),
        ({"status": "too_large", "size": 10, **PIXELS}, MADE_WITH, "good"),
        ({"status": "too_large", "size": 10, **PIXELS}, OTHER_MODEL, "stale"),
        *(({"status": s}, MADE_WITH, "failed") for s in ("not_found", "denied", "fetch_error", "timeout", "crashed")),
        ({"status": "timeout"}, OTHER_MODEL, "failed"),
        ({"status": "timeout", "failed_decodes": 2}, MADE_WITH, "failed"),
        ({"status": "timeout", "failed_decodes": 3}, MADE_WITH, "good"),
        ({"status": "crashed", "failed_decodes": 3}, OTHER_MODEL, "good"),
        ({"status": "crashed", "failed_decodes": 3}, OTHER_DECODING, "stale"),
        ({"status": "crashed", "failed_decodes": 3}, OTHER_LIMITS, "failed"),
        ({"status": "ok"}, MADE_WITH, "failed"),
    ],
)
def test_what_a_row_is_worth(row: dict[str, Any], record: RunRecord, standing: str) -> None:
    """A score is good while model and limits are; what is no image, while decoding is; a failure is tried again."""
    table = pa.Table.from_pylist([{"uri": "/a", **row}], schema=REPORT_SCHEMA)
    assert REUSE_POLICY.standing(table, record).to_pylist() == [standing]


def test_rows_are_judged_one_by_one() -> None:
    """A table's standings are those of its rows, in their order; of no rows there are none."""
    rows = [*made(["/a"]), {"uri": "/b", "status": "timeout"}, *made(["/c"], size=2000)]
    table = pa.Table.from_pylist(rows, schema=REPORT_SCHEMA)
    assert REUSE_POLICY.standing(table, MADE_WITH).to_pylist() == ["good", "failed", "stale"]
    assert REUSE_POLICY.standing(table.slice(0, 0), MADE_WITH).to_pylist() == []


_SHA, _MD5, _PDQ = "a" * 64, "b" * 32, "0" * 64
BANK = BankRecord(
    **{
        "name": "bad",
        "version": "another",
        "kind": BankKind.BLOCK,
        "distance": 0,
        "quality": 0,
        "tags": (),
        "uri": "/b",
    },
    **{"sha256": "", "entries": {}, "passed_over": {}, "malformed": 0, "examples": ()},
)
_HASHED = {"sha256": _SHA, "md5": _MD5, "pdq": _PDQ, "pdq_quality": 100}
_OTHER = {"sha256": "c" * 64, "md5": "c" * 32, "pdq": "f" * 64, "pdq_quality": 100}
_BLOCKED = {"match_bank": "bad", "match_kind": "block", "match_hash": "sha256"}
_ILLEGAL = {"match_bank": "csam", "match_kind": "illegal", "match_hash": "sha256"}


@pytest.fixture
def banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BankSet:
    """A block bank of `_SHA` and `_PDQ`, and an illegal one of `_MD5` alone."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.txt").write_text(f"sha256 {_SHA}\npdq {_PDQ}\n")
    (tmp_path / "csam.txt").write_text(f"md5 {_MD5}\n")
    configs = (
        BankConfig(name="bad", uri=str(tmp_path / "bad.txt")),
        BankConfig(name="csam", uri=str(tmp_path / "csam.txt"), kind=BankKind.ILLEGAL),
    )
    return BankSet(resolve_banks(configs, StorageConfig()), StorageConfig())


@pytest.mark.parametrize("scoring", ["s", "another"])
@pytest.mark.parametrize(
    ("row", "with_banks", "without_any"),
    [
        # Settled by a match: good while it matches, whatever scores; read again where nothing holds it any more.
        ({"nsfw_score": None, **_HASHED, "md5": "c" * 32, **_BLOCKED}, "good", "stale"),
        ({"nsfw_score": None, **_OTHER, **_BLOCKED}, "stale", "stale"),
        ({"nsfw_score": None, **_OTHER, "pdq": "0" * 60 + "00ff", **_BLOCKED}, "good", "stale"),
        ({"nsfw_score": None, **_HASHED, **_ILLEGAL}, "good", "good"),
        # Illegal: good though its file was never decoded, though it was scored, though its bank was left out; not where
        # its bank was asked and holds it no more.
        ({"nsfw_score": None, **_HASHED, "pdq": None, **_ILLEGAL}, "good", "good"),
        ({**_HASHED, **_ILLEGAL}, "good", "good"),
        ({"nsfw_score": None, **_OTHER, **_ILLEGAL, "match_bank": "gone"}, "good", "good"),
        ({"nsfw_score": None, **_OTHER, **_ILLEGAL}, "stale", "good"),
        # Scored: by what scores it; unless it lacks a hash that tonight's banks hold.
        ({**_OTHER}, "by scoring", "by scoring"),
        ({**_HASHED, **_BLOCKED}, "by scoring", "by scoring"),
        ({**_OTHER, "pdq": None}, "stale", "by scoring"),
        ({**_OTHER, "md5": None}, "stale", "by scoring"),
        # Unreadable: nothing to hash by looks, and by bytes where they were read.
        ({"nsfw_score": None, "status": "decode_error", **_OTHER, "pdq": None}, "good", "good"),
        ({"nsfw_score": None, "status": "decode_error", **_OTHER, "pdq": None, "md5": None}, "stale", "good"),
        ({"nsfw_score": None, "status": "too_large", "size": 2000}, "good", "good"),
        ({"nsfw_score": None, "status": "timeout", **_OTHER, "pdq": None}, "failed", "failed"),
    ],
)  # fmt: skip
def test_what_a_row_is_worth_under_tonights_banks(
    banks: BankSet, row: dict[str, Any], with_banks: str, without_any: str, scoring: str
) -> None:
    """A match stands as long as the banks say so, and lacks nothing that they ask for."""
    table = pa.Table.from_pylist(
        [{"uri": "/a", "size": 10, "status": "ok", "nsfw_score": 0.5, **row}], schema=REPORT_SCHEMA
    )
    by_scoring = "good" if scoring == "s" else "stale"
    for asked, expected in ((banks, with_banks), (BankSet((), StorageConfig()), without_any)):
        reuse_policy = replace(REUSE_POLICY, scoring=scoring, banks=asked)
        record = MADE_WITH.model_copy(update={"banks": (BANK,)})
        found = reuse_policy.standing(table.select(["uri", *reuse_policy.columns]), record).to_pylist()
        assert found == [by_scoring if expected == "by scoring" else expected]


def test_reports_from_before_there_were_banks_can_be_judged(tmp_path: Path, banks: BankSet) -> None:
    """A part that lacks the columns of matches and hashes: what is readable is read again, what is not is not."""
    run = run_in(tmp_path, "1")
    base = base_of(run, [*made(["/a"], sha256=_SHA), {"uri": "/b", "status": "unsupported"}], [])
    [part] = base.parts
    path = tmp_path / "runs" / "1" / part.file.path
    old = pq.read_table(path).drop_columns(["md5", "pdq", "pdq_quality", "match_kind", "match_bank", "filtered_by"])
    pq.write_table(old, path)
    base = PreviousRun(run, base.record.model_copy(update={"files": (entry(part.file.path, path.read_bytes()),)}))
    known = pa.concat_tables(PreviousReports([base], None).known(replace(REUSE_POLICY, banks=banks)).tables)
    found = {row["uri"]: row["standing"] for row in known.to_pylist() if row["standing"]}
    assert found == {"/a": "stale", "/b": "good"}
