"""A local Ray is this machine's own business."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_SCRIPT = """
import json, psutil
from nsfwscan.execution.ray_session import ray_session

with ray_session(None, verbose=False, num_cpus=1, store_bytes=100 * 2**20):
    import ray

    @ray.remote
    def one():
        return 1

    assert ray.get(one.remote()) == 1
    found = set()
    for process in psutil.Process().children(recursive=True) + [psutil.Process()]:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add((process.name(), connection.laddr.ip))
    print(json.dumps(sorted(found)))
"""


@pytest.mark.long
@pytest.mark.ray
def test_a_local_ray_listens_on_loopback_alone() -> None:
    """No process of a local Ray, its workers included, can be reached from another machine."""
    shown = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout.splitlines()[-1])
    assert {name.split(":")[0] for name, _ in found} >= {"gcs_server", "raylet"}
    assert {address.removeprefix("::ffff:") for _, address in found} == {"127.0.0.1"}
