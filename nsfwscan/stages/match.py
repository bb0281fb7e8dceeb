"""Look contents up in the hash banks: by digest before decoding, by PDQ before any pixel leaves the worker.

An object whose digest is in an `illegal` bank loses its bytes here and is never decoded. A matched object loses its
pixels, so that no model sees it and no object store holds it; but not one of which only some views are in a `block`
bank: a policy may want to know of the others. A bank that a worker cannot get raises `BankError`.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.banks.matcher import HASH_COLUMNS, MATCH, BankSet
from nsfwscan.models.views import is_pixels, without
from nsfwscan.schema import BYTES, EACH_VIEW, REPORT_SCHEMA, BankKind
from nsfwscan.stages.base import Stage, put


class _Match(Stage):
    """Either of the two look-ups: the banks, and the columns."""

    adds = MATCH

    def __init__(self, banks: BankSet) -> None:
        self._banks = banks

    def open(self) -> None:
        """Map the banks into memory."""
        self._banks.open()


class MatchDigests(_Match):
    """Looks up the digests of every object that was read."""

    name = "match-digests"
    needs: tuple[str, ...] = ("sha256",)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the match columns; `bytes` is null where the match is illegal."""
        found = self._banks.match(_with_hashes(table), near=False)
        illegal = pc.fill_null(pc.equal(found["match_kind"], str(BankKind.ILLEGAL)), False)
        if pc.any(illegal).as_py():
            table = put(table, BYTES, pc.if_else(illegal, pa.scalar(None, BYTES.type), table["bytes"]))
        return _with_matches(table, found)


class MatchHashes(_Match):
    """Looks up the PDQ hashes of every object and its views, and its digests again: all together decide."""

    name = "match-hashes"
    needs: tuple[str, ...] = ("uri",)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the match columns; rows that are matched as a whole have no pixels."""
        found = self._banks.match(_with_hashes(table))
        in_part = pc.and_(pc.equal(found["match_kind"], str(BankKind.BLOCK)), pc.less(found["match_share"], 1))
        matched = pc.and_not(pc.is_valid(found["match_kind"]), pc.fill_null(in_part, False)).to_numpy()
        for field in table.schema if matched.any() else ():
            if is_pixels(field.type):
                table = put(table, field, without(table[field.name].combine_chunks(), matched))
        return _with_matches(table, found)


def _with_hashes(table: pa.Table) -> pa.Table:
    """Return the hash columns; those that the pipeline does not fill are null."""
    absent = {name: pa.nulls(table.num_rows, REPORT_SCHEMA.field(name).type) for name in HASH_COLUMNS}
    hashes = {name: table[name] if name in table.column_names else absent[name] for name in HASH_COLUMNS}
    views = {name: table[name] for name in (EACH_VIEW.name,) if name in table.column_names}
    return pa.table(hashes | views)


def _with_matches(table: pa.Table, found: pa.Table) -> pa.Table:
    for field in MATCH:
        table = put(table, field, found[field.name])
    return table
