"""Previous reports: which runs a night goes on from, and what each of their rows is worth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.errors import StoreError
from nsfwscan.runs.beside import PREVIOUS_SCHEMA
from nsfwscan.runs.plan import KNOWN_SCHEMA
from nsfwscan.runs.previous import PreviousReports, PreviousRun, belongs_to, find_previous
from nsfwscan.runs.run import Run
from nsfwscan.storage.store import Store, to_json
from nsfwscan.workflows.scan import ScanResult
from tests.runs.previous_runs import REUSE_POLICY, base_of, entry, made, run_in
from tests.runs.rows import record_of, scanned, staged_row

LONG = "/media/" + "x" * 5000
"""So long that Parquet keeps no statistics of it."""

# --- which runs are previous ones -------------------------------------------------------------------------------------------


_MINUTES = count()


def config(uris: Iterable[str], **sections: Any) -> ScanConfig:
    source = {"uris": list(uris), **sections.pop("source", {})}
    return ScanConfig.load(None, {"source": source, "out": "/out", **sections})


def commit(run: Run, uris: Iterable[str], *, kind: str = "scan", at: str | None = None, **sections: Any) -> None:
    """A committed run with nothing in it, but what says whether it is a base; later ones are newer."""
    now = datetime(2026, 11, 22, tzinfo=UTC) + timedelta(minutes=next(_MINUTES))
    then = now.isoformat(timespec="milliseconds")
    record = record_of(run.run_id, kind=kind, committed_at=then, config=config(uris, **sections).public())
    record["plan"]["listed_at"] = at or then
    run.folder.write("run.json", to_json(record))
    run.folder.write("_SUCCESS", b"")


def previous_ids(folder: Path, *uris: str, **sections: Any) -> list[str]:
    found = find_previous(run_in(folder, "tonight"), config(uris, **sections))
    return [base.run.run_id for base in found]


DELTA = {"report": {"mode": "delta"}}


def test_the_last_whole_report_is_enough(tmp_path: Path) -> None:
    """What is older than the newest snapshot of the same sources adds nothing."""
    for name in ("1", "2", "3"):
        commit(run_in(tmp_path, name), ["/media"])
    assert previous_ids(tmp_path, "/media") == ["3"]
    assert previous_ids(tmp_path, "/elsewhere") == []


def test_deltas_lead_back_to_a_snapshot(tmp_path: Path) -> None:
    """A delta holds only what it looked at: the runs before it count, newest first, to the first whole one."""
    for name, sections in (("1", {}), ("2", {}), ("3", DELTA), ("4", DELTA)):
        commit(run_in(tmp_path, name), ["/media"], **sections)
    assert previous_ids(tmp_path, "/media") == ["4", "3", "2"]


@pytest.mark.parametrize(
    ("ours", "theirs", "is_base"),
    [
        ("/media", "/media", True),
        ("/media/2026", "/media", True),
        ("/media", "/media/2026", True),
        ("/media/a.jpg", "/media", True),
        ("/media2", "/media", False),
        ("/media", "/media2", False),
        ("s3://media/2026/", "s3://media/", True),
        ("s3://media/2026", "s3://media/20", True),
        ("s3://media/2026/", "s3://media/2027/", False),
        ("s3://media", "s3://reports/media", False),
        ("/m/2026-11-22.parquet", "/m/2026-11-21.parquet", True),
        ("s3://inv/2026-11-22T01-00Z/manifest.json", "s3://inv/2026-11-21T01-00Z/manifest.json", True),
        ("/m/a-22.parquet", "/m/b-21.parquet", False),
        ("/m/a-22.parquet", "/m", False),
        ("/m", "/m/a-22.parquet", False),
    ],
)
def test_overlapping_sources(tmp_path: Path, ours: str, theirs: str, is_base: bool) -> None:
    """A run is a base where its sources cover ours or lie within them; manifests where only their numbers differ."""
    commit(run_in(tmp_path, "1"), [theirs])
    assert previous_ids(tmp_path, ours) == (["1"] if is_base else [])


def test_a_part_of_the_sources_does_not_end_the_chain(tmp_path: Path) -> None:
    """A newer snapshot of one folder stands before an older one of them all; a larger one ends the chain."""
    commit(run_in(tmp_path, "all"), ["/media", "/more", "/else"])
    commit(run_in(tmp_path, "one"), ["/media/2026"])
    commit(run_in(tmp_path, "other"), ["/nothing/of/it"])
    assert previous_ids(tmp_path, "/media", "/more") == ["one", "all"]
    assert previous_ids(tmp_path, "/media/2026/11") == ["one"]


@pytest.mark.parametrize(
    ("theirs", "ours", "chain"),
    [
        ({"limit": 5}, {}, ["new", "old"]),
        ({"limit": 5}, {"limit": 5}, ["new", "old"]),
        ({"include": ["*.jpg"]}, {}, ["new", "old"]),
        ({"include": ["*.jpg"]}, {"include": ["*.jpg"]}, ["new"]),
        ({"exclude": ["*/thumbs/*"]}, {"include": ["*.jpg"]}, ["new", "old"]),
        ({}, {"include": ["*.jpg"], "exclude": ["a*"], "limit": 3}, ["new"]),
    ],
)
def test_filters_and_limits(tmp_path: Path, theirs: Any, ours: Any, chain: list[str]) -> None:
    """A run that saw only some objects is a base, but what it did not see is looked up further back."""
    commit(run_in(tmp_path, "old"), ["/media"])
    commit(run_in(tmp_path, "new"), ["/media"], source=theirs)
    assert previous_ids(tmp_path, "/media", source=ours) == chain


def test_the_newest_is_the_last_listed(tmp_path: Path) -> None:
    """Neither the name of a run counts nor when it was committed, but when it listed the store: one that was resumed
    late knows the store as it was."""
    commit(run_in(tmp_path, "20261121"), ["/media"], at="2026-11-23T09:00:00.000+00:00", **DELTA)
    commit(run_in(tmp_path, "20261122"), ["/media"], at="2026-11-22T03:00:00.000+00:00")
    assert previous_ids(tmp_path, "/media") == ["20261121", "20261122"]


def test_a_replay_comes_before_its_scan(tmp_path: Path) -> None:
    """It knows the store as of the scan's listing, and what was decided since: a later scan goes on from it, too, but
    not before a scan that listed the store after it."""
    at = "2026-11-01T00:00:00.000+00:00"
    commit(run_in(tmp_path, "scan"), ["/media"], at=at)
    commit(run_in(tmp_path, "a-replay"), ["/media"], at=at, kind="replay")
    assert previous_ids(tmp_path, "/media") == ["a-replay"]
    commit(run_in(tmp_path, "z-replay"), ["/media"], at=at, kind="replay", **DELTA)
    assert previous_ids(tmp_path, "/media") == ["z-replay", "a-replay"]
    commit(run_in(tmp_path, "later"), ["/media"])
    assert previous_ids(tmp_path, "/media") == ["later"]


def test_what_is_no_base(tmp_path: Path) -> None:
    """Neither the run itself, nor an uncommitted one, nor another kind of run, nor whatever else lies in the store."""
    commit(run_in(tmp_path, "base"), ["/media"])
    commit(run_in(tmp_path, "tonight"), ["/media"])
    commit(run_in(tmp_path, "matched"), ["/media"], kind="match")
    commit(run_in(tmp_path, "cut-off"), ["/media"])
    run_in(tmp_path, "cut-off").folder.delete("_SUCCESS")
    (tmp_path / "runs" / ".DS_Store").touch()
    (tmp_path / "runs" / "README").touch()
    assert previous_ids(tmp_path, "/media") == ["base"]


def test_a_signature_is_no_other_source(tmp_path: Path) -> None:
    """A signed source is that of the last night, although its signature, which is never written down, differs."""
    commit(run_in(tmp_path, "1"), ["https://store/a.jpg?X-Amz-Signature=old"])
    assert previous_ids(tmp_path, "https://store/a.jpg?X-Amz-Signature=new") == ["1"]
    assert previous_ids(tmp_path, "https://store/b.jpg?X-Amz-Signature=old") == []


def test_the_parent_is_named_with_its_digest(tmp_path: Path) -> None:
    """A successor names the run and the SHA-256 of its record as it lies there."""
    commit(run_in(tmp_path, "1"), ["/media"])
    [base] = find_previous(run_in(tmp_path, "2"), config(["/media"]))
    data = (tmp_path / "runs" / "1" / "run.json").read_bytes()
    assert base.reference.model_dump() == {"run_id": "1", "sha256": hashlib.sha256(data).hexdigest()}


# --- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uris", [["/b", "/a", "/é\U0001f600", "/é"], ["/a", LONG, "/b"], [LONG + "1", LONG + "2"]])
def test_the_span_of_a_part(tmp_path: Path, uris: list[str]) -> None:
    """First and last URI come from the footer, and from the rows where Parquet left them out since they are long."""
    base = base_of(run_in(tmp_path, "1"), made(uris), [])
    [part] = base.parts
    assert (part.first, part.last) == (min(uris), max(uris))
    footer = pq.read_metadata(tmp_path / "runs" / "1" / part.file.path)
    statistics = footer.row_group(0).column(0).statistics
    assert (statistics is not None and statistics.has_min_max) == (max(map(len, (min(uris), max(uris)))) < 4096)


def test_the_span_of_many_row_groups(tmp_path: Path) -> None:
    """A part's span is that over all its row groups, in whatever order its rows are."""
    run = run_in(tmp_path, "1")
    base = base_of(run, made(f"/{i:03}" for i in range(100)), [])
    name = base.parts[0].file.path
    path = tmp_path / "runs" / "1" / name
    pq.write_table(pq.read_table(path).take(list(range(50, 100)) + list(range(50))), path, row_group_size=7)
    [part] = PreviousRun(run, base.record.model_copy(update={"files": (entry(name, path.read_bytes()),)})).parts
    assert (part.first, part.last) == ("/000", "/099")


def test_a_part_is_what_was_recorded(tmp_path: Path) -> None:
    """A row is carried from nothing but the file that its run committed; the message says what to do."""
    base = base_of(run_in(tmp_path, "1"), made(["/a"]), [])
    [part] = base.parts
    assert base.read(part)["uri"].to_pylist() == ["/a"]
    path = tmp_path / "runs" / "1" / part.file.path
    data = path.read_bytes()
    path.write_bytes(data + b" ")
    with pytest.raises(StoreError, match=r"report/part-00000-.* absent or damaged .*; `nsfwscan verify` .* --full"):
        base.read(part)
    path.unlink()
    with pytest.raises(StoreError, match="absent or damaged"):
        base.read(part)


# --- pieces ---------------------------------------------------------------------------------------------------------

_URIS = sorted(
    ["/media", "/media/", "/media/a", "/media/a b", "/media/b/1", "/media/é", "/media/\uffff", "/media/😀", LONG]
)
_Night = tuple[dict[str, float], set[str], list[int]]


def nights() -> st.SearchStrategy[list[_Night]]:
    """Rows with their scores, what was gone, and where the parts are cut; oldest first."""
    names = st.sampled_from(_URIS)
    night = st.tuples(
        st.dictionaries(names, st.floats(0, 1, width=32)), st.sets(names), st.lists(st.integers(1, 8), max_size=4)
    )
    return st.lists(night, max_size=4)


@settings(max_examples=40, deadline=None)
@given(
    told=nights(),
    cuts=st.sets(st.sampled_from([*_URIS, "/", "/media/a b c", "/n"])),
    source=st.sampled_from(["/media", "m.csv"]),
)
def test_the_newest_row_of_each_object(
    tmp_path_factory: pytest.TempPathFactory, told: list[_Night], cuts: set[str], source: str
) -> None:
    """However runs are cut into parts and the URIs into ranges, each object comes once, with the newest run's row, and
    not at all where a newer run found it gone; and the plan knows exactly the rows that the commit will find."""
    folder = tmp_path_factory.mktemp("store")
    expected: dict[str, tuple[str, float]] = {}
    chain: list[PreviousRun] = []
    for number, (rows, absent, parts) in enumerate(told):
        gone = absent - rows.keys()
        values = [{**made([uri])[0], "nsfw_score": score} for uri, score in rows.items()]
        chain.insert(0, base_of(run_in(folder, str(number)), values, parts, gone))
        expected |= {uri: (str(number), score) for uri, score in rows.items()}
        expected = {uri: row for uri, row in expected.items() if uri not in gone}
    previous = PreviousReports(chain, [source])
    edges = [None, *sorted(cuts), None]
    found = []
    for after, upto in pairwise(edges):
        for piece in previous.rows(after, upto):
            assert piece.schema.equals(PREVIOUS_SCHEMA) and piece.num_rows
            uris = piece["uri"].to_pylist()
            assert all((after is None or uri > after) and (upto is None or uri <= upto) for uri in uris)
            found += piece.select(["uri", "run_id", "nsfw_score"]).to_pylist()
    assert len(found) == len(expected)
    assert {row["uri"]: (row["run_id"], row["nsfw_score"]) for row in found} == expected
    newest = pa.concat_tables([KNOWN_SCHEMA.empty_table(), *previous.known(REUSE_POLICY).tables]).sort_by(
        [("age", "descending")]
    )
    known = {row["uri"]: row for row in newest.to_pylist()}
    assert {uri: chain[row["age"]].run.run_id for uri, row in known.items() if row["standing"]} == {
        uri: run_id for uri, (run_id, _) in expected.items()
    }


def test_parts_beside_the_sources_are_not_read(tmp_path: Path) -> None:
    """Of a run over a larger store, only the parts that can hold objects of our sources are opened."""
    base = base_of(run_in(tmp_path, "1"), made(["/a/1", "/b/1", "/b/2", "/c/1"]), [1, 3], spans=True)
    for path in (tmp_path / "runs" / "1" / "report").glob("part-0000[02]*"):
        path.write_bytes(path.read_bytes()[:100] + b"damage" + path.read_bytes()[106:])
    previous = PreviousReports([base], ["/b"])
    assert [row for piece in previous.rows(None, None) for row in piece["uri"].to_pylist()] == ["/b/1", "/b/2"]
    with pytest.raises(StoreError, match="damaged"):
        list(PreviousReports([base], ["/a"]).rows(None, None))


def test_what_belongs_to_sources() -> None:
    """An object belongs to the folder or prefix that would list it, or is a source itself; all belong to a manifest."""
    uris = pa.chunked_array([["/m/a", "/m2/a", "/m", "file:///m/%ff", "file:///m2/%ff", "s3://b/p/1", "s3://b/q"]])
    assert belongs_to(uris, ["/m"]).to_pylist() == [True, False, True, True, False, False, False]
    assert belongs_to(uris, ["s3://b/p", "/m2/a"]).to_pylist() == [False, True, False, False, False, True, False]


@pytest.mark.parametrize(
    ("before_s", "settled"), [(None, False), (3600, True), (2.1, True), (2, False), (0, False), (-9, False)]
)
def test_a_time_too_close_to_the_read_proves_nothing(tmp_path: Path, before_s: float | None, settled: bool) -> None:
    """A file last changed within the resolution of its time before it was read may have changed again unseen."""
    read = datetime(2026, 11, 22, 3, tzinfo=UTC)
    changed = None if before_s is None else read - timedelta(seconds=before_s)
    base = base_of(run_in(tmp_path, "1"), made(["/a"], modified_at=changed, scanned_at=read, etag="e", size=7), [])
    known = pa.concat_tables(PreviousReports([base], ["/"]).known(REUSE_POLICY).tables)
    [row] = known.filter(known["standing"].is_valid()).to_pylist()
    assert (row["modified_at"] is not None) == settled
    assert (row["uri"], row["etag"], row["size"], row["standing"], row["age"]) == ("/a", "e", 7, "good", 0)


# --- whole nights ---------------------------------------------------------------------------------------------------


def night(folder: Path, run_id: str, tags: dict[str, str], **sections: Any) -> tuple[ScanResult, set[str]]:
    """A scan of a manifest with made-up rows; and what was looked at."""
    manifest = folder / f"listed-{run_id}.jsonl"
    manifest.write_text(
        "".join(json.dumps({"uri": uri, "size": 1000, "etag": tag}) + "\n" for uri, tag in tags.items())
    )
    looked: set[str] = set()

    def row(uri: str) -> dict[str, Any]:
        looked.add(uri)
        return staged_row(uri, etag=tags[uri])

    return scanned(manifest, folder / "out", row, run_id=run_id, **sections), looked


def test_an_object_that_is_back_is_new(tmp_path: Path) -> None:
    """What a delta found gone is read again when it is back, although it is the same as before and a row is known."""
    night(tmp_path, "1", {"/a": "1", "/b": "1"})
    gone, _ = night(tmp_path, "2", {"/a": "1"}, report={"mode": "delta"})
    assert gone.record.changes.deleted == 1
    back, looked = night(tmp_path, "3", {"/a": "1", "/b": "1"})
    assert looked == {"/b"} and back.record.plan.actions == {"carried": 1, "new": 1}
    assert back.record.previous_runs == ("2", "1") and back.record.balance.listed == 2


def test_very_long_uris_are_carried(tmp_path: Path) -> None:
    """Objects whose names are too long for Parquet's statistics are carried as any other."""
    tags = {"/" + c * 5000: "1" for c in "abc"}
    night(tmp_path, "1", tags)
    second, looked = night(tmp_path, "2", {**tags, "/" + "b" * 5000: "2"})
    assert looked == {"/" + "b" * 5000} and second.record.balance.carried == 2


def test_a_lost_base_is_said(tmp_path: Path) -> None:
    """A plan whose base was removed since cannot be gone on with, and says which run it needs."""
    night(tmp_path, "1", {"/a": "1"})
    store = Store.at(str(tmp_path / "out"), StorageConfig())
    store.delete("runs/1")
    with pytest.raises(StoreError, match=r"runs/1/run.json is absent"):
        PreviousReports.of(store, ["1"], ["/"])
