"""Render one table of all figures for the terminal, as Markdown and as JSON.

A page holds the latest table between two comments, so that the text around it stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from jobs.benchmark.figures import Figure
from jobs.benchmark.machine import busy, in_words
from jobs.benchmark.suite import ratios
from nsfwscan.errors import NsfwscanError

COLUMNS = ("what", "figure", "as a ratio", "how")


def rows(figures: Sequence[Figure]) -> list[tuple[str, str, str, str]]:
    """Return the table's rows; the row of a missing figure gives the reason."""
    multiples = ratios(figures)
    return [
        (
            one.label,
            "missing" if one.value is None else f"{number(one.value)} {one.unit}",
            "; ".join(f"{m['ratio']:.2f} x {m['name']}" for m in multiples.get(one.key, [])),
            one.note,
        )
        for one in figures
    ]


def number(value: float) -> str:
    """Format with three significant digits, at most two decimals, and all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def as_table(machine: dict[str, Any], figures: Sequence[Figure]) -> Table:
    """Render a `rich` table for the terminal."""
    table = Table(title=in_words(machine), title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column == "figure" else "left", no_wrap=column == "figure")
    for row in rows(figures):
        table.add_row(*row)
    return table


def as_markdown(machine: dict[str, Any], settings: dict[str, Any], figures: Sequence[Figure]) -> str:
    """Render Markdown for a page: the machine, the settings, and the table."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    shares = ", ".join(f"{share['of']:.0%} {share['width']} x {share['height']}" for share in settings["mix"])
    absent = settings["not_measured"]
    lines = [
        *([f"**{warning}**", ""] if (warning := busy(machine)) else []),
        f"Machine: {in_words(machine)}. Its cores were {machine['busy_before']:.0%} busy before the first part.",
        f"Versions: Python {machine['python']}, {versions}.",
        f"Pictures: {settings['distinct']} distinct JPEGs, {shares}; {settings['megapixels']:.2f} megapixels and "
        f"{settings['bytes_per_pixel']:.2f} bytes a pixel on average.",
        f"Measured: each rate for about {settings['seconds']:g} s (repetitions: {settings['repetitions']}), model "
        f"{settings['model']}.",
        *([f"Missing, not measured in this run: {', '.join(absent)}."] if absent else []),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|---:|---|---|",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows(figures)),
    ]
    return "\n".join(lines)


def as_json(machine: dict[str, Any], settings: dict[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    """Return machine, settings, figures with all repetitions, and ratios, as JSON types."""
    return {
        "machine": machine,
        "settings": settings,
        "figures": [asdict(one) for one in figures],
        "ratios": ratios(figures),
    }


def put_into(page: Path, name: str, text: str) -> None:
    """Replace the text between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in a page.

    Raises:
        NsfwscanError: the page does not exist, or lacks the comments.
    """
    before = page_text(page)
    begin, end = place_in(before, name, page)
    page.write_text(f"{before[:begin]}{text}\n{before[end:]}", encoding="utf-8")


def page_text(page: Path) -> str:
    """Return the text of a page. Raises NsfwscanError if it cannot be read."""
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise NsfwscanError(f"cannot read the page {page}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise NsfwscanError(f"cannot read the page {page}: it is not UTF-8 text") from None


def place_in(text: str, name: str, page: Path) -> tuple[int, int]:
    """Return the begin and end of the named table in a page's text. Raises NsfwscanError without its comments."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    found = re.search(rf"{re.escape(begin)}\n(.*?){re.escape(end)}", text, re.DOTALL)
    if found is None:
        raise NsfwscanError(f"{page}: no place for the table: it needs the lines {begin} and {end}")
    return found.span(1)
