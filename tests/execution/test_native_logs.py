"""Ray's native lines stay off the terminal, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
from nsfwscan.execution.native_logs import without_native_chatter
with without_native_chatter(verbose={verbose}) as stream:
    os.write(2, b"[2026-11-22 03:16:37,460 E 15147 15147] core_worker.cc:2465: Actor with class name\\n")
    os.write(2, b"[2026-11-22 04:08:38,157 W 27247 27247] rpc_client.h:638: Failed to connect\\n")
    os.write(2, b"[not ray's] a line of somebody else\\n")
    os.write(2, "half a lin\u00e9".encode())
    print("ours", file=stream)
print("after", file=sys.stderr)
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_native_lines(verbose: bool) -> None:
    """Lines of Ray's C++ logger are dropped unless asked for; all other bytes arrive, also those without a newline."""
    script = SCRIPT.format(verbose=verbose)
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, encoding="utf-8")
    assert ("core_worker.cc" in shown.stderr and "rpc_client.h" in shown.stderr) == verbose
    for kept in ("[not ray's] a line of somebody else\n", "half a lin\u00e9", "ours\n", "after\n"):
        assert kept in shown.stderr


def test_notices_lose_their_colours_and_are_said_once() -> None:
    """A log file takes no colours, and Ray says some things again and again."""
    script = (
        "import os\nfrom nsfwscan.execution.native_logs import without_native_chatter\n"
        "with without_native_chatter(verbose=False):\n"
        "    for _ in range(3):\n        os.write(2, b'\\x1b[33m(raylet)\\x1b[0m a task was lost\\n')\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stderr == "(raylet) a task was lost\n"


def test_states_go_to_a_file_and_notices_that_differ_in_numbers_are_said_once(tmp_path: Path) -> None:
    """What Ray repeats from the log of a dead raylet is kept in a file that is named once; each line that is passed on
    has its time and level."""
    script = (
        "import os\nfrom nsfwscan.execution.native_logs import without_native_chatter\n"
        "with without_native_chatter(verbose=False, form='text'):\n"
        "  for i in range(3):\n"
        "    os.write(2, b'\\x1b[33m(raylet, ip=10.0.0.%d)\\x1b[0m node 5f0c%d4ab died\\n' % (i, i))\n"
        "    os.write(2, b'    [state-dump] NodeManager %d\\n' % i)\n"
        "    os.write(2, b'    [2026-11-22 03:16:37,460 I 1 1] raylet.cc:1: %d\\n' % i)\n"
    )
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    [file] = tmp_path.glob("nsfwscan-ray-*.log")
    assert [line.split(maxsplit=2)[1:] for line in shown.stderr.splitlines()] == [
        ["WARNING", "(raylet, ip=10.0.0.0) node 5f0c04ab died"],
        ["WARNING", f"Ray's state is in {file}"],
    ]
    assert len(file.read_text().splitlines()) == 6


def test_the_end_is_silent() -> None:
    """What native modules say while the interpreter goes down is not shown; a traceback before it is."""
    script = (
        "import atexit, os\nfrom nsfwscan.execution.native_logs import mute_at_exit\n"
        "atexit.register(lambda: os.write(2, b'leaked instances'))\n"
        "mute_at_exit()\nraise ValueError('shown')\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ValueError: shown" in shown.stderr and "leaked" not in shown.stderr
