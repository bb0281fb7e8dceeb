"""End a command by a signal: the first one ends its work in order, a second one ends the process at once.

Ctrl-C sends SIGINT; Kubernetes, `ray job stop` and systemd send SIGTERM. Both do the same.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import NoReturn


class Stopped(KeyboardInterrupt):
    """Raised where a signal stops the command; it names the signal."""


def stop_on_signals() -> None:
    """Let the first SIGINT or SIGTERM raise `Stopped` in the main thread, and a second one kill the process.

    A process that was started with SIGINT ignored (`nohup … &`) goes on ignoring it. Other threads cannot set handlers:
    there, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        if received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received.append(number)
        raise Stopped(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGTERM:
            signal.signal(number, stop)
