"""The benchmark itself, whole but tiny: every part measures something, and what cannot be measured is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobs.benchmark import scans
from jobs.benchmark.checkpoint import LABELS, make_checkpoint
from jobs.benchmark.cli import bench
from jobs.benchmark.figures import figure
from jobs.benchmark.machine import cores_here, gpus
from jobs.benchmark.media import SMALL, make_pictures
from jobs.benchmark.suite import PARTS, Suite
from jobs.benchmark.timing import apart
from jobs.benchmark.workload import Workload
from tests.permissions import unprivileged

ROOT = Path(__file__).parents[2]
BENCH = [sys.executable, str(ROOT / "jobs" / "bench.py")]
TINY = ["--mix", "small", "--model-size", "small", "--distinct", "20", "--seconds", "0.3", "--repetitions", "1"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.mark.ray
@pytest.mark.full
def test_every_part_measures(work: Path) -> None:
    """A tiny run of all parts but the cold start gives a value for every figure, the limit by its formula, JSON and a
    page."""
    page, results = work / "page.md", work / "results.json"
    page.write_text("<!-- bench: begin -->\n<!-- bench: end -->\n<!-- bench-gpu: begin -->\n<!-- bench-gpu: end -->\n")
    asked = [
        "--skip",
        "cold",
        "--threads",
        str(min(2, cores_here())),
        "--work",
        str(work),
        "--json",
        str(results),
        "--page",
        str(page),
    ]
    wide = os.environ | {"COLUMNS": "240"}
    shown = subprocess.run([*BENCH, *TINY, *asked], capture_output=True, text=True, check=False, timeout=280, env=wide)
    assert shown.returncode == 0, shown.stderr
    found = json.loads(results.read_text())
    values = {one["key"]: one["value"] for one in found["figures"]}
    lacking = {one["key"]: one["note"] for one in found["figures"] if one["value"] is None}
    # Ray Data hands forty small images back in one piece; packs are measured where they were pulled.
    assert set(lacking) <= {"ray.steady", "packs", "gpu.decode"}, shown.stderr
    assert all(value > 0 for key, value in values.items() if key not in lacking)
    assert {key.split(".")[0] for key in values} == set(PARTS) - {"cold"} | {"embedded"}
    if not found["machine"]["gpus"]:
        cores = found["settings"]["cores"]
        model = cores / max(values["model.threads"], values["model.processes"])
        decode = min(1 / values["decode.hashed"], cores / values["decode.hashed.all"])
        assert values["limit"] == pytest.approx(cores / (model + decode))
    assert found["ratios"]["scan.steady"][0]["ratio"] == pytest.approx(values["scan.steady"] / values["limit"])
    assert "| nsfwscan scan, steady state |" in page.read_text()
    assert "nsfwscan scan, steady state" in shown.stdout


@pytest.mark.ray
@pytest.mark.full
def test_a_cold_scan_is_timed_from_outside(work: Path) -> None:
    """The first row comes before the end, and both take longer than Python needs to start."""
    free = apart(make_checkpoint, work, "free")
    pictures = make_pictures(work, SMALL, 20)
    media = work / "few"
    media.mkdir()
    for picture in pictures[:3]:
        (media / picture.name).hardlink_to(picture)
    first_s, total_s = scans.cold_scan(media, free, 1)
    assert 0.2 < first_s < total_s


@pytest.mark.long
def test_the_checkpoint_is_one_that_a_scan_takes(work: Path) -> None:
    """Five categories by name, 224 pixels, safetensors; made once."""
    folder = apart(make_checkpoint, work, "free")
    assert set(json.loads((folder / "config.json").read_text())["id2label"].values()) == set(LABELS)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert apart(make_checkpoint, work, "free") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def _fails(suite: Suite) -> Any:
    raise ValueError("first line\nno such kernel")


def test_a_part_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The other parts go on, and the row says why it has no figure."""
    monkeypatch.setitem(PARTS, "model", _fails)
    monkeypatch.setitem(PARTS, "decode", lambda suite: [figure("decode.fast", "decode", [100.0])])
    workload = Workload(tmp_path, SMALL, (), tmp_path, tmp_path, cores=2, seconds=1.0)
    *_, figures = Suite(workload, lambda _: None).run(["limit"])
    found = {one.key: one for one in figures}
    assert found["model"].note == "failed: ValueError: no such kernel"
    assert found["limit"].value is None and "needs the parts" in found["limit"].note


def test_limits_of_suite(tmp_path: Path) -> None:
    """Cores: the better model rate with the better decode rate, and again without hashes. A GPU: the slower side, and
    how many cores it takes to feed it."""
    workload = Workload(tmp_path, SMALL, (), tmp_path, tmp_path, cores=4, seconds=1.0)
    rates = {
        "decode.hashed": 20.0,
        "decode.fast": 100.0,
        "decode.fast.all": 320.0,
        "model.threads": 36.0,
        "model.processes": 40.0,
    }
    suite = Suite(workload, lambda _: None, [figure(key, key, [rate]) for key, rate in rates.items()])
    on_cores = {one.key: one.value for one in PARTS["limit"](suite)}
    assert on_cores["limit"] == pytest.approx(4 / (0.1 + 0.05))
    assert on_cores["limit.fast"] == pytest.approx(4 / (0.1 + 0.01))
    suite.figures.append(figure("model.gpu", "GPU", [1000.0]))
    with_gpu = {one.key: one.value for one in PARTS["limit"](suite)}
    assert with_gpu == pytest.approx({"limit": 80, "limit.fast": 400, "limit.feeding": 50, "limit.feeding.fast": 10})


def test_shards_fit_the_store() -> None:
    """About forty shards, of whole batches, between 8 and 256 rows."""
    assert [scans.shard_rows_for(n) for n in (40, 700, 1_500, 20_000)] == [8, 16, 32, 256]


def test_more_cores_than_there_are_are_refused(work: Path) -> None:
    """A figure for cores that are not there would be none."""
    many = str((os.cpu_count() or 1) + 1)
    shown = subprocess.run([*BENCH, "--threads", many], capture_output=True, text=True, check=False, cwd=work)
    assert shown.returncode == 1
    assert "this machine has" in shown.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--page", "absent.md"], "cannot read the page absent.md: No such file"),
        (["--page", "other.md"], "other.md: no place for the table: it needs the lines <!-- {main}: begin -->"),
        (["--page", "main.md", "--only", "model", "--only", "memory"], "it needs the lines <!-- memory: begin -->"),
        (["--page", "main.md", "--only", "banks"], "it needs the lines <!-- banks: begin -->"),
        (["--page", "picture.md"], "cannot read the page picture.md: it is not UTF-8 text"),
        (["--page", "closed.md"], "cannot write closed.md: Permission denied"),
        (["--json", "folder"], "cannot write folder: it is a directory"),
        (["--json", "main.md/results.json"], "cannot write into main.md: "),
        (["--json", "closed/results.json"], "cannot write into closed: Permission denied"),
        (["--only", "memory", "--json", "results.json"], "cannot write results.memory.json: it is a directory"),
        (["--work", "closed/work"], "cannot write into closed/work: Permission denied"),
        (["--threads", str((os.cpu_count() or 1) + 1)], "this machine has"),
    ],
)
def test_what_cannot_be_kept_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    """A page that cannot be read, written or has no place for a table, a JSON file or a folder that cannot be written:
    no picture is made, no model, and nothing is measured."""
    monkeypatch.chdir(tmp_path)
    main = "bench-gpu" if gpus() else "bench"
    Path("main.md").write_text(f"<!-- {main}: begin -->\n<!-- {main}: end -->\n")
    Path("closed.md").write_text(f"<!-- {main}: begin -->\n<!-- {main}: end -->\n")
    Path("closed.md").chmod(0o444)
    Path("other.md").write_text("# Scale\n")
    Path("picture.md").write_bytes(b"\x89PNG\xff")
    Path("folder").mkdir()
    Path("results.memory.json").mkdir()
    Path("closed").mkdir(mode=0o555)
    tmp_path.chmod(0o777)
    before = sorted(tmp_path.rglob("*"))
    with unprivileged() if "denied" in message else nullcontext():
        result = CliRunner().invoke(bench, ["--work", ".", *TINY, *options])
    assert result.exit_code == 1
    assert message.format(main=main) in " ".join(result.stderr.split())
    assert sorted(tmp_path.rglob("*")) == before
