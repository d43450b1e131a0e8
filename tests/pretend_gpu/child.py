"""Work on the pretend GPU in a forked child: the test's own process never believes in one."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from pretend_gpu import build

Result = TypeVar("Result")


def on_pretend_gpu(work: Callable[..., Result], *args: Any, capability: tuple[int, int] = (8, 0)) -> Result:
    """What `work(*args)` returns on a pretend GPU; its failure, as a failed assertion. Skips where there is none."""
    if reason := build.why_not():
        pytest.skip(reason)
    build.library()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _work_in_child(writer, work, args, capability)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert said, f"the child ended without a result (status {status})"
    failure, result = pickle.loads(said)
    assert not failure, failure
    return result  # type: ignore[no-any-return]


def _work_in_child(writer: int, work: Callable[..., Any], args: tuple[Any, ...], capability: tuple[int, int]) -> None:
    said: tuple[str, Any] = ("", None)
    try:
        from pretend_gpu.cuda_functions import pretend
        from pretend_gpu.device import PretendGpu

        pretend(capability)
        # A parent that has run a backward pass leaves its child an autograd engine without a thread for the GPU.
        with PretendGpu(), torch.autograd.set_multithreading_enabled(False):
            said = ("", work(*args))
    except BaseException:
        said = (traceback.format_exc(), None)
    finally:
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(pickle.dumps(said))
        os._exit(0)
