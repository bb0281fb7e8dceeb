"""A policy, its findings and its replay, for a person at a terminal.

In: a policy, `Overlaps`, or the dictionary of a `Comparison`. Out: text. Nothing goes wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nsfwscan.policy.lint import Overlaps
from nsfwscan.policy.rules import BLOCKED, GUARD, ILLEGAL, OTHERWISE, Policy
from nsfwscan.text import printable

_WIDE = 12
"""Up to so many rules the overlaps are shown as a matrix; of more, pair by pair."""


def describe_policy(policy: Policy) -> str:
    """What a policy is, in one line."""
    parts = [
        (len(policy.rules), "rule"),
        (len(policy.thresholds), "threshold"),
        (len(policy.regions), "region"),
        (len(policy.overrides), "override"),
    ]
    counts = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in parts if n or word == "rule")
    return f"policy {printable(policy.identity)}, version {printable(policy.version)}: {counts}"


def describe_overlaps(found: Overlaps, run_id: str) -> str:
    """How many rows each rule matches and decides, what is left to `otherwise`, and which rules match the same rows."""
    policy = found.decider.policy
    names = [printable(rule.name) for rule in policy.rules]
    matched = [f"{n:,}" for n in found.both.diagonal()]
    fixed = [OTHERWISE, GUARD, *(name for name in (BLOCKED, ILLEGAL) if found.decided[name])]
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
    """What a replay changes: moves with samples, loads of queues, severities.

    Args:
        found: `Comparison.as_dict()`.
        policy: the identity of the one that decided until now.
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
    """Lines of a table: names to the left, numbers to the right; short rows end sooner."""
    everything = [head, *rows]
    widths = [max(len(row[i]) for row in everything if i < len(row)) for i in range(len(head))]
    return ["  " + "  ".join(_cell(cell, widths[i], i) for i, cell in enumerate(row)).rstrip() for row in everything]


def _cell(text: str, width: int, place: int) -> str:
    return text.rjust(width) if place else text.ljust(width)


def _percent(count: int, rows: int) -> str:
    return f"{count / rows:.1%}" if rows else "–"
