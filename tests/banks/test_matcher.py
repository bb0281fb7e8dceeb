"""Of all entries that a row matches, the one that counts is the one that the rule names: against the rule in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsfwscan.banks.bank import resolve_banks
from nsfwscan.banks.matcher import HASH_COLUMNS, MATCH, BankSet
from nsfwscan.config import BankConfig, StorageConfig
from nsfwscan.schema import EACH_VIEW, REPORT_SCHEMA

Row = dict[str, Any]
_ROW_SCHEMA = pa.schema([REPORT_SCHEMA.field(name) for name in HASH_COLUMNS])
OF_ENTRY = ("match_bank", "match_id", "match_kind", "match_hash", "match_distance")
SHA, MD5 = "a" * 64, "b" * 32


def pdq(*flipped: int) -> str:
    """Return the hash of all zeros but for some bits."""
    bits = np.zeros(256, np.uint8)
    bits[list(flipped)] = 1
    return np.packbits(bits).tobytes().hex()


@pytest.fixture
def banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., BankSet]:
    """Banks from `name={kind, entries: [(type, hash, id)], …}`."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))

    def made(**given: Row) -> BankSet:
        configs = []
        for name, bank in given.items():
            entries, settings = bank["entries"], {key: value for key, value in bank.items() if key != "entries"}
            path = tmp_path / f"{name}.csv"
            path.write_text("type,hash,id\n" + "".join(f"{t},{h},{i}\n" for t, h, i in entries))
            configs.append(BankConfig.of({"name": name, "uri": str(path), **settings}))
        return BankSet(resolve_banks(tuple(configs), StorageConfig()), StorageConfig())

    return made


def rows(*given: Row) -> pa.Table:
    return pa.Table.from_pylist([{"pdq_quality": 100 if "pdq" in row else None, **row} for row in given], schema=_ROW_SCHEMA)  # fmt: skip


def matched(banks: BankSet, *given: Row, near: bool = True) -> list[tuple[Any, ...] | None]:
    found = banks.match(rows(*given), near=near)
    assert found.schema == MATCH
    return [None if row["match_bank"] is None else tuple(row[name] for name in OF_ENTRY) for row in found.to_pylist()]


NOTHING = ("pdq", "f" * 64, "")


def test_a_row_is_found_by_any_of_its_hashes(banks: Callable[..., BankSet]) -> None:
    """SHA-256, MD5, PDQ; a row without hashes matches nothing, and so does one of other hashes."""
    some = banks(b={"entries": [("sha256", SHA, "s"), ("md5", MD5, "m"), ("pdq", pdq(), "p")]})
    assert matched(
        some,
        {"sha256": SHA},
        {"md5": MD5},
        {"pdq": pdq(0, 255)},
        {},
        {"sha256": "c" * 64, "md5": "c" * 32, "pdq": pdq(*range(100))},
    ) == [("b", "s", "block", "sha256", 0), ("b", "m", "block", "md5", 0), ("b", "p", "block", "pdq", 2), None, None]


def test_only_by_bytes(banks: Callable[..., BankSet]) -> None:
    """Before decoding, what only looks the same is not asked for."""
    some = banks(b={"entries": [("sha256", SHA, "s"), ("pdq", pdq(), "p")]})
    assert matched(some, {"sha256": SHA, "pdq": pdq()}, {"pdq": pdq()}, near=False) == [
        ("b", "s", "block", "sha256", 0),
        None,
    ]


def test_distance_and_quality_are_the_banks_own(banks: Callable[..., BankSet]) -> None:
    """Inclusive both; the entries themselves are trusted, whatever they are of."""
    some = banks(
        strict={"entries": [("pdq", pdq(), "p")], "distance": 3, "quality": 80},
        loose={"entries": [("pdq", pdq(), "q")], "distance": 5, "quality": 20},
    )
    cases = [(3, 80), (4, 80), (3, 79), (5, 20), (6, 20), (0, 19), (0, 0)]
    found = matched(
        some, *({"pdq": pdq(*range(n)), "pdq_quality": q} for n, q in cases), {"pdq": pdq(), "pdq_quality": None}
    )
    assert [m and m[0] for m in found] == ["strict", "loose", "loose", "loose", None, None, None, None]


def test_the_nearest_entry_counts_then_the_first_bank_then_the_first_id(banks: Callable[..., BankSet]) -> None:
    """Among banks of one kind."""
    some = banks(
        one={"entries": [("pdq", pdq(0), "z"), ("pdq", pdq(1), "y"), ("pdq", pdq(0, 1, 2), "a")]},
        two={"entries": [("pdq", pdq(3), "b"), ("pdq", pdq(4, 5), "c")]},
    )
    assert matched(some, {"pdq": pdq()}, {"pdq": pdq(4, 5)}, {"pdq": pdq(3)}) == [
        ("one", "y", "block", "pdq", 1),
        ("two", "c", "block", "pdq", 0),
        ("two", "b", "block", "pdq", 0),
    ]


def test_kinds_have_their_order(banks: Callable[..., BankSet]) -> None:
    """Illegal before all, by its bytes or by its looks; the same bytes before the same looks; block before allow."""
    some = banks(
        allow={"kind": "allow", "entries": [("sha256", SHA, "s"), ("pdq", pdq(), "p")]},
        block={"kind": "block", "entries": [("md5", MD5, "m"), ("pdq", pdq(1), "q")]},
        illegal={"kind": "illegal", "entries": [("pdq", pdq(*range(20, 90)), "r"), ("sha256", "d" * 64, "t")]},
    )
    found = matched(
        some,
        {"sha256": SHA, "pdq": pdq(*range(20, 90))},
        {"sha256": "d" * 64, "md5": MD5, "pdq": pdq()},
        {"sha256": SHA, "md5": MD5},
        {"sha256": SHA, "pdq": pdq(1, *range(100, 120))},
        {"pdq": pdq(1, *range(100, 110))},
        {"pdq": pdq(*range(100, 131))},
    )
    assert [m and (m[0], m[3]) for m in found] == [
        ("illegal", "pdq"),
        ("illegal", "sha256"),
        ("block", "md5"),
        ("allow", "sha256"),
        ("block", "pdq"),
        ("allow", "pdq"),
    ]


def test_a_negative_bank_spares_what_only_looks_the_same(banks: Callable[..., BankSet]) -> None:
    """By any of its hashes; neither a match of the bytes nor an illegal one is voided. It matches nothing itself."""
    some = banks(
        block={"entries": [("pdq", pdq(), "p"), ("sha256", SHA, "s")]},
        allow={"kind": "allow", "entries": [("pdq", pdq(), "a")]},
        never={"kind": "negative", "entries": [("pdq", pdq(0), "n"), ("md5", MD5, "m"), ("sha256", "e" * 64, "o")], "distance": 0},
        illegal={"kind": "illegal", "entries": [("pdq", pdq(*range(200, 256)), "i")]},
    )  # fmt: skip
    found = matched(
        some,
        {"pdq": pdq(1)},
        {"pdq": pdq(0)},
        {"pdq": pdq(), "md5": MD5},
        {"pdq": pdq(), "sha256": "e" * 64},
        {"pdq": pdq(0), "sha256": SHA},
        {"pdq": pdq(*range(195, 256)), "md5": MD5},
        {"md5": MD5},
    )
    assert [m and (m[0], m[3]) for m in found] == [
        ("block", "pdq"),
        None,
        None,
        None,
        ("block", "sha256"),
        ("illegal", "pdq"),
        None,
    ]


def test_what_was_illegal_stays_so_as_long_as_its_bank_is_not_asked(banks: Callable[..., BankSet]) -> None:
    """A bank that was left out makes nothing legal; one that is asked and holds it no more does. Others are forgotten."""
    was = [
        {"sha256": SHA, "match_bank": "gone", "match_kind": "illegal", "match_id": "x", "match_hash": "sha256", "match_distance": 0},
        {"sha256": SHA, "match_bank": "asked", "match_kind": "illegal", "match_id": "x", "match_hash": "sha256", "match_distance": 0},
        {"sha256": SHA, "match_bank": "gone", "match_kind": "block", "match_id": "x", "match_hash": "sha256", "match_distance": 0},
        {"md5": MD5, "match_bank": "gone", "match_kind": "illegal", "match_id": "x", "match_hash": "md5", "match_distance": 0},
        {"md5": MD5},
    ]  # fmt: skip
    table = pa.Table.from_pylist(was, schema=pa.schema([*_ROW_SCHEMA, *MATCH]))
    asked = banks(asked={"kind": "block", "entries": [("md5", MD5, "m")]})
    kinds = [(row["match_bank"], row["match_kind"]) for row in asked.matched_again(table).to_pylist()]
    assert kinds == [("gone", "illegal"), (None, None), (None, None), ("gone", "illegal"), ("asked", "block")]
    none = BankSet((), StorageConfig()).matched_again(table).to_pylist()
    assert [row["match_bank"] for row in none] == ["gone", "asked", None, "gone", None]


_PDQS = [pdq(), pdq(0), pdq(0, 1), pdq(*range(31)), pdq(*range(32)), pdq(*range(100, 120)), pdq(*range(90, 130))]
_SHAS, _MD5S = [f"{i}" * 64 for i in range(4)], [f"{i}" * 32 for i in range(4)]
_HASHES = {"sha256": _SHAS, "md5": _MD5S, "pdq": _PDQS}
_ENTRY = st.sampled_from(sorted(_HASHES)).flatmap(lambda kind: st.tuples(st.just(kind), st.sampled_from(_HASHES[kind])))
_KINDS = ["block", "allow", "negative", "illegal"]
_BANK = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(_KINDS),
        "distance": st.sampled_from([0, 1, 20, 31]),
        "quality": st.sampled_from([0, 50]),
        "found": st.lists(st.tuples(_ENTRY, st.sampled_from("abc")), min_size=1, max_size=5),
    }
)
_ANY_ROW = st.fixed_dictionaries(
    {
        "sha256": st.none() | st.sampled_from(_SHAS),
        "md5": st.none() | st.sampled_from(_MD5S),
        "pdq": st.none() | st.sampled_from(_PDQS),
        "pdq_quality": st.sampled_from([0, 49, 50, 100]),
    }
)


def by_hand(row: Row, given: list[Row]) -> tuple[Any, ...] | None:
    """Return the rule at the top of the module, word by word."""
    hits = []
    for place, bank in enumerate(given):
        for (kind, hash_), name in bank["found"]:
            if row[kind] is None or (kind == "pdq" and row["pdq_quality"] < bank["quality"]):
                continue
            distance = (int(row[kind], 16) ^ int(hash_, 16)).bit_count() if kind == "pdq" else 0
            if distance <= bank["distance"] if kind == "pdq" else row[kind] == hash_:
                hits.append((bank["kind"], kind, distance, place, name))
    known_false = any(hit[0] == "negative" for hit in hits)
    hits = [hit for hit in hits if hit[0] != "negative"]
    if known_false:
        hits = [hit for hit in hits if hit[0] == "illegal" or hit[1] != "pdq"]
    for narrower in (
        lambda hit: hit[0] == "illegal",
        lambda hit: hit[1] != "pdq",
        lambda hit: hit[0] == "block",
    ):
        hits = [hit for hit in hits if narrower(hit)] or hits
    if not hits:
        return None
    kind, hash_, distance, place, name = min(hits, key=lambda hit: hit[2:])
    return f"b{place}", name, kind, distance


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_banks=st.lists(_BANK, min_size=1, max_size=4), given_rows=st.lists(_ANY_ROW, max_size=12))
def test_any_rows_and_any_banks(banks: Callable[..., BankSet], given_banks: list[Row], given_rows: list[Row]) -> None:
    """The rule, by any banks of any kinds over hashes that are equal, near and far."""
    for place, bank in enumerate(given_banks):  # one id for each hash of a bank: the smallest counts
        first: dict[Any, str] = {}
        for entry, name in sorted(bank["found"], key=lambda found: found[1]):
            first.setdefault(entry, name)
        bank["found"] = list(first.items())
        bank["name"] = f"b{place}"
    some = banks(
        **{
            bank["name"]: {
                "entries": [(kind, hash_, name) for (kind, hash_), name in bank["found"]],
                **{key: bank[key] for key in ("kind", "distance", "quality")},
            }
            for bank in given_banks
        }
    )
    found = [m and (m[0], m[1], m[2], m[4]) for m in matched(some, *given_rows)]
    assert found == [by_hand(row, given_banks) for row in given_rows]


OF_VIEWS = ("match_id", "match_view", "match_at_s", "match_pdq", "match_share", "match_entry_share")
A, B, C, D, OTHER = (pdq(*range(40 * i, 40 * i + 40)) for i in range(5))


def of_views(banks: BankSet, *objects: list[str | tuple[str, int]]) -> list[tuple[Any, ...] | None]:
    """Return what matches of objects with several views say, each view a hash, or a hash and its quality."""
    each = [
        [{"index": 10 * i, "at_s": i / 2, "reason": "spread", "weight": 1, "pdq": h, "pdq_quality": q}
         for i, (h, q) in enumerate((view, 90) if isinstance(view, str) else view for view in views)]
        for views in objects
    ]  # fmt: skip
    table = rows(*({"pdq": views[0]["pdq"]} for views in each))
    found = banks.match(table.append_column(EACH_VIEW, pa.array(each, EACH_VIEW.type)))
    return [row["match_kind"] and tuple(row[name] for name in OF_VIEWS) for row in found.to_pylist()]


def test_any_view_may_be_in_a_bank(banks: Callable[..., BankSet]) -> None:
    """The row says which view it is, when it is shown, and how much of the object and of the entry is alike: an entry
    has as many hashes as have its id, as those of a video do."""
    video = [("pdq", A, "film"), ("pdq", B, "film"), ("pdq", C, "film"), ("pdq", D, "film"), ("pdq", pdq(), "dot")]
    some = banks(b={"entries": video})
    assert of_views(some, [OTHER, OTHER, A, B], [A, B, C, D], [OTHER, pdq(1)], [OTHER, OTHER], [A, (B, 49)]) == [
        ("film", 20, 1.0, A, 0.5, 0.5),
        ("film", 0, 0.0, A, 1.0, 1.0),
        ("dot", 10, 0.5, pdq(1), 0.5, 1.0),
        None,
        ("film", 0, 0.0, A, 0.5, 0.25),
    ]


def test_one_harmless_view_says_nothing_of_the_others(banks: Callable[..., BankSet]) -> None:
    """An allow bank holds only where it has all views, and a known false match takes back only its own view."""
    some = banks(
        allow={"kind": "allow", "entries": [("pdq", A, "a"), ("pdq", B, "b")]},
        block={"kind": "block", "entries": [("pdq", pdq(255), "c"), ("pdq", D, "d")]},
        negative={"kind": "negative", "entries": [("pdq", pdq(255), "n")]},
    )
    found = of_views(some, [A, OTHER], [A, B], [A, (B, 10)], [pdq(255), OTHER], [pdq(255), D], [A, D])
    assert [one and one[0] for one in found] == [None, "a", None, None, "d", "d"]


def test_a_view_that_matched_before_is_matched_again_without_the_others(banks: Callable[..., BankSet]) -> None:
    """Where only a row's own columns are known, as of contents that a store remembers, its `match_pdq` is looked up."""
    some = banks(b={"kind": "illegal", "entries": [("pdq", A, "a")]})
    fields = [MATCH.field(name) for name in ("match_pdq", "match_view", "match_at_s")]
    table = rows({"pdq": OTHER}, {"pdq": OTHER}, {"sha256": SHA})
    for field, values in zip(fields, ([A, B, A], [7, 7, 7], [0.7, 0.7, 0.7]), strict=True):
        table = table.append_column(field, pa.array(values, field.type))
    found = some.match(table).to_pylist()
    assert [(row["match_id"], row["match_pdq"], row["match_view"], row["match_at_s"]) for row in found] == [
        ("a", A, 7, 0.7),
        (None,) * 4,
        ("a", A, 7, 0.7),
    ]


def test_tiles_are_no_parts_of_their_own(banks: Callable[..., BankSet]) -> None:
    """A picture in tiles is harmless where all of it is in an allow bank; a tile alone makes nothing harmless."""
    some = banks(allow={"kind": "allow", "entries": [("pdq", A, "a")]}, b={"entries": [("pdq", D, "d")]})

    def tiled(*hashes: str) -> Any:
        views = [{"index": i, "reason": "tile" if i else "first", "weight": 1, "pdq": h, "pdq_quality": 90}
                 for i, h in enumerate(hashes)]  # fmt: skip
        table = rows({"pdq": hashes[0]}).append_column(EACH_VIEW, pa.array([views], EACH_VIEW.type))
        [row] = some.match(table).to_pylist()
        return row["match_id"], row["match_view"], row["match_share"]

    assert tiled(A, OTHER, B) == ("a", 0, None)
    assert tiled(OTHER, A, A) == (None, None, None)
    assert tiled(OTHER, B, D) == ("d", 2, None)
