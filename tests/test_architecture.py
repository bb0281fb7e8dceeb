"""The house's rules that a machine can hold: imports point one way, Ray is in one file, functions fit a screen."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nsfwscan"
MODULES = sorted(PACKAGE.rglob("*.py"))
TRAINING = sorted((ROOT / "training").rglob("*.py"))

LAYERS: list[set[str]] = [
    {"status"},
    {"schema"},
    {
        "aws",
        "confined",
        "dialect",
        "display",
        "redaction",
        "documents",
        "layout",
        "location",
        "pacing",
        "signals",
        "spilling",
        "threads",
    },
    {"errors", "machine", "warning"},
    {"config"},
    {"connection", "deadline", "failures"},
    {"filesystems"},
    {"storage"},
    {"store"},
    {"models"},
    {"images"},
    {"sources"},
    {"banks"},
    {"stages", "policy"},
    {"review"},
    {"report"},
    {"pipeline"},
    {"progress", "chatter", "cost"},
    {"engine", "run", "single"},
    {"engines", "export", "replay", "retroactive"},
    {"explanation", "queues"},
    {"api", "doctor"},
    {"console"},
    {"policy_commands", "queue_commands"},
    {"cli"},
    {"benchmark"},
]
"""Lower first; a module imports from its own package or from lower layers only."""


def package_of(module: str) -> str:
    """`nsfwscan.stages.read` → `stages`."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path, *, typing_only: bool = False) -> Iterator[str]:
    """Full names of what a file imports; what only type checkers see is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(package: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if package in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    """A module imports only from its own package or from lower layers."""
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if own in ("__init__", "__main__"):
        return
    for name in imports(path):
        if name.startswith("nsfwscan."):
            package = package_of(name)
            assert package in (own, "__version__") or layer(package) < layer(own), f"{own} imports {name}"


def test_stages_do_not_know_each_other() -> None:
    """Stage modules meet in the pipeline's list and nowhere else; columns are their interface."""
    stages = {p.stem for p in (PACKAGE / "stages").glob("*.py")} - {"__init__", "base"}
    for stage in stages:
        others = {f"nsfwscan.stages.{other}" for other in stages - {stage}}
        found = {name.rsplit(".", 1)[0] for name in imports(PACKAGE / "stages" / f"{stage}.py")}
        assert not others & found


def test_only_the_engine_knows_ray() -> None:
    """Ray is imported in engine.py alone, and to connect to it; torch and transformers only behind the model layer, or to look at a machine.
    The benchmark runs the neighbours' loops, which import what they do, where nothing else does."""
    modules = [p for p in MODULES if p.parent.name != "benchmark"]
    users = {p.relative_to(PACKAGE).as_posix() for p in modules if any(n.split(".")[0] == "ray" for n in imports(p))}
    assert users == {"connection.py", "engine.py"}
    heavy = {
        p.relative_to(PACKAGE).as_posix()
        for p in modules
        if {n.split(".")[0] for n in imports(p)} & {"torch", "transformers"}
    }
    assert heavy <= {"models/cuda.py", "models/torch_backend.py", "models/registry.py", "doctor.py"}


@pytest.mark.parametrize("statement", ["import nsfwscan", "import nsfwscan.cli", "import nsfwscan.pipeline"])
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


@pytest.mark.parametrize("path", TRAINING, ids=lambda p: str(p.relative_to(ROOT)))
def test_training_stands_on_the_scan(path: Path) -> None:
    """Training takes the scan's reading, decoding and models, and never its engine; its own imports have no cycle."""
    for name in imports(path):
        assert not name.startswith(("nsfwscan.engine", "nsfwscan.run", "nsfwscan.api", "jobs.", "ray.data")), name
    above, level = [path.stem], {path.stem}
    while level:
        level = {
            package_of(name)
            for module in level
            for name in imports(ROOT / "training" / f"{module}.py")
            if name.startswith("training.")
        }
        assert path.stem not in level, f"{path.stem} imports itself"
        level -= set(above)
        above += level


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_knows_training(path: Path) -> None:
    """The scan imports neither `training` nor `jobs`."""
    assert not [name for name in imports(path) if name.split(".")[0] in ("training", "jobs")]


@pytest.mark.parametrize(
    "path", [*MODULES, *TRAINING, *sorted((ROOT / "jobs").glob("*.py"))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_functions_fit_a_screen(path: Path) -> None:
    """No function is longer than 60 lines, and every module opens by saying what it is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 60
    }
    assert not long
    assert path.read_bytes() == b"" or ast.get_docstring(tree)


@pytest.mark.parametrize("word", ["utils", "helpers", "manager", "misc", "common"])
def test_no_nameless_rooms(word: str) -> None:
    """No module is named after nothing."""
    assert not [p for p in [*MODULES, *TRAINING] if word in p.stem]
