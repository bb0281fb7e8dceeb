"""Say of an item, in a line and in a few facts, what a person needs to decide it without opening it.

A brief line lowers how many covers are opened, a detailed one raises anxiety (Simister et al. 2024): the line names the
rule, the strongest detector, and what became of the same content before; all else stands below it.
"""

from __future__ import annotations

import json
from typing import Any

from nsfwscan.errors import Status
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.review.attention import HEARD, concerns_of, shown_of
from nsfwscan.review.ranking import Item
from nsfwscan.schema import NSFW_CATEGORIES, SIGNAL_GROUPS, BankKind, Category, Decision, score_column
from nsfwscan.text import plural

Facts = list[tuple[str, list[str]]]
_MOST_SIGNALS, _LONGEST = 8, 5_000
"""Signals of an item that are shown, and characters of a text."""
_LIKELY = 0.5
"""Score from which a detector is louder than a blocked code."""


def line_of(item: Item) -> str:
    """Return the line on an item: `explicit · porn 97 % · blocked in 3 earlier runs · in 14 places`."""
    row = item.row
    if row["match_kind"] == BankKind.ILLEGAL:
        return "known illegal content · not shown"
    if row["illegal"]:
        return "looks like known illegal content · not shown"
    parts = [row["rule"] or row["decision"], _strongest(row), _before(item)]
    if row["reach"] > 1:
        parts.append(f"in {row['reach']:,} places")
    return " · ".join(part for part in parts if part)


def summary_of(item: Item) -> str:
    """Return the queue, the decision and the severity."""
    row = item.row
    skill = f" · skill {row['skill']}" if row["skill"] else ""
    return f"queue {row['queue']} · decision {row['decision']} · severity {row['severity'] or 0}{skill}"


def _strongest(row: dict[str, Any]) -> str:
    """Return what speaks loudest: the bank, else the detector with the highest score. A code that leads to a blocked
    host is louder than a detector that thinks no more likely than not, and none below one per cent speaks."""
    if row["match_bank"]:
        away = f", {plural(row['match_distance'], 'bit')} off" if row["match_distance"] else ""
        return f"matches {row['match_bank']}{away}"
    if row["status"] != Status.OK:
        return str(row["status"])
    said = {**_model(row), **_detectors(row)}
    name, score = max(said.items(), key=lambda one: one[1], default=("", 0.0))
    blocked = any(value for name, value in signals_of_row(row["signals"]).items() if name.endswith(".blocked"))
    if score < _LIKELY and blocked and row.get("link_host"):
        return f"a code leads to {row['link_host']}"
    return f"{name} {score:.0%}" if score >= HEARD else ""


def _model(row: dict[str, Any]) -> dict[str, float]:
    scores = {str(c): row[score_column(c)] for c in sorted(NSFW_CATEGORIES) if row[score_column(c)] is not None}
    return scores or ({} if row["nsfw_score"] is None else {"nsfw": row["nsfw_score"]})


def _detectors(row: dict[str, Any]) -> dict[str, float]:
    return concerns_of(signals_of_row(row["signals"]))


def _before(item: Item) -> str:
    removed, approved = item.near.get("remove", 0), item.near.get("approve", 0)
    if removed or approved:
        count, word = (removed, "removed") if removed >= approved else (approved, "approved")
        return f"same as {count:,} that {'was' if count == 1 else 'were'} {word}"
    blocked = sum(said["runs"] for said in item.prior if said["decision"] == Decision.BLOCK)
    return f"blocked in {plural(blocked, 'earlier run')}" if blocked else ""


def facts_of(item: Item) -> Facts:
    """Return names with values: places, hashes, scores, the match, earlier decisions, the user's own context."""
    row = item.row
    places = [row["uri"], *item.elsewhere]
    if item.others > len(item.elsewhere):
        places.append(f"and {item.others - len(item.elsewhere):,} more")
    found: Facts = [("places", places), ("SHA-256", [row["sha256"] or "not read"])]
    if not row["illegal"]:
        found += [("file", _file(row)), ("scores", _scores(row)), ("signals", _signals(row))]
        found += [("text", _text_in(row))]
    found += [("match", _match(row)), ("truth", [row["truth"]] if row["truth"] else [])]
    found += [("earlier", [_said(said) for said in item.prior]), ("error", [row["error"]] if row["error"] else [])]
    found += [(f"your {name}", [_text(value)]) for name, value in json.loads(item.context or "{}").items()]
    return [(_short(name), [_short(value) for value in values]) for name, values in found if values]


def _short(text: str) -> str:
    """Return a text that a page can show: a table of the user's may have megabytes in a cell."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} more characters)"


def _file(row: dict[str, Any]) -> list[str]:
    size = f", {row['width']} × {row['height']}" if row["width"] else ""
    views = f", {row['views']} views" if (row["views"] or 1) > 1 else ""
    length = f", {row['duration_s']:.1f} s" if row["duration_s"] else ""
    return [f"{row['format']}{size}{length}{views}"] if row["format"] else []


def _scores(row: dict[str, Any]) -> list[str]:
    scores = {str(c): row[score_column(c)] for c in Category if row[score_column(c)] is not None}
    return [", ".join(f"{name} {score:.0%}" for name, score in scores.items())] if scores else []


def _signals(row: dict[str, Any]) -> list[str]:
    shown = shown_of(signals_of_row(row["signals"]))
    return [", ".join(shown[:_MOST_SIGNALS])] if shown else []


def _text_in(row: dict[str, Any]) -> list[str]:
    """Return what is known of text and codes in the picture, and none of their words, which may be personal data."""
    signals = signals_of_row(row["signals"])
    language = [f"in the language {row['text_language']}"] if row.get("text_language") else []
    hints = [name for name in signals if name.count(".") > 1 and name.partition(".")[0] not in SIGNAL_GROUPS]
    host = [f"a code leads to {row['link_host']}"] if row.get("link_host") else []
    return [*language, *([f"hints: {', '.join(hints)}"] if hints else []), *host]


def _match(row: dict[str, Any]) -> list[str]:
    if not row["match_bank"]:
        return []
    return [
        f"{row['match_bank']}: {row['match_id']} ({row['match_hash']}, {plural(row['match_distance'] or 0, 'bit')} off)"
    ]


def _said(said: dict[str, Any]) -> str:
    same = "the same place" if said["by"] == "uri" else "the same bytes"
    return f"{said['decision']} by {said['rule']} in {plural(said['runs'], 'run')}, last in {said['run_id']} ({same})"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
