"""A report accounts for every listed object exactly once, or does not balance."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwscan.errors import BalanceError
from nsfwscan.runs.balance import Balance, check_uris
from nsfwscan.runs.staging import to_parquet
from tests.runs.rows import report, staged_row

URIS = ["/a.jpg", "/b.jpg", "/c\n.jpg", "/d.jpg"]


def listed(uris: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([uris], pa.string())


def part(rows: list[dict[str, object]]) -> tuple[bytes, str]:
    data = to_parquet(report(rows))
    return data, hashlib.sha256(data).hexdigest()


def uris(values: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.string())])


def test_a_whole_part_balances() -> None:
    """Every listed object has its row, in whatever order, and every term is counted from the file."""
    balance = Balance(repeated=3)
    rows = [staged_row("/b.jpg", status="timeout"), staged_row("/a.jpg"), staged_row("/c\n.jpg", nsfw_score=0.9)]
    balance.add(listed(URIS[:3]), *part(rows))
    balance.add(listed(URIS[3:]), *part([staged_row("/d.jpg", accounted_as="carried")]))
    balance.settle()
    terms = {"scored": 2, "matched": 0, "duplicate": 0, "filtered": 0, "carried": 1, "errored": 1}
    assert balance.as_dict() == {"listed": 4, **terms}
    assert str(balance) == (
        "4 listed = 2 scored + 0 matched + 0 duplicate + 0 filtered + 1 carried + 1 errored"
        " (3 listed again and counted once)"
    )


@pytest.mark.parametrize(
    ("reported", "message"),
    [
        (URIS[:3], r"1 listed objects have no row and 0 rows have no object, e\.g\. '/d\.jpg'"),
        ([*URIS, "/a.jpg"], r"0 listed objects have no row and 1 rows have no object, e\.g\. '/a\.jpg'"),
        ([*URIS, "/invented"], r"0 listed .* 1 rows have no object, e\.g\. '/invented'"),
        ([*URIS[:3], "/c\n.jpg"], r"1 listed objects have no row and 1 rows"),
        ([], r"4 listed objects have no row"),
    ],
    ids=["missing", "doubled", "invented", "one for another", "all missing"],
)
def test_a_part_with_other_rows_does_not_balance(reported: list[str], message: str) -> None:
    """A row that is missing, doubled, invented or another's is found, counted and named."""
    with pytest.raises(BalanceError, match=message) as caught:
        Balance().add(listed(URIS), *part([staged_row(uri) for uri in reported]))
    assert caught.value.exit_code == 3


def test_a_damaged_part_does_not_balance() -> None:
    """One byte that reads back differently than it was written is found, before Parquet is asked to parse it."""
    data, sha256 = part([staged_row(uri) for uri in URIS])
    for damaged in (data[:-1], data[:100] + bytes([data[100] ^ 1]) + data[101:], b""):
        with pytest.raises(BalanceError, match=f"{sha256[:16]} reads back differently"):
            Balance().add(listed(URIS), damaged, sha256)


@pytest.mark.parametrize("term", [None, "lost"])
def test_a_row_without_a_place_does_not_balance(term: str | None) -> None:
    """A row that stands in no term of the sum, or in one that there is not, is not passed over."""
    balance = Balance()
    balance.add(listed(URIS[:1]), *part([staged_row(URIS[0], accounted_as=term)]))
    with pytest.raises(BalanceError, match="does not balance: 1 listed = 0 scored"):
        balance.settle()


@given(st.lists(st.text(max_size=3), max_size=6), st.lists(st.text(max_size=3), max_size=6), st.randoms())
def test_exactly_the_same_uris_pass(listed: list[str], reported: list[str], dice: object) -> None:
    """Two lists pass if and only if they hold the same URIs equally often, whatever their order."""
    shuffled = sorted(listed, key=lambda _: dice.random())  # type: ignore[attr-defined]
    check_uris(uris(listed), uris(shuffled))
    if sorted(listed) != sorted(reported):
        with pytest.raises(BalanceError):
            check_uris(uris(listed), uris(reported))
