"""A local Ray is this machine's own business."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from nsfwscan.execution.ray_session import _NO_AGENT, _makes_environments

_SCRIPT = """
import json, psutil
from nsfwscan.execution.ray_session import ray_session

with ray_session(None, verbose=False, num_cpus=1, store_bytes=100 * 2**20):
    import ray

    @ray.remote
    def one():
        return 1

    assert ray.get(one.remote()) == 1
    found, names = set(), []
    for process in psutil.Process().children(recursive=True) + [psutil.Process()]:
        names.append(process.name())
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add((process.name(), connection.laddr.ip))
    session = ray.get_runtime_context().get_session_name()
print(json.dumps([sorted(found), sorted(names), session]))
"""


@pytest.mark.long
@pytest.mark.ray
def test_a_local_ray_listens_on_loopback_alone() -> None:
    """No process of a local Ray, its workers included, can be reached from another machine; and there are no more of
    them than it needs: each takes a second from the workers that start at the same time."""
    shown = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    found, names, session = json.loads(shown.stdout.splitlines()[-1])
    assert not list(Path(tempfile.gettempdir(), "ray").glob(f"{session}*")), "its folder of logs stayed"
    assert {name.split(":")[0] for name, _ in found} >= {"gcs_server", "raylet"}
    assert {address.removeprefix("::ffff:") for _, address in found} == {"127.0.0.1"}
    others = {name for name in names if not name.startswith("python")}  # this program, and workers that begin
    assert others <= {"gcs_server", "raylet", "ray::IDLE", "ray::one"}


def test_what_stands_in_for_agents_ends_with_its_parent() -> None:
    """A raylet that is killed leaves nothing behind."""
    starts = f"import subprocess; print(subprocess.Popen([{sys.executable!r}, '-I', '-S', {_NO_AGENT!r}]).pid)"
    shown = subprocess.run([sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    left = int(shown.stdout)
    assert not psutil.pid_exists(left) or psutil.Process(left).wait(60) is None


@pytest.mark.parametrize("name", ["RAY_RUNTIME_ENV_HOOK", "RAY_JOB_CONFIG_JSON_ENV_VAR"])
def test_an_environment_for_workers_is_made_where_it_is_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps its agents, one of which makes it."""
    assert not _makes_environments()
    monkeypatch.setenv(name, "{}")
    assert _makes_environments()


@pytest.mark.long
def test_sigterm_stays_the_programs() -> None:
    """Neither Ray's start nor its end takes the handler away, and what Ray prints is not on standard output."""
    code = [
        "import os, signal, sys",
        "from nsfwscan.cli.stopping import Stopped, stop_on_signals",
        "from nsfwscan.execution import ray_session as module",
        "import ray",
        "stop_on_signals()",
        "mine = signal.getsignal(signal.SIGTERM)",
        "start = ray.init",
        "def started(**given):",
        "    began = start(**given)",
        "    assert signal.getsignal(signal.SIGTERM) is mine",
        "    return began",
        "ray.init = started",
        "with module.ray_session(None, verbose=False, num_cpus=1, store_bytes=80_000_000):",
        "    print('a notice')",
        "assert signal.getsignal(signal.SIGTERM) is mine",
        "try:",
        "    os.kill(os.getpid(), signal.SIGTERM)",
        "except Stopped as stopped:",
        "    print(stopped)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "SIGTERM\n"), done.stderr
    assert "a notice" in done.stderr
