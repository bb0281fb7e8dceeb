"""A finished shard is one part, whole, under its own name, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from nsfwscan.errors import NsfwscanError, StoreError
from nsfwscan.runs.plan import Plan, Shard
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult, read_part, stage_part, staged_shards
from nsfwscan.schema import STAGED_SCHEMA
from tests.runs.rows import begun, decider, finished, is_of_schema, staged, staged_row

URIS = [f"/media/{i}.jpg" for i in range(6)]


@pytest.fixture
def planned(tmp_path: Path) -> tuple[Run, Plan]:
    """Six objects in two shards of four and two."""
    return begun(tmp_path, URIS, shard_rows=4)


def test_a_part_comes_back_as_it_was(planned: tuple[Run, Plan]) -> None:
    """Rows, their order, types and the columns' documentation survive staging."""
    run, plan = planned
    table = staged([staged_row(uri, nsfw_score=i / 10) for i, uri in enumerate(reversed(URIS[:4]))])
    stage_part(run.staging, plan.shards[0], table, decider())
    found = read_part(run.staging, plan.shards[0])
    assert found.equals(table)
    assert is_of_schema(found, STAGED_SCHEMA)


def test_the_driver_learns_what_was_found(planned: tuple[Run, Plan]) -> None:
    """Rows, errors (files that are no images are none), and what the policy flags."""
    run, plan = planned
    rows = [
        staged_row(URIS[0], nsfw_score=0.9),
        staged_row(URIS[1], nsfw_score=0.3),
        staged_row(URIS[2], status="decode_error"),
        staged_row(URIS[3], status="unsupported"),
    ]
    assert stage_part(run.staging, plan.shards[0], staged(rows), decider()) == ShardResult("00000-0000", 4, 1, 2)


def test_the_shards_that_are_done(planned: tuple[Run, Plan]) -> None:
    """Only finished parts count: neither the lease nor a write that was cut off is one."""
    run, plan = planned
    assert staged_shards(run.staging) == set()
    finished(run, plan.shards[1:])
    run.staging.write("alive.json", b"{}")
    Path(run.staging.uri, ".tmp-00000-0000.arrow").write_bytes(b"half")
    assert staged_shards(run.staging) == {"00000-0001"}
    with pytest.raises(FileNotFoundError):
        read_part(run.staging, plan.shards[0])


def test_a_retried_shard_overwrites_its_part(planned: tuple[Run, Plan]) -> None:
    """The second attempt's rows stand in place of the first's, not beside them."""
    run, plan = planned
    finished(run, plan.shards)
    finished(run, plan.shards[:1], lambda uri: staged_row(uri, nsfw_score=0.7))
    assert staged_shards(run.staging) == {shard.name for shard in plan.shards}
    assert set(read_part(run.staging, plan.shards[0])["label"].to_pylist()) == {"nsfw"}
    assert set(read_part(run.staging, plan.shards[1])["label"].to_pylist()) == {"neutral"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: table.slice(1),
        lambda table: pa.concat_tables([table, table.slice(0, 1)]),
        lambda table: table.drop_columns(["truth"]),
        lambda table: table.append_column("pixels", pa.nulls(table.num_rows)),
        lambda table: table.select(list(reversed(table.column_names))),
    ],
    ids=["lost", "doubled", "column lost", "column left over", "other order"],
)
def test_a_part_that_is_not_its_shard_stops_the_run(
    planned: tuple[Run, Plan], spoil: Callable[[pa.Table], pa.Table]
) -> None:
    """Rows lost or doubled, and columns amiss, are a defect of ours: nothing is written, the message names the shard."""
    run, plan = planned
    table = spoil(staged([staged_row(uri) for uri in URIS[:4]]))
    with pytest.raises(NsfwscanError, match="defect: shard 00000-0000"):
        stage_part(run.staging, plan.shards[0], table, decider())
    assert staged_shards(run.staging) == set()


def test_a_full_store_stops_the_run(planned: tuple[Run, Plan]) -> None:
    """A part that cannot be written is no success."""
    run, plan = planned
    Path(run.staging.uri).parent.mkdir()
    Path(run.staging.uri).write_bytes(b"in the way")
    with pytest.raises(StoreError, match=r"cannot write .*00000-0000.arrow"):
        finished(run, plan.shards)


def test_shards_are_named_in_the_order_of_their_uris() -> None:
    """Names sort as numbers do."""
    assert Shard(3, 17, 1, "listing/part-00003.parquet").name == "00003-0017"
    shards = [Shard(f, g, 1, "") for f in (0, 9, 10) for g in (0, 9, 10)]
    assert sorted(shard.name for shard in shards) == [shard.name for shard in shards]
