"""Measure a large hash bank: read it, build its index, open the index again, and look hashes up.

The hashes are random: to an index, real PDQ hashes look the same. A tenth of the looked-up hashes lie 31 bits off an
entry; if the index misses that entry, this is a `NsfwscanError`.
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
TARGET_PER_S, TARGET_BYTES = 2500, 5 * 10**9
"""The targets for ten million hashes on two cores: lookups a second, and bytes at peak."""
_STORAGE = StorageConfig()
_ROWS = 2**18
_BATCH = 64
"""Hashes per lookup: a chunk of a scan."""
_KNOWN = 10
"""One looked-up hash in this many lies near an entry."""


@dataclass(frozen=True)
class BankFigures:
    """Times and memory of one bank."""

    entries: int
    cores: int
    read_s: float
    """Time from the bank's file to the entries on this node."""
    build_s: float
    """Time to build the index and write it to disk."""
    build_bytes: int
    """Peak memory of the process that read and built."""
    open_s: float
    """Time to open the index again in a later process."""
    answer_bytes: int
    """Peak memory of the process that looks hashes up."""
    per_s: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON types."""
        return asdict(self)


def measure_bank(work: Path, entries: int, cores: int, seconds: float, say: Callable[[str], None]) -> BankFigures:
    """Measure a bank of `entries` PDQ hashes. Raises NsfwscanError if a lookup misses an entry."""
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
    """Render a table for a page."""
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
    """Return the hashes of row group `number`, the same each time: uint8 [N, 32]."""
    rows = min(_ROWS, entries - number * _ROWS)
    return np.random.default_rng(number).integers(0, 256, (rows, HASH_BYTES), np.uint8)


def write_bank(path: Path, entries: int) -> None:
    """Write a Parquet bank of `entries` hashes."""
    unfinished, schema = path.with_suffix(".partial"), pa.schema([("pdq", pa.binary(HASH_BYTES))])
    with pq.ParquetWriter(unfinished, schema, compression="none") as writer:
        for number in range(-(-entries // _ROWS)):
            rows = _hashes(entries, number)
            column = pa.Array.from_buffers(schema.field(0).type, len(rows), [None, pa.py_buffer(rows.tobytes())])
            writer.write_table(pa.table([column], schema=schema))
    unfinished.rename(path)


def build(path: Path, cores: int) -> tuple[BankSpec, float, float, int]:
    """Read a bank and build its index. Return the spec, the seconds of both steps, and this process's peak in bytes."""
    search_on(cores)
    began = time.perf_counter()
    [spec] = resolve_banks((BankConfig(name="bench", uri=str(path)),), _STORAGE)
    read = time.perf_counter()
    (spec.folder / f"pdq-{spec.config.distance}.index").unlink(missing_ok=True)
    open_bank(spec, _STORAGE).near()
    return spec, read - began, time.perf_counter() - read, peak_rss_bytes()


def answer(spec: BankSpec, cores: int, seconds: float) -> tuple[float, float, int]:
    """Open the index and look hashes up. Return seconds to open, lookups a second, and this process's peak in bytes."""
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
    """Return hashes to look up, and (position, entry) of those that lie near an entry."""
    asked = random.integers(0, 256, (_BATCH, HASH_BYTES), np.uint8)
    near = [(i, int(random.integers(len(known)))) for i in range(0, _BATCH, _KNOWN)]
    for i, entry in near:
        bits = np.unpackbits(known[entry])
        bits[random.permutation(256)[:31]] ^= 1
        asked[i] = np.packbits(bits)
    return asked, near
