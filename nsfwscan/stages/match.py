"""What is known already, by hash banks: before anything is decoded, and before any pixel leaves the worker.

In: `sha256, md5` after reading, and `pdq, pdq_quality` after decoding. Out: the match columns. What is in an `illegal`
bank by its bytes loses them here, and is never decoded; whatever is in a bank loses its pixels, so that no model sees
it and no object store holds it. A bank that a worker cannot get is a `BankError`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.banks.matcher import HASH_COLUMNS, MATCH, BankSet
from nsfwscan.schema import BYTES, REPORT_SCHEMA, BankKind


class _Match:
    """What both stations have in common: the banks, and the columns."""

    adds = MATCH
    drops: tuple[str, ...] = ()

    def __init__(self, banks: BankSet) -> None:
        self._banks = banks

    def open(self) -> None:
        """Maps the banks into memory."""
        self._banks.open()


class MatchDigests(_Match):
    """Looks for the bytes of every object that was read."""

    name = "match-digests"
    needs: tuple[str, ...] = ("sha256",)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the match columns; `bytes` is null where the match is illegal."""
        found = self._banks.match(_with_hashes(table), near=False)
        illegal = pc.fill_null(pc.equal(found["match_kind"], str(BankKind.ILLEGAL)), False)
        if pc.any(illegal).as_py():
            kept = pc.if_else(illegal, pa.scalar(None, BYTES.type), table["bytes"])
            table = table.set_column(table.schema.get_field_index("bytes"), BYTES, kept)
        return _with_matches(table, found)


class MatchHashes(_Match):
    """Looks for what every object looks like, and for its bytes again: both together decide."""

    name = "match-hashes"
    needs: tuple[str, ...] = ("uri",)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the match columns; what matches has no pixels, and zeros lie where they were."""
        found = self._banks.match(_with_hashes(table))
        matched = pc.is_valid(found["match_kind"]).to_numpy()
        for place, field in enumerate(table.schema):
            if pa.types.is_fixed_size_binary(field.type):  # the pixels of one geometry
                pixels = table[field.name].combine_chunks()
                there = pixels.is_valid().to_numpy(zero_copy_only=False) & ~matched
                if not there.all():
                    table = table.set_column(place, field, _without(pixels, there))
        return _with_matches(table, found)


def _with_hashes(table: pa.Table) -> pa.Table:
    """The columns that banks are asked by; those that the pipeline does not fill are null."""
    absent = {name: pa.nulls(table.num_rows, REPORT_SCHEMA.field(name).type) for name in HASH_COLUMNS}
    return pa.table({name: table[name] if name in table.column_names else absent[name] for name in HASH_COLUMNS})


def _with_matches(table: pa.Table, found: pa.Table) -> pa.Table:
    for field in MATCH:
        if field.name in table.column_names:
            table = table.set_column(table.schema.get_field_index(field.name), field, found[field.name])
        else:
            table = table.append_column(field, found[field.name])
    return table


def _without(pixels: pa.FixedSizeBinaryArray, there: NDArray[np.bool_]) -> pa.Array:
    """A copy in which all but these rows are null, and zero: a null slot is sent and stored as any other."""
    width = pixels.type.byte_width
    flat = np.frombuffer(pixels.buffers()[1], np.uint8, count=(pixels.offset + len(pixels)) * width)
    images = flat[pixels.offset * width :].reshape(len(pixels), width) * there[:, None]
    return pa.Array.from_buffers(pixels.type, len(pixels), [pa.array(there).buffers()[1], pa.py_buffer(images)])
