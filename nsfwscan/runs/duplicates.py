"""Find copies and near-duplicates: one content gets one score, and near-duplicates get one cluster id.

The rows of a run are put on local disk range by range (`Spool`), by several threads at once, until all are known. Then
each range is read again, with `duplicate_of` and `cluster…`, and with one score for all objects of the same bytes.
Memory holds a hash of each content, or, where there are very many, only of flagged, copied and clustered ones. DuckDB
groups and joins, and spills to disk.

Copies are objects with the same bytes. Their original is the original of a previous run, else the first by URI; an
object with a score comes before one without. Near-duplicates are contents whose PDQ hashes differ by a few bits, both
of a quality that PDQ trusts; of contents of several views, half of the one's views and half of the other's have such a
hash among those of the other. A cluster is one content, the leader, and contents within the distance of the leader, so
two members are at most twice the distance apart. A content keeps its cluster while the leader is there, so an id stays
the same from night to night. A run therefore searches only around its new contents, and around those whose leader is
gone. It searches around all contents where previous runs did not compare all with all, or used other rules.
"""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import dataset, feather

from nsfwscan.banks.pdq_index import HASH_BYTES, NearIndex
from nsfwscan.config import DuplicatesConfig
from nsfwscan.errors import Status
from nsfwscan.schema import (
    DUPLICATE_COLUMNS,
    EACH_VIEW,
    MODEL_COLUMNS,
    REPORT_SCHEMA,
    SIGNAL_COLUMNS,
    Accounted,
    as_matrix,
)
from nsfwscan.storage.duckdb_temp import spilling

_OF_CONTENT = [f.name for f in (*MODEL_COLUMNS, *SIGNAL_COLUMNS)] + ["filtered_by"]
"""Columns that follow from the bytes alone: every copy gets those of its original."""
_SETTLED = pa.schema([REPORT_SCHEMA.field("uri"), *DUPLICATE_COLUMNS, *map(REPORT_SCHEMA.field, _OF_CONTENT)])
_ID_DIGITS = 16
"""Hex digits of the leader's SHA-256 that make a cluster's id."""
_TRUSTED = 50
"""Least PDQ quality: PDQ's authors trust no hash of a lower one."""
_SHARE = 0.5
"""Share of the views that must be alike, on both sides."""
_QUERIES, _MOST_QUERIES, _MANY = 32, 8192, 1_000_000
"""Contents per search: few at first, and twice as many each time, but few again after a search that found many. This
bounds the size of a result where very many contents are near each other."""

_SEEN = f"sha256 IS NOT NULL AND status = '{Status.OK}'"
"""Condition for rows with a content: their bytes were read, and scored, matched or filtered."""
_GROUPED = (
    "uri", "sha256", "status", "pdq", "pdq_quality", "cluster", "duplicate_of", "carried_from", "nsfw_score", "flagged",
    EACH_VIEW.name,
)  # fmt: skip
_CONTENTS = f"""
    CREATE TEMP TABLE contents AS
    SELECT sha256, count(*) AS places,
           substr(min(concat(CASE WHEN nsfw_score IS NULL THEN 1 ELSE 0 END,
                             CASE WHEN carried_from IS NOT NULL AND duplicate_of IS NULL THEN 0 ELSE 1 END,
                             uri)), 3) AS original,
           coalesce(nullif(min([v.pdq FOR v IN each_view IF v.pdq_quality >= {_TRUSTED} AND v.reason <> 'tile']), []),
                    [max(CASE WHEN pdq_quality >= {_TRUSTED} THEN pdq END)]) AS looks,
           bool_or(carried_from IS NOT NULL) AS is_known, bool_or(flagged) AS is_flagged, min(cluster) AS earlier
    FROM objects WHERE {_SEEN} GROUP BY sha256
"""
_COMPARED = """
    SELECT sha256, looks, places, is_known, is_flagged, earlier FROM contents
    WHERE $all OR is_flagged OR places > 1 OR earlier IS NOT NULL
    ORDER BY sha256
"""
_WRITE_SETTLED = f"""
    COPY (
        SELECT f.uri, CASE WHEN f.uri <> c.original THEN c.original END AS duplicate_of, k.cluster, k.cluster_size,
               k.cluster_places, {", ".join(f"o.{name}" for name in _OF_CONTENT)}
        FROM objects f JOIN clusters k USING (sha256) JOIN contents c USING (sha256)
        LEFT JOIN (FROM originals WHERE uri IN (SELECT original FROM contents WHERE places > 1)) o ON o.uri = c.original
        WHERE f.status = '{Status.OK}'
        ORDER BY f.uri
    ) TO $settled (FORMAT parquet, ROW_GROUP_SIZE 65536)
"""
"""A content of several objects is always in a cluster, of itself alone where no other content is near it."""


@dataclass(frozen=True)
class Found:
    """Counts of a run's copies and near-duplicates.

    Attributes:
        copies: objects with the bytes of another object, the original.
        contents: distinct contents that have copies.
        clusters: clusters of more than one content.
        clustered: objects in these clusters.
        looked_for_all: near-duplicates were looked for among all contents, not only among flagged ones.
    """

    copies: int
    contents: int
    clusters: int
    clustered: int
    looked_for_all: bool

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return dict(vars(self))


class Duplicates:
    """Copies and near-duplicates among the rows of a run, for several threads; `find_duplicates` makes one."""

    def __init__(self, spool: Spool, found: Found) -> None:
        self._spool = spool
        self.found = found

    def rows(self, number: int) -> pa.Table:
        """Return the rows of a range as they were given, with the column `flagged`."""
        return self._spool.read(number)

    def settled(self, rows: pa.Table) -> pa.Table:
        """Return the rows with `DUPLICATE_COLUMNS`.

        Copies get the scores of their original. Copies that this run scored or filtered are accounted as duplicates.
        """
        known = self._between(pc.min(rows["uri"]).as_py(), pc.max(rows["uri"]).as_py())
        place = pc.index_in(rows["uri"], known["uri"]).combine_chunks()
        duplicate_of = known["duplicate_of"].combine_chunks().take(place)
        is_copy = pc.is_valid(duplicate_of)
        source = pc.if_else(is_copy, pc.add(place, rows.num_rows), pa.array(np.arange(rows.num_rows, dtype=np.int32)))
        columns = {name: rows[name] for name in rows.column_names}
        for name in _OF_CONTENT:
            both = pa.chunked_array([*rows[name].chunks, *known[name].chunks], rows.schema.field(name).type)
            columns[name] = both.take(source)
        for field in DUPLICATE_COLUMNS:
            columns[field.name] = known[field.name].combine_chunks().take(place)
        looked_at = pc.is_in(rows["accounted_as"], pa.array([str(Accounted.SCORED), str(Accounted.FILTERED)]))
        columns["accounted_as"] = pc.if_else(
            pc.and_(is_copy, looked_at), str(Accounted.DUPLICATE), rows["accounted_as"]
        )
        return pa.table(columns)

    def _between(self, first: str | None, last: str | None) -> pa.Table:
        if first is None:
            return _SETTLED.empty_table()
        query = "FROM read_parquet($settled) WHERE uri >= $first AND uri <= $last"
        given = {"settled": self._spool.settled, "first": first, "last": last}
        return self._spool.connection.cursor().sql(query, params=given).to_arrow_table().cast(_SETTLED)


class Spool:
    """Ranges of a run on local disk, one file each, for several threads; and a DuckDB that reads them.

    The format is Arrow with LZ4: 0.3 KiB a row, and ten times as fast to write as Parquet.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self.connection = connection
        self.settled = str(folder / "settled.parquet")
        self._folder = folder

    def write(self, number: int, rows: pa.Table, flagged: pa.Array | pa.ChunkedArray) -> None:
        """Write a range.

        Args:
            rows: before duplicates are known (`gathering.ROW_SCHEMA`, and any further columns, which are kept).
            flagged: a mask of the flagged ones.
        """
        feather.write_feather(rows.append_column("flagged", flagged), self._path(number), compression="lz4")

    def read(self, number: int) -> pa.Table:
        """Return a range as it was written, with the column `flagged`."""
        return feather.read_table(self._path(number), use_threads=False, memory_map=False)

    def register(self, name: str, columns: Iterable[str]) -> None:
        """Let the DuckDB read these columns of all ranges as a table, in no order."""
        ranges = sorted(str(path) for path in self._folder.glob("*.arrow"))
        self.connection.register(name, dataset.dataset(ranges, _scanned(columns), format="ipc"))

    def _path(self, number: int) -> str:
        return str(self._folder / f"{number}.arrow")


@contextmanager
def spooling() -> Iterator[Spool]:
    """Yield an empty spool, which is removed at the end."""
    with spilling("duplicates") as (connection, folder):
        yield Spool(connection, folder)


def find_duplicates(spool: Spool, config: DuplicatesConfig, *, compared: bool = False) -> Duplicates:
    """Find copies and near-duplicates among all rows of a run.

    Args:
        spool: holds all ranges; it is needed as long as what is returned.
        compared: previous runs compared all contents of carried rows with each other, by the same rules.
    """
    connection = spool.connection
    # DuckDB cannot know how many rows Arrow will give: keep the joins as written, the small side on the right.
    connection.execute("SET disabled_optimizers = 'join_order,build_side_probe_side'")
    spool.register("objects", _GROUPED)
    connection.execute(_CONTENTS)
    [(number,)] = connection.execute("SELECT count(*) FROM contents").fetchall()
    looked_for_all = number <= config.most_contents
    contents = connection.sql(_COMPARED, params={"all": looked_for_all}).to_arrow_table()
    clusters = _clusters(contents, config, looked_for_all=looked_for_all, compared=compared)
    connection.register("clusters", clusters)
    spool.register("objects", ("uri", "sha256", "status"))
    spool.register("originals", ("uri", *_OF_CONTENT))
    connection.execute(_WRITE_SETTLED, {"settled": spool.settled})
    return Duplicates(spool, _counted(contents, clusters, looked_for_all))


def _scanned(names: Iterable[str]) -> pa.Schema:
    known = {"flagged": pa.field("flagged", pa.bool_()), EACH_VIEW.name: EACH_VIEW}
    return pa.schema([known.get(name) or REPORT_SCHEMA.field(name) for name in names])


def _clusters(contents: pa.Table, config: DuplicatesConfig, *, looked_for_all: bool, compared: bool) -> pa.Table:
    """Return `sha256, cluster, cluster_size, cluster_places` of all contents in clusters of several objects."""
    ids = pc.utf8_slice_codeunits(contents["sha256"], 0, _ID_DIGITS).combine_chunks()
    leader = _kept(ids, contents["earlier"].combine_chunks())
    if config.near is not None:
        among = pc.is_valid(pc.list_element(contents["looks"], 0))
        if not looked_for_all:
            among = pc.and_(among, contents["is_flagged"])
        rows = np.flatnonzero(among.to_numpy())
        found_alone = pc.and_(contents["is_known"], pc.is_null(contents["earlier"])).to_numpy()
        new = (leader < 0) & ~(found_alone & compared & looked_for_all)
        leader[rows] = _joined(contents, rows, leader[rows], new[rows], config.near)
    alone = leader < 0
    leader[alone] = np.flatnonzero(alone)
    sizes = np.bincount(leader, minlength=len(contents))
    places = np.bincount(leader, weights=contents["places"].to_numpy(), minlength=len(contents)).astype(np.int64)
    table = pa.table(
        {
            "sha256": contents["sha256"],
            "cluster": ids.take(pa.array(leader)),
            "cluster_size": pa.array(sizes[leader]),
            "cluster_places": pa.array(places[leader]),
        }
    )
    return table.filter(pc.greater(table["cluster_places"], 1))


def _kept(ids: pa.Array, earlier: pa.Array) -> NDArray[np.int64]:
    """Return for each content the leader of its earlier cluster, as a row number.

    -1 means that it had no cluster, or that the leader is gone. A leader that was read again, and so has no earlier
    cluster itself, leads the contents that still name it.
    """
    leader = np.array(pc.fill_null(pc.index_in(earlier, ids), -1).to_numpy(), np.int64)
    leads = np.unique(leader[leader >= 0])
    leader[leads] = leads
    return leader


def _joined(
    contents: pa.Table, rows: NDArray[np.intp], leader: NDArray[np.int64], is_new: NDArray[np.bool_], distance: int
) -> NDArray[np.int64]:
    """Return the leaders of some contents: each new content joins an existing cluster or leads one of its own.

    Args:
        rows: row numbers, in `contents`, of the contents that may be near-duplicates.
        leader: for each of them the row number of its leader in `contents`; -1: none yet. Changed in place.
        is_new: for each of them whether to search for contents near it.
    """
    new = np.flatnonzero(is_new)
    if not len(new):
        return leader
    looks = contents["looks"].combine_chunks().take(pa.array(rows))
    hashes, counts = _matrix(looks.flatten()), pc.list_value_length(looks).to_numpy().astype(np.int64)
    owner, begin = np.repeat(np.arange(len(rows)), counts), np.cumsum(counts) - counts
    index, number = NearIndex.over(hashes, distance), _QUERIES
    while len(new):
        some, new = new[:number], new[number:]
        some = some[leader[some] < 0]  # of a thousand near each other, the first finds all others
        ends = np.cumsum(counts[some])
        asked = np.arange(counts[some].sum()) + np.repeat(begin[some] - ends + counts[some], counts[some])
        found = index.search(hashes[asked])
        for one, near in _alike(np.repeat(asked, np.diff(found.limits)), found.entries, owner, counts):
            if leader[one] < 0:
                _join(one, near, leader, rows)
        number = _QUERIES if len(found.entries) > _MANY else min(2 * number, _MOST_QUERIES)
    return leader


def _alike(
    own: NDArray[np.int64], theirs: NDArray[np.int64], owner: NDArray[np.int64], counts: NDArray[np.int64]
) -> Iterator[tuple[np.int64, NDArray[np.int64]]]:
    """Yield contents in ascending order, each with all others of which enough views are alike with enough of its own.

    Args:
        own, theirs: pairs of hashes that are near each other; all pairs of those in `own`.
        owner: the content of each hash.
        counts: number of hashes of each content.
    """
    others = owner[own] != owner[theirs]
    own, theirs = own[others], theirs[others]
    pairs, which = np.unique(owner[own] * len(counts) + owner[theirs], return_inverse=True)
    contents = np.divmod(pairs, len(counts))
    enough = np.ones(len(pairs), bool)
    for content, hashes in zip(contents, (own, theirs), strict=True):
        near = np.bincount(np.unique(which * len(owner) + hashes) // len(owner), minlength=len(pairs))
        enough &= near / counts[content] >= _SHARE
    asking, alike = (content[enough] for content in contents)
    starts = np.flatnonzero(np.diff(asking, prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(asking)]):
        yield asking[start], alike[start:end]


def _join(one: np.int64, near: NDArray[np.int64], leader: NDArray[np.int64], rows: NDArray[np.intp]) -> None:
    """Join a content to the first leader near it, or else make it the leader of itself and of those near it that have
    none."""
    leads = near[leader[near] == rows[near]]
    if len(leads):
        leader[one] = rows[leads.min()]
    else:
        leader[near[leader[near] < 0]] = leader[one] = rows[one]


def _matrix(hashes: pa.Array) -> NDArray[np.uint8]:
    """Return hex hashes as uint8 [n, 32]."""
    digits = as_matrix(hashes.cast(pa.binary(2 * HASH_BYTES)))
    return np.frombuffer(unhexlify(digits.data), np.uint8).reshape(-1, HASH_BYTES)


def _counted(contents: pa.Table, clusters: pa.Table, looked_for_all: bool) -> Found:
    places = contents["places"].to_numpy()
    several = clusters.filter(pc.greater(clusters["cluster_size"], 1))
    led = several.group_by("cluster").aggregate([("cluster_places", "max")])
    return Found(
        copies=int((places - 1).sum()),
        contents=int((places > 1).sum()),
        clusters=led.num_rows,
        clustered=int(pc.sum(led["cluster_places_max"]).as_py() or 0),
        looked_for_all=looked_for_all,
    )
