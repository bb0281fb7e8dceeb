"""Check that the report accounts for every listed object exactly once.

A `Balance` counts report parts, read back from the store, against the listing. A part that differs from what was
written, or whose URIs are not exactly the listed ones, is a `BalanceError`: nothing ever fills in an absent object.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from nsfwscan.errors import BalanceError
from nsfwscan.runs.counts import counts_of
from nsfwscan.schema import Accounted
from nsfwscan.storage.store import from_parquet


@dataclass
class Balance:
    """`listed = scored + matched + duplicate + filtered + carried + errored`, counted from the written files."""

    listed: int = 0
    repeated: int = 0
    accounted: Counter[str] = field(default_factory=Counter)

    def add(self, expected: pa.ChunkedArray, part: bytes, sha256: str) -> None:
        """Check one written part against the objects that it must hold, and count it.

        Args:
            expected: URIs of the objects.
            part: bytes of the part, read back from the store.
            sha256: hex digest of the bytes that were written.

        Raises:
            BalanceError: the part is damaged, lacks a row, holds a row twice, or holds a row of no listed object.
        """
        if hashlib.sha256(part).hexdigest() != sha256:
            raise BalanceError(
                f"the report part {sha256[:16]} reads back differently than it was written: the store damages files"
            )
        rows = from_parquet(part, ["uri", "accounted_as"])
        check_uris(expected, rows["uri"])
        self.listed += len(expected)
        self.accounted.update(counts_of(rows["accounted_as"], nulls=True))

    def include(self, other: Balance) -> None:
        """Count what another balance has counted, too."""
        self.listed += other.listed
        self.repeated += other.repeated
        self.accounted.update(other.accounted)

    def leave(self, carried: int) -> None:
        """Count carried rows that a delta report does not write again."""
        self.listed += carried
        self.accounted[Accounted.CARRIED] += carried

    def settle(self) -> None:
        """Raise BalanceError unless the terms add up to `listed`."""
        if self.listed != sum(self.accounted[a] for a in Accounted) or set(self.accounted) - set(Accounted):
            raise BalanceError(f"the report does not balance: {self}")

    def as_dict(self) -> dict[str, int]:
        """Return every term, zeros included."""
        return {"listed": self.listed, **{str(a): self.accounted[a] for a in Accounted}}

    def __str__(self) -> str:
        terms = " + ".join(f"{self.accounted[a]:,} {a}" for a in Accounted)
        again = f" ({self.repeated:,} listed again and counted once)" if self.repeated else ""
        return f"{self.listed:,} listed = {terms}{again}"


def check_uris(listed: pa.ChunkedArray, reported: pa.ChunkedArray) -> None:
    """Raise BalanceError unless both hold the same URIs, equally often."""
    if listed.equals(reported):
        return
    expected, found = Counter(listed.to_pylist()), Counter(reported.to_pylist())
    absent, extra = expected - found, found - expected
    if absent or extra:
        example = next(iter([*absent, *extra]))
        raise BalanceError(
            f"{absent.total()} listed objects have no row and {extra.total()} rows have no object, e.g. {example!r}"
        )
