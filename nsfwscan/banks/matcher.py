"""Match rows with banks by their stored hashes (`sha256`, `md5`, `pdq`, `pdq_quality`, those of their views) alone.

Of all entries that a row matches, one counts. In this order:

1. `illegal` before everything else, so that no other bank can hide it; so are contents known to the store.
2. The same bytes (`sha256`, `md5`) before the same looks (`pdq`): somebody has seen this very file.
3. `block` before `allow`.
4. The smaller distance; then the bank that is given first; then the smaller id.

A `negative` bank lists known false matches. A row in one, by any hash, has no `pdq` match in `block` and `allow` banks;
matches of its bytes and of `illegal` banks stand. A PDQ hash of lower quality than a bank asks for is not looked up
there.

Of an object with several views (`each_view`) every view is looked up, and the match says which one is in the bank. Two
shares say how much of the object that is, as vPDQ does for videos: of its views, and of the entry's hashes. An `allow`
bank holds only where all views are in it: one harmless frame says nothing of the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.banks.bank import Bank, BankSpec, open_bank
from nsfwscan.banks.pdq_index import HASH_BYTES, Found, Hashes, NearIndex
from nsfwscan.config import StorageConfig
from nsfwscan.schema import EACH_VIEW, MATCH_COLUMNS, BankKind

MATCH = pa.schema(MATCH_COLUMNS)
"""Match columns; all null in a row without a match."""
HASH_COLUMNS = ("sha256", "md5", "pdq", "pdq_quality")
"""Columns that rows are matched by."""
_EXACT = ("sha256", "md5")
_KNOWN_QUALITY = 100
"""Of a hash that matched before."""
_OPENING = threading.Lock()
"""Held while an index is opened, so that a process has it once."""

Search = Callable[[int, Hashes], Found]
"""From the number of a bank and hashes to all entries within the bank's distance of each."""


Entry = tuple[str, str, str]
"""Bank, kind of hash and id: how a match names its entry."""


@dataclass(frozen=True)
class Hit:
    """One entry that a row matches."""

    bank: int
    """Number of the bank, in the order of the configuration."""
    hash: str
    entry: int
    distance: int
    id: str
    look: int = -1
    """Number of the hash that was found by its looks (`_Looks`)."""


@dataclass(frozen=True)
class _Looks:
    """PDQ hashes of rows: those of all views, where there are several.

    Attributes:
        rows: int64 [n], ascending.
        hashes: uint8 [n, 32].
        qualities: int64 [n].
        views: of each hash `index, at_s, pdq`; None where its row has no other.
    """

    rows: NDArray[np.int64]
    hashes: Hashes
    qualities: NDArray[np.int64]
    views: list[dict[str, Any] | None]

    @classmethod
    def of(cls, table: pa.Table) -> _Looks:
        """Return the hashes of a table's rows. Where only the frame is known that matched before, it is one of them."""
        pdq, quality = table["pdq"].to_pylist(), table["pdq_quality"].to_pylist()
        names = table.column_names
        each = table[EACH_VIEW.name].to_pylist() if EACH_VIEW.name in names else [None] * len(pdq)
        before = [table[name].to_pylist() for name in ("match_pdq", "match_view", "match_at_s") if name in names]
        found: list[tuple[int, str, int, dict[str, Any] | None]] = []
        for row, views in enumerate(each):
            if views:
                found += [(row, view["pdq"], view["pdq_quality"] or 0, view) for view in views if view["pdq"]]
                continue
            if pdq[row] is not None:
                found.append((row, pdq[row], -1 if quality[row] is None else quality[row], None))
            if before and before[0][row] is not None:
                named = dict(zip(("pdq", "index", "at_s"), (column[row] for column in before), strict=True))
                found.append((row, named["pdq"], _KNOWN_QUALITY, named))
        rows, texts, qualities, held = zip(*found, strict=True) if found else ((), (), (), ())
        hashes = np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(-1, HASH_BYTES)
        return cls(np.array(rows, np.int64), hashes, np.array(qualities, np.int64), list(held))

    def parts_of(self, row: int) -> list[int]:
        """Return the numbers of the hashes that together are all of a row: tiles show what the whole picture does."""
        of_row = range(*np.searchsorted(self.rows, [row, row + 1]).tolist())
        return [look for look in of_row if (self.views[look] or {}).get("reason") != "tile"]


class BankSet:
    """Banks on this node, searched together.

    Args:
        specs: in the order of the configuration.
        elsewhere: searches near hashes in large banks; unset: this process builds indexes on first use, as for small
            banks.
        without: entries that match nothing.
        known: contents that are illegal whatever the banks say: `HASH_COLUMNS` and `MATCH`, each SHA-256 once.
    """

    def __init__(
        self,
        specs: Sequence[BankSpec],
        storage: StorageConfig,
        elsewhere: Search | None = None,
        without: Collection[Entry] = (),
        known: pa.Table | None = None,
    ) -> None:
        self.specs = tuple(specs)
        self.without = frozenset(without)
        self.known = known
        self._storage = storage
        self._elsewhere = elsewhere
        self._indexes: dict[int, NearIndex] = {}

    def leaving_out(self, entries: Collection[Entry]) -> BankSet:
        """Return the same banks without some entries."""
        return BankSet(self.specs, self._storage, self._elsewhere, entries, self.known)

    def open(self) -> None:
        """Map the banks into memory. Raises BankError where this node lacks one and cannot get it."""
        _ = self._banks

    def match(self, table: pa.Table, *, near: bool = True) -> pa.Table:
        """Return the match columns of a table with `HASH_COLUMNS`, in the same order; PDQ hashes are searched if
        `near`."""
        best: dict[int, Hit] = {}
        spared = self._by_bytes(table, best)
        looks = _Looks.of(table) if near else None
        said = self._by_looks(looks, best, spared) if looks is not None else {}
        return self.remembered(table, self._columns(best, said, table.num_rows))

    def remembered(self, table: pa.Table, found: pa.Table) -> pa.Table:
        """Return match columns in which contents known to be illegal have the match that made them known."""
        if self.known is None or not self.known.num_rows:
            return found
        place = pc.index_in(table["sha256"], self.known["sha256"].combine_chunks())
        is_illegal = pc.fill_null(pc.equal(found["match_kind"], str(BankKind.ILLEGAL)), False)
        is_known = pc.and_not(pc.and_(pc.is_valid(place), pc.is_valid(table["sha256"])), is_illegal)
        if not pc.any(is_known).as_py():
            return found
        columns = [pc.if_else(is_known, self.known[f.name].combine_chunks().take(place), found[f.name]) for f in MATCH]
        return pa.table(columns, schema=MATCH)

    def matched_again(self, rows: pa.Table) -> pa.Table:
        """Match rows again that have a match from before, with today's banks.

        An illegal match stands as long as its bank is not among them: leaving a bank out makes nothing legal.
        """
        found = self.match(rows)
        was_illegal = pc.equal(rows["match_kind"], str(BankKind.ILLEGAL))
        unasked = pc.invert(pc.is_in(rows["match_bank"], pa.array(sorted(self.names), pa.string())))
        is_illegal = pc.equal(found["match_kind"], str(BankKind.ILLEGAL))
        stands = pc.fill_null(pc.and_not(pc.and_(was_illegal, unasked), pc.fill_null(is_illegal, False)), False)
        if not pc.any(stands).as_py():
            return found
        return pa.table([pc.if_else(stands, rows[f.name], found[f.name]) for f in MATCH], schema=MATCH)

    @property
    def identities(self) -> list[str]:
        """`name@version` of each bank, in their order, then the entries that match nothing."""
        return [*(spec.identity for spec in self.specs), *(" ".join(entry) for entry in sorted(self.without))]

    @property
    def names(self) -> frozenset[str]:
        """Names of the banks."""
        return frozenset(spec.name for spec in self.specs)

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of hashes that the banks hold."""
        return frozenset(kind for spec in self.specs for kind, n in spec.entries.items() if n)

    @cached_property
    def _banks(self) -> tuple[Bank, ...]:
        return tuple(open_bank(spec, self._storage) for spec in self.specs)

    def _by_bytes(self, table: pa.Table, best: dict[int, Hit]) -> set[int]:
        """Add matches by bytes; return the rows whose bytes are known false matches."""
        spared: set[int] = set()
        for kind in _EXACT:
            rows, hashes = _hashes_in(table[kind])
            for number, bank in enumerate(self._banks):
                entries = bank.entries.get(kind)
                if entries is None or not len(rows):
                    continue
                places = entries.find(hashes)
                for i in np.flatnonzero(places >= 0).tolist():
                    hit = Hit(number, kind, int(places[i]), 0, entries.id_of(int(places[i])))
                    if self._entry(hit) not in self.without:
                        self._take(int(rows[i]), hit, best, spared)
        return spared

    def _by_looks(self, looks: _Looks, best: dict[int, Hit], spared: set[int]) -> dict[int, dict[str, Any]]:
        """Add matches by PDQ, except in `block` and `allow` banks for rows or views that are known false matches.

        Returns:
            What more is to be said of the rows whose best match is one of several views.
        """
        found = [self._found_in(number, looks) for number in range(len(self.specs))]
        hits = [(look, hit) for bank in found for look, hit, _ in bank]
        false = {look for look, hit in hits if self._kind(hit) == BankKind.NEGATIVE}  # before any match is taken
        held = [{look for look, *_ in bank} for bank in found]
        for look, hit in hits:
            row, kind = int(looks.rows[look]), self._kind(hit)
            is_false = look in false or row in spared
            if kind == BankKind.NEGATIVE or (is_false and kind != BankKind.ILLEGAL):
                continue
            if kind != BankKind.ALLOW or held[hit.bank].issuperset(looks.parts_of(row)):
                self._take(row, hit, best, spared)
        of_views = {row: hit for row, hit in best.items() if hit.look >= 0 and looks.views[hit.look] is not None}
        return {row: self._said(hit, looks, looks.parts_of(row), found[hit.bank]) for row, hit in of_views.items()}

    def _found_in(self, number: int, looks: _Looks) -> list[tuple[int, Hit, NDArray[np.int64]]]:
        """Return the hashes that a bank holds: their numbers, the nearest entry of each, and all that are near it."""
        spec = self.specs[number]
        asked = np.flatnonzero(looks.qualities >= spec.config.quality)
        if not spec.entries.get("pdq") or not len(asked):
            return []
        distinct, which = np.unique(looks.hashes[asked], axis=0, return_inverse=True)
        nearest = self._nearest(number, distinct)
        return [
            (look, replace(found[0], look=look), found[1])
            for look, place in zip(asked.tolist(), which.reshape(-1).tolist(), strict=True)
            if (found := nearest[place]) is not None
        ]

    def _said(
        self, hit: Hit, looks: _Looks, parts: list[int], found: list[tuple[int, Hit, NDArray[np.int64]]]
    ) -> dict[str, Any]:
        """Return which view matches, and the shares of views and of the entry's hashes that are alike."""
        view, entries = looks.views[hit.look] or {}, self._banks[hit.bank].entries["pdq"]
        said = {"match_view": view["index"], "match_at_s": view["at_s"], "match_pdq": view["pdq"]}
        if len(parts) > 1 and all(looks.views[look] for look in parts):
            alike = [{place for place in near.tolist() if entries.id_of(place) == hit.id}
                     for look, _, near in found if look in parts]  # fmt: skip
            said["match_share"] = sum(map(bool, alike)) / len(parts)
            said["match_entry_share"] = min(1.0, len(set().union(*alike)) / entries.number_of(hit.id))
        return said

    def _nearest(self, number: int, hashes: Hashes) -> list[tuple[Hit, NDArray[np.int64]] | None]:
        """Return for each hash the nearest entry of a bank, of several the one with the smallest id, and all entries
        within the bank's distance; None where none is."""
        ask = self._elsewhere if self._elsewhere is not None and self.specs[number].is_large else self.search
        found, entries = ask(number, hashes), self._banks[number].entries["pdq"]
        nearest: list[tuple[Hit, NDArray[np.int64]] | None] = []
        for start, end in zip(found.limits[:-1].tolist(), found.limits[1:].tolist(), strict=True):
            distances, places = found.distances[start:end], found.entries[start:end]
            if self.without and len(places):
                hits = [Hit(number, "pdq", place, 0, entries.id_of(place)) for place in places.tolist()]
                kept = np.array([self._entry(hit) not in self.without for hit in hits])
                distances, places = distances[kept], places[kept]
            if not len(distances):
                nearest.append(None)
                continue
            least = int(distances.min())
            name, entry = min((entries.id_of(entry), entry) for entry in places[distances == least].tolist())
            nearest.append((Hit(number, "pdq", entry, least, name), places))
        return nearest

    def _entry(self, hit: Hit) -> Entry:
        return self.specs[hit.bank].name, hit.hash, hit.id

    def _take(self, row: int, hit: Hit, best: dict[int, Hit], spared: set[int]) -> None:
        if self._kind(hit) == BankKind.NEGATIVE:
            spared.add(row)
        elif row not in best or self._rank(hit) < self._rank(best[row]):
            best[row] = hit

    def _kind(self, hit: Hit) -> BankKind:
        return self.specs[hit.bank].config.kind

    def _rank(self, hit: Hit) -> tuple[bool, bool, bool, int, int, str]:
        """Return the order of a hit, the smallest first; see the top of this module."""
        kind = self._kind(hit)
        by_looks, harmless = hit.hash == "pdq", kind == BankKind.ALLOW
        return kind != BankKind.ILLEGAL, by_looks, harmless, hit.distance, hit.bank, hit.id

    def _columns(self, best: dict[int, Hit], said: dict[int, dict[str, Any]], rows: int) -> pa.Table:
        values: dict[str, list[Any]] = {name: [None] * rows for name in MATCH.names}
        for row, hit in best.items():
            bank, kind = self.specs[hit.bank], str(self._kind(hit))
            found = (bank.name, bank.version[:16], hit.id, kind, hit.hash, hit.distance)
            named = dict(zip(MATCH.names, found, strict=False)) | (said.get(row, {}) if hit.hash == "pdq" else {})
            for name, value in named.items():
                values[name][row] = value
        return pa.table([pa.array(values[field.name], field.type) for field in MATCH], schema=MATCH)

    def search(self, number: int, hashes: Hashes) -> Found:
        """Search a bank by an index in this process."""
        with _OPENING:
            if number not in self._indexes:
                self._indexes[number] = self._banks[number].near()
        return self._indexes[number].search(hashes)


def _hashes_in(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], Hashes]:
    """Return the rows of a hex column that have a hash, and the hashes as uint8 [n, bytes]."""
    there = np.flatnonzero(pc.is_valid(column).to_numpy())
    texts = column.drop_null().to_pylist()
    width = len(texts[0]) // 2 if texts else 1
    return there, np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(-1, width)
