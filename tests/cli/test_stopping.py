"""A command that is told to end: once in order, twice at once."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_CODE = """
import sys, time
from rich.console import Console
from nsfwscan.cli.console import exit_codes
with exit_codes(Console(stderr=True), verbose=False, as_json=True):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("ending", flush=True)
        time.sleep(float(sys.argv[1]))
"""


def begun(ending_s: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE, ending_s], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_in_order(number: signal.Signals) -> None:
    """What is to be put away is put away; then there is one line, and exit code 1."""
    process = begun("0")
    process.send_signal(number)
    out, err = process.communicate()
    said = f"interrupted by {number.name}; the same command begins anew"
    assert (process.returncode, err) == (1, f"nsfwscan: {said}\n")
    assert out == f'ending\n{{"exit_code": 1, "error": "{said}"}}\n'


def test_the_second_signal_ends_at_once() -> None:
    """A process that takes long to end is killed by the same signal again."""
    process = begun("60")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None and process.stdout.readline() == "ending\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
