"""The C library's allocator, set to keep freed memory in the process.

By default glibc returns large blocks to the system when they are freed and requests them again at the next training
step. Every page is then faulted in and zeroed again, which takes up to half of a small model's step time.
"""

from __future__ import annotations

import ctypes
import platform

# mallopt(3), malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

#: Freed bytes at the top of the heap that are kept. mallopt takes an int.
KEPT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory for later allocations in this process; returns False if the C library is not glibc.

    Memory returns to the system on return_freed_memory() or when the process ends. Other allocator settings in the
    environment (MALLOC_ARENA_MAX, GLIBC_TUNABLES, ...) stay in force.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # Never mmap a block: raising M_MMAP_THRESHOLD would be gentler, but glibc caps it at 32 MiB.
    return bool(libc.mallopt(M_MMAP_MAX, 0)) and bool(libc.mallopt(M_TRIM_THRESHOLD, KEPT))


def return_freed_memory() -> bool:
    """Return freed memory to the system once; returns False if the C library is not glibc.

    Called before a measured run, so that its figures do not include what the process used before.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True
