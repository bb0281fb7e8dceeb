"""Confine a process that decodes strangers' files: it may compute, and answer on the socket that it has.

Nothing is raised where a layer does not hold on this kernel; the caller decides whether the others are enough. No layer
needs root, and none can be taken off again.

- `no-new-privileges`: no program that it could start would gain rights.
- `landlock`: no file can be opened but code, nothing can be written, no other process can be traced or signalled, no
  TCP port reached (Linux 5.13 and later; an older kernel has fewer of these).
- `seccomp`: no socket can be made, no program started, no process forked or signalled, no other process's memory read,
  no limit raised, no file's owner, mode or times changed, nothing left in the kernel that outlives the process (Linux
  on x86-64 and AArch64).

What is left: it may use its memory and its time up to its limits, ask the kernel for names and sizes of files, and lie
about the file that it decodes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

LAYERS = ("no-new-privileges", "landlock", "seccomp")
"""All layers, in the order in which they are put on."""

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2  # linux/prctl.h

# linux/landlock.h: rights over files by the first version (ABI) that knows them, as bits
_READ = 1 << 2 | 1 << 3  # READ_FILE, READ_DIR
_RIGHTS = {1: 0x1FFF, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # all of 5.13; REFER; TRUNCATE; IOCTL_DEV
_TCP = 0b11  # BIND_TCP, CONNECT_TCP; ABI 4
_SCOPES = 0b11  # abstract sockets and signals; ABI 6
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_LANDLOCK_VERSION, _PATH_BENEATH = 1, 1

# linux/audit.h, linux/seccomp.h, linux/filter.h
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _THIRD = 0, 4, 16, 32  # offsets in seccomp_data; those of arguments, lower half first
_X32 = 0x40000000
_CLONE_THREAD = 0x10000
_EPERM, _ENOSYS = 1, 38

# System calls by name: (x86-64, AArch64); None where there is none. asm/unistd_64.h, asm-generic/unistd.h.
DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242),
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "truncate": (76, 45),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "fsmount": (432, 432), "mount_setattr": (442, 442),
    "unshare": (272, 97), "setns": (308, 268), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "fanotify_init": (300, 262),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "sethostname": (170, 161), "setdomainname": (171, 162),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "acct": (163, 89),
    "quotactl": (179, 60), "personality": (135, 92),
    "setrlimit": (160, 164), "shmget": (29, 194), "shmat": (30, 196), "semget": (64, 190), "msgget": (68, 186),
    "mq_open": (240, 180),
}  # fmt: skip
_SIGNALS: dict[str, tuple[int, int]] = {"kill": (62, 129), "tgkill": (234, 131)}
"""Allowed to this process itself: an abort ends in a signal to oneself."""
_CLONE, _CLONE3, _PRLIMIT = (56, 220), 435, (302, 261)


def confine(readable: Iterable[Path]) -> tuple[str, ...]:
    """Confine this process for good; it has one thread.

    Args:
        readable: folders whose files may be opened for reading.

    Returns:
        the layers that hold, of `LAYERS`.
    """
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            return ()
    except (OSError, AttributeError):  # not on Linux
        return ()
    held = [True, _landlock(libc, readable), _seccomp(libc)]
    return tuple(layer for layer, holds in zip(LAYERS, held, strict=True) if holds)


def code_folders(files: Iterable[str] = ()) -> list[Path]:
    """Return the folders that Python may import from later: its library, installed packages, the packages that are
    loaded, wherever they lie (with `PYTHONPATH`, or `pip install --target`), the folders beside them in which wheels
    keep shared libraries, and those of the given files."""
    found = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and "." not in name and hasattr(module, "__path__"):
            found.append(Path(file).parent)
    found += [libraries for parent in {folder.parent for folder in found} for libraries in parent.glob("*.libs")]
    found += [Path(file).parent for file in files]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def _landlock(libc: ctypes.CDLL, readable: Iterable[Path]) -> bool:
    """Put files, other processes and TCP out of reach, as far as this kernel can; return whether it can."""
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        return False
    rights = sum(bits for since, bits in _RIGHTS.items() if since <= version)
    attributes = struct.pack("=QQQ", rights, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    length = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(length), 0)
    if ruleset < 0:
        return False
    try:
        for folder in readable:
            _may_read(libc, ruleset, folder)
        return bool(libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _may_read(libc: ctypes.CDLL, ruleset: int, folder: Path) -> None:
    try:
        fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # what is not there needs no right
        return
    try:
        libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", _READ, fd), 0)
    finally:
        os.close(fd)


def _seccomp(libc: ctypes.CDLL) -> bool:
    """Make the kernel refuse system calls that decoding does not need; return whether it does."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return False
    program = _program(machine, os.getpid())
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0)


def _program(machine: str, pid: int) -> list[bytes]:
    """Return the filter in classic BPF: each instruction is (code, jump if true, jump if false, constant)."""
    column = list(_ARCHITECTURES).index(machine)
    numbers = [found[column] for found in DENIED.values()]
    checks: list[bytes] = [
        *_unless(_CLONE[column], [(_FIRST, _JUMP_IF_SET, _CLONE_THREAD)]),
        *_unless(_PRLIMIT[column], [(_THIRD, _JUMP_EQUAL, 0), (_THIRD + 4, _JUMP_EQUAL, 0)]),  # which only asks
        *(part for call in _SIGNALS.values() for part in _unless(call[column], [(_FIRST, _JUMP_EQUAL, pid)])),
    ]
    return [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER),
        *([_step(_JUMP_AT_LEAST, _X32, 0, 1), _step(_RETURN, _ERRNO | _EPERM)] if machine == "x86_64" else []),
        _step(_JUMP_EQUAL, _CLONE3, 0, 1),
        _step(_RETURN, _ERRNO | _ENOSYS),  # its flags lie in memory; the C library then takes `clone`
        *(part for number in numbers if number is not None for part in _denied(number)),
        *checks,
        _step(_RETURN, _ALLOW),
    ]


def _denied(number: int) -> Sequence[bytes]:
    return _step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, _ERRNO | _EPERM)


def _unless(number: int, conditions: Sequence[tuple[int, int, int]]) -> Sequence[bytes]:
    """Deny a call unless all conditions hold: (offset of half an argument, jump, constant)."""
    rest = []
    for left, (offset, jump, constant) in zip(range(len(conditions), 0, -1), conditions, strict=True):
        rest += [_step(_LOAD, offset), _step(jump, constant, 0 if left > 1 else 1, 2 * (left - 1))]
    rest += [_step(_RETURN, _ERRNO | _EPERM), _step(_RETURN, _ALLOW)]
    return [_step(_JUMP_EQUAL, number, 0, len(rest)), *rest]


def _step(code: int, constant: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, true, false, constant)
