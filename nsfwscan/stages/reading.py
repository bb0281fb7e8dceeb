"""Read what is written in pictures: the detectors that take a picture as people see it, and not a model's pixels.

Pixels of a model's size show no text. Pictures as large as text needs would fill the memory, though a gate may hold
most of them back. So the objects that the detector wants are read and decoded again, a few at a time, by the stages
that did it before. What is gone or has other bytes by then is not looked at. The lines go to `each_line`; what they
come to goes to the signals, which the reader names (`nsfwscan/texts`), and to columns. One more signal:

    lines.<detector>    lines that `text/` has a row for; none where text is left out
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from nsfwscan.config import DetectorConfig
from nsfwscan.errors import ModelError, Status
from nsfwscan.models.spec import ModelSpec
from nsfwscan.models.views import images_of, views_of_row
from nsfwscan.policy.gate import Gate
from nsfwscan.schema import COST, EACH_LINE, EACH_VIEW, LISTING_SCHEMA, SIGNAL_COLUMNS, TEXT_COLUMNS, as_schema
from nsfwscan.stages.base import Stage, fresh, gated, put, run, with_cost, with_signals
from nsfwscan.texts.lines import Line, Reader
from nsfwscan.texts.rules import TextRules
from nsfwscan.texts.sealing import Sealer

PICTURE = "picture"
"""The column of pixels that the stages for reading again make."""
_AT_ONCE = 4
"""Objects in memory at a time, as pictures."""
_REMEMBERED = 2_000
"""Latest contents whose lines a worker keeps."""
_BROKEN = 8
"""Contents that fail one after the other, without one that is read, are the reader's fault."""

Lines = list[tuple[int, Line]]
"""The lines of an object, each with its view."""


@dataclass(frozen=True)
class Again:
    """Stages from a listing to pictures, in the column `PICTURE`; several detectors may share them.

    Args:
        moved: called after each few objects, since reading takes long.
    """

    stages: Sequence[Stage]
    moved: Callable[[], None] = lambda: None


class ReadPictures(Stage):
    """Reads the pictures of the rows that have pixels and that the detector wants.

    Args:
        spec: its `name` names the signals.
        column: of pixels, null in rows that could not be decoded or are not to be looked at.
    """

    def __init__(self, spec: ModelSpec, config: DetectorConfig, reader: Reader, again: Again, *, column: str) -> None:
        self.name = f"detect-{spec.name}"
        self.needs: tuple[str, ...] = (column, "sha256")
        self.adds = pa.schema([*SIGNAL_COLUMNS, COST, *TEXT_COLUMNS, EACH_LINE])
        self._gate = Gate(spec.name, config) if config.when is not None else None
        self._spec, self._reader, self._again, self._column = spec, reader, again, column
        self._remembered: dict[str, Lines] = {}

    def open(self) -> None:
        """Load the weights, and start what reads and decodes."""
        self._reader.open()
        for stage in self._again.stages:
            stage.open()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the lines, and with what they come to."""
        began = time.perf_counter()
        wanted, table = gated(table, self._gate, self._column)
        there = table[self._column].is_valid().to_numpy()
        rows, contents = np.flatnonzero(there if wanted is None else there & wanted), table["sha256"].to_pylist()
        first = {contents[row]: int(row) for row in reversed(rows) if contents[row] not in self._remembered}
        asked = np.zeros(table.num_rows, np.bool_)
        asked[list(first.values())] = True
        known = {contents[row]: self._remembered[contents[row]] for row in rows if contents[row] in self._remembered}
        known |= self._read(table, sorted(first.values()))
        lines: list[Lines | None] = [None] * table.num_rows
        for row in rows:
            lines[row] = known.get(contents[row])
        self._remembered |= known
        for oldest in list(islice(self._remembered, max(0, len(self._remembered) - _REMEMBERED))):
            del self._remembered[oldest]
        return with_cost(self._with_lines(table, lines), self.name, asked, time.perf_counter() - began)

    def _read(self, table: pa.Table, rows: Sequence[int]) -> dict[str, Lines]:
        """Return the lines of some rows' contents; nothing of what cannot be read any more."""
        found: dict[str, Lines] = {}
        failures: list[Exception] = []
        for start in range(0, len(rows), _AT_ONCE):
            some = table.take(pa.array(rows[start : start + _AT_ONCE]))
            pictures = run(self._again.stages, fresh(as_schema(some, LISTING_SCHEMA)))
            images, limits = images_of(pictures[PICTURE].combine_chunks())
            for place, row in enumerate(_facts(pictures)):
                if row["status"] != Status.OK or row["sha256"] != some["sha256"][place].as_py():
                    continue
                try:
                    found[row["sha256"]] = self._lines(row, images[limits[place] : limits[place + 1]])
                except Exception as error:  # noqa: BLE001  # a picture that its reader fails on is not looked at
                    failures.append(error)
            self._again.moved()
        if len(failures) >= _BROKEN and not found:
            raise ModelError(f"{self._spec.identity} reads no picture: {failures[0]}") from failures[0]
        return found

    def _lines(self, row: dict[str, Any], images: np.ndarray[Any, np.dtype[np.uint8]]) -> Lines:
        found: Lines = []
        for (view, size), image in zip(views_of_row(row), images, strict=True):
            width, height = self._spec.geometry.resized(size)
            pixels = image[: height * width * 3].reshape(height, width, 3)
            found += [(view, line) for line in self._reader.read(pixels)]
        return found

    def _with_lines(self, table: pa.Table, lines: Sequence[Lines | None]) -> pa.Table:
        """Return the table with lines after those of other detectors, their signals and columns."""
        said = [None if one is None else self._reader.describe([line for _, line in one]) for one in lines]
        name = self._spec.name
        signals = [
            None if one is None else {f"{name}.{label}": value for label, value in one.signals.items()} for one in said
        ]
        for field in TEXT_COLUMNS:
            there = field.name in table.column_names
            old = table[field.name].to_pylist() if there else [None] * table.num_rows
            new = [None if one is None else one.words.get(field.name) for one in said]
            both = [before if now is None else now for before, now in zip(old, new, strict=True)]
            table = put(table, field, pa.array(both, field.type))
        there = EACH_LINE.name in table.column_names
        before = table[EACH_LINE.name].to_pylist() if there else [None] * table.num_rows
        each = [[*(old or []), *self._named(new or [])] or None for old, new in zip(before, lines, strict=True)]
        return with_signals(put(table, EACH_LINE, pa.array(each, EACH_LINE.type)), signals)

    def _named(self, lines: Lines) -> list[dict[str, Any]]:
        """Return lines as `each_line` has them, numbered within their view."""
        counts: dict[int, int] = {}
        found = []
        for view, line in lines:
            counts[view] = counts.get(view, -1) + 1
            place = dict(zip(("x", "y", "w", "h"), line.place, strict=True))
            said = {"kind": line.kind, "text": line.text, "score": line.score}
            found.append({"view": view, "detector": self._spec.name, "line": counts[view], **said, **place})
        return found


def _facts(pictures: pa.Table) -> list[dict[str, Any]]:
    return list(pictures.select(["status", "sha256", "width", "height", EACH_VIEW.name]).to_pylist())


class KeepText(Stage):
    """Counts the lines that are kept, and encrypts them; or leaves them out. It is the last stage: others read them."""

    name = "keep-text"
    needs = (EACH_LINE.name,)
    adds = pa.schema([*SIGNAL_COLUMNS, EACH_LINE])

    def __init__(self, rules: TextRules) -> None:
        self._rules = rules
        self._sealer = None if rules.key is None else Sealer(rules.key)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the lines as they are written."""
        if not self._rules.keep:
            return put(table, EACH_LINE, pa.nulls(table.num_rows, EACH_LINE.type))
        each = table[EACH_LINE.name].to_pylist()
        counts: list[dict[str, float] | None] = [None] * table.num_rows
        for row, lines in enumerate(each):
            if lines is not None:
                names = [f"lines.{line['detector']}" for line in lines]
                counts[row] = {name: float(names.count(name)) for name in names}
                each[row] = [self._sealed(line) for line in lines]
        return with_signals(put(table, EACH_LINE, pa.array(each, EACH_LINE.type)), counts)

    def _sealed(self, line: dict[str, Any]) -> dict[str, Any]:
        if self._sealer is None:
            return line
        return {**line, "text": None, "sealed": self._sealer.seal(line["text"]), "key": self._sealer.key_id}
