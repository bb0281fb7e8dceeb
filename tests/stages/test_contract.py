"""What every stage keeps, whatever it does: rows, order, `uri`, declared columns, and rows that are none of its work."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nsfwscan.banks.bank import resolve_banks
from nsfwscan.banks.matcher import BankSet
from nsfwscan.config import BankConfig, ScanConfig, StorageConfig
from nsfwscan.demo.media import UPLOADS, DemoObject
from nsfwscan.errors import Status
from nsfwscan.execution.pipeline import cpu_stages, model_stages, opened
from nsfwscan.images.pdq import pdq_of
from nsfwscan.models.registry import resolve
from nsfwscan.schema import LISTING_SCHEMA, BankKind
from nsfwscan.stages.base import Stage, fresh, run, run_overlapped

_GOOD = ("neutral/coffee.png", f"{UPLOADS}/modes/rgba.png", f"{UPLOADS}/phone/IMG_0001.jpg", "drawings/smiley.gif")
_BAD = ("broken/garbage.jpg", "broken/notes.jpg", "broken/bomb.png", "broken/empty.jpg", "broken/absent.jpg")
_NAMES = ("read", "digest", "match-digests", "decode", "match-hashes", "classify")


@dataclass(frozen=True)
class Line:
    """Pipeline's stages, opened, with the table that each of them is given."""

    stages: list[Stage]
    listing: pa.Table
    given: dict[str, pa.Table]


@pytest.fixture(scope="module")
def line(demo: tuple[Path, list[DemoObject]], tmp_path_factory: pytest.TempPathFactory) -> Line:
    """All stages; before each but the first, rows are added that failed earlier and lack everything but a listing. One
    object is in an illegal bank, one that cannot be decoded and one that can are in another."""
    config = ScanConfig.load(
        None, {"source": {"uris": [str(demo[0])]}, "out": "", "model": {"batch_size": 3}, "read": {"concurrency": 4}}
    )
    spec = resolve(config.model, config.storage)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NSFWSCAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        banks = _banks(demo[0], tmp_path_factory.mktemp("banks"))
        stages = list(opened([*cpu_stages(config, spec, banks=banks), *model_stages(config, spec, threads=1)]))
    listing = _listing([f"{demo[0]}/{name}" for pair in zip(_GOOD, _BAD, strict=False) for name in pair])
    table, given = fresh(pa.concat_tables([listing, _listing([f"{demo[0]}/{_BAD[-1]}", "/elsewhere/ф\n.jpg"])])), {}
    for stage in stages:
        given[stage.name] = table = _with_failed_rows(table)
        table = stage(table)
    return Line(stages, listing, given)


def _banks(root: Path, folder: Path) -> BankSet:
    """An illegal bank of the first good object's bytes, and one of a broken file's and of what the third looks like."""
    digests = [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in (_GOOD[0], _BAD[0])]
    looks, _ = pdq_of(Image.open(root / _GOOD[2]).convert("RGB"))
    (folder / "illegal.txt").write_text(f"sha256 {digests[0]}")
    (folder / "block.txt").write_text(f"sha256 {digests[1]}\npdq {looks}")
    configs = [
        BankConfig(name=kind, uri=str(folder / f"{kind}.txt"), kind=kind)
        for kind in BankKind
        if kind in ("illegal", "block")
    ]
    return BankSet(resolve_banks(tuple(configs), StorageConfig()), StorageConfig())


def _listing(uris: list[str]) -> pa.Table:
    rows = [{"uri": uri, "size": None if i % 3 else 1000, "etag": f"tag-{i}"} for i, uri in enumerate(uris)]
    return pa.Table.from_pylist(rows, schema=LISTING_SCHEMA)


def _with_failed_rows(table: pa.Table) -> pa.Table:
    """Return the table in three chunks, with two rows of another status and nothing in the stages' columns."""
    rows = [
        {"uri": "/failed/a", "status": Status.TIMEOUT, "error": "too slow", "size": 7},
        {"uri": "/failed/b", "status": Status.CRASHED, "error": "gone", "truth": "neutral"},
    ]
    failed = pa.Table.from_pylist(rows, schema=table.schema)
    return pa.concat_tables([table.slice(0, 4), failed, table.slice(4)])


def _field_by_name(schema: pa.Schema) -> dict[str, pa.Field]:
    assert len(set(schema.names)) == len(schema)
    return {field.name: field for field in schema}


def _untimed(table: pa.Table) -> list[dict[str, Any]]:
    """The rows without the seconds that they took."""
    return list(table.drop_columns([name for name in ("cost",) if name in table.column_names]).to_pylist())


@pytest.mark.parametrize("name", _NAMES)
def test_every_stage_keeps_the_contract(line: Line, name: str) -> None:
    """Rows, order and `uri` stay; columns change exactly as declared; rows without what is needed are left alone;
    neither neighbours nor earlier tables matter."""
    stage, table = next(s for s in line.stages if s.name == name), line.given[name]
    out = stage(table)

    assert out["uri"].equals(table["uri"])
    expected = {**_field_by_name(table.schema), **_field_by_name(stage.adds)}
    for dropped in stage.drops:
        del expected[dropped]
    assert _field_by_name(out.schema) == expected
    out.validate(full=True)

    before, after = table.to_pylist(), out.to_pylist()
    lacking = [i for i, row in enumerate(before) if any(row[column] is None for column in stage.needs)]
    assert bool(lacking) == (stage.needs != ("uri",))
    for i in lacking:
        kept = {column: value for column, value in before[i].items() if column not in stage.drops}
        assert after[i] == {**dict.fromkeys(stage.adds.names), **kept}

    order = random.Random(name).sample(range(table.num_rows), table.num_rows)
    shuffled = stage(table.take(order))
    assert shuffled.schema == out.schema
    after = _untimed(out)
    assert _untimed(shuffled) == [after[i] for i in order]
    assert _untimed(stage(table)) == after
    assert _untimed(stage(table.slice(3, 5))) == after[3:8]
    assert [row for i in range(4) for row in _untimed(stage(table.slice(i, 1)))] == after[:4]

    for empty in (table.schema.empty_table(), table.slice(2, 0)):
        nothing = stage(empty)
        assert nothing.num_rows == 0
        assert nothing.schema == out.schema


def test_every_stage_is_held_to_the_contract(line: Line) -> None:
    """No stage of the pipeline is missing from the test above."""
    assert tuple(stage.name for stage in line.stages) == _NAMES


@settings(max_examples=25, deadline=None)
@given(chunk_bytes=st.integers(0, 5000), data=st.data())
def test_overlapped_equals_run(line: Line, chunk_bytes: int, data: st.DataObject) -> None:
    """Reading ahead gives the same table as one stage after the other, whatever is cut where and however little."""
    picked = data.draw(st.lists(st.integers(0, line.listing.num_rows - 1), max_size=6))
    table, stages = fresh(line.listing.take(pa.array(picked, pa.int64()))), line.stages[:5]
    expected = run(stages, table)
    found = run_overlapped(stages, table, chunk_bytes)
    assert found.schema == expected.schema
    assert _untimed(found) == _untimed(expected)


def test_overlapped_equals_run_to_the_bit_of_a_score(line: Line) -> None:
    """With the model in the line, too, chunks change nothing."""
    table = fresh(line.listing)
    expected = _untimed(run(line.stages, table))
    assert _untimed(run_overlapped(line.stages, table, 1500)) == expected
    assert any(row["nsfw_score"] is not None for row in expected)


def test_the_line_has_matches_of_every_kind(line: Line) -> None:
    """The contract was held with rows that match by their bytes, readable or not, and by their looks."""
    found = run(line.stages, fresh(line.listing)).to_pylist()
    matched = {(row["match_kind"], row["match_hash"], row["status"]) for row in found if row["match_kind"]}
    assert matched == {("illegal", "sha256", "ok"), ("block", "sha256", "decode_error"), ("block", "pdq", "ok")}
    assert all(row["nsfw_score"] is None for row in found if row["match_kind"])
