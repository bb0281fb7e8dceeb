"""A connection to Ray: to a cluster, or to a local Ray that ends with the connection.

If nothing answers at the address, or no Ray does, this raises `NsfwscanError`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any

from nsfwscan.errors import NsfwscanError

_KNOCK_S = 10.0


def check_reachable(address: str | None) -> None:
    """Try the port of a cluster's address, if there is one: Ray itself would try for ten minutes. Raises NsfwscanError
    where nothing answers there."""
    host, separator, port = (address or "").removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():  # `auto`, `local`, or no address at all
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except OSError as error:
        raise NsfwscanError(
            f"cannot reach Ray at {address}: {error}; is the head up, and is this its address?"
        ) from None


@contextmanager
def ray_session(address: str | None, *, verbose: bool, num_cpus: int | None, store_bytes: int) -> Iterator[None]:
    """Connect to the cluster at the address, or start a local Ray that ends with the `with` block; use a connection
    that exists already, and leave it open. A local Ray listens only on this machine's loopback address, since no other
    machine needs it. Raises NsfwscanError where the cluster cannot be reached.

    Args:
        address: the cluster's; None: a local Ray.
        verbose: show the output of Ray and the workers.
        num_cpus: CPUs of a local Ray; None: all.
        store_bytes: size of a local Ray's object store.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.ERROR}
    if not address:
        options |= {"num_cpus": num_cpus, "include_dashboard": False, "object_store_memory": store_bytes}
        _listen_on_loopback()
    # Ray prints notices of its raylets on standard output, where our results alone may stand.
    with _keeping_sigterm(), nullcontext() if verbose else redirect_stdout(sys.stderr):
        yield from _connected(address, options)


def _connected(address: str | None, options: dict[str, Any]) -> Iterator[None]:
    import ray

    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise NsfwscanError(
            f"cannot reach Ray at {address or 'a local address'}: {str(error).splitlines()[0]}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Keep the program's handler of SIGTERM: Ray installs its own ones as it starts, which exit without a word of ours,
    and none as it ends. A program without a handler gets Ray's, which stops Ray's processes."""
    from ray._private import utils

    handler, install = signal.getsignal(signal.SIGTERM), utils.set_sigterm_handler
    if handler in (signal.SIG_DFL, None) or threading.current_thread() is not threading.main_thread():
        yield
        return
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = install
        signal.signal(signal.SIGTERM, handler)


def _listen_on_loopback() -> None:
    """Make the next local Ray bind 127.0.0.1. Ray reads its environment variable for this
    (RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0) only on import, and replaces an address given to `ray.init` by another."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
