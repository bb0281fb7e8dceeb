"""Read verdict files: JSON lines, or the Parquet that `nsfwscan verdicts export` writes; compressed or not.

A line is a verdict, or a session of the review page, which has the key `session`.

All files are read and checked before anything is taken from any: a file that is damaged, or is no verdict file, is a
`SourceError` that names its first wrong lines.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.config import StorageConfig, given_place
from nsfwscan.errors import SourceError
from nsfwscan.location import STDOUT
from nsfwscan.storage.failures import STORE_ERRORS, setup_error
from nsfwscan.storage.objects import read_file
from nsfwscan.storage.tables import READING_ERRORS, compression_of, unpacked
from nsfwscan.text import plural, printable, size
from nsfwscan.verdicts.sessions import Session
from nsfwscan.verdicts.verdict import VERDICT_SCHEMA, LineError, PersonVerdict, as_line, checked, loaded_line, parsed

_NAMED = 5
"""Wrong lines of a file that are named; the rest are counted."""
_MOST_BYTES = 2**30
"""Largest file, unpacked: some two million verdicts. A packed file of a few megabytes can have no end."""


@dataclass(frozen=True)
class ReadVerdicts:
    """The verdicts and sessions that were read from files."""

    verdicts: list[PersonVerdict] = field(default_factory=list)
    """Each id once."""
    sessions: list[Session] = field(default_factory=list)


def read_files(files: Sequence[str], storage: StorageConfig) -> ReadVerdicts:
    """Return the verdicts and sessions of some files.

    Args:
        files: paths or URIs; `-` is standard input.

    Raises:
        SourceError: a file cannot be read, or a line of it is no verdict, or says otherwise than another line with the
            same id.
    """
    found: dict[str, PersonVerdict] = {}
    sessions: list[Session] = []
    wrong: list[str] = []
    for file in files:
        lines: list[str] = []
        for where, verdict in _verdicts(_bytes(file, storage), file):
            if isinstance(verdict, Session):
                sessions.append(verdict)
                continue
            known = found.setdefault(verdict.id, verdict) if isinstance(verdict, PersonVerdict) else None
            if isinstance(verdict, str):
                lines.append(f"{where}: {verdict}")
            elif known != verdict:
                lines.append(f"{where}: another verdict has the same id {verdict.id}, and says something else")
        if lines:
            more = f"\n  and {len(lines) - _NAMED:,} more" if len(lines) > _NAMED else ""
            wrong.append(f"{printable(file)}:\n  " + "\n  ".join(lines[:_NAMED]) + more)
    if wrong:
        refused = plural(len(wrong), "file is not a valid verdict file", "files are not valid verdict files")
        raise SourceError(f"{refused}; nothing was taken in:\n" + "\n".join(wrong))
    return ReadVerdicts(list(found.values()), sessions)


def _bytes(file: str, storage: StorageConfig) -> bytes:
    if file == STDOUT:
        return sys.stdin.buffer.read()
    place = given_place(file, "FILE")
    try:
        return Path(place.path).read_bytes() if place.is_local else read_file(place, storage)
    except STORE_ERRORS as error:
        raise SourceError(str(setup_error(error, f"cannot read the verdict file {file}"))) from None


def _verdicts(data: bytes, file: str) -> Iterator[tuple[str, PersonVerdict | Session | str]]:
    """Yield each line or row of a file with its verdict or session, or with what is wrong with it."""
    try:
        data = unpacked(io.BytesIO(data), compression_of(data)).read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            yield "the file", f"has more than {size(_MOST_BYTES)}, unpacked: split it"
            return
        if data.startswith(b"PAR1"):
            yield from _checked(_parquet(data))
            return
    except (*READING_ERRORS, OSError) as error:
        yield "the file", f"is damaged, or of another kind: {str(error) or 'it breaks off'}"
        return
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield "the file", "is UTF-16, as PowerShell writes it: save it as UTF-8"
        return
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = [(f"line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        yield "the file", "is empty"
    yield from _checked(numbered)


def _parquet(data: bytes) -> Iterator[tuple[str, object]]:
    rows = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
    if set(rows.column_names) != set(VERDICT_SCHEMA.names):
        odd = sorted(set(rows.column_names) ^ set(VERDICT_SCHEMA.names))
        named = ", ".join(odd[:_NAMED]) + (", …" if len(odd) > _NAMED else "")
        raise pa.ArrowInvalid(f"its columns are not those of a verdict file; they differ in {named}")
    listed = rows.select(VERDICT_SCHEMA.names).cast(VERDICT_SCHEMA).to_pylist()
    return ((f"row {number}", as_line(row)) for number, row in enumerate(listed, start=1))


def _checked(lines: Iterable[tuple[str, object]]) -> Iterator[tuple[str, PersonVerdict | Session | str]]:
    for where, line in lines:
        try:
            values = loaded_line(line.decode()) if isinstance(line, bytes) else line
            is_session = isinstance(values, dict) and "session" in values
            yield where, checked(Session, values) if is_session else parsed(values)
        except UnicodeDecodeError:
            yield where, "is not UTF-8"
        except LineError as error:
            yield where, printable(str(error))
