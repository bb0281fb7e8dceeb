"""The decode child: the same answers as in this process, and whatever a file does to it, a row and a next file."""

from __future__ import annotations

import io
import itertools
import math
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import NsfwscanError, RowError
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox import wire
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.sandbox.wire import Settings
from nsfwscan.images.views import ViewLimits, to_views
from tests.hostile_format import PLUGINS, SIZE, hostile

GEOMETRY = Geometry((24, 32), Image.Resampling.BILINEAR)
GREY = b"\x80" * GEOMETRY.nbytes
HEADER = {"format": "HOSTILE", "width": SIZE[0], "height": SIZE[1]}
MEMORY = 2**27


def settings(**changed: Any) -> Settings:
    usual: dict[str, Any] = {
        "geometries": (GEOMETRY,),
        "fast": False,
        "hashed": False,
        "examined": False,
        "max_pixels": 10**8,
        "plugins": PLUGINS,
        "timeout_s": 20.0,
        "max_memory_bytes": MEMORY,
    }
    return Settings(**{**usual, **changed})


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "JPEG")
    return out.getvalue()


def failure(child: DecodeChild, data: bytes) -> RowError:
    with pytest.raises(RowError) as caught:
        child.decode(data)
    return caught.value


def worker_of(child: DecodeChild) -> int:
    """Return the worker's process id, by what the kernel says of the zygote."""
    assert child._zygote is not None
    zygote = child._zygote._process.pid
    return int(Path(f"/proc/{zygote}/task/{zygote}/children").read_text())


@pytest.fixture(scope="module")
def child() -> Iterator[DecodeChild]:
    child = DecodeChild(settings())
    yield child
    child.close()


@pytest.fixture(scope="module")
def hasty() -> Iterator[DecodeChild]:
    """A child that gives a file a second."""
    child = DecodeChild(settings(timeout_s=1.0))
    yield child
    child.close()


def in_this_process(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the facts and the pixels of a file, decoded here."""
    facts, _, pixels = to_views(data, GEOMETRY, limits=ViewLimits(), max_pixels=10**8)
    return facts, pixels


# --- files that behave ----------------------------------------------------------------------------------------------


def test_it_answers_as_this_process_would(child: DecodeChild, demo: tuple[Path, list[DemoObject]]) -> None:
    """Every object of the demo store has the same facts and pixels, or the same error, in the child and here."""

    def outcome(decode: Callable[[bytes], Any], data: bytes) -> Any:
        try:
            return decode(data)
        except RowError as error:
            return error.code, error.message, error.values

    root, objects = demo
    before = child.workers
    for declared in objects:
        data = (root / declared.path).read_bytes()
        assert outcome(child.decode, data) == outcome(in_this_process, data), declared.path
    assert child.workers <= before + 1


def test_a_further_format_is_read() -> None:
    """A format that the configuration names is decoded, and unsupported where it is not named."""
    facts, pixels = DecodeChild(settings(plugins={"hostile": PLUGINS["HOSTILE"]})).decode(hostile("grey"))
    said = {
        "frames": 1,
        "camera": None,
        "software": None,
        "media": "image",
        "views": 1,
        "duration_s": None,
        "looked": 1,
    }
    assert (facts, pixels) == ({**HEADER, **said}, GREY)
    assert failure(DecodeChild(settings(plugins={})), hostile("grey")).status == "unsupported"


def test_nothing_is_said_on_standard_error(child: DecodeChild, capfd: pytest.CaptureFixture[str]) -> None:
    """What a library in C prints about a file reaches nobody's terminal."""
    assert child.decode(hostile("complain"))[1] == GREY
    assert capfd.readouterr() == ("", "")


# --- files that do not ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("segv", "the decoder crashed (SIGSEGV)"),
        ("abort", "the decoder crashed (SIGABRT)"),
        ("kill", "the decoder was killed (SIGKILL): is the memory of the machine full?"),
        ("exit", "the decoder ended (exit code 3)"),
        ("leave", "the decoder ended (exit code 1)"),
        ("babble", "the decoder crashed (its answer makes no sense)"),
        ("hang up", "the decoder was killed (SIGKILL): is the memory of the machine full?"),
        ("eat memory", "decoding takes more memory than 128 MiB (decode.max_memory_bytes)"),
        ("eat memory in C", "the decoder crashed (SIGSEGV)"),
    ],
)
@pytest.mark.parametrize("in_header", [False, True], ids=["body", "header"])
def test_a_file_that_kills_its_decoder_crashed(child: DecodeChild, deed: str, message: str, in_header: bool) -> None:
    """The file is `crashed`, in words and with what its header says, and the next one is decoded as ever."""
    error = failure(child, hostile(deed, in_header=in_header))
    assert (error.status, error.message) == ("crashed", message)
    assert error.values == ({} if in_header else HEADER)
    assert child.decode(hostile("grey"))[1] == GREY


@pytest.mark.parametrize("deed", ["hang", "hang in C"])
def test_a_file_that_hangs_its_decoder_timed_out(hasty: DecodeChild, deed: str) -> None:
    """The file is `timeout` as soon as its time is up, and the next one is decoded as ever."""
    hasty.decode(hostile("grey"))
    started = time.monotonic()
    error = failure(hasty, hostile(deed))
    assert 1.0 <= time.monotonic() - started < 30  # it hangs for ever
    assert (error.status, error.message) == ("timeout", "decoding took more than 1 s (decode.timeout_s)")
    assert error.values == HEADER
    assert failure(hasty, hostile(deed, in_header=True)).values == {}
    assert hasty.decode(hostile("grey"))[1] == GREY


def test_memory_is_really_limited() -> None:
    """A decoder that takes all it can get never has more than it may."""
    child = DecodeChild(settings())
    failure(child, hostile("eat memory"))
    child.retire()
    assert MEMORY / 2 < child.peak_rss_bytes < MEMORY + 2**26


def test_no_memory_is_taken_for_views_that_nobody_has() -> None:
    """A child whose files may have 200 MB of views takes next to nothing of it before one comes: a scan has such a child,
    for detectors that read pictures, whether there are any or not."""

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    large = settings(geometries=(Geometry((1600, 1600), Image.Resampling.BILINEAR),), views=26)
    assert large.area_bytes > 190 * 10**6
    before = resident_bytes()
    child = DecodeChild(large)
    assert resident_bytes() - before < 20 * 10**6
    child.close()


def test_what_a_file_leaves_behind_is_not_the_next_ones_fault(child: DecodeChild) -> None:
    """A picture that dies of what an earlier one did to the decoder gets another decoder, and its pixels."""
    assert child.decode(hostile("poison"))[1] == GREY
    before = child.workers
    assert child.decode(jpeg()) == in_this_process(jpeg())
    assert child.workers == before + 1


def test_sending_to_a_worker_that_does_not_listen(hasty: DecodeChild) -> None:
    """A file of 64 MiB does not wait longer than its time for a worker that stands still, and not at all for one that
    is dead."""
    large = hostile("grey").ljust(64 * 2**20)
    hasty.decode(hostile("grey"))
    os.kill(worker_of(hasty), signal.SIGSTOP)
    started = time.monotonic()
    assert failure(hasty, large).status == "timeout"
    assert time.monotonic() - started < 30  # it stands still for ever
    patient = DecodeChild(settings())
    patient.decode(hostile("grey"))
    os.kill(worker_of(patient), signal.SIGKILL)
    assert patient.decode(large)[1] == GREY


def test_the_next_file_is_decoded_ahead_of_its_question(child: DecodeChild) -> None:
    """Files that are handed over ahead are answered in their order; the one that kills its decoder is blamed, and no
    other: not the one before, whose answer stands, nor those after."""
    plain, grey = jpeg(), hostile("grey")
    files = [grey, hostile("segv"), grey, hostile("kill", in_header=True), plain, hostile("poison"), plain, plain, grey]
    expected = [
        GREY,
        "crashed",
        GREY,
        "crashed",
        in_this_process(plain)[1],
        GREY,
        *[in_this_process(plain)[1]] * 2,
        GREY,
    ]
    found: list[object] = []
    for file, then in itertools.zip_longest(files, files[1:]):
        try:
            found.append(child.decode_views(file, then=then)[2].tobytes())
        except RowError as error:
            found.append(error.status)
    assert found == expected


def test_pixels_stay_while_the_next_file_is_decoded(child: DecodeChild) -> None:
    """A file that was handed over ahead does not touch the pixels of the one before, even if it is decoded already."""
    _, _, pixels = child.decode_views(hostile("grey"), then=(plain := jpeg()))
    while not select.select([child._worker], [], [], 5)[0]:
        pass
    assert pixels.tobytes() == GREY and child.decode_views(plain)[2].tobytes() == in_this_process(plain)[1]


def test_another_file_than_the_one_ahead(hasty: DecodeChild) -> None:
    """Whoever asks for something else than was handed over ahead gets that, from another worker at once."""
    hasty.decode_views(hostile("grey"), then=hostile("hang"))
    before = hasty.workers
    assert hasty.decode(plain := jpeg()) == in_this_process(plain)
    assert hasty.workers == before + 1


def test_time_begins_with_the_question(hasty: DecodeChild) -> None:
    """A file that was handed over ahead has its whole time, and no more; the one after it has its own."""
    slow, grey = hostile("hang"), hostile("grey")
    hasty.decode_views(grey, then=slow)
    with pytest.raises(RowError, match=r"more than 1 s"):
        hasty.decode_views(slow, then=grey)
    assert hasty.decode_views(grey)[2].tobytes() == GREY


def test_a_dead_zygote_is_replaced(child: DecodeChild) -> None:
    """A zygote that is killed is no file's fault: the next worker comes from a new one."""
    child.decode(hostile("grey"))
    assert child._zygote is not None
    child._zygote._process.kill()
    assert child.decode(hostile("grey"))[1] == GREY
    assert failure(child, hostile("segv")).status == "crashed"
    assert child.decode(hostile("grey"))[1] == GREY


def test_an_interrupted_question_is_forgotten(child: DecodeChild, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C between question and answer, the next answer is that to the next question."""

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    child.decode(hostile("grey"))
    with monkeypatch.context() as patched:
        patched.setattr(wire, "receive_into", interrupted)
        with pytest.raises(KeyboardInterrupt):
            child.decode(jpeg())
    assert child.decode(hostile("grey"))[1] == GREY


# --- answers that are lies ------------------------------------------------------------------------------------------

_FACTS = {"format": "JPEG", "width": 1, "height": 1, "camera": None, "signals": {"c2pa.manifest": 1.0}}
_HONEST: dict[str, Any] = {"code": None, "facts": _FACTS, "views": []}
_VIEW = {"index": 1, "at_s": 0.5, "reason": "distinct", "weight": 3, "pdq": "0" * 64, "pdq_quality": 50}
_SEVERAL: dict[str, Any] = {**_HONEST, "facts": {**_FACTS, "views": 2}, "views": [_VIEW, _VIEW]}
_LIES: dict[str, tuple[dict[str, Any], int]] = {
    "no answer": {},
    "no facts": {"code": None},
    "facts of a kind": {**_HONEST, "facts": "JPEG"},
    "another column": {**_HONEST, "facts": {"nsfw_score": 0.0}},
    "a column that is another's": {**_HONEST, "facts": {"uri": "/elsewhere"}},
    "a number as text": {**_HONEST, "facts": {"width": "1"}},
    "a truth as a number": {**_HONEST, "facts": {"width": True}},
    "a fraction": {**_HONEST, "facts": {"width": 1.5}},
    "a negative": {**_HONEST, "facts": {"width": -1}},
    "more than there are integers": {**_HONEST, "facts": {"frames": 2**63}},
    "a list": {**_HONEST, "facts": {"camera": ["a"]}},
    "half a character": {**_HONEST, "facts": {"camera": "\ud800"}},
    "a terminal's colours": {**_HONEST, "facts": {"software": "\x1b[31m"}},
    "a novel": {**_HONEST, "facts": {"software": "x" * 10_000}},
    "signals that are a list": {**_HONEST, "facts": {"signals": ["a"]}},
    "a signal that is no number": {**_HONEST, "facts": {"signals": {"a": math.nan}}},
    "a signal without end": {**_HONEST, "facts": {"signals": {"a": math.inf}}},
    "a signal beyond its range": {**_HONEST, "facts": {"signals": {"a": 1.5}}},
    "a signal as text": {**_HONEST, "facts": {"signals": {"a": "1"}}},
    "a signal with a terminal's colours": {**_HONEST, "facts": {"signals": {"\x1b[31m": 1.0}}},
    "a signal with a long name": {**_HONEST, "facts": {"signals": {"x" * 100: 1.0}}},
    "a signal without a name": {**_HONEST, "facts": {"signals": {"": 1.0}}},
    "signals without end": {**_HONEST, "facts": {"signals": {str(i): 1.0 for i in range(1000)}}},
    "another code": {**_HONEST, "code": "fine", "error": "x"},
    "a code of another stage": {"code": "denied", "error": "x", "facts": {}, "views": []},
    "an error without words": {"code": "decode_error", "facts": {}, "views": []},
    "an error that is no text": {"code": "decode_error", "error": ["x"], "facts": {}, "views": []},
    "a list as code": {"code": [], "error": "x", "facts": {}, "views": []},
    "no views": {"code": None, "facts": _FACTS},
    "other views than it says": {**_SEVERAL, "views": [_VIEW]},
    "more views than were asked for": {**_HONEST, "facts": {"views": 9}, "views": [_VIEW] * 9},
    "a view without a number": {**_SEVERAL, "views": [_VIEW, {**_VIEW, "index": None}]},
    "a view that is none": {**_SEVERAL, "views": [_VIEW, ["first"]]},
    "a view that lasts forever": {**_SEVERAL, "views": [_VIEW, {**_VIEW, "at_s": math.inf}]},
    "a view with a score": {**_SEVERAL, "views": [_VIEW, {**_VIEW, "nsfw_score": 0.0}]},
    "a time that is none": {**_HONEST, "facts": {"duration_s": math.nan}},
}


@pytest.mark.parametrize("lie", _LIES)
def test_a_false_answer_is_not_believed(lie: str) -> None:
    """An answer that the report cannot hold, or that no decoder gives, is none."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        DecodeChild(settings(views=8))._understood(_LIES[lie], 8)


def test_an_honest_answer_is_believed() -> None:
    """Facts and views come out as they are said, and an error's words without what a terminal would obey."""
    child = DecodeChild(settings(views=8))
    assert child._understood(_HONEST, 8) == (_HONEST["facts"], [])
    assert child._understood(_SEVERAL, 8) == (_SEVERAL["facts"], [_VIEW, _VIEW])
    said = {"code": "too_large", "error": "a\x1bb" + "c" * 1000, "facts": {"width": 2**63 - 1}, "views": []}
    with pytest.raises(RowError) as caught:
        child._understood(said, 8)
    assert caught.value.message.startswith("a\N{REPLACEMENT CHARACTER}bccc") and len(caught.value.message) == 300
    assert caught.value.values == {"width": 2**63 - 1}


def test_a_file_of_any_size_gets_there() -> None:
    """A file too large for the memory that both processes see is decoded all the same, and small ones after it."""
    large = io.BytesIO()
    Image.effect_noise((2000, 1500), 80).convert("RGB").save(large, "BMP")
    assert len(large.getvalue()) > wire.AREA_FILE_BYTES
    child = DecodeChild(settings())
    for data in (large.getvalue(), jpeg(), large.getvalue()):
        assert child.decode(data) == in_this_process(data)


# --- no child at all ------------------------------------------------------------------------------------------------

_modules = itertools.count()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "cannot import {}, which decode.plugins names for QOI2: No module named '{}'"),
        ("raise OSError('no libqoi.so')", "cannot import {}, which decode.plugins names for QOI2: no libqoi.so"),
        ("x = 1", "{}, which decode.plugins names for QOI2, registers no format of that name"),
        ("import os; os.abort()", "the process to decode images in does not start: exit code -6"),
        ("raise SystemExit('not today')", "the process to decode images in does not start: not today"),
        (
            "import os; from PIL import Image; Image.register_open('QOI2', None); os.register_at_fork(before=os.abort)",
            "the process to decode images in keeps dying: exit code -6",
        ),
        (
            "import resource; from PIL import Image; Image.register_open('QOI2', None); resource.setrlimit = None",
            "the process to decode images in keeps dying: TypeError: 'NoneType' object is not callable",
        ),
    ],
)
def test_a_child_that_cannot_be_stops_the_run(
    source: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin that is not there, or that takes the child down or its limits away, is a broken set-up: named, and tried
    no third time."""
    module = f"plugin_{next(_modules)}"
    if source is not None:
        (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    child = DecodeChild(settings(plugins={"QOI2": module}))
    child.start()
    for _ in range(2):
        with pytest.raises(NsfwscanError) as caught:
            child.decode(jpeg())
        assert str(caught.value) == message.format(module, module)
    assert child.workers == 0


def test_a_child_without_a_python_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no process can be started, it says so at once."""
    monkeypatch.setattr("sys.executable", "/absent/python")
    with pytest.raises(NsfwscanError, match=r"cannot start a process to decode images in: .*/absent/python"):
        DecodeChild(settings()).start()
