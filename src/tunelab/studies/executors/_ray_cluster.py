"""The connection to Ray: an existing cluster, or a quiet local one that is shut down afterwards."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

from tunelab.errors import UsageError

#: Ray's name for a local cluster, started by ray.init().
OWN = "local"

#: Bytes. In a local cluster all workers see the study's directory, so no data is transferred. Ray's minimum: 75 MiB.
_OWN_OBJECT_STORE = 128 * 2**20

#: Read by Ray on import and on start: no usage statistics; no messages on stdout about workers (errors are recorded
#: with their cells); no tip about GPUs; workers of a local cluster are not niced, so that times match other executors.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
}


@contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Yields the module `ray`, connected; then disconnects, and stops a cluster that it started.

    An existing connection of this process is used and kept open.

    Args:
        address: None = RAY_ADDRESS if set, else a local cluster.

    Raises:
        UsageError: Ray is not installed, no cluster answers at the address, or another one is connected.
    """
    ray = _library()
    if ray.is_initialized():
        if address is not None:
            raise UsageError(f"option address={address}: this process is already connected to Ray", "omit address")
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS") or OWN
    _check_reachable(where)
    own = {"include_dashboard": False, "object_store_memory": _OWN_OBJECT_STORE} if where == OWN else {}
    handler = signal.getsignal(signal.SIGTERM)  # Ray replaces it with its own
    try:
        try:
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **own)
        except Exception as error:  # on a busy machine a bare one: "The current node timed out during startup"
            raise UsageError(f"Ray at {where}: {error}", "give address=HOST:PORT, auto, or local") from error
        yield ray
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def fits(ray: ModuleType, needs: Mapping[str, float]) -> bool:
    """Whether a node of the cluster has these resources, busy or not."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(name, 0) >= amount for name, amount in needs.items()) for node in nodes)


def _library() -> ModuleType:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UsageError("Ray is not installed", "pip install tunelab[ray]") from error
    return ray


def _check_reachable(where: str) -> None:
    """Try the port first: Ray itself retries for minutes and prints to the terminal."""
    host, colon, port = where.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UsageError(f"no Ray cluster answers at {where}: {error}", "start one with `ray start --head`") from error
