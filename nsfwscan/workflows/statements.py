"""Say measures of a period as statements of reasons, in the shape that the DSA Transparency Database takes.

https://transparency.dsa.ec.europa.eu/page/api-documentation, as of its schema of 1 July 2025: each line is the body of
one request that creates several statements, 100 at most. A measure is what `transparency.py` counts: an object that
became `block` without a person, or a content that a person removed. Nothing in a statement names the object or a
person: `puid` is a digest, by which the store finds the row again.

Nudity and pornography are `STATEMENT_CATEGORY_OTHER_VIOLATION_TC` with `KEYWORD_ADULT_SEXUAL_MATERIAL`: what they are
under the terms of the provider, who must know whether they are illegal, too. What matches an illegal bank has no
statement: only the provider knows the law that it is against, and what to say of it. A report that cannot be read is a
`StoreError`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import NSFW_CATEGORIES, BankKind
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.verdict import Kind
from nsfwscan.workflows.transparency import NO_CATEGORY, committed_within, newly_blocked, removed_within

MOST = 100
"""Statements of one request, as the database allows."""
EU = (
    *("AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT", "LT", "LU"),
    *("LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK"),
)
VISIBILITIES = ("removed", "disabled", "demoted", "age_restricted", "interaction_restricted", "labelled")
OTHER = "KEYWORD_OTHER"
_OTHER_VIOLATION = "STATEMENT_CATEGORY_OTHER_VIOLATION_TC"
_ADULT = {"category": _OTHER_VIOLATION, "category_specification": ["KEYWORD_ADULT_SEXUAL_MATERIAL"]}
_CATEGORIES: Mapping[str, dict[str, Any]] = {
    **{str(one): _ADULT for one in NSFW_CATEGORIES},
    "nudity": {**_ADULT, "category_specification": ["KEYWORD_NUDITY"]},
    "violence": {"category": "STATEMENT_CATEGORY_VIOLENCE"},
    "gore": {"category": "STATEMENT_CATEGORY_VIOLENCE"},
    "self-harm": {"category": "STATEMENT_CATEGORY_SELF_HARM"},
}
_OBJECT = ["uri", "sha256", "media", "modified_at", "match_kind", "text_language"]
_LONGEST = 500
_FOUND_BY = {Kind.REVIEW: "a scan", Kind.AUDIT: "a random sample", Kind.APPEAL: "an appeal"}


def requests(store: Store, since: datetime, until: datetime, visibility: str = "removed") -> Iterator[dict[str, Any]]:
    """Yield the bodies of requests for the measures from `since` on and before `until` (UTC), but those on content that
    matches an illegal bank.

    Args:
        visibility: of `VISIBILITIES`, what the platform does with what is blocked or removed.
    """
    statements = (_statement(one, visibility) for one in measures(store, since, until) if not one.illegal)
    while some := list(islice(statements, MOST)):
        yield {"statements": some}


@dataclass(frozen=True)
class Measure:
    """One measure, as a statement says it.

    Attributes:
        day: that it counts from.
        said: what a report says of the object.
        detected, decided: whether a machine found it, and decided alone.
    """

    puid: str
    day: str
    said: Mapping[str, Any]
    category: str | None
    ground: str
    facts: str
    detected: bool
    decided: bool

    @property
    def illegal(self) -> bool:
        """Whether the content matches an illegal bank. No machine alone blocks such content, so a person did."""
        return self.said.get("match_kind") == BankKind.ILLEGAL


def measures(store: Store, since: datetime, until: datetime) -> Iterator[Measure]:
    """Yield the measures from `since` on and before `until` (UTC)."""
    runs = committed_within(store, since, until)
    for run, record in runs:
        for rows in newly_blocked(run, record):
            known, at = _objects(run, record, "uri", rows["uri"]), record.committed_at[:10]
            facts = f"found and decided without a person, by {record.model.identity or 'known hashes'}"
            for row in rows.to_pylist():
                puid, said = _puid(record.run_id, row["uri"]), known.get(row["uri"], {})
                yield Measure(puid, at, said, row["label"], _ground(record, row["rule"]), facts, True, True)
    decided = removed_within(store, since, until)
    contents = pa.array([row["sha256"] for row in decided], pa.string())
    seen = _objects(*runs[-1], "sha256", contents) if runs else {}
    for row in decided:
        facts = f"found by {_FOUND_BY[row['kind']]}, decided by a person"
        ground = f"the provider's terms and conditions: {row['category'] or 'no category said'}"
        day, said = row["decided_at"].date().isoformat(), seen.get(row["sha256"], {})
        yield Measure(row["id"], day, said, row["category"], ground, facts, row["kind"] == Kind.REVIEW, False)


def _objects(run: Run, record: RunRecord, key: str, values: pa.Array | pa.ChunkedArray) -> dict[str, dict[str, Any]]:
    """Return what a report says of some objects, by a column."""
    wanted = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    parts = (rows.filter(pc.is_in(rows[key], wanted)) for rows in read_rows(run, record, _OBJECT))
    return {row[key]: row for part in parts for row in part.to_pylist()}


def _statement(measure: Measure, visibility: str) -> dict[str, Any]:
    posted, category = measure.said.get("modified_at"), measure.category or NO_CATEGORY
    other = {"category_specification": [OTHER], "category_specification_other": category[:_LONGEST]}
    return {
        "decision_visibility": [f"DECISION_VISIBILITY_CONTENT_{visibility.upper()}"],
        "decision_ground": "DECISION_GROUND_INCOMPATIBLE_CONTENT",
        "incompatible_content_ground": measure.ground[:_LONGEST],
        "incompatible_content_explanation": f"the terms do not allow it; category: {category}"[:_LONGEST],
        "incompatible_content_illegal": "No",
        "content_type": ["CONTENT_TYPE_VIDEO" if measure.said.get("media") == "video" else "CONTENT_TYPE_IMAGE"],
        **_CATEGORIES.get(category.lower(), {"category": _OTHER_VIOLATION, **other}),
        "territorial_scope": list(EU),
        "content_date": measure.day if posted is None else min(posted.date().isoformat(), measure.day),
        "application_date": measure.day,
        "decision_facts": measure.facts,
        "source_type": "SOURCE_VOLUNTARY",
        "automated_detection": "Yes" if measure.detected else "No",
        "automated_decision": f"AUTOMATED_DECISION_{'FULLY' if measure.decided else 'NOT_AUTOMATED'}",
        "puid": measure.puid,
    }


def category_of(category: str | None) -> tuple[str, str, str]:
    """Return the codes of a category and its sub-category, and what describes it where the sub-category is `OTHER`."""
    said = category or NO_CATEGORY
    known = _CATEGORIES.get(said.lower(), {"category": _OTHER_VIOLATION})
    [keyword] = known.get("category_specification", [OTHER])
    return known["category"], keyword, said[:_LONGEST] if keyword == OTHER else ""


def _ground(record: RunRecord, rule: str) -> str:
    return f"policy {record.policy.name}, version {record.policy.version}, rule {rule}"


def _puid(run_id: str, uri: str) -> str:
    """Return an id of a measure: letters, digits, `-` and `_`."""
    object_id = hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', run_id)}-{object_id}"
