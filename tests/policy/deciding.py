"""Policies, and what they decide."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import BLOCKED, GUARD, parse_policy
from nsfwscan.policy.sql import VISIBLE
from nsfwscan.schema import REPORT_SCHEMA

Row = dict[str, Any]


BLOCK = {
    "name": "high",
    "when": "nsfw_score >= 0.9",
    "decision": "block",
    "queue": "adult",
    "shield": "blur",
    "severity": 3,
}


REVIEW = {"name": "low", "when": "nsfw_score >= 0.4", "decision": "review"}


def decider(*rules: Row, otherwise: str = "allow") -> Decider:
    return Decider(parse_policy({"name": "p", "version": "1", "rules": rules, "otherwise": {"decision": otherwise}}))


_REPORTED = pa.schema([REPORT_SCHEMA.field(name) for name in VISIBLE.names])


def table(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist(
        [{"uri": str(i), "status": "ok", **row} for i, row in enumerate(rows)], schema=_REPORTED
    )


def scored(*scores: float | None) -> pa.Table:
    return table(*({"nsfw_score": score} for score in scores))


def decided(decide: Decider, rows: pa.Table) -> list[tuple[str, str, str]]:
    found = decide(rows)
    return [(row["decision"], row["rule"], row["decided_by"]) for row in found.to_pylist()]


GUARDED = ("undetermined", GUARD, "guard")


BY_BANK = ("block", BLOCKED, "bank")
