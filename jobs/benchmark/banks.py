"""How fast a large hash bank answers: reading it, building its index, opening that again, and looking hashes up.

In: a number of PDQ hashes. Out: `BankFigures`. Hashes are random, which is what PDQ's are like for an index; a tenth of
those that are looked up are 31 bits off one of them. An entry that is missed is a `NsfwscanError`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmark.memory import peak_rss_bytes
from jobs.benchmark.timing import apart
from nsfwscan.banks.bank import BankSpec, open_bank, resolve_banks
from nsfwscan.banks.pdq_index import HASH_BYTES, Hashes, search_on
from nsfwscan.config import BankConfig, StorageConfig
from nsfwscan.errors import NsfwscanError

ENTRIES = 10_000_000
TARGET_PER_S, TARGET_BYTES = 1000, 10**10
"""What is asked of ten million hashes on two cores."""
_STORAGE = StorageConfig()
_ROWS = 2**18
_BATCH = 64
"""Hashes looked up at a time: a chunk of a scan."""
_KNOWN = 10
"""One hash out of so many is near an entry."""


@dataclass(frozen=True)
class BankFigures:
    """What one bank took."""

    entries: int
    cores: int
    read_s: float
    """From its file to the entries on this node."""
    build_s: float
    """The index, written to disk included."""
    build_bytes: int
    """Peak of the process that read and built."""
    open_s: float
    """The index again, by a process that comes later."""
    answer_bytes: int
    """Peak of the process that answers."""
    per_s: float

    def as_json(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def measure_bank(work: Path, entries: int, cores: int, seconds: float, say: Callable[[str], None]) -> BankFigures:
    """Measures a bank of so many PDQ hashes. Raises NsfwscanError where one that is there is not found."""
    os.environ["NSFWSCAN_CACHE"] = str(work / "bank-cache")
    path = work / f"bank-{entries}.parquet"
    if not path.exists():
        say(f"writing a bank of {entries:,} hashes")
        apart(write_bank, path, entries)
    say("reading it, and building its index")
    spec, read_s, build_s, build_bytes = apart(build, path, cores)
    say("looking hashes up")
    open_s, per_s, answer_bytes = apart(answer, spec, cores, seconds)
    return BankFigures(entries, cores, read_s, build_s, build_bytes, open_s, answer_bytes, per_s)


def as_markdown(found: BankFigures) -> str:
    """A table for a page."""
    return "\n".join(
        [
            "| PDQ hashes | read | index built | index opened again | peak to build | peak to answer | lookups/s |",
            "|---:|---:|---:|---:|---:|---:|---:|",
            f"| {found.entries:,} | {found.read_s:.0f} s | {found.build_s:.0f} s | {found.open_s:.0f} s | "
            f"{found.build_bytes / 1e9:.1f} GB | {found.answer_bytes / 1e9:.1f} GB | {found.per_s:,.0f} |",
            "",
            f"On {found.cores} cores, within 31 bits, none missed. Asked of ten million: {TARGET_PER_S:,} lookups a "
            f"second in under {TARGET_BYTES / 1e9:.0f} GB.",
        ]
    )


def _hashes(entries: int, number: int) -> Hashes:
    """One row group's hashes, the same each time."""
    rows = min(_ROWS, entries - number * _ROWS)
    return np.random.default_rng(number).integers(0, 256, (rows, HASH_BYTES), np.uint8)


def write_bank(path: Path, entries: int) -> None:
    """A Parquet bank of so many hashes."""
    unfinished, schema = path.with_suffix(".partial"), pa.schema([("pdq", pa.binary(HASH_BYTES))])
    with pq.ParquetWriter(unfinished, schema, compression="none") as writer:
        for number in range(-(-entries // _ROWS)):
            rows = _hashes(entries, number)
            column = pa.Array.from_buffers(schema.field(0).type, len(rows), [None, pa.py_buffer(rows.tobytes())])
            writer.write_table(pa.table([column], schema=schema))
    unfinished.rename(path)


def build(path: Path, cores: int) -> tuple[BankSpec, float, float, int]:
    """Reads a bank and builds its index: the spec, the seconds of both, and the peak of this process."""
    search_on(cores)
    began = time.perf_counter()
    [spec] = resolve_banks((BankConfig(name="bench", uri=str(path)),), _STORAGE)
    read = time.perf_counter()
    (spec.folder / "pdq.faiss").unlink(missing_ok=True)
    open_bank(spec, _STORAGE).near()
    return spec, read - began, time.perf_counter() - read, peak_rss_bytes()


def answer(spec: BankSpec, cores: int, seconds: float) -> tuple[float, float, int]:
    """Opens the index and looks hashes up: the seconds of the one, the rate of the other, the peak of this process."""
    search_on(cores)
    began = time.perf_counter()
    bank = open_bank(spec, _STORAGE)
    index, known = bank.near(), bank.entries["pdq"].hashes
    opened = time.perf_counter() - began
    random, done, began = np.random.default_rng(1), 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not done:
        asked, near = _asked(known, random)
        found = index.search(asked)
        if missed := [entry for i, entry in near if entry not in found.entries[found.limits[i] : found.limits[i + 1]]]:
            raise NsfwscanError(f"the index missed {len(missed)} entries that are 31 bits off")
        done += len(asked)
    return opened, done / elapsed, peak_rss_bytes()


def _asked(known: Hashes, random: np.random.Generator) -> tuple[Hashes, list[tuple[int, int]]]:
    """Hashes to look up, and which of them are near which entry."""
    asked = random.integers(0, 256, (_BATCH, HASH_BYTES), np.uint8)
    near = [(i, int(random.integers(len(known)))) for i in range(0, _BATCH, _KNOWN)]
    for i, entry in near:
        bits = np.unpackbits(known[entry])
        bits[random.permutation(256)[:31]] ^= 1
        asked[i] = np.packbits(bits)
    return asked, near
