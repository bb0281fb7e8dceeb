"""What is the same: one content, one score; near-duplicates under one name, which they keep."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.banks.pdq_index import Found, Hashes, NearIndex
from nsfwscan.config import DuplicatesConfig
from nsfwscan.runs.duplicates import find_duplicates, spooling
from nsfwscan.runs.gathering import ROW_SCHEMA
from nsfwscan.schema import as_schema
from tests.runs.rows import scanned, staged_row

CONFIG = DuplicatesConfig()
BASE = np.random.default_rng(0).integers(0, 256, (3, 32), dtype=np.uint8)
"""Three hashes far from each other."""


def pdq(base: int, *bits: int) -> str:
    """One of the hashes, with some bits turned."""
    one = np.unpackbits(BASE[base])
    one[list(bits)] ^= 1
    return np.packbits(one).tobytes().hex()


def row(uri: str, content: str, hash_: str | None = None, **values: Any) -> dict[str, Any]:
    """A row that shows a content, which has a hash."""
    digest = content.encode().hex().ljust(64, "0")
    return staged_row(uri, sha256=digest, pdq=hash_, pdq_quality=None if hash_ is None else 100, **values)


def settled(
    rows: list[dict[str, Any]], config: DuplicatesConfig = CONFIG, ranges: int = 1, *, compared: bool = True
) -> list[dict[str, Any]]:
    """Return the rows, in the order of their URIs, as they are settled in so many ranges."""
    ordered = sorted(rows, key=lambda one: str(one["uri"]))
    table = as_schema(pa.Table.from_pylist(ordered, schema=pa.schema(ROW_SCHEMA)), ROW_SCHEMA)
    step = -(-len(rows) // ranges)
    parts = [table.slice(start, step) for start in range(0, len(rows), step)]
    with spooling() as spool:
        for number, part in reversed(list(enumerate(parts))):  # in any order
            spool.write(number, part, pc.fill_null(pc.greater(part["nsfw_score"], 0.5), False))
        duplicates = find_duplicates(spool, config, compared=compared)
        return [one for part in parts for one in duplicates.settled(part).to_pylist()]


def of(rows: list[dict[str, Any]], *names: str) -> list[Any]:
    return [row[names[0]] if len(names) == 1 else tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("ranges", [1, 2, 5])
def test_copies_have_one_score(ranges: int) -> None:
    """Objects with the same bytes have the scores of the first, name it, and are accounted for as duplicates, in
    whichever ranges they lie."""
    rows = [row("/a", "x", nsfw_score=0.25), row("/b", "y"), row("/c", "x", nsfw_score=0.250001)]
    rows += [
        row("/d", "z", nsfw_score=0.9, signals=[{"name": "c2pa.manifest", "value": 1.0}]),
        row("/e", "z", nsfw_score=0.8),
    ]
    found = settled(rows, ranges=ranges)
    assert of(found, "uri") == ["/a", "/b", "/c", "/d", "/e"]
    assert of(found, "duplicate_of") == [None, None, "/a", None, "/d"]
    assert of(found, "accounted_as") == ["scored", "scored", "duplicate", "scored", "duplicate"]
    assert found[0]["nsfw_score"] == found[2]["nsfw_score"] and found[3]["nsfw_score"] == found[4]["nsfw_score"]
    assert found[4]["signals"] == [{"name": "c2pa.manifest", "value": 1.0}] and found[4]["label"] == "nsfw"
    assert of(found, "cluster_size", "cluster_places") == [(1, 2), (None, None), (1, 2), (1, 2), (1, 2)]


def test_what_has_no_score_is_no_copy() -> None:
    """Objects that could not be read or decoded stay what they are, however often their bytes occur."""
    broken = [row(f"/{i}", "x", status="decode_error") for i in range(3)]
    unread = [staged_row(f"/n{i}", status="not_found") for i in range(2)]
    found = settled([*broken, *unread])
    assert set(of(found, "duplicate_of", "cluster", "accounted_as")) == {(None, None, "errored")}
    assert settled([row("/a", "x", status="timeout"), row("/b", "x")])[1]["duplicate_of"] is None


def test_the_original_stays_what_it_is() -> None:
    """An object that was the original keeps being it beside new copies with smaller URIs; copies that are carried over
    stay carried; one with a score comes before one that a filter settled."""
    carried = {"carried_from": "1", "accounted_as": "carried"}
    old = [row("/m", "x", **carried), row("/n", "x", duplicate_of="/m", **carried)]
    found = settled([*old, row("/a", "x")])
    assert of(found, "uri", "duplicate_of", "accounted_as") == [
        ("/a", "/m", "duplicate"),
        ("/m", None, "carried"),
        ("/n", "/m", "carried"),
    ]
    filtered = row("/a", "y", nsfw_score=None, filtered_by="icon", accounted_as="filtered")
    found = settled([filtered, row("/b", "y", nsfw_score=0.7)])
    assert of(found, "uri", "duplicate_of", "nsfw_score", "filtered_by") == [
        ("/a", "/b", pytest.approx(0.7), None),
        ("/b", None, pytest.approx(0.7), None),
    ]


def moving(uri: str, content: str, *hashes: str, **values: Any) -> dict[str, Any]:
    """A row of an animation with such views, the first of which nobody trusts the hash of."""
    views = [{"index": i, "reason": "spread", "pdq": one, "pdq_quality": 100} for i, one in enumerate(hashes)]
    blank = {"index": 99, "reason": "last", "pdq": "00" * 32, "pdq_quality": 0}
    return row(uri, content, media="animation", each_view=[*views, blank], **values)


def test_near_duplicates_by_a_share_of_views() -> None:
    """Two animations are near each other where half of the views of each are, whatever their first frames are; a picture
    is not near one that shows it among others, nor an animation that has a beginning in common with another."""
    one, two, three = pdq(0), pdq(1), pdq(2)
    rows = [
        moving("/a", "a", one, two, three, pdq(0, *range(100))),
        moving("/b", "b", pdq(1, 3), pdq(2, 5, 9), pdq(1, *range(100))),
        moving("/c", "c", one, pdq(1, *range(90)), pdq(2, *range(90))),
        row("/d", "d", one),
        row("/e", "e", pdq(0, 7)),
        moving("/f", "f", pdq(0, 8)),
    ]
    found = settled(rows, ranges=2)
    clusters = of(found, "cluster")
    assert clusters[0] == clusters[1] is not None and clusters[2] is None
    assert clusters[3] == clusters[4] == clusters[5] is not None and clusters[3] != clusters[0]
    assert of(found, "cluster_size") == [2, 2, None, 3, 3, 3]


def test_near_duplicates() -> None:
    """Contents whose hashes are within the distance share an id, its leader's; hashes that PDQ does not trust, and those
    a bit further away, stay alone."""
    rows = [
        row("/a", "a", pdq(0)),
        row("/b", "b", pdq(0, *range(15))),
        row("/c", "c", pdq(0, *range(100, 116))),
        row("/d", "d", pdq(1)),
        row("/e", "b", pdq(0, *range(15))),
        {**row("/f", "f", pdq(0)), "pdq_quality": 49},
    ]
    found = settled(rows)
    leader = found[0]["sha256"][:16]
    assert of(found, "cluster", "cluster_size", "cluster_places") == [
        (leader, 2, 3),
        (leader, 2, 3),
        (None, None, None),
        (None, None, None),
        (leader, 2, 3),
        (None, None, None),
    ]
    assert {one["cluster"] for one in settled(rows, DuplicatesConfig(near=16))[:3]} == {leader}
    apart = settled(rows, DuplicatesConfig(near=None))
    assert of(apart, "cluster_size", "cluster_places")[:2] == [(None, None), (1, 2)]


def test_a_cluster_keeps_its_name() -> None:
    """What joins later takes the id that is there, whatever its own digest; without its leader a cluster begins anew."""
    first = settled([row("/a", "m", pdq(0)), row("/b", "n", pdq(0, 1))])
    kept = [{**one, "carried_from": "1", "accounted_as": "carried"} for one in first]
    name = first[0]["cluster"]
    later = settled([*kept, row("/c", "a", pdq(0, 2)), row("/d", "z", pdq(0, 3))])
    assert {one["cluster"] for one in later} == {name} and {one["cluster_size"] for one in later} == {4}
    assert settled([{**one, "carried_from": "2"} for one in later]) == [{**one, "carried_from": "2"} for one in later]
    orphans = settled([{**one, "carried_from": "2"} for one in later[1:]])
    assert name not in of(orphans, "cluster") and of(orphans, "cluster_size") == [3] * 3


def test_a_leader_that_is_read_anew_leads_on() -> None:
    """Also beside new contents that come before it and are near it, so that nobody is left behind."""
    first = settled([row("/a", "m", pdq(0)), row("/b", "n", pdq(0, 1))])
    kept = {**first[1], "carried_from": "1", "accounted_as": "carried"}
    later = settled([row("/a", "m", pdq(0)), kept, row("/c", "a", pdq(0, 2))])
    assert of(later, "cluster", "cluster_size") == [(first[0]["cluster"], 3)] * 3


def test_what_was_never_compared_is_compared() -> None:
    """Carried rows of runs that did not compare all with all join each other; those of one that did are left alone."""
    rows = [row("/a", "a", pdq(0)), row("/b", "b", pdq(0, 1))]
    kept = [{**one, "carried_from": "1", "accounted_as": "carried"} for one in rows]
    assert of(settled(kept), "cluster_size") == [None, None]
    assert of(settled(kept, compared=False), "cluster_size") == [2, 2]
    flagged = [{**one, "nsfw_score": 0.9} for one in kept]
    assert of(settled(flagged, DuplicatesConfig(most_contents=1)), "cluster_size") == [2, 2]


def test_of_too_many_only_the_flagged_are_compared() -> None:
    """Beyond the limit what is not flagged stays alone."""
    rows = [row("/a", "a", pdq(0), nsfw_score=0.9), row("/b", "b", pdq(0, 1), nsfw_score=0.8)]
    rows += [row("/c", "c", pdq(0, 2)), row("/d", "d", pdq(0, 3))]
    assert of(settled(rows, DuplicatesConfig(most_contents=4)), "cluster_size") == [4] * 4
    assert of(settled(rows, DuplicatesConfig(most_contents=3)), "cluster_size") == [2, 2, None, None]


_OBJECTS = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=25)


@settings(deadline=None, max_examples=12)
@given(
    _OBJECTS, st.lists(st.tuples(st.integers(0, 2), st.sets(st.integers(0, 60), max_size=12)), min_size=9, max_size=9)
)
def test_any_store(objects: list[tuple[int, bool]], hashes: list[tuple[int, set[int]]]) -> None:
    """Copies are exactly the objects with the same bytes; members of a cluster are near its leader, who is near no other
    leader; sizes and places add up; ranges do not matter, and a replay changes nothing."""
    rows = [
        row(f"/{i:02}", f"c{content}", pdq(hashes[content][0], *hashes[content][1]))
        for i, (content, _) in enumerate(objects)
    ]
    rows = [{**one, "carried_from": "1", "accounted_as": "carried"} if known else one
            for one, (_, known) in zip(rows, objects, strict=True)]  # fmt: skip
    found = settled(rows)
    assert found == settled(rows, ranges=3)
    by_content, by_cluster = defaultdict(list), defaultdict(list)
    for one in found:
        by_content[one["sha256"]].append(one)
        by_cluster[one["cluster"]].append(one)
    for copies in by_content.values():
        originals = [one for one in copies if one["duplicate_of"] is None]
        assert len(originals) == 1 and {one["duplicate_of"] for one in copies} - {None} <= {originals[0]["uri"]}
    bits = {one["sha256"]: np.unpackbits(np.frombuffer(bytes.fromhex(one["pdq"]), np.uint8)) for one in found}
    for name, members in by_cluster.items():
        if name is None:
            continue
        contents = {one["sha256"] for one in members}
        [leader] = [content for content in contents if content[:16] == name]
        assert all((bits[leader] != bits[content]).sum() <= 15 for content in contents)
        assert {(one["cluster_size"], one["cluster_places"]) for one in members} == {(len(contents), len(members))}
    again = settled([{**one, "carried_from": one["carried_from"] or "1"} for one in found])
    assert of(again, "duplicate_of", "cluster", "cluster_places") == of(
        found, "duplicate_of", "cluster", "cluster_places"
    )


def test_a_run_counts_what_is_the_same(tmp_path: Path) -> None:
    """`run.json` says how many objects are copies, and what the model was spared."""
    media = tmp_path / "media"
    media.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (media / name).touch()

    def made(uri: str) -> dict[str, Any]:
        return row(uri, "x" if "c.jpg" not in uri else "y", reused=uri.endswith("b.jpg"))

    result = scanned(media, tmp_path / "out", made)
    assert result.record.balance.duplicate == 1
    assert result.record.duplicates.model_dump() == {
        "copies": 1,
        "contents": 1,
        "clusters": 0,
        "clustered": 0,
        "looked_for_all": True,
        "reused": 1,
    }
    report = pq.read_table(result.report_files[0])
    assert sorted(report["duplicate_of"].drop_null().to_pylist()) == [str(media / "a.jpg")]


def test_nights_keep_what_is_alike(tmp_path: Path) -> None:
    """A delta also holds rows that are not what they were because of others; and what is read anew, in whichever order
    its digest comes, keeps its cluster."""
    media, shown = tmp_path / "media", {"a": ("m", pdq(0)), "b": ("z", pdq(0, 1)), "c": ("a", pdq(0, 2))}
    media.mkdir()

    def made(uri: str) -> dict[str, Any]:
        info = os.stat(uri)
        changed = datetime.fromtimestamp(info.st_mtime_ns / 1e9, UTC)
        seen = {"size": info.st_size, "modified_at": changed, "scanned_at": changed + timedelta(hours=1)}
        return row(uri, *shown[Path(uri).name], **seen)

    def night(run_id: str, *touched: str, mode: str = "delta") -> dict[str, tuple[Any, ...]]:
        for name in touched:
            (media / name).write_text(run_id)
            os.utime(media / name, (time.time() - 60,) * 2)
        result = scanned(media, tmp_path / "out", made, run_id=run_id, report={"mode": mode})
        rows = [one for path in result.report_files for one in pq.read_table(path).to_pylist()]
        return {Path(one["uri"]).name: (one["cluster"], one["cluster_size"]) for one in rows}

    assert night("1", "a") == {"a": (None, None)}
    [(name, size)] = set(night("2", "b").values())
    assert size == 2, "the first one is told of again, since it is alone no more"
    assert night("3", "c") == {"c": (name, 3)}
    assert night("4", mode="snapshot") == dict.fromkeys("abc", (name, 3))
    assert night("5", "a", "b", "c") == dict.fromkeys("abc", (name, 3))


def test_a_flood_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of contents that look the same, each with other bytes, a few are compared with all, not each with
    each; they are one cluster all the same."""
    asked: list[int] = []
    search = NearIndex.search

    def counted(index: NearIndex, hashes: Hashes, distance: int | None = None) -> Found:
        asked.append(len(hashes))
        return search(index, hashes, distance)

    monkeypatch.setattr(NearIndex, "search", counted)
    looks = [pdq(0), pdq(0, 7), pdq(1)]
    found = settled([row(f"/{number:05}", str(number), looks[number % 3]) for number in range(3000)])
    assert sorted(set(of(found, "cluster_size"))) == [1000, 2000]
    assert sum(asked) < 100
