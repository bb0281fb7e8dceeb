"""Figures: the result of a measurement, with all repetitions and their median as value.

A figure that could not be measured has no value but a reason: a table never drops a row silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

RATE = "images/s"
SECONDS = "s"


@dataclass(frozen=True)
class Figure:
    """A row of the table."""

    key: str
    """For example `scan.steady`; ratios and the limit refer to it."""
    label: str
    value: float | None
    """Median of the repetitions; None if it could not be measured."""
    unit: str = RATE
    repetitions: tuple[float, ...] = ()
    note: str = ""
    """How it was measured, or why it is missing."""


def figure(key: str, label: str, repetitions: Sequence[float], unit: str = RATE, note: str = "") -> Figure:
    """Return a measured figure. Raises ValueError without a repetition."""
    return Figure(key, label, median(repetitions), unit, tuple(repetitions), note)


def missing(key: str, label: str, why: str) -> Figure:
    """Return a figure that could not be measured, with the reason."""
    return Figure(key, label, None, note=why)


def value_of(figures: Iterable[Figure], key: str) -> float | None:
    """Return the value under a key; None if it is missing or was not measured."""
    return next((f.value for f in figures if f.key == key), None)
