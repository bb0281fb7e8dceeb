"""Name what `verify` finds: a text, and what kind of finding it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Kind of a finding."""

    TAMPERED = "tampered"
    """Something is there, and contradicts what was committed, anchored or signed."""
    DAMAGED = "damaged"
    """Something is absent, cannot be read or checked, or was left unfinished; nothing is contradicted."""
    NOTE = "note"
    """Something that a reader should know; the run is sound."""


TAMPERED, DAMAGED = 7, 8
"""Exit codes of `verify`; the command that commits a run has those up to 6, and 9."""


@dataclass(frozen=True)
class Finding:
    """One finding, in words."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return self.text


def tampered(text: str) -> Finding:
    """Return a finding that contradicts what was committed."""
    return Finding(Kind.TAMPERED, text)


def damaged(text: str) -> Finding:
    """Return a finding that contradicts nothing."""
    return Finding(Kind.DAMAGED, text)


def note(text: str) -> Finding:
    """Return what a reader should know of a sound run."""
    return Finding(Kind.NOTE, text)


def exit_code_of(findings: Iterable[Finding]) -> int:
    """Return the exit code of `verify`: 0 where nothing but notes was found; the worse one counts."""
    kinds = {finding.kind for finding in findings}
    if Kind.TAMPERED in kinds:
        return TAMPERED
    return DAMAGED if Kind.DAMAGED in kinds else 0
