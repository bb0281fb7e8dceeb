"""What may be shown: words of strangers and of libraries, without what a terminal or a spreadsheet acts on.

In: any text. Out: the same text with control characters and hidden order escaped (`printable`); CSVs without formulas;
sizes, times and amounts for a person. Secrets are blanked by `redaction.py`. Nothing goes wrong.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def printable(text: str) -> str:
    """The text with everything a terminal would act on, or that hides its order, escaped; newlines, too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, marked: bool = False) -> None:
    """Writes a CSV that a spreadsheet may open: a text that it would take for a formula begins with an apostrophe
    (OWASP, "CSV Injection"). Raises OSError.

    Args:
        marked: begin with the mark of UTF-8, without which Excel takes a file for one of the machine's own code page.
    """
    with path.open("w", newline="", encoding="utf-8-sig" if marked else "utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([f"'{cell}" if _is_formula(cell) else cell for cell in row] for row in rows)


def _is_formula(cell: Any) -> bool:
    """Whether a spreadsheet would compute a text: also behind blanks, and where its first sign is a full-width one,
    which is taken for the plain one in East Asian settings."""
    if not isinstance(cell, str):
        return False
    return cell.startswith(("\t", "\r", "\n")) or cell.lstrip().startswith(tuple("=+-@＝＋－＠"))


def printable_lines(text: str) -> str:
    """As `printable`, for a text of our own that has several lines: they stay."""
    return "\n".join(map(printable, text.split("\n")))


def size(count: int | None) -> str:
    """Bytes for a person: `1.4 GiB`."""
    if count is None:
        return "–"
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while amount >= 1023.95 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:,.0f} B" if units[0] == "B" else f"{amount:,.1f} {units[0]}"


def duration(seconds: float) -> str:
    """`0.4 s`, `4 min 09 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{min(seconds, 59):.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def money(amount: float | None, currency: str) -> str:
    """`USD 1,204`, `USD 3.17`, `USD 0.0042`; a dash where it is not known."""
    if amount is None:
        return "–"
    if 0 < amount < 0.0001:
        return f"<{currency} 0.0001"
    digits = 0 if amount >= 100 or amount == 0 else 2 if amount >= 1 else 4
    return f"{currency} {amount:,.{digits}f}"
