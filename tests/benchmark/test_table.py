"""The table: ratios, rows that are missing, Markdown, and its place in a page."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from jobs.benchmark import table
from jobs.benchmark.figures import figure, missing, value_of
from jobs.benchmark.suite import NEEDS, PARTS, RATIOS, ratios
from nsfwscan.errors import NsfwscanError

MACHINE = {
    "measured_at": "2026-11-22T10:00:00+00:00",
    "cpu": "A CPU",
    "cpu_family_model": ["6", "143"],
    "cores": 2,
    "cpu_flags": ["amx_bf16"],
    "memory_bytes": 8 * 2**30,
    "gpus": [],
    "busy_before": 0.02,
    "python": "3.11.7",
    "versions": {"ray": "2.60.0"},
}
SETTINGS = {
    "mix": [{"width": 500, "height": 375, "of": 1.0}],
    "distinct": 20,
    "seconds": 30.0,
    "repetitions": 3,
    "model": "vit-b-16",
    "not_measured": ["cold"],
    "megapixels": 0.19,
    "bytes_per_pixel": 0.31,
}
FIGURES = [
    figure("limit", "the limit", [40.0]),
    figure("scan.steady", "scan", [30.0, 36.0, 90.0], note="a | b"),
    figure("pipeline.one", "pipeline", [6.0]),
    missing("ray.steady", "Ray Data", "ray is not installed"),
]


def test_figures_are_medians_and_keep_their_repetitions() -> None:
    """The value is the median; all repetitions stay."""
    assert FIGURES[1].value == 36.0
    assert FIGURES[1].repetitions == (30.0, 36.0, 90.0)
    assert value_of(FIGURES, "ray.steady") is None
    assert value_of(FIGURES, "nothing") is None


def test_ratios_are_exact_and_only_of_what_is_there() -> None:
    """36 of 40 is 0.9 of the limit, and six times 6; nothing is set against a figure that is missing."""
    assert ratios(FIGURES) == {
        "scan.steady": [
            {"of": "limit", "name": "the limit", "ratio": 0.9},
            {"of": "pipeline.one", "name": "the pipeline loop", "ratio": 6.0},
        ],
        "pipeline.one": [{"of": "limit", "name": "the limit", "ratio": 0.15}],
    }


def test_no_part_needs_one_that_comes_later() -> None:
    """What a part is set against was measured before it."""
    order = list(PARTS)
    assert all(order.index(needed) < order.index(part) for part, needs in NEEDS.items() for needed in needs)
    assert all(key != other for key, others in RATIOS.items() for other, _ in others)


def test_markdown_has_every_row_and_names_the_machine() -> None:
    """A row for each figure, those that are missing with the reason; bars in words do not break cells."""
    text = table.as_markdown(MACHINE, SETTINGS, FIGURES)
    assert "2 cores of A CPU (family 6, model 143; amx_bf16), 8 GiB memory, no GPU; 2026-11-22" in text
    assert "| scan | 36.0 images/s | 0.90 x the limit; 6.00 x the pipeline loop | a / b |" in text
    assert "| Ray Data | missing |  | ray is not installed |" in text
    assert "Missing, not measured in this run: cold." in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {5}


def test_terminal_table_shows_the_same() -> None:
    """The table on the terminal has the rows of the page."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table.as_table(MACHINE, FIGURES))
    shown = console.export_text()
    assert "36.0 images/s" in shown and "ray is not installed" in shown


def test_json_holds_everything() -> None:
    """JSON types, with repetitions and ratios."""
    found = json.loads(json.dumps(table.as_json(MACHINE, SETTINGS, FIGURES)))
    assert found["figures"][1]["repetitions"] == [30.0, 36.0, 90.0]
    assert found["ratios"]["scan.steady"][0]["ratio"] == 0.9
    assert found["machine"]["cpu"] == "A CPU"


def test_a_page_keeps_the_words_around_its_table(tmp_path: Path) -> None:
    """Only what stands between the comments is replaced, however often."""
    page = tmp_path / "SCALE.md"
    page.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n")
    for text in (r"new \1", "newer"):
        table.put_into(page, "bench", text)
        assert page.read_text() == f"before\n<!-- bench: begin -->\n{text}\n<!-- bench: end -->\nafter\n"


def test_a_page_without_a_place_is_refused(tmp_path: Path) -> None:
    """The error names the comments that are missing, or the file."""
    page = tmp_path / "SCALE.md"
    with pytest.raises(NsfwscanError, match="cannot read the page"):
        table.put_into(page, "bench", "")
    page.write_text("nothing")
    with pytest.raises(NsfwscanError, match="<!-- bench-gpu: begin -->"):
        table.put_into(page, "bench-gpu", "")


@pytest.mark.parametrize(("value", "shown"), [(1234.5, "1,234"), (99.44, "99.4"), (9.876, "9.88"), (0.034, "0.03")])
def test_numbers_have_the_digits_that_count(value: float, shown: str) -> None:
    """No figure claims more than it knows."""
    assert table.number(value) == shown


def test_the_page_has_a_place_for_every_table() -> None:
    """deploy/SCALE.md has the three places, each with something in it."""
    page = (Path(__file__).parents[2] / "deploy" / "SCALE.md").read_text()
    for name in ("bench", "bench-gpu", "memory"):
        between = page.split(f"<!-- {name}: begin -->\n")[1].split(f"<!-- {name}: end -->")[0]
        assert len(between.split()) > 5
