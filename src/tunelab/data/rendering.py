"""A chat template is a program that comes with a model: it renders within bounds of time, memory and size, or fails."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from tunelab.errors import ModelError
from tunelab.units import format_bytes

#: Of one conversation: far more than a real template needs, for which 10 ms are much.
SECONDS, BYTES = 10.0, 1 << 30
#: Characters of a rendered conversation: these, and this many per character of its turns.
CHARACTERS, CHARACTERS_PER_CHARACTER = 1_000_000, 20

REMEDY = "use a text template (data.template=alpaca), or another one (data.chat_template=FILE)"


#: The limit of memory is the process's: of two threads, the second would restore what the first had set.
_alone = threading.RLock()


class Expired(BaseException):
    """Raised by the clock of processor_seconds(); no `except Exception` of a library catches it."""


def rendered(apply: Callable[[], str], characters: int) -> str:
    """What a chat template gives for a conversation.

    Args:
        apply: renders it.
        characters: of all turns.

    Raises:
        ModelError: it takes too long, too much memory, or grows too large.
    """
    try:
        with _alone, processor_seconds(SECONDS), _bytes(BYTES):
            text = apply()
    except Expired:
        raise ModelError(
            f"the chat template renders one conversation for more than {SECONDS:g} s of processor time", REMEDY
        ) from None
    except MemoryError:
        raise ModelError(
            f"the chat template needs more than {format_bytes(BYTES)} for one conversation", REMEDY
        ) from None
    if len(text) > _most_characters(characters):
        raise ModelError(
            f"the chat template turns a conversation of {characters:,} characters into {len(text):,}", REMEDY
        )
    return text


def rendered_together(apply: Callable[[], list[str]], characters: Sequence[int]) -> list[str] | None:
    """What a chat template gives for several conversations within the bounds of one.

    Args:
        apply: renders them.
        characters: of all turns of each conversation.

    Returns:
        A text each; None where the template refuses one or leaves its bounds: rendered() says which, one by one.
    """
    try:
        with _alone, processor_seconds(SECONDS), _bytes(BYTES):
            texts = apply()
    except (Expired, Exception):
        return None
    fits = len(texts) == len(characters) and all(
        len(text) <= _most_characters(count) for text, count in zip(texts, characters, strict=True)
    )
    return texts if fits else None


def _most_characters(characters: int) -> int:
    return CHARACTERS + CHARACTERS_PER_CHARACTER * characters


@contextmanager
def processor_seconds(limit: float) -> Iterator[None]:
    """Raise Expired after this much processor time of the process. Only the main thread has such a clock."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expired(number: int, frame: FrameType | None) -> NoReturn:
        raise Expired

    before = signal.signal(signal.SIGVTALRM, expired)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _bytes(more: int) -> Iterator[None]:
    """Let the process's address space grow by this much only, where the system can say and limit it (Linux)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError, ValueError):
        with open("/proc/self/statm", encoding="ascii") as file:
            allowed = int(file.read().split()[0]) * resource.getpagesize() + more
        if soft == resource.RLIM_INFINITY or allowed < soft:
            resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
