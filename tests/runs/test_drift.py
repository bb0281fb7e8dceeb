"""A night that looks at other things than the nights before it stands out; nights that differ by chance do not."""

from __future__ import annotations

from collections import Counter

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from nsfwscan.runs.drift import (
    DRIFT_SCHEMA,
    LEAST_NIGHTS,
    Counts,
    Night,
    compare,
    describe_drift,
    jensen_shannon,
    stability_index,
)
from tests.later import later

distance = later("scipy.spatial.distance")


SOURCE = "s3://media/"


def night(rows: int, bad: float, seed: int, source: str = SOURCE) -> Counts:
    blocked = int(np.random.default_rng(seed).binomial(rows, bad))
    return {(source, "decision"): Counter({"allow": rows - blocked, "block": blocked})}


def test_a_night_with_another_share_stands_out_and_says_what_changed() -> None:
    earlier = [night(5_000, 0.02, seed) for seed in range(12)]
    (found,) = compare(night(5_000, 0.06, 99), earlier)
    assert found.stands_out and found.nights == 12 and found.usual is not None and found.distance is not None
    assert found.distance > found.usual
    (said,) = describe_drift([found])
    assert said.startswith("decision of s3://media/: ") and "12 earlier nights" in said


def test_nights_of_one_kind_rarely_stand_out() -> None:
    """One in thirteen is the most distant one by chance alone; being an outlier, too, is rare."""
    told = 0
    for trial in range(200):
        nights = [night(5_000, 0.02, 1000 * trial + seed) for seed in range(13)]
        told += sum(one.stands_out for one in compare(nights[0], nights[1:]))
    assert told <= 10


def test_what_is_usual_is_not_known_from_a_few_nights_or_a_few_rows() -> None:
    few = [night(5_000, 0.02, seed) for seed in range(LEAST_NIGHTS - 1)]
    (found,) = compare(night(5_000, 0.5, 99), few)
    assert found.distance is not None and found.usual is None and not found.stands_out
    (small,) = compare(night(99, 0.5, 99), [*few, night(5_000, 0.02, 7)])
    assert small.distance is None and not small.stands_out
    (first,) = compare(night(5_000, 0.02, 1), [])
    assert (first.nights, first.distance, first.psi) == (0, None, None)


def test_a_source_is_compared_with_itself() -> None:
    other = [night(5_000, 0.9, seed, "s3://other/") for seed in range(10)]
    (found,) = compare(night(5_000, 0.02, 1), other)
    assert found.nights == 0


def test_nights_that_are_all_alike_leave_room_for_one_object() -> None:
    alike: Counts = {(SOURCE, "format"): Counter({"JPEG": 1000})}
    (found,) = compare({(SOURCE, "format"): Counter({"JPEG": 999, "PNG": 1})}, [alike] * 10)
    assert not found.stands_out
    (flood,) = compare({(SOURCE, "format"): Counter({"JPEG": 500, "PNG": 500})}, [alike] * 10)
    assert flood.stands_out and flood.most_changed in ("JPEG", "PNG")


def test_distances_are_those_of_scipy() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        one, other = random.integers(0, 50, (2, 8)).astype(float)
        assert jensen_shannon(one, other) == pytest.approx(distance.jensenshannon(one, other, base=2) ** 2, abs=1e-12)
        assert stability_index(one, other) == pytest.approx(stability_index(other, one))
    assert stability_index(np.array([1.0, 3.0]), np.array([2.0, 6.0])) == pytest.approx(0, abs=0.02)


IN_SQL = """
    WITH counts AS (
        SELECT bin, coalesce(sum(rows) FILTER (run_id = 'now'), 0) AS one,
               coalesce(sum(rows) FILTER (run_id <> 'now'), 0) AS other
        FROM drift GROUP BY bin
    ), shares AS (
        SELECT one / sum(one) OVER () AS p, other / sum(other) OVER () AS q,
               (one + 0.5) / sum(one + 0.5) OVER () AS a, (other + 0.5) / sum(other + 0.5) OVER () AS b
        FROM counts
    )
    SELECT sum(coalesce(p * log2(nullif(2 * p / (p + q), 0)), 0) + coalesce(q * log2(nullif(2 * q / (p + q), 0)), 0)) / 2,
           sum((a - b) * ln(a / b))
    FROM shares
"""


def test_duckdb_finds_the_same_distances_in_the_files() -> None:
    """Both distances of a night are a statement over the table `drift`, as `nsfwscan sql` has it."""
    random, tables, earlier = np.random.default_rng(4), [], []
    for night in ("1", "2", "3", "now"):
        counts = {(SOURCE, "score"): Counter({str(bin): int(random.integers(0, 90)) for bin in range(8)})}
        counts[SOURCE, "score"]["new" if night == "now" else "old"] = 60
        rows = Night((SOURCE,), counts).as_table()
        tables.append(rows.append_column("run_id", pa.repeat(night, rows.num_rows)))
        earlier.append(counts)
    (found,) = compare(earlier.pop(), earlier)
    with duckdb.connect() as tables_of_a_store:
        tables_of_a_store.register("drift", pa.concat_tables(tables))
        told = tables_of_a_store.sql(IN_SQL).fetchall()[0]
    assert told == (pytest.approx(found.distance), pytest.approx(found.psi))


def test_rows_are_counted_by_source_and_value_and_carried_ones_are_not() -> None:
    table = pa.table(
        {
            "uri": ["s3://a/1", "s3://a/b/2", "s3://a/b/3", "s3://z/4"],
            "carried_from": pa.array([None, None, "n1", None], pa.string()),
            "nsfw_score": [0.0, 1.0, 0.5, None],
            "decision": ["allow", "block", "allow", "undetermined"],
            "format": ["JPEG", "PNG", "PNG", None],
            "size": pa.array([1, 1500, 7, None], pa.int64()),
            "error_code": pa.array([None, None, None, "denied"], pa.string()),
        }
    )
    found = Night(("s3://a/", "s3://a/b/"))
    found.add(table)
    assert found.counts["s3://a/", "score"] == {"0": 1, "none": 1}
    assert found.counts["s3://a/b/", "score"] == {"0.95": 1}
    assert found.counts["s3://a/b/", "size"] == {"1024": 1}
    assert found.counts["s3://a/", "error"] == {"none": 1, "denied": 1}
    assert found.as_table().schema == DRIFT_SCHEMA
    assert Night(("s3://a/",)).as_table().num_rows == 0
