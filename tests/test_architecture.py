"""The house's rules that a machine can hold: imports point one way, Ray is in one place, functions fit a screen."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nsfwscan"
MODULES = sorted(PACKAGE.rglob("*.py"))
TRAINING = sorted((ROOT / "training").rglob("*.py"))
JOBS = sorted((ROOT / "jobs").rglob("*.py"))


def name(path: Path) -> str:
    """`nsfwscan/stages/read.py`."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """Return what a file says, parsed once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots(path: Path) -> set[str]:
    """Return the packages that a file imports from: `ray`, `nsfwscan`."""
    return {module.split(".")[0] for module in imports(path)}


def test_imports_point_one_way() -> None:
    """The contracts in pyproject.toml hold: six layers, and no circle between rooms, however deep."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout


def test_few_modules_lie_loose() -> None:
    """A newcomer sees rooms first: at most ten modules lie beside them, and each is in a layer."""
    loose = {p.stem for p in PACKAGE.glob("*.py")}
    rooms = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    layers = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("layers = [")[1].split("]")[0]
    assert len(loose) <= 10
    assert loose - {"__init__", "__main__"} | rooms == set(re.findall(r"nsfwscan\.(\w+)", layers))


def test_stages_do_not_know_each_other() -> None:
    """Stage modules meet in the pipeline's list and nowhere else; columns are their interface."""
    stages = {p.stem for p in (PACKAGE / "stages").glob("*.py")} - {"__init__", "base"}
    for stage in stages:
        others = {f"nsfwscan.stages.{other}" for other in stages - {stage}}
        found = {module.rsplit(".", 1)[0] for module in imports(PACKAGE / "stages" / f"{stage}.py")}
        assert not others & found


def test_ray_is_in_one_place() -> None:
    """Ray is imported where the scan runs on it and where training does, nowhere else; torch and transformers only behind
    the model layer, or to look at a machine."""
    users = {name(p) for p in [*MODULES, *TRAINING] if "ray" in roots(p)}
    assert users == {"nsfwscan/execution/ray_data.py", "nsfwscan/execution/ray_session.py", "training/fit/ray.py"}
    heavy = {name(p) for p in MODULES if roots(p) & {"torch", "transformers"}}
    models = {
        f"nsfwscan/models/{module}.py" for module in ("cuda", "jpegs", "torch_backend", "vit", "torch_text", "registry")
    }
    assert heavy <= models | {"nsfwscan/workflows/doctor.py"}


@pytest.mark.parametrize(
    "statement", ["import nsfwscan", "import nsfwscan.cli.main", "import nsfwscan.execution.pipeline"]
)
def test_importing_is_light(statement: str) -> None:
    """Importing the package, its command line or its pipeline loads neither ray, torch nor transformers."""
    script = f"{statement}; import sys; print(sorted(set(sys.modules) & {{'ray', 'torch', 'transformers'}}))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_classify_does_not_start_ray(tmp_path: Path) -> None:
    """Classifying an image loads no Ray."""
    script = "import nsfwscan, sys; nsfwscan.classify(['no-such.jpg']); print('ray' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert shown.stdout.strip() == "False"


def test_training_stands_on_the_scan() -> None:
    """Training takes the scan's reading, decoding and models, and neither its entry nor its execution on Ray Data."""
    closed = ("nsfwscan.execution.ray_data", "nsfwscan.api", "jobs.", "ray.data")
    assert [(name(p), module) for p in TRAINING for module in imports(p) if module.startswith(closed)] == []


def test_nothing_knows_training() -> None:
    """The scan imports neither `training` nor `jobs`."""
    assert [name(p) for p in MODULES if roots(p) & {"training", "jobs"}] == []


def test_functions_fit_a_screen() -> None:
    """No function is longer than 60 lines, and every module opens by saying what it is."""
    paths = [*MODULES, *TRAINING, *JOBS]
    long = {
        f"{name(path)}: {node.name}": node.end_lineno - node.lineno + 1
        for path in paths
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 60
    }
    assert long == {}
    assert [name(path) for path in paths if path.stat().st_size and not ast.get_docstring(tree(path))] == []


@pytest.mark.parametrize("word", ["utils", "helpers", "manager", "misc", "common"])
def test_no_nameless_rooms(word: str) -> None:
    """No module is named after nothing."""
    assert not [p for p in [*MODULES, *TRAINING] if word in p.stem]
