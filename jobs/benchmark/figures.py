"""What a measurement leaves: a figure with all of its repetitions, or the reason why there is none.

In: repetitions. Out: a `Figure`, whose value is their median. A figure that could not be measured is there too, without
a value and with the reason: a table never leaves a row out in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

RATE = "images/s"
SECONDS = "s"


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    key: str
    """E.g. `scan.steady`; other figures and the limit refer to it."""
    label: str
    value: float | None
    """Median of the repetitions; None where it could not be measured."""
    unit: str = RATE
    repetitions: tuple[float, ...] = ()
    note: str = ""
    """How it was measured, or why it is missing."""


def figure(key: str, label: str, repetitions: Sequence[float], unit: str = RATE, note: str = "") -> Figure:
    """A measured figure. Raises ValueError without a repetition."""
    return Figure(key, label, median(repetitions), unit, tuple(repetitions), note)


def missing(key: str, label: str, why: str) -> Figure:
    """A figure that could not be measured."""
    return Figure(key, label, None, note=why)


def value_of(figures: Iterable[Figure], key: str) -> float | None:
    """The value under a key; None where it is missing or was not asked for."""
    return next((f.value for f in figures if f.key == key), None)
