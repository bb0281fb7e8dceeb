"""`ray job submit` against a head that the test starts, as an engineer does it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from nsfwscan.demo.media import DemoObject
from tests.s3.servers import free_port
from tests.training.stand_in import small_vit, write_folders

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
SHIPPED = "0.0.0+shipped"


@dataclass(frozen=True)
class Head:
    """A running head: where jobs go, and the environment that may talk to it."""

    address: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["PATH"] = f"{RAY.parent}{os.pathsep}{environment['PATH']}"  # jobs start `python`
    port, agent, client = free_port(), free_port(), free_port()
    folder = tempfile.mkdtemp(prefix="ray-")  # short: Ray's sockets lie below it
    command = [str(RAY), "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    command += [
        "--port=0",
        f"--ray-client-server-port={client}",
        "--include-dashboard=true",
        f"--dashboard-port={port}",
    ]
    command += [f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder}", "--object-store-memory=200000000"]
    with (Path(folder) / "start.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process, Path(folder) / "start.log")
        yield Head(address, environment)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2)
            return
        except urllib.error.HTTPError:
            return  # it answers, and wants the token
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"no head at {address}: {log.read_text()}")


@pytest.fixture
def working_tree(tmp_path: Path) -> Path:
    """Return what git has of the project, with a version of its own, and media and reports that must stay behind."""
    tree = tmp_path / "tree"
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in names.stdout.splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    init = tree / "nsfwscan" / "__init__.py"
    lines = [
        f'__version__ = "{SHIPPED}"' if line.startswith("__version__") else line
        for line in init.read_text().splitlines()
    ]
    init.write_text("\n".join(lines) + "\n")
    (tree / "demo").mkdir()
    with (tree / "demo" / "media.bin").open("wb") as media:
        media.truncate(2**31)  # Ray refuses to ship more than 512 MiB
    return tree


def submit(head: Head, tree: Path, *arguments: str, job: str = "scan") -> subprocess.CompletedProcess[str]:
    command = [str(RAY), "job", "submit", "--address", head.address, "--working-dir", ".", "--"]
    return subprocess.run(
        [*command, "python", f"jobs/{job}.py", *arguments],
        cwd=tree,
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.long
def test_submitted_scan(head: Head, working_tree: Path, demo: tuple[Path, list[DemoObject]], tmp_path: Path) -> None:
    """A submitted scan runs the submitted code, leaves media behind, says how it goes, and commits."""
    out = tmp_path / "reports"
    done = submit(head, working_tree, str(demo[0]), "--out", str(out), "--run-id", "job", "--max-error-rate", "0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"listed   {len(demo[1])} objects" in done.stdout
    assert f"{len(demo[1])} listed = " in done.stdout
    record = json.loads((out / "runs" / "job" / "run.json").read_text())
    assert record["nsfwscan"] == SHIPPED
    assert record["balance"]["listed"] == len(demo[1])
    assert (out / "runs" / "job" / "_SUCCESS").exists()


@pytest.mark.full
def test_submitted_scan_that_cannot_run(head: Head, working_tree: Path, tmp_path: Path) -> None:
    """A job that cannot run fails as a job, and its log says in one line why."""
    done = submit(head, working_tree, "/no/such/media", "--out", str(tmp_path / "reports"))
    assert done.returncode != 0
    assert "nsfwscan: /no/such/media: no such file or directory" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.full
@pytest.mark.timeout(400)
def test_submitted_training(head: Head, working_tree: Path, tmp_path: Path) -> None:
    """A submitted training and its evaluation run the submitted code, on the cluster's workers, and say how it goes."""
    images, backbone = write_folders(tmp_path / "images", each=20), small_vit(tmp_path / "vit")
    data, out = (str(images), "--cache", str(tmp_path / "cache")), tmp_path / "checkpoint"
    done = submit(
        head, working_tree, *data, "--backbone", str(backbone), "--out", str(out), "--epochs", "2", job="train"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "images: 80 for train, 10 for validation, 10 for test" in done.stdout
    assert "epoch 2 of 2" in done.stdout
    record = json.loads((out / "training.json").read_text())
    assert record["versions"]["nsfwscan"] == SHIPPED
    done = submit(head, working_tree, *data, "--model", str(out), "--out", str(tmp_path / "evaluation"), job="evaluate")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
