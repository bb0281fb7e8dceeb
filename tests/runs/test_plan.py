"""The plan holds every listed object once, sorted, in shards that add up; whatever was listed, in whatever order."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.runs.plan import Known, Plan, ShardReader, make_plan
from nsfwscan.schema import LISTING_SCHEMA
from nsfwscan.sources.truth import TRUTH_SCHEMA
from nsfwscan.storage.store import Store

Row = dict[str, Any]


def listing(rows: Iterable[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=LISTING_SCHEMA)


def truth(**given: str) -> list[pa.RecordBatch]:
    rows = [{"uri": uri, "truth": category} for uri, category in given.items()]
    return [pa.RecordBatch.from_pylist(rows, schema=TRUTH_SCHEMA)]


def plan_of(
    folder: Path, *tables: pa.Table, judged: Sequence[pa.RecordBatch] = (), shard_rows: int = 256
) -> tuple[Plan, Store]:
    run = Store.at(str(folder), StorageConfig())
    return make_plan(tables, judged, Known(), run, shard_rows), run


def rows_of(plan: Plan, run: Store) -> list[Row]:
    read = ShardReader(run)
    return [row for shard in plan.shards for row in read(shard).to_pylist()]


def uris_of(plan: Plan, run: Store) -> list[str]:
    return [row["uri"] for row in rows_of(plan, run)]


def named(count: int) -> list[Row]:
    return [{"uri": f"s3://b/{i:06d}", "size": i} for i in range(count)]


# Distinct and sorted


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_listing_does_not_matter(tmp_path: Path, seed: int) -> None:
    """Shuffled over several tables, with a fifth of it repeated, a listing gives the same plan, byte for byte."""
    rows = named(1000)
    shuffled = rows + rows[::5]
    random.Random(seed).shuffle(shuffled)
    plan, run = plan_of(tmp_path / "a", listing(shuffled[:300]), listing([]), listing(shuffled[300:]))
    assert rows_of(plan, run) == listing(rows).to_pylist()
    assert (plan.listed, plan.distinct, plan.repeated) == (1200, 1000, 200)
    same, ordered = plan_of(tmp_path / "b", listing(rows))
    assert same.files == plan.files
    assert run.read(plan.files[0].path) == ordered.read(plan.files[0].path)


# NUL in front, since a key may hold it; surrogates are kept out by listing and manifests.
_URIS = st.text(st.characters(exclude_categories=["Cs"]) | st.just("\0"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(uris=st.lists(_URIS, min_size=1, max_size=60), shard_rows=st.integers(1, 20))
def test_any_uris_come_out_distinct_and_sorted(
    tmp_path_factory: pytest.TempPathFactory, uris: list[str], shard_rows: int
) -> None:
    """Whatever text the URIs are, NUL and combining characters too: each once, in the order of its code points."""
    folder = tmp_path_factory.mktemp("plan")
    plan, run = plan_of(folder, listing({"uri": uri} for uri in uris), shard_rows=shard_rows)
    assert uris_of(plan, run) == sorted(set(uris))
    assert plan.repeated == len(uris) - len(set(uris))
    assert sum(shard.rows for shard in plan.shards) == plan.distinct
    assert all(shard.rows <= shard_rows for shard in plan.shards)


def test_uris_that_look_alike_stay_apart(tmp_path: Path) -> None:
    """Case, trailing blanks, composed and decomposed accents, and NUL are different keys to S3, and to us."""
    uris = ["s3://b/e\u0301", "s3://b/\u00e9", "s3://b/a", "s3://b/A", "s3://b/a ", "s3://b/a\0", "s3://b/a\0b"]
    plan, run = plan_of(tmp_path, listing({"uri": uri} for uri in uris))
    assert uris_of(plan, run) == sorted(uris)
    assert plan.repeated == 0


def test_a_repeated_object_keeps_what_any_listing_knew(tmp_path: Path) -> None:
    """A manifest without sizes over a prefix with sizes: the size, version, time and truth are not lost."""
    moment = datetime(2026, 11, 1, tzinfo=UTC)
    known = {"uri": "s3://b/a", "size": 7, "etag": "e", "modified_at": moment, "truth": None}
    judged = {"uri": "s3://b/a", "size": None, "etag": None, "modified_at": None, "truth": "porn"}
    for number, order in enumerate([(known, judged), (judged, known)]):
        plan, run = plan_of(tmp_path / str(number), *(listing([row]) for row in order))
        known_then = {**known, "modified_at": moment.replace(tzinfo=None), "truth": "porn", "refused": None}
        assert rows_of(plan, run) == [known_then]
        assert plan.bytes == 7


def test_bytes_are_those_of_distinct_objects(tmp_path: Path) -> None:
    """A repeated object's bytes count once; an object of unknown size counts none."""
    rows = [{"uri": "a", "size": 5}, {"uri": "a", "size": 5}, {"uri": "b", "size": None}, {"uri": "c", "size": 2**40}]
    plan, _ = plan_of(tmp_path, listing(rows))
    assert plan.bytes == 5 + 2**40


# Shards


def test_shards_add_up_and_the_first_are_small(tmp_path: Path) -> None:
    """8, 8, 16, 16, 32, 32, 64, 64, 128, 128 rows, then full shards, then the rest; together all rows."""
    plan, run = plan_of(tmp_path, listing(named(1000)))
    assert [shard.rows for shard in plan.shards] == [8, 8, 16, 16, 32, 32, 64, 64, 128, 128, 256, 248]
    assert len(uris_of(plan, run)) == plan.distinct == 1000


def test_no_shard_is_larger_than_asked_for(tmp_path: Path) -> None:
    """`shard_rows` bounds the first shards too."""
    plan, _ = plan_of(tmp_path, listing(named(100)), shard_rows=20)
    assert [shard.rows for shard in plan.shards] == [8, 8, 16, 16, 20, 20, 12]


def test_one_object_is_a_shard(tmp_path: Path) -> None:
    """The smallest plan."""
    plan, run = plan_of(tmp_path, listing(named(1)))
    assert [shard.rows for shard in plan.shards] == [1]
    assert uris_of(plan, run) == ["s3://b/000000"]


@pytest.mark.parametrize("count", [63, 64, 65, 128, 130])
def test_files_hold_64_shards_each_one_a_row_group(tmp_path: Path, count: int) -> None:
    """A listing file has one row group a shard, 64 at most; no empty file at the border."""
    plan, run = plan_of(tmp_path, listing(named(count)), shard_rows=1)
    files = [pq.ParquetFile(io.BytesIO(run.read(f"listing/{name}"))) for name in run.names("listing")]
    assert [file.num_row_groups for file in files] == [64] * (count // 64) + ([count % 64] if count % 64 else [])
    assert all(file.schema_arrow == LISTING_SCHEMA for file in files)
    groups = [file.metadata.row_group(g).num_rows for file in files for g in range(file.num_row_groups)]
    assert groups == [shard.rows for shard in plan.shards]


def test_names_of_shards_sort_as_their_uris_do(tmp_path: Path) -> None:
    """Shard names are distinct and in order, across files."""
    plan, _ = plan_of(tmp_path, listing(named(200)), shard_rows=1)
    names = [shard.name for shard in plan.shards]
    assert names == sorted(set(names))
    assert names[0] == "00000-0000" and names[-1] == "00003-0007"


def test_shards_are_read_in_any_order(tmp_path: Path) -> None:
    """A reader that goes back and forth between files gives each shard's own rows."""
    plan, run = plan_of(tmp_path, listing(named(200)), shard_rows=1)
    read = ShardReader(run)
    expected = uris_of(plan, run)
    order = random.Random(0).sample(range(200), 200)
    assert [read(plan.shards[i])["uri"].to_pylist() for i in order] == [[expected[i]] for i in order]


def test_the_order_of_work_is_reproducible(tmp_path: Path) -> None:
    """Half of the small shards first, the rest shuffled by the seed: the same seed, the same order; every shard once."""
    plan, _ = plan_of(tmp_path, listing(named(2000)), shard_rows=32)
    first, again, other = plan.handed_out(1), plan.handed_out(1), plan.handed_out(2)
    assert first == again != other
    assert first[:5] == other[:5] == list(plan.shards[:10:2])
    assert first[-5:] == other[-5:] == list(plan.shards[9::-2])
    assert sorted(first, key=lambda shard: shard.name) == list(plan.shards)


@pytest.mark.parametrize(("objects", "workers"), [(160, 2), (820, 2), (5_000, 4)])
def test_workers_end_together(objects: int, workers: int, tmp_path: Path) -> None:
    """Where each takes the next shard as it ends one, the last one works on for few objects longer than all would: the
    small shards are not spent before."""
    plan, _ = plan_of(tmp_path, listing(named(objects)), shard_rows=256)
    ends = [0] * workers
    for shard in plan.handed_out(0):
        ends[ends.index(min(ends))] += shard.rows
    assert max(ends) - objects / workers <= 64


# Truth


def test_a_truth_file_overrides_what_the_path_said(tmp_path: Path) -> None:
    """Where the file judges, it decides; elsewhere the path's truth stays; what it judges besides is passed over."""
    rows = [{"uri": "a", "truth": "neutral"}, {"uri": "b", "truth": "porn"}, {"uri": "c", "truth": None}]
    plan, run = plan_of(tmp_path, listing(rows), judged=truth(a="sexy", c="hentai", elsewhere="porn"))
    assert [row["truth"] for row in rows_of(plan, run)] == ["sexy", "porn", "hentai"]
    assert plan.distinct == 3


def test_a_truth_file_that_judges_twice_adds_no_row(tmp_path: Path) -> None:
    """Two judgements of one object are one row."""
    plan, run = plan_of(tmp_path, listing([{"uri": "a"}, {"uri": "a"}]), judged=truth(a="sexy") + truth(a="porn"))
    assert (plan.listed, plan.distinct) == (2, 1)
    assert rows_of(plan, run)[0]["truth"] in ("sexy", "porn")


def test_a_truth_file_that_meets_no_object_is_an_error(tmp_path: Path) -> None:
    """URIs written in another way would silently measure nothing: SourceError, with how many there were."""
    with pytest.raises(SourceError, match="none of the 2 URIs in the truth file"):
        plan_of(tmp_path, listing([{"uri": "s3://b/a"}]), judged=truth(a="sexy", b="porn"))
    assert not (tmp_path / "listing").exists()


def test_an_empty_truth_file_judges_nothing(tmp_path: Path) -> None:
    """No judgement yet is no error, and leaves the path's truth."""
    plan, run = plan_of(tmp_path, listing([{"uri": "a", "truth": "neutral"}]), judged=truth())
    assert rows_of(plan, run)[0]["truth"] == "neutral"


# Nothing to do


@pytest.mark.parametrize("tables", [[], [listing([])]])
def test_an_empty_listing_is_an_error(tmp_path: Path, tables: list[pa.Table]) -> None:
    """A run over nothing is a mistake in the source or the globs, and no report is begun."""
    with pytest.raises(SourceError, match="nothing to scan"):
        plan_of(tmp_path, *tables)
    assert not (tmp_path / "listing").exists()


def test_a_listing_that_breaks_off_leaves_no_plan(tmp_path: Path) -> None:
    """An error of the source comes through, and nothing is written as if it were the whole listing."""

    def breaking() -> Iterable[pa.Table]:
        yield listing(named(10))
        raise SourceError("the second page was refused")

    with pytest.raises(SourceError, match="second page"):
        make_plan(breaking(), [], Known(), Store.at(str(tmp_path), StorageConfig()), 256)
    assert not (tmp_path / "listing").exists()


def test_a_run_folder_with_odd_characters_is_planned_in(tmp_path: Path) -> None:
    """Quotes and globs in the store's path stay what they are."""
    plan, run = plan_of(tmp_path / "it's [a] *?%20", listing(named(20)))
    assert len(uris_of(plan, run)) == 20


def test_a_long_listing_is_sorted_within_seconds(tmp_path: Path) -> None:
    """200,000 objects in 30-odd tables: sorted, nothing lost, and cut into full shards."""
    uris = pa.array([f"s3://bucket/{(i * 7919) % 200_003:09d}/image.jpg" for i in range(200_000)])
    table = pa.table([uris, *(pa.nulls(200_000, field.type) for field in list(LISTING_SCHEMA)[1:])], LISTING_SCHEMA)
    tables = [table.slice(start, 6000) for start in range(0, 200_000, 6000)]
    plan, run = plan_of(tmp_path, *tables, shard_rows=1000)
    assert plan.distinct == 200_000
    read = ShardReader(run)
    planned = [uri for shard in plan.shards for uri in read(shard)["uri"].to_pylist()]
    assert planned == sorted(uris.to_pylist())
