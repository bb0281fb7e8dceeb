"""nsfwscan in Python: what the module shows, what a result holds, and what a notebook sees of a scan."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import nsfwscan
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, StoreError
from nsfwscan.policy.rules import load_policy
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.storage.store import Store
from nsfwscan.workflows.replay import commit_replay
from nsfwscan.workflows.scan import ScanResult


@pytest.fixture(scope="module")
def result(demo: tuple[Path, list[object]], tmp_path_factory: pytest.TempPathFactory) -> ScanResult:
    return nsfwscan.scan(demo[0] / "neutral", tmp_path_factory.mktemp("out"), run_id="night")


def test_the_module_shows_its_functions() -> None:
    """`dir(nsfwscan)` names what comes with the first call, and each name is there."""
    assert {"scan", "classify", "explain", "__version__"} <= set(dir(nsfwscan))
    assert all(hasattr(nsfwscan, name) for name in dir(nsfwscan))
    with pytest.raises(AttributeError, match="no attribute 'scna'"):
        nsfwscan.scna  # noqa: B018


def test_a_result_is_short(result: ScanResult) -> None:
    """Its repr is one line: the run, its counts, where it lies; a notebook gets the same, and no markup of strangers."""
    rows = result.record.summary.rows
    assert repr(result).startswith(f"<scan night: {rows} objects (") and result.uri in repr(result)
    assert all(f"{n:,} {name}" in repr(result) for name, n in result.record.summary.decision.items())
    assert "\n" not in repr(result) and len(repr(result)) < 160 + len(result.uri)
    assert "exit code 4" in repr(replace(result, exit_code=4))
    hostile = replace(result, uri="<script>alert(1)</script>")
    assert "<script>" not in hostile._repr_html_() and "<table>" in result._repr_html_()


def test_the_report_as_arrow_and_pandas(result: ScanResult) -> None:
    """All rows with the report's own types, or only the columns that are asked for; signals are dictionaries in pandas."""
    table = result.to_arrow()
    assert table.schema.equals(REPORT_SCHEMA) and table.num_rows == result.record.summary.rows
    assert sorted(table["uri"].to_pylist()) == sorted(
        uri for file in result.report_files for uri in pq.read_table(file)["uri"].to_pylist()
    )
    assert result.to_arrow(["uri", "decision"]).column_names == ["uri", "decision"]
    frame = result.to_pandas(["uri", "nsfw_score", "signals"])
    assert list(frame.columns) == ["uri", "nsfw_score", "signals"] and len(frame) == table.num_rows
    assert all(isinstance(signals, dict) for signals in frame["signals"].dropna())
    assert frame["signals"].notna().any()
    with pytest.raises(ConfigError, match="no column 'score'; it has uri, size"):
        result.to_arrow(["uri", "score"])
    with pytest.raises(ConfigError, match=r"give a list of names, \['uri'\]"):
        result.to_arrow("uri")


def test_without_pandas_it_says_what_to_install(result: ScanResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing pandas is no traceback, and names the ways that do without."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"pip install pandas; to_arrow\(\) and sql\(\) do without"):
        result.to_pandas()


def test_sql_over_the_report(result: ScanResult, tmp_path: Path) -> None:
    """A statement counts what the report has, twice the table if it likes; it reaches no file, and its faults are told."""
    counts = result.sql("SELECT decision, count(*) AS objects FROM report GROUP BY ALL")
    assert {row["decision"]: row["objects"] for row in counts.to_pylist()} == result.record.summary.decision
    [both] = result.sql("SELECT count(*) AS n FROM report JOIN report again USING (uri)").to_pylist()
    assert both["n"] == result.record.summary.rows
    [signals] = result.sql("SELECT count(*) AS n FROM report WHERE cardinality(signals) > 0").to_pylist()
    assert signals["n"] > 0
    with pytest.raises(ConfigError, match=r"cannot be run: .*colour"):
        result.sql("SELECT colour FROM report")
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    for statement in (f"SELECT * FROM '{secret}'", f"COPY report TO '{tmp_path}/stolen.csv'", "SET threads = 1"):
        with pytest.raises(ConfigError, match="cannot be run"):
            result.sql(statement)
    assert not (tmp_path / "stolen.csv").exists()


def test_a_replay_is_read_alike_and_damage_is_told(result: ScanResult) -> None:
    """What `policy replay --commit` returns is read in the same way; a part that was changed is not read at all."""
    store = Store.at(str(Path(result.uri).parents[1]), StorageConfig())
    replayed = commit_replay(Run(store, "night"), load_policy("binary"), "binary", "again")
    assert repr(replayed).startswith("<replay again: ")
    assert replayed.to_arrow(["uri"]).num_rows == result.record.summary.rows
    part = Path(replayed.report_files[0])
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="damaged"):
        replayed.to_arrow()
    with pytest.raises(StoreError, match="damaged"):
        replayed.sql("SELECT 1 FROM report")


def test_progress_is_shown_where_it_is_asked_for(
    demo: tuple[Path, list[object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outside of notebooks nothing is printed, unless it is asked for."""
    nsfwscan.scan(demo[0] / "neutral", tmp_path / "quiet")
    assert capsys.readouterr().out == ""
    nsfwscan.scan(demo[0] / "neutral", tmp_path / "told", progress=True)
    assert "committing" in capsys.readouterr().out


@pytest.mark.long
def test_a_notebook_sees_the_progress(demo: tuple[Path, list[object]], tmp_path: Path) -> None:
    """A scan in a real kernel prints its progress as plain lines, none with `progress=False`, and the result shows itself."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [
        f"import nsfwscan\nnsfwscan.scan({str(demo[0] / 'neutral')!r}, {str(tmp_path / 'out')!r}, run_id='a')",
        f"nsfwscan.scan({str(demo[0] / 'neutral')!r}, {str(tmp_path / 'out')!r}, run_id='b', progress=False)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    told, quiet = (cell["outputs"] for cell in notebook.cells)
    printed = "".join(output["text"] for output in told if output["output_type"] == "stream")
    assert "listed" in printed and "committing" in printed and "\x1b[" not in printed
    assert not [output for output in quiet if output["output_type"] == "stream"]
    assert all("text/html" in outputs[-1]["data"] for outputs in (told, quiet))
