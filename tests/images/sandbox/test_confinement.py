"""A file that takes over the process that decodes it can do nothing but compute and answer."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwscan.config import ScanConfig
from nsfwscan.errors import NsfwscanError, RowError
from nsfwscan.execution.inline import run_inline
from nsfwscan.images.sandbox import confinement
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.sandbox.confinement import LAYERS
from nsfwscan.reports.progress import Silent
from nsfwscan.workflows.scan import run_scan
from tests.hostile_format import ESCAPES, escape, hostile
from tests.images.sandbox.test_child import GREY, jpeg, settings


@pytest.fixture(scope="module")
def confined() -> Iterator[DecodeChild]:
    child = DecodeChild(settings())
    child.decode(hostile("grey"))
    if child.sandbox != LAYERS:
        pytest.skip(f"this kernel has only {child.sandbox} of {LAYERS}")
    yield child
    child.close()


@pytest.fixture(scope="module")
def loose() -> Iterator[DecodeChild]:
    child = DecodeChild(settings(sandbox="off"))
    yield child
    child.close()


def tried(child: DecodeChild, name: str) -> str:
    with pytest.raises(RowError) as caught:
        child.decode(escape(name))
    return caught.value.message


@pytest.mark.parametrize("name", ESCAPES)
def test_no_way_out(confined: DecodeChild, name: str) -> None:
    """Files, other processes, the network, programs and limits are out of reach; the next file is decoded as before."""
    assert tried(confined, name) == "the HOSTILE data is damaged: held"
    assert confined.decode(hostile("grey"))[1] == GREY
    assert not Path("/tmp/escaped").exists() and not Path("/dev/shm/escaped").exists()


@pytest.mark.parametrize("name", ["read a file", "list a folder", "send a datagram", "signal the group"])
def test_the_tests_would_see_a_way_out(loose: DecodeChild, name: str) -> None:
    """With `sandbox: off` the same file gets out."""
    assert "escaped" in tried(loose, name)
    assert loose.sandbox == ()


def test_no_secret_is_there_to_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process starts without the environment of the one that starts it."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    child = DecodeChild(settings())
    try:
        child.decode(jpeg())
        assert child._zygote is not None
        environment = Path(f"/proc/{child._zygote._process.pid}/environ").read_bytes()
    finally:
        child.close()
    assert b"PYTHONPATH=" in environment
    assert b"wJalrXUtnFEMI" not in environment


def test_a_sandbox_that_is_required_and_lacking_stops_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`required` on a kernel that cannot: a NsfwscanError which names what is lacking; `auto` goes on, and tells."""
    (tmp_path / "sitecustomize.py").write_text(
        "from nsfwscan.images.sandbox import confinement\nconfinement._ARCHITECTURES.clear()\n"  # as on a machine it has no filter for
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    strict, lenient = DecodeChild(settings(sandbox="required")), DecodeChild(settings())
    try:
        with pytest.raises(
            NsfwscanError, match="the sandbox of the decoder does not hold here: this kernel has no seccomp"
        ):
            strict.decode(jpeg())
        lenient.decode(jpeg())
        assert "seccomp" not in lenient.sandbox
    finally:
        strict.close()
        lenient.close()


def test_the_filter_is_valid_for_every_machine_it_is_written_for() -> None:
    """Every jump of the filter ends inside it, and its last step is a verdict."""
    for machine in confinement._ARCHITECTURES:
        steps = [confinement.struct.unpack("=HBBI", step) for step in confinement._program(machine, 4711)]
        for here, (code, true, false, _) in enumerate(steps):
            if code & 0x07 == 0x05:
                assert here + 1 + max(true, false) < len(steps)
        assert steps[-1][0] == confinement._RETURN


@pytest.mark.skipif(sys.platform != "linux", reason="system calls are Linux's")
def test_the_numbers_are_the_kernels() -> None:
    """Where its headers are installed, they give each system call the number that the filter has."""
    header = Path(f"/usr/include/{os.uname().machine}-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("no headers of the kernel: apt-get install linux-libc-dev")
    column = list(confinement._ARCHITECTURES).index(os.uname().machine)
    known = dict(line.split()[1:3] for line in header.read_text().splitlines() if line.startswith("#define __NR_"))
    for name, numbers in {**confinement.DENIED, **confinement._SIGNALS}.items():
        assert known.get(f"__NR_{name}", str(numbers[column])) == str(numbers[column]), name


def test_abort_still_tells_what_happened(confined: DecodeChild) -> None:
    """A process may signal itself, so that a C library's abort is told as one."""
    with pytest.raises(RowError, match="SIGABRT"):
        confined.decode(hostile("abort"))


def test_packages_from_anywhere_may_still_be_imported(tmp_path: Path, confined: DecodeChild) -> None:
    """A loaded package finds its modules after that, wherever it lies; what lies beside it stays out of reach."""
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "later.py").write_text("found = True\n")
    (tmp_path / "secret.txt").write_text("hunter2")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import elsewhere\nfrom nsfwscan.images.sandbox.confinement import code_folders, confine\nconfine(code_folders())\n"
        "from elsewhere.later import found\nprint(found)\n"
        "try: open(sys.argv[1] + '/secret.txt')\nexcept PermissionError: print('held')\n"
    )
    shown = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["True", "held"]


def test_confining_works_without_landlock_and_seccomp() -> None:
    """On a system that is no Linux nothing holds, and nothing fails."""
    script = (
        "import ctypes, nsfwscan.images.sandbox.confinement as s\n"
        "class Other:\n    def __init__(self, *a, **k): raise OSError('no C library of that name')\n"
        "ctypes.CDLL = Other\nprint(s.confine([]))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "()"


@pytest.mark.parametrize(("how", "layers"), [("auto", LAYERS), ("off", ())])
def test_the_record_says_what_held(tmp_path: Path, how: str, layers: tuple[str, ...], confined: DecodeChild) -> None:
    """run.json counts the decoded files under each set of layers; what is not wholly confined is a warning."""
    media = tmp_path / "media"
    media.mkdir()
    for name, data in {"a.jpg": jpeg(), "b.jpg": jpeg()[:300], "c.txt": b"no image"}.items():
        (media / name).write_bytes(data)
    given = {"source": {"uris": [str(media)]}, "out": str(tmp_path / "out"), "decode": {"sandbox": how}}
    record = run_scan(ScanConfig.load(None, given), "r", run_inline, Silent()).record
    assert record.sandbox == {", ".join(layers) or "none": 3}
    expected = [] if layers else [("unconfined", 3, "no layer of it")]
    found = [(one.name, one.count, one.example) for one in record.warnings]
    assert [one for one in found if one[0] == "unconfined"] == expected
