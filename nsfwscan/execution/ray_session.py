"""A connection to Ray: to a cluster, or to a local Ray that ends with the connection.

If nothing answers at the address, or no Ray does, this raises `NsfwscanError`.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from nsfwscan.errors import NsfwscanError

_KNOCK_S = 10.0
_NO_AGENT = str(Path(__file__).with_name("no_agent.py"))
_NO_PORTS = {"metrics_agent_port": -1, "metrics_export_port": -1, "dashboard_agent_listen_port": -1}
_NO_PORTS |= {"runtime_env_agent_port": 1}
"""What Ray's agents would write, by the file's name: -1, as they do themselves, for what is not served. The last one
has to be a port: one at which nobody listens."""


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
def ray_session(
    address: str | None,
    *,
    verbose: bool,
    num_cpus: int | None,
    store_bytes: int,
    meanwhile: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Connect to the cluster at the address, or start a local Ray that ends with the `with` block; use a connection
    that exists already, and leave it open. A local Ray listens only on this machine's loopback address, since no other
    machine needs it. Raises NsfwscanError where the cluster cannot be reached.

    Args:
        address: the cluster's; None: a local Ray.
        verbose: show the output of Ray and the workers.
        num_cpus: CPUs of a local Ray; None: all.
        store_bytes: size of a local Ray's object store.
        meanwhile: called in a thread while Ray's processes start, which takes seconds; ends before the block begins.
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
        yield from _connected(address, options, meanwhile)


def _connected(address: str | None, options: dict[str, Any], meanwhile: Callable[[], object]) -> Iterator[None]:
    import ray

    beside = threading.Thread(target=meanwhile, name="meanwhile")
    beside.start()
    try:
        with nullcontext() if address else _few_processes(log_to_driver=options["log_to_driver"]):
            began: Any = ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise NsfwscanError(
            f"cannot reach Ray at {address or 'a local address'}: {str(error).splitlines()[0]}"
        ) from error
    finally:
        beside.join()
    try:
        yield
    finally:
        ray.shutdown()
    if not address and not options["log_to_driver"]:  # where it failed, or with --verbose, somebody may want Ray's logs
        shutil.rmtree(began.address_info["session_dir"], ignore_errors=True)


@contextmanager
def replaced(place: str, **values: object) -> Iterator[None]:
    """Give attributes of Ray, which has no settings for them, other values within the block.

    Args:
        place: a module, or `module:class`. Another version of Ray may lack it, or some attributes: those stay away.
    """
    try:
        found = resolve_name(place)
    except (ImportError, AttributeError):
        found = None
    before = {name: getattr(found, name) for name in values if hasattr(found, name)}
    for name in before:
        setattr(found, name, values[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(found, name, value)


@contextmanager
def _few_processes(*, log_to_driver: bool) -> Iterator[None]:
    """Let a Ray that starts within the block have only the processes that a scan needs.

    The autoscaler has no machines to start, the API server nobody to answer, the log monitor no output to pass on, one
    agent no metrics to serve (it starts as without the extra `ray[default]`), and the other no environment to make.
    Together they take 6 s of CPU time (Ray 2.60), and the raylet waits for the agents before it starts any worker.
    """
    from ray._private.parameter import RayParams

    chosen: dict[str, Any] = {"no_monitor": True, "include_log_monitor": log_to_driver}
    with (
        replaced("ray._private.parameter", RayParams=partial(RayParams, **chosen)),
        replaced("ray._private.node:Node", start_api_server=lambda *_, **__: None),
        replaced("ray._private.utils", get_dashboard_dependency_error=lambda: ImportError("not asked for")),
        nullcontext() if _makes_environments() else _no_agents(),
    ):
        yield


def _makes_environments() -> bool:
    """Return whether workers are to run in an environment that Ray makes for them: under `uv run`, in a job, or where a
    hook says so; another version of Ray may do so elsewhere."""
    try:
        from ray._private.runtime_env.uv_runtime_env_hook import _get_uv_run_cmdline
    except ImportError:
        return True
    asked = {"RAY_RUNTIME_ENV_HOOK", "RAY_JOB_CONFIG_JSON_ENV_VAR"} & os.environ.keys()
    return bool(asked) or _get_uv_run_cmdline() is not None


@contextmanager
def _no_agents() -> Iterator[None]:
    """Let the raylet start `no_agent.py` in the place of its agents. It wants some command, and the files in which they
    would say their ports; another version of Ray, which may have no such files, keeps its agents."""
    from ray._private import services

    try:
        from ray._raylet import persist_port  # type: ignore[attr-defined]
    except ImportError:
        yield
        return
    start, instead = services.start_ray_process, subprocess.list2cmdline([sys.executable, "-I", "-S", _NO_AGENT])

    def started(command: list[str], kind: str, *args: Any, **kwargs: Any) -> Any:
        given = dict(one.partition("=")[::2] for one in command)
        agents = [name for name in given if name.endswith("_agent_command")]
        if agents:
            for name, port in _NO_PORTS.items():
                persist_port(given["--session_dir"], given["--node_id"], name, port)
            command = [f"{name}={instead}" if (name := one.partition("=")[0]) in agents else one for one in command]
        return start(command, kind, *args, **kwargs)

    with replaced("ray._private.services", start_ray_process=started):
        yield


@contextmanager
def few_actors(pulse: Any) -> Iterator[None]:
    """Let Ray Data have no actors of its own within the block: one for statistics on a dashboard, one that asks for
    more machines, one that knows where workers are. On a local Ray nobody asks for the first two, and `pulse` is the
    third. Each is a process that imports Ray Data while the workers do: 4 s of CPU time in all (Ray 2.60)."""
    data, none = "ray.data._internal", lambda *_, **__: None
    silent = ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics")
    where = {"get_or_create_actor_location_tracker": lambda: pulse}
    with (
        replaced(f"{data}.stats:_StatsManager", **dict.fromkeys(silent, none)),
        replaced(f"{data}.execution.streaming_executor", create_cluster_autoscaler=_SameMachines),
        replaced(f"{data}.execution.operators.actor_pool_map_operator", **where),
        replaced(f"{data}.utils.cached_ray_internals", **where),
    ):
        yield


class _SameMachines:
    """An autoscaler for Ray Data where there will never be more machines."""

    def __init__(self, *_: object, **__: object) -> None:
        import ray
        from ray.data._internal.execution.interfaces import ExecutionResources

        self._resources = ExecutionResources.from_resource_dict(ray.cluster_resources())  # type: ignore[no-untyped-call]

    def try_trigger_scaling(self) -> None:
        """Do nothing."""

    def on_executor_shutdown(self) -> None:
        """Do nothing."""

    def get_total_resources(self) -> Any:
        """Return what the cluster has."""
        return self._resources


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Keep the program's handler of SIGTERM: Ray installs its own ones as it starts, which exit without a word of ours,
    and none as it ends. A program without a handler gets Ray's, which stops Ray's processes."""
    handler = signal.getsignal(signal.SIGTERM)
    if handler in (signal.SIG_DFL, None) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        with replaced("ray._private.utils", set_sigterm_handler=lambda handler: None):
            yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _listen_on_loopback() -> None:
    """Make the next local Ray bind 127.0.0.1. Ray reads its environment variable for this
    (RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0) only on import, and replaces an address given to `ray.init` by another."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False
