"""What verdicts on a content come to: voices, undo, appeals, ties."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.config import StorageConfig
from nsfwscan.errors import BrokenRecord, SourceError
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.kept import ImportResult, add_verdicts, part_names
from nsfwscan.verdicts.standing import StandingVerdicts, counting, folded, standing
from nsfwscan.verdicts.verdict import PersonVerdict, as_table, parsed
from tests.verdicts.lines import Line, id_of, line, sha256_of

DAY = "2026-11-{:02}T00:00:00Z"


def at(day: int) -> str:
    return DAY.format(day)


def verdicts(*lines: Line) -> list[PersonVerdict]:
    return [parsed(one) for one in lines]


def stands(*lines: Line) -> dict[str, Any]:
    store = Store.at("/nowhere", StorageConfig())
    found = folded([as_table(verdicts(*lines))], store).to_pylist()
    assert len(found) == 1
    return found[0]


def store(folder: Path) -> Store:
    return Store.at(str(folder / "out"), StorageConfig())


def test_voices() -> None:
    """One voice a reviewer, the latest; the majority stands, a tie is disputed; who escalates is overtaken by who decides."""
    remove = line("1", "a", "remove", category="porn", decided_at=at(1))
    approve = line("2", "a", "approve", reviewer="bob", decided_at=at(2))
    assert stands(remove)["verdict"] == "remove"
    tie = stands(remove, approve)
    assert (tie["verdict"], tie["people"], tie["verdict_at"]) == ("disputed", 2, datetime(2026, 11, 2))
    third = line("3", "a", "remove", reviewer="eve", category="gore", decided_at=at(3))
    found = stands(remove, approve, third)
    assert (found["verdict"], found["category"], found["people"]) == ("remove", "gore", 2)
    assert found["ids"] == [id_of("1"), id_of("3")]
    changed = line("4", "a", "approve", decided_at=at(4))
    assert stands(remove, approve, changed)["verdict"] == "approve"
    unsure = line("5", "a", "escalate", reviewer="eve", decided_at=at(5))
    assert stands(remove, unsure)["verdict"] == "escalate"
    assert stands(unsure, line("6", "a", "remove", decided_at=at(6)))["verdict"] == "remove"


def test_what_was_taken_back_does_not_count() -> None:
    """An undo, and the undo of an undo; a verdict in place of another's; appeals from which on counting begins anew."""
    remove = line("1", "a", "remove", decided_at=at(1))
    approve = line("2", "a", "approve", reviewer="bob", decided_at=at(2))
    undo = line("3", "a", "undo", reviewer="bob", supersedes=id_of("2"), decided_at=at(3))
    assert stands(remove, approve, undo)["verdict"] == "remove"
    redo = line("4", "a", "undo", reviewer="bob", supersedes=id_of("3"), decided_at=at(4))
    assert stands(remove, approve, undo, redo)["verdict"] == "disputed"
    lead = line("5", "a", "approve", reviewer="lee", supersedes=id_of("1"), decided_at=at(5))
    assert stands(remove, lead)["verdict"] == "approve"
    appeal = line("6", "a", "approve", reviewer="kim", kind="appeal", decided_at=at(6))
    again = line("7", "a", "remove", reviewer="eve", decided_at=at(2))
    found = stands(remove, again, appeal)
    assert (found["verdict"], found["appeals"], found["people"]) == ("approve", 1, 1)
    nothing = folded([as_table(verdicts(approve, undo))], Store.at("/nowhere", StorageConfig()))
    assert nothing.num_rows == 0
    left = counting(as_table(verdicts(remove, approve, undo, redo)), Store.at("/nowhere", StorageConfig()))
    assert sorted(left["id"].to_pylist()) == sorted([id_of("1"), id_of("2")])


def test_norming_and_golden_items_decide_nothing() -> None:
    """They say something of the reviewers; an audit decides as a review does."""
    review = line("1", "a", "approve", decided_at=at(1))
    for kind in ("norming", "golden"):
        assert stands(review, line("2", "a", "remove", kind=kind, decided_at=at(2)))["verdict"] == "approve"
    assert stands(review, line("2", "a", "remove", kind="audit", decided_at=at(2)))["verdict"] == "remove"


def test_a_store_takes_each_verdict_once(tmp_path: Path) -> None:
    """A second time nothing is written; the same ones make the same file in another store."""
    here, given = store(tmp_path), verdicts(line("1", "a", "remove"), line("2", "b", "approve"))
    first = add_verdicts(here, given)
    assert (first.new, first.there) == (2, 0) and part_names(here) == [first.part]
    assert add_verdicts(here, given[::-1]) == ImportResult(0, 2, None)
    assert add_verdicts(store(tmp_path / "other"), given[::-1]).part == first.part
    more = add_verdicts(here, [*given, *verdicts(line("3", "c", "remove"))])
    assert (more.new, more.there, len(part_names(here))) == (1, 2, 2)
    assert standing(here).contents.num_rows == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([line("1", "a", "approve")], "has one with the same id, and it says something else"),
        ([line("2", "a", "undo", supersedes=id_of("9"))], "which neither the store nor these files have"),
        ([line("2", "b", "undo", supersedes=id_of("1"))], "which is on another content"),
        (
            [line("2", "a", "remove", supersedes=id_of("3")), line("3", "a", "remove", supersedes=id_of("2"))],
            "supersede each other in a circle",
        ),
    ],
)
def test_a_store_takes_nothing_that_contradicts_it(tmp_path: Path, wrong: list[Line], said: str) -> None:
    """Another verdict under a known id; one that takes back what is not there, or is on other bytes; a circle."""
    here = store(tmp_path)
    add_verdicts(here, verdicts(line("1", "a", "remove")))
    with pytest.raises(SourceError, match=said):
        add_verdicts(here, verdicts(*wrong))
    assert len(part_names(here)) == 1


def test_a_changed_file_is_told(tmp_path: Path) -> None:
    """A byte, or another file under the name: nothing is read from it."""
    here = store(tmp_path)
    part = add_verdicts(here, verdicts(line("1", "a", "remove"))).part
    path = tmp_path / "out" / "verdicts" / f"{part}.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"0")
    with pytest.raises(BrokenRecord, match="was changed"):
        standing(here)


def test_verdicts_join_by_content(tmp_path: Path) -> None:
    """Whatever the object's name is; what was there before is replaced; rows without a digest have none."""
    found = StandingVerdicts(folded([as_table(verdicts(line("1", "a", "remove")))], store(tmp_path)))
    rows = pa.table({"sha256": [sha256_of("a"), sha256_of("b"), None], "verdict": ["approve", "approve", None]})
    joined = found.onto(rows)
    assert joined["verdict"].to_pylist() == ["remove", None, None] and joined["appeals"].to_pylist() == [0, None, None]
    assert StandingVerdicts().onto(rows)["verdict"].to_pylist() == [None, None, None]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ar"), st.sampled_from(["approve", "remove"]), st.integers(1, 28)), max_size=12)
)
def test_the_fold_is_the_majority_of_the_last_words(said: list[tuple[str, str, int]]) -> None:
    """As counting in Python says it, whatever the order of the files is."""
    lines = [
        line(str(i), "x", word, reviewer=who + str(i % 3), decided_at=at(day))
        for i, (who, word, day) in enumerate(said)
    ]
    last: dict[str, tuple[str, str, str]] = {}
    for one in sorted(lines, key=lambda one: (one["decided_at"].replace("Z", ""), [-ord(c) for c in one["id"]])):
        last[one["reviewer"]] = (one["decided_at"], one["id"], one["verdict"])
    words = [word for *_, word in last.values()]
    removing, approving = words.count("remove"), words.count("approve")
    expected = "disputed" if removing == approving else "remove" if removing > approving else "approve"
    found = folded([as_table(verdicts(one)) for one in lines], Store.at("/nowhere", StorageConfig())).to_pylist()
    assert [row["verdict"] for row in found] == ([expected] if lines else [])
