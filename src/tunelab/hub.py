"""The Hugging Face hub: whether it answers, found out in seconds instead of half a minute of the libraries' retries.

`hub_access` surrounds every call that may ask the hub. Where the hub does not answer, the call runs in the libraries'
offline mode: it uses their caches, and what is not in them is an error at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

#: How long the hub may take to answer; HF_HUB_ETAG_TIMEOUT, the libraries' own variable for this, sets another limit.
SECONDS_TO_ANSWER = 3.0

#: How long an answer, or none, counts before the hub is asked again.
SECONDS_REMEMBERED = 60.0

_known: dict[str, tuple[float, str]] = {}  # endpoint -> when it was asked, and why it cannot be reached ("" = it can)


@contextmanager
def hub_access(name: str = "") -> Iterator[None]:
    """For calls that read from the hub, or from the cache: offline if the hub does not answer.

    Args:
        name: what is read; with a local folder of this name the hub is not asked.

    Raises:
        ConnectionError: a request failed on its way (the libraries raise httpx's own errors).
    """
    is_online = (name and Path(name).is_dir()) or not why_unreachable()
    try:
        with nullcontext() if is_online else cache_only():
            yield
    except http_errors() as error:
        if isinstance(error, OSError):  # the hub's answers: no such repository, gated
            raise
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


@contextmanager
def cache_only() -> Iterator[None]:
    """Calls use only what is in the caches on this machine; the hub is not asked."""
    from huggingface_hub import constants

    # `datasets` copies the switch when it is imported.
    switches: list[Any] = [constants, *filter(None, [sys.modules.get("datasets.config")])]
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    try:
        for switch in switches:
            switch.HF_HUB_OFFLINE = True
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value


def why_unreachable() -> str:
    """Why the hub cannot be reached, in a few words; "" if it answers, or if the libraries are offline on purpose."""
    from huggingface_hub import constants, is_offline_mode

    if is_offline_mode():
        return ""
    endpoint = constants.ENDPOINT
    asked, reason = _known.get(endpoint, (0.0, ""))
    if not asked or time.monotonic() - asked > SECONDS_REMEMBERED:
        reason = _ask(endpoint)
        _known[endpoint] = time.monotonic(), reason
    return reason


def is_reachable() -> bool:
    """Whether calls may ask the hub: the libraries are not offline on purpose, and it answers."""
    from huggingface_hub import is_offline_mode

    return not is_offline_mode() and not why_unreachable()


def http_errors() -> tuple[type[Exception], ...]:
    """What httpx raises for a failed request; since 2.0 the hub's library uses httpx2."""
    loaded = (sys.modules.get(name) for name in ("httpx", "httpx2"))
    return tuple(module.HTTPError for module in loaded if module is not None)


def _ask(endpoint: str) -> str:
    """Why this address does not answer within the limit; "" if it does, unless with a server's error."""
    limit = float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or SECONDS_TO_ANSWER)
    found = [f"{endpoint} did not answer within {limit:g} s; HF_HUB_ETAG_TIMEOUT sets another limit"]
    # A thread, since a request's own limit does not cover the look-up of its address; it only ends the thread.
    asking = threading.Thread(target=_head, args=(endpoint, 2 * limit, found), daemon=True)
    asking.start()
    asking.join(limit)
    return found[-1]


def _head(endpoint: str, limit: float, found: list[str]) -> None:
    session = importlib.import_module("huggingface_hub").get_session()
    try:
        status = session.head(endpoint, timeout=limit, follow_redirects=False).status_code
        # A server's error, often that of a proxy before it: the libraries would retry for half a minute.
        found.append(f"{endpoint} answered with status {status}" if status >= 500 else "")
    except Exception as error:  # of httpx or httpx2, of ssl, of a proxy's settings: none of them is an answer
        found.append(f"{endpoint}: {error or type(error).__name__}")
