"""What people read of a report: a score is written with the digits that it has, and no others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import nsfwscan
from nsfwscan.cli.main import main
from nsfwscan.reports.reading import shortest, shown_rows


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_shortest_decimal_is_the_same_float32(value: float) -> None:
    """It is that very float32 again, and no decimal with fewer digits is."""
    found = shortest(value)
    assert np.float32(found) == np.float32(value)
    digits = len(f"{found:e}".partition("e")[0].replace(".", "").strip("-0")) or 1
    if digits > 1:
        with np.errstate(over="ignore"):
            assert np.float32(f"{value:.{digits - 2}e}") != np.float32(value)


def test_rows_are_shown_whole() -> None:
    """Wherever a float32 stands; a float64, a null and everything else are as they are."""
    kind = pa.struct([("name", pa.string()), ("value", pa.float32())])
    table = pa.table(
        {
            "score": pa.array([0.04, None], pa.float32()),
            "mean": pa.array([np.float64(np.float32(0.04)), 1.0], pa.float64()),
            "signals": pa.array([[{"name": "a", "value": 0.1}], None], pa.list_(kind)),
            "map": pa.array([[("a", 0.1)], []], pa.map_(pa.string(), pa.float32())),
            "vector": pa.array([[0.1, 0.2], None], pa.list_(pa.float32(), 2)),
            "uri": ["x", "y"],
        }
    )
    assert shown_rows(table) == [
        {
            "score": 0.04,
            "mean": 0.03999999910593033,
            "signals": [{"name": "a", "value": 0.1}],
            "map": [("a", 0.1)],
            "vector": [0.1, 0.2],
            "uri": "x",
        },
        {"score": None, "mean": 1.0, "signals": None, "map": [], "vector": None, "uri": "y"},
    ]
    assert shown_rows(table.slice(0, 0)) == []


def test_every_command_writes_the_same_score(tmp_path: Path) -> None:
    """`sql`, `why`, `classify`, exports and queue files write the shortest decimal of the report's score."""
    media, out, policy = tmp_path / "media", str(tmp_path / "out"), tmp_path / "policy.yaml"
    media.mkdir()
    picture = str(media / "a.png")
    Image.linear_gradient("L").convert("RGB").save(picture)
    policy.write_text(
        "{version: 1, rules: [{name: all, when: 'nsfw_score > 0', decision: review}], otherwise: {decision: allow}}"
    )
    result = nsfwscan.scan(str(media), out, run_id="1", policy=str(policy))
    [row] = result.to_arrow(["nsfw_score"]).to_pylist()
    score = str(np.float32(row["nsfw_score"]))
    assert score != str(row["nsfw_score"])
    for command in (
        ["sql", out, "SELECT nsfw_score FROM rows"],
        ["sql", out, "SELECT nsfw_score FROM rows", "--json"],
        ["why", out, picture],
        ["why", out, picture, "--json"],
        ["classify", picture, "--json"],
        ["export", out, "--format", "csv", "--out", "-"],
        ["queues", out, "--out", "-"],
    ):
        ran = CliRunner().invoke(main, command)
        assert ran.exit_code == 0 and score in ran.output and str(row["nsfw_score"]) not in ran.output, ran.output
    [line] = CliRunner().invoke(main, ["queues", out, "--out", "-"]).stdout.splitlines()
    assert json.loads(line)["nsfw_score"] == float(score)
