"""Be the decode child, from within: a zygote that has imported the decoders, and forks workers that decode.

    python -m nsfwscan.images.sandbox.worker SOCKET AREA

SOCKET leads to `child.py`, which sends settings and files as `wire.py` says; AREA is a file of memory that both see.
The first process never touches an image: it has one thread and neither Ray, torch nor Arrow in it, so that it can fork;
a replacement for a worker that died takes milliseconds. A worker is confined (`confinement.py`), has a limit of memory
and a deadline for each file, and it may die in any way there is. All end where the other side of their socket ends.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NoReturn

import pi_heif.options
from PIL import AvifImagePlugin, Image

from nsfwscan.errors import ErrorCode, RowError, Status
from nsfwscan.images.decoder import header
from nsfwscan.images.formats.containers import (
    HEAD_BYTES,
    Container,
    container_of,
    refuse_without_extra,
    videos_are_decoded,
)
from nsfwscan.images.formats.registry import FORMATS, register_formats
from nsfwscan.images.left_to_gpu import left_to_gpu
from nsfwscan.images.opening import Facts
from nsfwscan.images.out_of_memory import forget_lack_of_memory, lacks_memory
from nsfwscan.images.provenance.credentials import Verifier
from nsfwscan.images.provenance.signals import Verify
from nsfwscan.images.provenance.tampering import maps_of, with_maps
from nsfwscan.images.sandbox import wire
from nsfwscan.images.sandbox.confinement import code_folders, confine
from nsfwscan.images.sandbox.wire import FORK, NO_MEMORY, REAP, Area, Said, Settings
from nsfwscan.images.views import ViewLimits, to_views

_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0
"""After the deadline, `child.py` kills a worker; if it does not, the worker ends itself after this time."""


def main(fd: int, area_fd: int) -> None:
    """Import, say that it is ready or why not, and fork workers until the other side is gone."""
    _own_signals()
    control = socket.socket(fileno=fd)
    settings = Settings.heard(*wire.receive(control))
    area = Area(area_fd)
    os.close(area_fd)
    try:
        formats = (*FORMATS, *_plug_in(settings.plugins))
        if videos_are_decoded():
            importlib.import_module("nsfwscan.images.video_views")
        if settings.verified:
            importlib.import_module("c2pa")
    except ImportError as error:
        wire.send(control, {"error": str(error)})
        return
    register_formats()
    AvifImagePlugin.DEFAULT_MAX_THREADS = pi_heif.options.DECODE_THREADS = 1  # there is a child for each core
    gc.freeze()
    wire.send(control, {})
    with suppress(ConnectionError):
        _fork_on_demand(control, area, settings, formats, code_folders(_files_of(settings.plugins)))


def _own_signals() -> None:
    """Set the signals, which must not depend on who started us: an ignored or blocked signal is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to us, too; the other side decides
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # or the kernel would not keep what became of a worker
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a worker's own deadline
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _plug_in(plugins: dict[str, str]) -> list[str]:
    """Import the modules; return the names of the formats that they registered."""
    for name, module in plugins.items():
        try:
            importlib.import_module(module)
        except Exception as error:
            raise ImportError(f"cannot import {module}, which decode.plugins names for {name}: {error}") from error
        if name.upper() not in Image.OPEN:
            raise ImportError(f"{module}, which decode.plugins names for {name}, registers no format of that name")
    return [name.upper() for name in plugins]


def _fork_on_demand(
    control: socket.socket, area: Area, settings: Settings, formats: tuple[str, ...], readable: list[Path]
) -> None:
    worker = 0
    while True:
        asked, fds, _, _ = socket.recv_fds(control, 1, 1)
        if asked == FORK:
            sock = socket.socket(fileno=fds[0])
            worker = os.fork()
            if not worker:
                control.close()
                _work_and_exit(sock, area, settings, formats, readable)
            sock.close()
        elif asked == REAP and worker:
            os.kill(worker, signal.SIGKILL)  # changes nothing where it is dead already: nobody has waited for it
            _, status, usage = os.wait4(worker, 0)
            worker = 0
            code = os.waitstatus_to_exitcode(status)
            wire.send(control, {"exit_code": code, "max_rss_bytes": usage.ru_maxrss * 1024})
        else:
            return


def _work_and_exit(
    sock: socket.socket, area: Area, settings: Settings, formats: tuple[str, ...], readable: list[Path]
) -> NoReturn:
    _limit(settings.max_memory_bytes)
    forget_lack_of_memory()
    held = confine(readable) if settings.sandboxed else ()
    try:
        verify = Verifier(settings.trust) if settings.verified else None
        wire.send(sock, {"sandbox": held})  # it is there, and confined
        while True:
            asked, _ = wire.receive(sock)
            file = io.BytesIO(area.file(asked)) if "start" in asked else wire.receive_file(sock)
            signal.setitimer(signal.ITIMER_REAL, settings.timeout_s + _GRACE_S)
            forget_lack_of_memory()
            with file:
                answer, pixels = _answer(asked, file, settings, formats, None if asked.get("unverified") else verify)
            if answer["code"] and ErrorCode(answer["code"]).status == Status.DECODE_ERROR and lacks_memory():
                raise MemoryError  # few codecs in C tell a lack of memory from a broken file
            signal.setitimer(signal.ITIMER_REAL, 0)
            wire.send(sock, answer, pixels)
    except (EOFError, ConnectionError):
        os._exit(0)
    except MemoryError:
        os._exit(NO_MEMORY)
    finally:
        os._exit(1)


def _files_of(plugins: dict[str, str]) -> list[str]:
    """Return the files of the plugins, which may later import others beside them."""
    return [file for module in plugins.values() if (file := sys.modules[module].__file__)]


def _limit(max_memory_bytes: int) -> None:
    """Limit this process. RLIMIT_DATA counts memory that may be written: heap, private mappings and threads' stacks.
    RLIMIT_AS would also count memory that is only reserved, like libraries and the allocator's arenas."""
    with suppress(AttributeError):  # not on Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # end with the zygote, even stuck in C
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    least = 1 if hard else 0  # a limit of 0 does not keep the kernel from piping a dump to a program, one of 1 does
    resource.setrlimit(resource.RLIMIT_CORE, (least, least))
    with suppress(OSError):  # not on Linux
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = _data_bytes() + max_memory_bytes
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        Path("/proc/self/oom_score_adj").write_text("1000")  # rather this process than its neighbours
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries in C print lines of their own


def _data_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def _answer(
    asked: Said, file: IO[bytes], settings: Settings, formats: tuple[str, ...], verify: Verify | None
) -> tuple[Said, bytes]:
    limits: dict[str, Any] = {"max_pixels": settings.max_pixels, "formats": formats}
    try:
        if (container := container_of(file.read(HEAD_BYTES))) is not None:
            return _answer_of_video(container, asked, file, settings)
        file.seek(0)
        data = file.read()
        if asked.get("only") == "header":
            return {"code": None, "facts": header(data, **limits), "views": []}, b""
        wanted: dict[str, Any] = {"fast": settings.fast, "hashed": settings.hashed, "examined": settings.examined}
        wanted |= {"verify": verify, "screens": settings.screens, "limits": _view_limits(asked, settings)}
        if settings.leaves and "closer" not in asked and (left := _left(data, settings, wanted["verify"], limits)):
            return {"code": None, "facts": left, "views": []}, b""
        facts, views, pixels = to_views(data, *settings.geometries, **wanted, **limits)
        if settings.maps:
            views, more = with_maps(facts, views, maps_of(data, **limits), settings.geometries)
            pixels += more
    except RowError as error:
        return {"code": error.code, "error": error.message, "facts": error.values, "views": []}, b""
    return {"code": None, "facts": facts, "views": views}, pixels


def _left(data: bytes, settings: Settings, verify: Verify | None, limits: dict[str, Any]) -> Facts | None:
    how: dict[str, Any] = {"examined": settings.examined, "verify": verify, **limits}
    return left_to_gpu(data, *settings.geometries, tiles=settings.views - 1 if settings.tiles else 0, **how)


def _answer_of_video(container: Container, asked: Said, file: IO[bytes], settings: Settings) -> tuple[Said, bytes]:
    if asked.get("only") == "header":
        return {"code": None, "facts": {"format": container.name, "media": "video"}, "views": []}, b""
    refuse_without_extra(container)
    from nsfwscan.images.video_views import video_views  # loaded before the fork, where the extra is there

    limits: dict[str, Any] = {"limits": _view_limits(asked, settings), "max_pixels": settings.max_pixels}
    facts, views, pixels = video_views(file, container, *settings.geometries, hashed=settings.hashed, **limits)
    return {"code": None, "facts": facts, "views": views}, pixels


def _view_limits(asked: Said, settings: Settings) -> ViewLimits:
    closer = asked.get("closer")
    limits = ViewLimits(settings.views, settings.view_pixels, settings.timeout_s / 2, settings.tiles)
    if closer is None:
        return limits
    further = closer.get("views") or 0
    return replace(limits, closer=tuple(closer["frames"]), further=further, only=bool(closer.get("only")))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
