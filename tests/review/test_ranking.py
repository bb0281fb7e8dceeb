"""What reviewers see first: the order and the items of a plain reference, whatever the rows are."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.errors import StoreError
from nsfwscan.review import ranking
from nsfwscan.review.ranking import Item, ranked
from nsfwscan.runs.run import Run
from tests.review.stores import committed, row


def items(run: Run, *queues: str, across: bool = False) -> list[Item]:
    with ranked(run, queues, across=across) as found:
        return list(found.items)


def order(run: Run, *queues: str) -> list[tuple[str, int, str]]:
    return [(item.row["queue"], item.row["rank"], item.row["uri"]) for item in items(run, *queues)]


def test_severity_comes_before_reach_and_reach_before_uncertainty(tmp_path: Path) -> None:
    """Each counts only where those before it are equal, and the URI where all are."""
    sure, unsure = {"score_neutral": 0.1, "score_nsfw": 0.9}, {"score_neutral": 0.5, "score_nsfw": 0.5}
    rows = [
        row("/b", **sure),
        row("/a", **sure),
        row("/unsure", **unsure),
        row("/seen", **sure, cluster="c", cluster_size=2, cluster_places=9),
        row("/worst", **sure, severity=4),
        row("/no-severity", **unsure, severity=None),
    ]
    run = committed(tmp_path, rows)
    assert [uri for _, _, uri in order(run)] == ["/worst", "/seen", "/unsure", "/a", "/b", "/no-severity"]
    assert [rank for _, rank, _ in order(run)] == [1, 2, 3, 4, 5, 6]


def test_what_one_person_looks_at_has_each_asset_once(tmp_path: Path) -> None:
    """Over all queues the most urgent item is first, and nobody decides the same contents twice. What looks like an
    illegal match is in its queue."""
    alike, like = {"cluster": "c", "cluster_size": 2}, {"cluster": "d", "cluster_size": 2}
    rows = [
        row("/mild", queue="a", severity=1, sha256="1", **alike),
        row("/bad", queue="b", severity=3, sha256="2", **alike),
        row("/known", queue="legal", severity=4, sha256="3", match_kind="illegal", **like),
        row("/near", queue="a", severity=5, sha256="4", **like),
        row("/lone", queue="a", severity=2, sha256="5"),
    ]
    run = committed(tmp_path, rows)
    found = items(run, across=True)
    assert [(item.row["uri"], item.row["queue"]) for item in found] == [
        ("/known", "legal"), ("/bad", "b"), ("/lone", "a"),
    ]  # fmt: skip
    assert [member["uri"] for item in found for member in item.members] == ["/near", "/mild"]
    assert [queue for queue, _, _ in order(run)] == ["a", "a", "a", "b", "legal"]
    assert [item.row["uri"] for item in items(run, "a", across=True)] == ["/near", "/lone", "/mild"]


def test_uncertainty_is_how_close_two_categories_are(tmp_path: Path) -> None:
    """One less the margin of the two most probable; one where there is no score, or only what is no number."""
    rows = [
        row("/a", score_neutral=0.5, score_porn=0.25, score_sexy=0.25),
        row("/b", score_neutral=0.25, score_porn=0.75, score_hentai=None),
        row("/c"),
        row("/d", score_neutral=math.nan, score_nsfw=math.nan),
    ]
    found = {item.row["uri"]: item.row["uncertainty"] for item in items(committed(tmp_path, rows))}
    assert found == {"/a": 0.75, "/b": 0.5, "/c": 1, "/d": 1}


def test_what_shows_the_same_is_one_item(tmp_path: Path) -> None:
    """A cluster, and without one the objects with the same bytes; the first of them stands for all, and the others are
    named, those in no queue too."""
    rows = [
        row("/1", sha256="a", cluster="c", cluster_size=2, cluster_places=3),
        row("/2", sha256="b", cluster="c", cluster_size=2, cluster_places=3, severity=3),
        row("/3", sha256="a", cluster="c", cluster_size=2, cluster_places=3, queue=None, decision="allow"),
        row("/4", sha256="d"),
        row("/5", sha256="d", duplicate_of="/4"),
        row("/6"),
        row("/7"),
    ]
    found = {item.row["uri"]: item for item in items(committed(tmp_path, rows))}
    assert list(found) == ["/2", "/4", "/6", "/7"]
    assert [(i.row["objects"], i.row["reach"], i.others, i.elsewhere) for i in found.values()] == [
        (2, 3, 2, ["/1", "/3"]),
        (2, 2, 1, ["/5"]),
        (1, 1, 0, []),
        (1, 1, 0, []),
    ]


def test_an_asset_is_an_item_in_each_of_its_queues(tmp_path: Path) -> None:
    """Where an override sends a copy elsewhere, both queues have it."""
    rows = [row("/1", sha256="a"), row("/kids/1", sha256="a", queue="kids")]
    assert order(committed(tmp_path, rows)) == [("adult", 1, "/1"), ("kids", 1, "/kids/1")]


def test_many_places_are_counted_and_some_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones by their URIs, never the item's own, and the number of all."""
    rows = [row(f"/{i:03}", sha256="a", severity=4 if i == 7 else 2) for i in range(50)]
    [item] = items(committed(tmp_path, rows, part_rows=20))
    expected = [f"/{i:03}" for i in range(50) if i != 7][: ranking.PLACES]
    assert (item.row["uri"], item.others, item.elsewhere) == ("/007", 49, expected)


def test_only_the_queues_asked_for(tmp_path: Path) -> None:
    """Others are left out, and so is what is in no queue."""
    rows = [row("/a"), row("/b", queue="kids"), row("/c", queue=None)]
    run = committed(tmp_path, rows)
    assert [uri for _, _, uri in order(run, "kids")] == ["/b"]
    assert [uri for _, _, uri in order(run)] == ["/a", "/b"]


def test_what_should_be_seen_and_has_no_queue_is_counted(tmp_path: Path) -> None:
    """Rows to be reviewed or escalated by rules that name no queue; what is blocked or allowed needs none."""
    rows = [row(f"/{d}", queue=None, decision=d) for d in ("review", "escalate", "block", "allow", "undetermined")]
    with ranked(committed(tmp_path, rows)) as found:
        assert list(found.items) == [] and found.unassigned == 2


def test_earlier_decisions_are_those_of_the_place_or_the_bytes(tmp_path: Path) -> None:
    """Of each decision and rule the latest, and in how many runs; of runs before this one alone, whatever their kind."""
    committed(tmp_path, [row("/a", sha256="1", decision="allow", rule="otherwise")], "mon", day=1)
    committed(tmp_path, [row("/a", sha256="1", decision="allow", rule="otherwise")], "tue", day=2)
    committed(tmp_path, [row("/old", sha256="1", decision="block", rule="high")], "wed", day=3, kind="replay")
    committed(tmp_path, [row("/b", sha256=None, decision="escalate", rule="bank")], "thu", day=4, kind="match")
    committed(tmp_path, [row("/a", sha256="1", decision="block", rule="later")], "next", day=25)
    run = committed(tmp_path, [row("/a", sha256="1"), row("/b", sha256="2"), row("/c")])
    (tmp_path / "runs" / "unfinished").mkdir()
    prior = {item.row["uri"]: item.prior for item in items(run)}
    keys = ("decision", "rule", "run_id", "runs", "by")
    assert {uri: [tuple(said[key] for key in keys) for said in found] for uri, found in prior.items()} == {
        "/a": [("block", "high", "wed", 1, "sha256"), ("allow", "otherwise", "tue", 2, "uri")],
        "/b": [("escalate", "bank", "thu", 1, "uri")],
        "/c": [],
    }
    assert prior["/a"][0]["decided_at"] == "2026-11-03T02:00:00.000+00:00"


def test_only_so_many_earlier_runs_are_looked_into(tmp_path: Path) -> None:
    """The latest ones; none at all where that is asked for, and not even read."""
    for day in (1, 2, 3):
        committed(tmp_path, [row("/a", rule=f"rule{day}")], f"day{day}", day=day)
    run = committed(tmp_path, [row("/a")])
    Run(run.store, "day1").folder.delete("report/part-0.parquet")
    for most, rules in ((2, ["rule3", "rule2"]), (0, [])):
        with ranked(run, earlier_runs=most) as found:
            assert [said["rule"] for item in found.items for said in item.prior] == rules


def test_a_damaged_report_stops_it(tmp_path: Path) -> None:
    """A part that is gone, of this run or of an earlier one, is said as it is, not in DuckDB's words."""
    earlier = committed(tmp_path, [row("/a")], "mon", day=1)
    run = committed(tmp_path, [row("/a")])
    for damaged in (earlier, run):
        damaged.folder.delete("report/part-0.parquet")
        with pytest.raises(StoreError, match="part-0"):
            items(run)


_rows = st.lists(
    st.fixed_dictionaries(
        {
            "queue": st.sampled_from(["adult", "kids", None]),
            "severity": st.sampled_from([None, 0, 2, 4]),
            "sha256": st.sampled_from([None, "a", "b", "c"]),
            "cluster": st.sampled_from([None, None, "x", "y"]),
            "cluster_places": st.sampled_from([None, 1, 5]),
            "score_neutral": st.none() | st.floats(0, 1, width=16),
            "score_nsfw": st.none() | st.floats(0, 1, width=16),
        }
    ),
    max_size=12,
)


def asset_of(one: dict[str, Any]) -> tuple[str, str]:
    return next((name, one[name]) for name in ("cluster", "sha256", "uri") if one[name] is not None)


def reference(rows: list[dict[str, Any]]) -> list[tuple[str, int, str, int]]:
    """Return the items as plain Python finds them: queue, rank, URI, objects."""

    def key(one: dict[str, Any]) -> tuple[Any, ...]:
        places = sum(asset_of(other) == asset_of(one) for other in rows)
        scores = sorted((s for s in (one["score_neutral"], one["score_nsfw"]) if s is not None), reverse=True)
        uncertainty = 1 - (scores[0] - scores[1]) if len(scores) == 2 else 1
        return -(one["severity"] or 0), -max(one["cluster_places"] or 0, places), -uncertainty, one["uri"]

    found = []
    for queue in ("adult", "kids"):
        queued, seen, rank = [one for one in rows if one["queue"] == queue], set(), 0
        for one in sorted(queued, key=key):
            if asset_of(one) not in seen:
                seen.add(asset_of(one))
                rank += 1
                objects = sum(asset_of(other) == asset_of(one) for other in queued)
                found.append((queue, rank, one["uri"], objects))
    return found


@settings(max_examples=12, deadline=None)
@given(values=_rows, seed=st.randoms(use_true_random=False))
def test_items_are_those_of_a_plain_reference(values: list[dict[str, Any]], seed: Any) -> None:
    """Any rows in any order of files: the same items at the same ranks."""
    rows = [row(f"/{i}", **given) for i, given in enumerate(values)]
    seed.shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        found = items(committed(folder, rows))
    assert [(i.row["queue"], i.row["rank"], i.row["uri"], i.row["objects"]) for i in found] == reference(rows)
