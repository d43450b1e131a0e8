"""The cache that the workers of one test run share: removed at its end, and by the next run if its end was a kill."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX, LOCK = "tunelab-test-cache-", "lock"
#: A folder this young may belong to a run that has not locked it yet.
SECONDS_TO_LOCK = 60.0


def new_cache(place: Path) -> Path:
    """An empty folder in `place`, removed when this process ends; those of runs that were killed are removed now."""
    remove_caches_of_dead_runs(place)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    hold(folder)
    atexit.register(_remove_own, folder, os.getpid())
    return folder


def hold(folder: Path) -> int:
    """Lock a cache until this process ends, or closes the descriptor that this returns."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def remove_caches_of_dead_runs(place: Path) -> None:
    """Remove the caches in `place` that no process holds."""
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # held, another user's, or removed by another run meanwhile
            if time.time() - folder.stat().st_mtime > SECONDS_TO_LOCK:
                descriptor = hold(folder)
                shutil.rmtree(folder, ignore_errors=True)
                os.close(descriptor)


def _remove_own(folder: Path, owner: int) -> None:
    """A fork that ends as an interpreter does leaves the cache to the process that made it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
