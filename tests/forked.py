"""Work in a forked child, for scripts that kill it: what the parent has imported costs an attempt nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any


def forked(work: Callable[[], Any]) -> int:
    """Process id of a child that does the work and exits: 0 done, 1 failed."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)
