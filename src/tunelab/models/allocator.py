"""The C library's allocator, set to keep freed memory in the process.

By default glibc gives large blocks back to the system as soon as they are freed and asks for them anew at the next
training step; every page is then faulted in and zeroed again, which takes up to half of a small model's step.
"""

from __future__ import annotations

import ctypes
import platform

# mallopt(3), malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

#: Freed bytes at the top of the heap that are kept. mallopt takes an int.
KEPT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep what is freed for the next allocation, for this process from now on; False where the C library is not glibc.

    Only the return to the system is put off, until return_freed_memory() or the process's end. Settings in the
    environment (MALLOC_ARENA_MAX, GLIBC_TUNABLES, ...) that concern other things stay in force.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # No block is mapped on its own: M_MMAP_THRESHOLD would be the gentler setting, but glibc caps it at 32 MiB.
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, KEPT))


def return_freed_memory() -> bool:
    """Give what is freed and kept back to the system, once; False where the C library is not glibc.

    A run that is measured does this first: it is not to be charged for what the process used before.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True
