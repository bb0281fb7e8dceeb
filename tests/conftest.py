"""Fixtures that are dear, and so shared by the whole session: the demo store, an S3 server, a small Ray."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from numpy.typing import NDArray
from xdist.scheduler import LoadScopeScheduling

from nsfwscan.config import StorageConfig
from nsfwscan.demo.media import DemoObject, build
from nsfwscan.images.sandbox import child
from nsfwscan.models import registry
from nsfwscan.models.spec import Classifier, Hardware, ModelSpec, Score
from nsfwscan.storage import duckdb_temp
from tests.decode_children import ForkedZygote
from tests.lent_duckdb import Lender
from tests.s3.servers import FaultyProxy, S3Endpoint, moto_server

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext


settings.register_profile("the same examples", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, print_blob=True)  # `make search`
settings.load_profile("the same examples")

Load = Callable[[ModelSpec, Path, Hardware], Classifier]

ROOT = Path(__file__).parents[1]
LONGEST_FIRST = ("scans", "training", "cli", "workflows", "images", "s3", "storage")
"""Rooms whose files take longest: begun first, so that no process is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs Ray first, then the rooms that take longest; files stay whole."""

    def turn(item: pytest.Item) -> tuple[bool, int]:
        room = item.path.relative_to(ROOT).parts[1]
        return item.get_closest_marker("ray") is None, (*LONGEST_FIRST, room).index(room)

    items.sort(key=turn)


class _Shared(LoadScopeScheduling):
    """Hands out whole files, for the fixtures that their tests share; to one process all tests that need Ray, and to one
    those of training, for which it imports torch and all that trains, in ten seconds of CPU time."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if test.partition("[")[0] in _tests_on_ray(file):
            return "ray"
        return "training" if file.startswith("tests/training/") else file


@cache
def _tests_on_ray(file: str) -> set[str]:
    """Return the names of a file's tests that are marked `ray`, each by itself or all of them."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if "mark.ray" not in text:
        return set()
    body = ast.parse(text).body
    whole = any(isinstance(node, ast.Assign) and "mark.ray" in ast.unparse(node) for node in body)
    tests = [node for node in body if isinstance(node, ast.FunctionDef)]
    return {test.name for test in tests if whole or "mark.ray" in " ".join(map(ast.unparse, test.decorator_list))}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Shared | None:
    """Take part in `--dist loadfile` alone: every other distribution is as pytest-xdist has it."""
    return _Shared(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Let what tests start be interrupted. A suite in the background (`&`, `nohup`, most CI systems) inherits an ignored
    SIGINT, and would pass it on; Python leaves one alone that it finds ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Commands have handlers of their own; that is no business of the other tests, nor of whoever stops the suite."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread_a_model() -> Iterator[None]:
    """A model that is loaded in this process runs on one thread. A second one waits for its work in a busy loop, which
    takes a core away from the other processes of the suite, and a quarter to two thirds of a scan's CPU time."""

    def load(spec: ModelSpec, storage: StorageConfig, hardware: Hardware) -> Classifier:
        return loaded(spec, storage, replace(hardware, threads=1))

    loaded = registry.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load", load)
        yield


class Scores:
    """Loads the embedded model once in this process, and remembers what it said of each picture, or of each batch."""

    def __init__(self) -> None:
        self.of_batches = False
        self._loaded: dict[str, Classifier] = {}

    def loading(self, load: Load) -> Load:
        def load_once(spec: ModelSpec, graph: Path, hardware: Hardware) -> Classifier:
            key = repr((spec, hardware))
            if key not in self._loaded:
                self._loaded[key] = Classifier(self._remembering(load(spec, graph, hardware)))
            return self._loaded[key]

        return load_once

    def _remembering(self, score: Score) -> Score:
        scored: dict[tuple[bool, bytes], NDArray[np.float32]] = {}

        def remembered(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            parts = [pixels] if self.of_batches or not len(pixels) else np.split(pixels, len(pixels))
            keys = [(self.of_batches, hashlib.sha256(part).digest()) for part in parts]
            new = {key: part for key, part in zip(keys, parts, strict=True) if key not in scored}
            if new:
                found = score(np.concatenate(list(new.values())))
                scored.update(zip(new, np.split(found, len(new)), strict=True))
            return np.concatenate([scored[key] for key in keys])

        return remembered


@pytest.fixture(scope="session", autouse=True)
def remembered_scores() -> Iterator[Scores]:
    """Score the very same pixels once: hundreds of tests scan the same pictures, each of which takes as long as a
    tenth of the rest of a scan. What Ray's workers and commands in processes of their own do is as ever."""
    with pytest.MonkeyPatch.context() as patch:
        remembered = Scores()
        patch.setattr(registry, "load_onnx", remembered.loading(registry.load_onnx))
        yield remembered


@pytest.fixture(scope="module", autouse=True)
def scored_in_batches(request: pytest.FixtureRequest, remembered_scores: Scores) -> None:
    """Remember whole batches alone in the rooms that hold that a score does not depend on its batch."""
    remembered_scores.of_batches = request.path.relative_to(ROOT).parts[1] in ("execution", "models", "stages")


@pytest.fixture(autouse=True)
def decode_children_are_forked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan in this process forks its decode children from a process with their imports, but for the tests of such a
    child."""
    if "sandbox" not in request.path.parts:
        monkeypatch.setattr(child, "Zygote", ForkedZygote)


@pytest.fixture(scope="session")
def lender(tmp_path_factory: pytest.TempPathFactory) -> Lender:
    """Return what opens one DuckDB for all scans in this process."""
    return Lender(tmp_path_factory.mktemp("duckdb"))


@pytest.fixture(autouse=True)
def one_duckdb(request: pytest.FixtureRequest, lender: Lender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans and commits share a DuckDB, but in tests of what they do with it, or leave on disk."""
    if request.path.stem not in ("test_duckdb_temp", "test_duplicates", "test_plan", "test_illegal"):
        monkeypatch.setattr(duckdb_temp, "open_database", lender.open)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of the suite have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def demo(shared: Path) -> tuple[Path, list[DemoObject]]:
    """Demo media store: its folder, and what is in it; made by one process, for all."""
    root, objects = shared / "demo", shared / "demo.json"
    with FileLock(f"{root}.lock"):
        if not objects.exists():
            objects.write_text(json.dumps([asdict(made) for made in build(root)]), encoding="utf-8")
    return root, [DemoObject(**made) for made in json.loads(objects.read_text(encoding="utf-8"))]


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Endpoint]:
    """An S3 server over HTTP, and the AWS environment that leads to it."""
    with moto_server() as endpoint:
        before = dict(os.environ)
        os.environ.update(endpoint.environment())
        try:
            yield endpoint
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture
def proxy(moto: S3Endpoint) -> Iterator[FaultyProxy]:
    """Yield what stands between a client and the S3 server, and fails as it is told to."""
    with FaultyProxy(moto) as faulty:
        yield faulty


@pytest.fixture
def through(proxy: FaultyProxy) -> StorageConfig:
    """Storage that reaches the S3 server through the proxy; two attempts a request, where the default has five."""
    quick = {"config_kwargs": {"retries": {"total_max_attempts": 2, "mode": "standard"}, "connect_timeout": 5}}
    return StorageConfig(endpoint_url=proxy.endpoint.endpoint_url, options=quick)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes; skipped where mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def ray_local(moto: S3Endpoint) -> None:
    """A Ray on two cores, and one GPU that is only a number; its workers have the S3 server's environment. All tests of
    this process that are marked `ray` share it."""
    import ray

    if not ray.is_initialized():
        ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, object_store_memory=256 * 2**20, log_to_driver=False)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End Ray after the last test that is marked `ray`: its daemons take a tenth of a core, whatever runs beside them."""
    if item.get_closest_marker("ray") and not (nextitem and nextitem.get_closest_marker("ray")):
        import ray

        ray.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """A headless Chromium with a profile of its own that calls nobody."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_api.sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, headless=True, args=quiet
        )
        yield context
        context.close()
