"""Freed memory stays in the process once it is asked for, and only where the C library is glibc."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from tunelab.models import allocator

#: Frees a block of 64 MiB and says what the process still holds of it, in MiB.
SCRIPT = """
import ctypes, sys
from tunelab.models.allocator import keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
said = keep_freed_memory() if sys.argv[1] == "keep" else None
before = resident()
block = libc.malloc(64 * 2**20)
ctypes.memset(block, 1, 64 * 2**20)
held = resident() - before
libc.free(block)
print(said, round(held), round(resident() - before))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc: mallopt is its own")
@pytest.mark.parametrize(("word", "kept"), [("keep", True), ("leave", False)])
def test_freed_memory_is_kept_once_asked_for(word: str, kept: bool) -> None:
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    done = subprocess.run([sys.executable, "-c", SCRIPT, word], capture_output=True, text=True, env=quiet, timeout=200)
    assert done.returncode == 0, done.stderr
    said, held, after = done.stdout.split()
    assert said == str(True if kept else None) and int(held) >= 60
    assert (int(after) >= 60) is kept


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("musl has no mallopt"))
    assert allocator.keep_freed_memory() is False


@pytest.mark.parametrize(("answers", "expected"), [((1, 1), True), ((0, 1), False), ((1, 0), False)])
def test_a_refused_setting_is_told(answers: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def __init__(self, name: None) -> None:
            self.answers = dict(zip((allocator.M_MMAP_MAX, allocator.M_TRIM_THRESHOLD), answers, strict=True))

        def mallopt(self, parameter: int, value: int) -> int:
            assert value < 2**31, "mallopt takes an int"
            return self.answers[parameter]

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(allocator.ctypes, "CDLL", Library)
    assert allocator.keep_freed_memory() is expected
