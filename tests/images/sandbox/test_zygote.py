"""The first process of a decode child: what is in it, and that it goes when it should."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.sandbox.zygote import Zygote
from tests.hostile_format import PLUGINS, hostile
from tests.images.sandbox.test_child import GREY, jpeg, settings, worker_of

ROOT = Path(__file__).parents[3]

_PARENT = """
import sys
from nsfwscan.images.sandbox.child import DecodeChild
from tests.hostile_format import PLUGINS, hostile
from tests.images.sandbox.test_child import settings, worker_of

child = DecodeChild(settings(timeout_s=60.0))
child.decode(hostile("grey"))
print(child._zygote._process.pid, worker_of(child), flush=True)
if sys.argv[1:] == ["leave"]:
    sys.exit()
child.decode(hostile(sys.argv[1]))
"""


def is_gone(pid: int) -> bool:
    """Return whether a process has ended (one that nobody has waited for yet counts as ended)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def descendants(pid: int) -> list[int]:
    """Process ids of children, and of theirs."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


def soon(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def parent(deed: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process with a child that decodes a file of that kind, and the process ids of zygote and worker."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT, deed], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


def test_it_is_light() -> None:
    """The process that forks has one thread, and neither Arrow, Ray nor torch in it."""
    child = DecodeChild(settings())
    child.decode(hostile("grey"))
    assert child._zygote is not None
    process = Path(f"/proc/{child._zygote._process.pid}")
    assert "Threads:\t1\n" in (process / "status").read_text()
    mapped = (process / "maps").read_text()
    assert "_imaging" in mapped
    assert not [name for name in ("arrow", "/ray/", "torch", "onnx") if name in mapped]


def test_workers_do_not_outlive_their_zygote() -> None:
    """A worker that hangs in C goes with the zygote that forked it, however that ends."""
    process, (zygote, worker) = parent("hang in C")
    try:
        os.kill(zygote, signal.SIGKILL)
        assert soon(lambda: is_gone(worker))
    finally:
        process.kill()
        process.communicate()


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_time_of_a_worker_is_counted() -> None:
    """Whoever has waited for the child knows the CPU time of its last worker, too, although nobody retired it."""
    child = DecodeChild(settings())
    while not child.workers or cpu_s(worker_of(child)) < 0.3:
        child.decode(jpeg())
    assert child._zygote is not None
    took = cpu_s(child._zygote._process.pid) + cpu_s(worker_of(child))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime >= took - 0.05  # its clock ticks


@pytest.mark.parametrize("deed", ["hang", "hang in C"])
@pytest.mark.parametrize("cause", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_goes_with_its_parent(deed: str, cause: signal.Signals) -> None:
    """Zygote and worker end with the process that has them, even one killed while a file hangs in C."""
    process, pids = parent(deed)
    process.send_signal(cause)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == -cause, complaint
    assert "KeyboardInterrupt" in complaint if cause == signal.SIGINT else complaint == ""
    assert soon(lambda: all(map(is_gone, pids)))


@pytest.mark.long
@pytest.mark.parametrize("cause", [signal.SIGKILL, signal.SIGINT])
def test_classifying_leaves_nothing_behind(cause: signal.Signals, tmp_path: Path) -> None:
    """`classify` killed or interrupted over an image that hangs ends at once, and its processes with it."""
    (tmp_path / "image").write_bytes(hostile("hang in C"))
    script = "import nsfwscan, sys; nsfwscan.classify(sys.argv[1], decode={'plugins': {'HOSTILE': sys.argv[2]}})"
    command = [sys.executable, "-c", script, str(tmp_path / "image"), PLUGINS["HOSTILE"]]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=ROOT)
    assert soon(lambda: len(descendants(process.pid)) == 2)
    time.sleep(0.5)
    pids = descendants(process.pid)
    process.send_signal(cause)
    assert process.wait(timeout=60) == -cause
    assert len(pids) == 2 and soon(lambda: all(map(is_gone, pids)))


_DAEMON = """
import signal
for one in (signal.SIGINT, signal.SIGCHLD, signal.SIGALRM):
    signal.signal(one, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM, signal.SIGTERM])

from tests.hostile_format import hostile
from tests.images.sandbox.test_child import DecodeChild, failure, settings, worker_of

child = DecodeChild(settings())
child.decode(hostile("grey"))
print(failure(child, hostile("segv")).status)
child.decode(hostile("grey"))
print(*(line.split()[1] for line in open(f"/proc/{worker_of(child)}/status") if line[:6] in ("SigBlk", "SigIgn")))
"""


def test_signals_are_not_inherited() -> None:
    """Started by a program that ignores or blocks signals, as daemons and shells in the background do, a worker's death
    is still seen for what it is, and its own deadline still holds."""
    shown = subprocess.run(
        [sys.executable, "-c", _DAEMON], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    status, masks = shown.stdout.splitlines()
    assert status == "crashed"
    blocked, ignored = (int(mask, 16) for mask in masks.split())
    assert blocked == 0
    assert [ignored >> (one - 1) & 1 for one in (signal.SIGINT, signal.SIGCHLD, signal.SIGALRM)] == [1, 0, 0]


@pytest.mark.long
def test_in_the_background() -> None:
    """A suite that was started with SIGINT ignored (`&`, `nohup`, a CI system) interrupts what it starts nevertheless."""
    this = f"{__file__}::test_it_goes_with_its_parent[{int(signal.SIGINT)}-hang]"
    command = f"trap '' INT; exec {sys.executable} -m pytest -p no:cacheprovider '{this}'"
    shown = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    assert shown.returncode == 0 and "1 passed" in shown.stdout, shown.stdout


def test_it_ends_with_the_program() -> None:
    """A program that comes to its end leaves no process behind, and is not kept waiting by one."""
    process, pids = parent("leave")
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, "")
    assert all(map(is_gone, pids))


def test_ctrl_c_reaches_the_parent_alone() -> None:
    """The signal that a terminal sends to all processes of a group does not end the child, but its parent, which then
    ends the child."""
    child = DecodeChild(settings())
    child.decode(hostile("grey"))
    assert child._zygote is not None
    for pid in (child._zygote._process.pid, worker_of(child)):
        os.kill(pid, signal.SIGINT)
    assert child.decode(hostile("grey"))[1] == GREY
    assert child.workers == 1


def test_it_ends_with_its_object() -> None:
    """Whoever drops a child has none any more, started or still starting, and no zombie either."""
    child = DecodeChild(settings())
    child.decode(hostile("grey"))
    assert child._zygote is not None
    pids = [child._zygote._process.pid, worker_of(child)]
    starting = Zygote(settings())
    pids.append(starting._process.pid)
    del child, starting
    gc.collect()
    assert soon(lambda: all(map(is_gone, pids)))
    assert not Path(f"/proc/{pids[0]}").exists() and not Path(f"/proc/{pids[2]}").exists()


def test_it_starts_while_others_work() -> None:
    """Starting does not wait for the imports."""
    started = time.monotonic()
    zygote = Zygote(settings())
    took = time.monotonic() - started
    zygote.fork()[0].close()
    assert took < (time.monotonic() - started) / 2


def test_another_worker_comes_quickly() -> None:
    """A replacement is forked, not started: that takes a small part of the time."""
    started = time.monotonic()
    zygote = Zygote(settings())
    zygote.fork()[0].close()
    first = time.monotonic() - started
    times = []
    for _ in range(9):
        zygote.reap()
        started = time.monotonic()
        zygote.fork()[0].close()
        times.append(time.monotonic() - started)
    assert sorted(times)[4] < first / 5, (times, first)


def test_it_says_what_became_of_a_worker() -> None:
    """Exit code and memory of a worker that ended by itself, or that was ended."""
    zygote = Zygote(settings())
    for signal_sent, expected in ((signal.SIGSEGV, -signal.SIGSEGV), (None, -signal.SIGKILL)):
        with zygote.fork()[0]:
            pid = zygote._process.pid
            worker = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
            if signal_sent is not None:
                os.kill(worker, signal_sent)
                assert soon(partial(is_gone, worker))
            exit_code, peak_bytes = zygote.reap()
        assert exit_code == expected
        assert 2**20 < peak_bytes < 2**27
        assert is_gone(worker)
