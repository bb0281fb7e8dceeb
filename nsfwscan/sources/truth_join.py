"""Join ground truth with the listing, and count what does not meet.

Both are spooled as Parquet; the result is the table `met` (`listed`, `truth`) in the connection. Memory stays flat:
DuckDB spills to disk. Truth of which nothing, or too little, was listed is a `SourceError`.

URIs meet when they are the same; and else when they are the same in Unicode's normal form C, where only one listed
object has that form: `é` is one character where people type, and two where a Mac names files. The listing's spelling
stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from nsfwscan.errors import SourceError
from nsfwscan.text import printable
from nsfwscan.warning import WarningKind, Warnings

_EXAMPLES = 3
_LOOKED_THROUGH = 1_000_000
"""Listed objects, up to so many, among which one that is called alike is looked for."""
_ALIKE = 0.9
"""Jaro-Winkler similarity from which a name is worth to be shown: a typing error, another ending."""

_MEET = """
    CREATE TEMP TABLE judged AS
        SELECT uri, min(truth) AS truth FROM read_parquet($truth) GROUP BY uri;
    CREATE TEMP TABLE met AS
        SELECT uri AS listed, truth, uri AS judged FROM judged SEMI JOIN read_parquet($listed) USING (uri);
    CREATE TEMP TABLE forms AS
        SELECT nfc_normalize(uri) AS form, min(uri) AS listed FROM read_parquet($listed)
        WHERE strlen(uri) <> length(uri) GROUP BY form HAVING count(DISTINCT uri) = 1;
    INSERT INTO met
        SELECT f.listed, j.truth, j.uri FROM (FROM judged ANTI JOIN met ON judged.uri = met.judged) j
        JOIN forms f ON nfc_normalize(j.uri) = f.form ANTI JOIN met ON f.listed = met.listed;
"""
_NONE_MET = "CREATE TEMP TABLE met (listed VARCHAR, truth VARCHAR, judged VARCHAR)"
_COUNT = """
    SELECT (SELECT count(*) FROM judged), (SELECT count(*) FROM met), count(*), coalesce(sum(inside::INT), 0) FROM (
        SELECT len($places) = 0 OR len(list_filter($places, lambda p: starts_with(uri, p))) > 0 AS inside
        FROM judged ANTI JOIN met ON judged.uri = met.judged)
"""
_CLOSEST = """
    SELECT uri FROM read_parquet($listed) WHERE jaro_winkler_similarity(uri, $uri) >= $alike
    ORDER BY jaro_winkler_similarity(uri, $uri) DESC, uri LIMIT 1
"""


@dataclass(frozen=True)
class TruthBound:
    """Limit of the objects of a truth file that may not be listed.

    Attributes:
        share: of its objects within `places`.
        places: what URIs begin with that should have been listed; empty: all of them should.
    """

    share: float = 1.0
    places: tuple[str, ...] = ()


@dataclass(frozen=True)
class Meeting:
    """Counts of a truth file's objects, by whether they were listed.

    Attributes:
        given: objects with a truth in the file.
        listed: those that were listed.
        not_listed: those that were not.
        elsewhere: those of `not_listed` that lie in none of the sources.
        examples: some that were not listed, and where there is one, what is called alike.
    """

    given: int
    listed: int
    not_listed: int
    elsewhere: int
    examples: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return JSON types; the arguments of a `Meeting`."""
        return dict(vars(self))


def meet(
    connection: duckdb.DuckDBPyConnection, listed: str, truth: str, given: int, bound: TruthBound, warnings: Warnings
) -> Meeting | None:
    """Make the table `met`, and count; None where there is no truth file. Raises SourceError where no object of the
    truth file was listed, or too few.

    Args:
        listed, truth: Parquet files with `uri`, and `uri` and `truth`.
        given: rows of the truth file.
        warnings: where it is counted what was not listed.
    """
    if not given:
        connection.execute(_NONE_MET)
        return None
    for statement in _MEET.split(";")[:-1]:
        named = {name: path for name, path in (("truth", truth), ("listed", listed)) if f"${name}" in statement}
        connection.execute(statement, named)
    [(judged, met, missing, inside)] = connection.execute(_COUNT, {"places": list(bound.places)}).fetchall()
    examples = _examples(connection, listed, bound.places) if missing else []
    shown = "; ".join(examples)
    if not met:
        raise SourceError(
            f"none of the {judged:,} URIs in the truth file is among those listed: are they written alike? Not listed: "
            f"{shown}"
        )
    if inside > bound.share * (met + inside):
        raise SourceError(
            f"{inside:,} of {met + inside:,} objects of the truth file that lie in the sources were not listed, more "
            f"than --max-unmatched-truth {bound.share:g} allows. Nothing was scanned. Not listed: {shown}"
        )
    if missing:
        warnings.add(WarningKind.UNMET_TRUTH, examples[0], count=missing, detail=f"of {judged:,} in the truth file")
    return Meeting(judged, met, missing, missing - inside, examples)


def _examples(connection: duckdb.DuckDBPyConnection, listed: str, places: tuple[str, ...]) -> list[str]:
    """Return some URIs that were not listed, those within the sources first, and the listed ones with the most similar
    names."""
    query = """
        SELECT uri FROM judged ANTI JOIN met ON judged.uri = met.judged
        ORDER BY len(list_filter($places, lambda p: starts_with(uri, p))) DESC, uri LIMIT $most
    """
    uris = [row[0] for row in connection.execute(query, {"places": list(places), "most": _EXAMPLES}).fetchall()]
    [(count,)] = connection.execute("SELECT count(*) FROM read_parquet($listed)", {"listed": listed}).fetchall()
    found = []
    for uri in uris:
        named = {"listed": listed, "uri": uri, "alike": _ALIKE}
        near = connection.execute(_CLOSEST, named).fetchall() if count <= _LOOKED_THROUGH else []
        found.append(printable(uri) + (f" (is it {printable(near[0][0])}?)" if near else ""))
    return found
