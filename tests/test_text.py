"""What is shown holds no secret, and nothing that a terminal would act on."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nsfwscan.text import printable, printable_lines, write_csv


@given(st.text())
def test_nothing_printable_moves_a_cursor(text: str) -> None:
    """No control character, no newline, no character of direction, no half of a surrogate pair comes through."""
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    shown.encode()


def test_ordinary_names_are_shown_as_they_are() -> None:
    """Letters of any script, blanks and punctuation are no danger; escapes say what was there."""
    assert printable("写真/é – a b.jpg") == "写真/é – a b.jpg"
    assert printable("a\x1b[2J\u202egpj.\n\udcff") == "a\\x1b[2J\\u202egpj.\\n\\udcff"


def test_lines_of_our_own_stay() -> None:
    """A message may have several lines; within each, everything is escaped."""
    assert printable_lines("wrong:\n  a\tb\n  c\x1b") == "wrong:\n  a\\tb\n  c\\x1b"
    assert re.fullmatch(r"[^\x00-\x09\x0b-\x1f]*", printable_lines("".join(map(chr, range(32)))))


def test_a_spreadsheet_finds_no_formula(tmp_path: Path) -> None:
    """What a spreadsheet would run is text to it; all else, and every other CSV reader, finds what was written."""
    cells = [
        "＝1+1",
        "＋1",
        "－1",
        "＠x",
        " =1",
        "\n=1",
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\tx",
        "\rx",
        "a=b",
        "/m/=1.jpg",
        'a,"b"\n',
        "",
        -1,
        None,
    ]
    write_csv(tmp_path / "x.csv", ("name", "number"), ((cell, 2) for cell in cells))
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "number"]
    expected = [
        "'＝1+1",
        "'＋1",
        "'－1",
        "'＠x",
        "' =1",
        "'\n=1",
        "'=1+1",
        "'+1",
        "'-1",
        "'@SUM(A1)",
        "'\tx",
        "'\rx",
        "a=b",
        "/m/=1.jpg",
        'a,"b"\n',
        "",
        "-1",
        "",
    ]
    assert rows == [[cell, "2"] for cell in expected]
