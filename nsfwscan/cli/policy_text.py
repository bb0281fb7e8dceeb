"""Text for the terminal: a policy, its overlaps on a run, and what a replay changes.

Names from policies and runs are made printable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nsfwscan.policy.lint import Overlaps
from nsfwscan.policy.rules import BLOCKED, GUARD, ILLEGAL, JUDGED, OTHERWISE, Policy
from nsfwscan.text import printable

_WIDE = 12
"""Largest number of rules whose overlaps are shown as a matrix; overlaps of more rules are listed pair by pair."""


def describe_policy(policy: Policy) -> str:
    """Render a policy in one line: identity, version, and counts of its parts."""
    parts = [
        (len(policy.rules), "rule"),
        (len(policy.thresholds), "threshold"),
        (len(policy.regions), "region"),
        (len(policy.overrides), "override"),
    ]
    counts = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in parts if n or word == "rule")
    return f"policy {printable(policy.identity)}, version {printable(policy.version)}: {counts}"


def describe_overlaps(found: Overlaps, run_id: str) -> str:
    """Render how many rows each rule matches and decides, the rest left to `otherwise`, and the rules that overlap."""
    policy = found.decider.policy
    names = [printable(rule.name) for rule in policy.rules]
    matched = [f"{n:,}" for n in found.both.diagonal()]
    fixed = [OTHERWISE, GUARD, *(name for name in (BLOCKED, ILLEGAL, *JUDGED.values()) if found.decided[name])]
    decided = [found.decided[name] for name in (*(rule.name for rule in policy.rules), *fixed)]
    rows = [
        [name, count, f"{decides:,}", _percent(decides, found.rows)]
        for name, count, decides in zip([*names, *fixed], [*matched, *[""] * len(fixed)], decided, strict=True)
    ]
    lines = [f"on {found.rows:,} rows of run {run_id}", "", *_table(["rule", "matches", "decides", ""], rows)]
    if policy.overrides:
        titles = [[printable(o.title), f"{n:,}"] for o, n in zip(policy.overrides, found.applied, strict=True)]
        lines += ["", *_table(["override", "rows"], titles)]
    if found.matched:
        banks = sorted((f"{printable(bank)} ({kind})", to, n) for (bank, kind, to), n in found.matched.items())
        lines += ["", *_table(["hash bank", "matches", "decided"], [[bank, f"{n:,}", to] for bank, to, n in banks])]
    left, scoreless = found.decided[OTHERWISE], found.decided[GUARD]
    gaps = f"gaps: {left:,} rows that no rule matches fall to {OTHERWISE!r}; {scoreless:,} without a score to the guard"
    return "\n".join([*lines, "", gaps, "", *_overlap_lines(names, found)])


def _overlap_lines(names: Sequence[str], found: Overlaps) -> list[str]:
    pairs = [(i, j) for i in range(len(names)) for j in range(i) if found.both[i, j]]
    if not pairs:
        return ["overlaps: none, no row matches two rules"]
    if len(names) > _WIDE:
        ordered = sorted(pairs, key=lambda pair: -found.both[pair])
        return ["overlaps", *(f"  {found.both[i, j]:>12,}  {names[j]}, {names[i]}" for i, j in ordered)]
    body = [[name, *(f"{found.both[i, j]:,}" for j in range(i + 1))] for i, name in enumerate(names)]
    return ["overlaps: rows that match both, each rule with itself last", *_table(["", *names], body)]


def describe_comparison(found: dict[str, Any], run_id: str, policy: str) -> str:
    """Render the changes of a replay: moves with samples, and the loads of decisions, queues, skills and so on.

    Args:
        found: `Comparison.as_dict()`.
        policy: identity of the policy that decided the run.
    """
    moves = [
        line
        for move in found["moves"]
        for line in (
            f"  {move['objects']:>12,}  {move['from']} → {move['to']}",
            *(f"  {'':>12}    {printable(uri)}" for uri in move["samples"]),
        )
    ]
    lines = [
        f"replay of run {run_id}: {found['rows']:,} rows under {printable(found['policy'])}, which "
        f"{printable(policy)} decided",
        "",
        f"moves: {found['moved']:,} ({_percent(found['moved'], found['rows'])} of the rows)",
        *moves,
        f"  {found['elsewhere']:>12,}  keep their decision and change queue, skill, shield or severity",
    ]
    for name in ("decision", "queue", "skill", "severity", "shield"):
        if name in ("decision", "queue") or len(found[name]) > 1:
            lines += ["", *_table([name, "before", "after", "change"], list(_loads(found[name])))]
    return "\n".join(lines)


def _loads(values: list[dict[str, Any]]) -> Iterator[list[str]]:
    for entry in values:
        name = "(none)" if entry["value"] is None else printable(str(entry["value"]))
        change = entry["after"] - entry["before"]
        yield [name, f"{entry['before']:,}", f"{entry['after']:,}", f"{change:+,}" if change else "0"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Render the lines of a table: names left-aligned, numbers right-aligned; rows may be shorter than the head."""
    everything = [head, *rows]
    widths = [max(len(row[i]) for row in everything if i < len(row)) for i in range(len(head))]
    return ["  " + "  ".join(_cell(cell, widths[i], i) for i, cell in enumerate(row)).rstrip() for row in everything]


def _cell(text: str, width: int, place: int) -> str:
    return text.rjust(width) if place else text.ljust(width)


def _percent(count: int, rows: int) -> str:
    return f"{count / rows:.1%}" if rows else "–"
