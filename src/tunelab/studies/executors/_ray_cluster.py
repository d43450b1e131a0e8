"""The connection to Ray: a cluster that is there, or one of this machine's own, quiet, and gone afterwards."""

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

#: Ray's own: a cluster of this machine alone, started by ray.init().
OWN = "local"

#: Nothing travels in an own cluster, as all its workers see the study's directory. Bytes; Ray asks for 75 MiB at least.
_OWN_OBJECT_STORE = 128 * 2**20

#: Read by Ray when it is imported and when it starts: no usage statistics; no messages on stdout about workers (they
#: are told as cells' errors); no tip about GPUs; workers of an own cluster are not niced, so that times are those of
#: other executors.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
}


@contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Gives the library `ray`, connected; ends the connection, and with it a cluster that was started here.

    A connection that the process has already is used, and stays.

    Args:
        address: None = what RAY_ADDRESS says, else an own cluster.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address, or another one is connected.
    """
    ray = _library()
    if ray.is_initialized():
        if address is not None:
            raise UsageError(
                f"option address={address}: this process is connected to Ray already", "leave address away"
            )
        yield ray
        return
    where = address or os.environ.get("RAY_ADDRESS") or OWN
    _check_reachable(where)
    own = {"include_dashboard": False, "object_store_memory": _OWN_OBJECT_STORE} if where == OWN else {}
    handler = signal.getsignal(signal.SIGTERM)  # Ray puts its own in its place
    try:
        try:
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise UsageError(f"Ray at {where}: {error}", "give address=HOST:PORT, auto, or local") from error
        yield ray
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def fits(ray: ModuleType, needs: Mapping[str, float]) -> bool:
    """Whether a node of the cluster has this much, busy or not."""
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
    """Ask the port first: Ray itself tries for minutes, and speaks of it on the terminal."""
    host, colon, port = where.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UsageError(f"no Ray cluster answers at {where}: {error}", "start one with `ray start --head`") from error
