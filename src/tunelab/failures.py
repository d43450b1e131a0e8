"""Failures that tunelab did not raise itself, in words: what a library or the system said, and the remedy."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tunelab.errors import SAME_COMMAND, TunelabError

#: What the system says of a file or directory that cannot be used -> what it means, and the remedy.
SYSTEM_ERRORS = {
    errno.ENOSPC: ("no space is left on the disk", f"free space there, then {SAME_COMMAND}"),
    errno.EDQUOT: ("the disk quota is used up", f"free space there, then {SAME_COMMAND}"),
    errno.EFBIG: (
        "the file would be larger than the system allows",
        "raise the limit (`ulimit -f`) or use another disk",
    ),
    errno.EROFS: ("the file system is read-only", "choose a directory that can be written to"),
    errno.EACCES: ("no permission", "change its permissions, or choose another directory"),
    errno.EPERM: ("no permission", "change its permissions, or choose another directory"),
    errno.ENOTDIR: ("a file is where a directory is expected", "move the file away, or choose another directory"),
    errno.EEXIST: ("a file is where a directory is expected", "move the file away, or choose another directory"),
    errno.EISDIR: ("a directory is where a file is expected", "give a file, or choose another name"),
    errno.ENAMETOOLONG: ("the name is too long for the file system", "choose a shorter name"),
    errno.ELOOP: ("its symbolic links lead in a circle", "give the path of the file itself"),
    errno.EMFILE: ("the process has too many files open", "raise the limit (`ulimit -n`)"),
    errno.EIO: ("the disk failed to read or write", "check the disk; use another one"),
}

REPORT = "run it again with --debug and report the traceback"
MEMORY_REMEDY = (
    "lower train.micro_batch_tokens or adapter.rank, use a quantized base (precision=nf4) or a smaller model; "
    "other processes may hold memory too"
)
LONGEST_SENTENCE = 300

# Rust libraries (safetensors, tokenizers) and shutil pass the system's number on in their text alone.
_SYSTEM_NUMBER = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|Unable to allocate", re.IGNORECASE)


@contextmanager
def explained(what: str, kind: type[TunelabError], hint: str = "") -> Iterator[None]:
    """Turn any failure inside the block into an error about `what`, with the library's sentence.

    Args:
        what: the file, key or row that the block reads.
        kind: the error to raise.
        hint: the remedy.

    Raises:
        TunelabError: of this kind; one that was raised deliberately passes, and so do a full disk and lack of memory.
    """
    try:
        yield
    except TunelabError:
        raise
    except Exception as error:
        if is_of_machine(error):
            raise
        raise kind(f"{what}: {sentence(error)}", hint) from error


def is_of_machine(error: BaseException) -> bool:
    """Whether the machine is the cause (memory, disk), not what was read."""
    return _is_out_of_memory(error) or system_error(error) is not None


def in_words(error: BaseException) -> TunelabError:
    """An error for the user from any other failure; the failure itself is its cause.

    Source of an unknown one: the library whose code raised it, or the line of tunelab.
    """
    found = _in_words(error)
    found.__cause__ = error
    return found


def _in_words(error: BaseException) -> TunelabError:
    if isinstance(error, TunelabError):
        return error
    known = system_error(error)
    if known is not None:
        meaning, remedy = SYSTEM_ERRORS[known]
        return TunelabError(f"{_file_of(error)}: {meaning}", remedy)
    if _is_out_of_memory(error):
        return TunelabError(f"out of memory: {sentence(error)}", MEMORY_REMEDY)
    if isinstance(error, OSError) and error.strerror and error.filename:
        return TunelabError(f"{_file_of(error)}: {error.strerror}", "check the path and its permissions")
    package, line = _raised_in(error)
    if package == "tunelab":
        return TunelabError(f"unexpected {sentence(error)} ({line})", f"this is a defect of tunelab: {REPORT}")
    return TunelabError(f"{package} failed: {sentence(error)}", "--debug shows the traceback")


def sentence(error: BaseException) -> str:
    """The failure's kind and its first line of text: "ValueError: expected 3"."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
    shown = text if len(text) <= LONGEST_SENTENCE else f"{text[: LONGEST_SENTENCE - 3]}..."
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def system_error(error: BaseException) -> int | None:
    """The system's number (one of SYSTEM_ERRORS) of a failure, or of what caused it; None if there is none."""
    for link in chain(error):
        number = link.errno if isinstance(link, OSError) else None
        if number is None and (found := _SYSTEM_NUMBER.search(str(link))):
            number = int(found[1] or found[2])
        if number in SYSTEM_ERRORS:
            return number
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
    """A failure and what caused it, the last first."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        yield link
        seen.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _is_out_of_memory(error: BaseException) -> bool:
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None)


def _file_of(error: BaseException) -> str:
    named = (_named_by(link) for link in chain(error) if isinstance(link, OSError))
    return next((os.fsdecode(name) for name in named if isinstance(name, str | bytes | os.PathLike)), "a file")


def _named_by(error: OSError) -> object:
    """The file of an error; shutil's of a whole directory lists (source, copy, reason), and has none of its own."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return error.args[0][0][1]
    return error.filename


def _raised_in(error: BaseException) -> tuple[str, str]:
    """The package whose code raised a failure, and where ("data/reader.py, line 12"); Python's own is skipped."""
    package, place = "python", ""
    trace = error.__traceback__
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if name and name not in sys.stdlib_module_names:
            file = trace.tb_frame.f_code.co_filename
            package, place = name, f"{os.path.join(*file.split(os.sep)[-3:])}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return package, place
