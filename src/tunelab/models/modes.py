"""Evaluation mode for a while, one thread at a time, without torch at import time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, RLock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import nn

_turns: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
_turns_lock = Lock()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No dropout within the block; on exit every module's own mode is restored.

    Other threads that want to evaluate the same model wait: its attention, its modes and its layers' forward passes are
    set for the work of one of them.
    """
    with one_at_a_time(model):
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


@contextmanager
def one_at_a_time(model: nn.Module) -> Iterator[None]:
    """Only one thread is in the block of a model at any time. It may enter again."""
    get_base_model = getattr(model, "get_base_model", None)
    base = get_base_model() if get_base_model is not None else model
    with _turns_lock:
        turn = _turns.setdefault(base, RLock())
    with turn:
        yield
