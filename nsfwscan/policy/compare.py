"""Compare what another policy would decide with decided rows: counts, and a few URIs of each move.

Only counts are kept, whatever the number of rows. A rule that fails on a row raises `PolicyError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nsfwscan.policy.decide import Decider, Indices

COMPARED = ("decision", "queue", "skill", "shield", "severity")
"""Columns of an outcome."""
_SAMPLES = 3
"""URIs kept of each move."""

Codes = npt.NDArray[np.int64]
Move = tuple[str, str]


class Comparison:
    """Counts over decided rows and over the other policy's decisions on them.

    Attributes:
        rows: number of compared rows.
        before, after: for each column of `COMPARED` the number of rows by value, None included.
        moves: number of rows by old and new decision.
        elsewhere: rows that keep their decision and change queue, skill, shield or severity.
    """

    def __init__(self, decider: Decider) -> None:
        self.decider = decider
        self.rows = 0
        self.before: dict[str, Counter[Any]] = {name: Counter() for name in COMPARED}
        self.after: dict[str, Counter[Any]] = {name: Counter() for name in COMPARED}
        self.moves: Counter[Move] = Counter()
        self.elsewhere = 0
        self._codes: dict[str, dict[Hashable, int]] = {name: {} for name in COMPARED}
        self._samples: dict[Move, list[tuple[float, str]]] = {}
        self._random = np.random.default_rng(0)

    @property
    def columns(self) -> list[str]:
        """Columns that `add` needs."""
        return list(dict.fromkeys(["uri", *COMPARED, *self.decider.columns]))

    def add(self, rows: pa.Table) -> None:
        """Count rows. Raises PolicyError."""
        chosen = self.decider.choose(rows)
        self.rows += rows.num_rows
        differs = np.zeros(rows.num_rows, bool)
        for name in COMPARED:
            before, after = self._before(name, rows), self._after(name, chosen)
            self._count(self.before, name, before)
            self._count(self.after, name, after)
            if name == "decision":
                moved = before != after
                self._add_moves(rows["uri"], moved, before, after)
            else:
                differs |= before != after
        self.elsewhere += int(np.count_nonzero(differs & ~moved))

    def _before(self, name: str, rows: pa.Table) -> Codes:
        column = rows[name].combine_chunks()
        found = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = np.array([self._code(name, value) for value in [*found.dictionary.to_pylist(), None]], np.int64)
        places = np.asarray(found.indices.fill_null(len(codes) - 1), np.int64)
        return codes[places]

    def _after(self, name: str, chosen: Indices) -> Codes:
        outcomes = (choice.outcome.model_dump(mode="json") for choice in self.decider.choices)
        return np.array([self._code(name, outcome[name]) for outcome in outcomes], np.int64)[chosen]

    def _code(self, name: str, value: Hashable) -> int:
        """Return the number that stands for a value of a column."""
        known = self._codes[name]
        return known.setdefault(value, len(known))

    def _count(self, counts: dict[str, Counter[Any]], name: str, codes: Codes) -> None:
        found = np.bincount(codes, minlength=len(self._codes[name]))
        counts[name].update({value: int(found[code]) for value, code in self._codes[name].items() if found[code]})

    def _add_moves(self, uris: pa.ChunkedArray, moved: npt.NDArray[np.bool_], before: Codes, after: Codes) -> None:
        words = {code: value for value, code in self._codes["decision"].items()}
        pairs = before * len(words) + after
        for pair in np.unique(pairs[moved]):
            at = np.flatnonzero(moved & (pairs == pair))
            move = (str(words[pair // len(words)]), str(words[pair % len(words)]))
            self.moves[move] += len(at)
            lots = self._random.random(len(at))
            drawn = np.argsort(lots)[:_SAMPLES]
            named = zip(lots[drawn].tolist(), uris.take(pa.array(at[drawn])).to_pylist(), strict=True)
            self._samples[move] = sorted([*self._samples.get(move, []), *named])[:_SAMPLES]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types, the most frequent value first, severities from the worst on."""
        return {
            "policy": self.decider.policy.identity,
            "version": self.decider.policy.version,
            "rows": self.rows,
            "moved": self.moves.total(),
            "moves": [
                {"from": old, "to": new, "objects": n, "samples": [uri for _, uri in self._samples[old, new]]}
                for (old, new), n in self.moves.most_common()
            ],
            "elsewhere": self.elsewhere,
            **{name: self._before_and_after(name) for name in COMPARED},
        }

    def _before_and_after(self, name: str) -> list[dict[str, Any]]:
        before, after = self.before[name], self.after[name]
        values = sorted(before.keys() | after.keys(), key=lambda value: (-after[value], -before[value], str(value)))
        if name == "severity":
            values.sort(reverse=True)
        return [{"value": value, "before": before[value], "after": after[value]} for value in values]
