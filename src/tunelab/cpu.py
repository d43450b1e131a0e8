"""The machine's memory, the instructions of its processor, the cores that may be used, and how torch's threads wait."""

from __future__ import annotations

import gc
import math
import os
import re
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

#: How often a waiting OpenMP thread looks again before it sleeps. GNU's default, 300,000 times, keeps a core busy for
#: milliseconds at the end of each operation: on a machine that does other work, threads then wait for threads that
#: cannot run. Measured idle and beside busy processes: benchmarks/busy_machine.py.
SPINS = 1000

#: What a user sets to choose this; then nothing is changed.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


#: Flags of processors that multiply in bfloat16, as Linux names them: AVX-512's, AMX's and Arm's.
BF16_PRODUCTS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """The processor's flags; empty where no Linux says.

    Args:
        root: where proc is.
    """
    try:
        text = (root / "proc" / "cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def has_bf16_products(root: Path = Path("/")) -> bool:
    """Whether the processor multiplies in bfloat16; others emulate it, slowly. False where no Linux says."""
    return not BF16_PRODUCTS.isdisjoint(cpu_flags(root))


def computes_in_bf16(checkpoint_bytes: int) -> bool:
    """Whether `train.dtype: auto` is bf16 on this CPU; see docs/decisions/0009-bf16-on-the-cpu.md.

    Args:
        checkpoint_bytes: bytes of a number in the model's checkpoint: 2 in bf16 and fp16, 4 in fp32.
    """
    return checkpoint_bytes == 2 and has_bf16_products()


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this machine's processes can still take: free memory and caches, or less where a control group of this
    process is limited to less.

    Args:
        root: where proc and sys are.
    """
    import psutil

    v2, v1 = _control_groups(root, "memory")
    left = [*map(_v2_memory_left, v2), *map(_v1_memory_left, v1)]
    return min(int(psutil.virtual_memory().available), *(size for size in left if size is not None), sys.maxsize)


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Let Python look for cycles less often while many objects are made that stay: each look goes through all of them,
    which is a tenth of the time of preparing 50,000 rows."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 50, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: those of its affinity, or fewer if its control group has a quota of CPU time.

    Args:
        root: where proc and sys are.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def set_thread_defaults(environment: MutableMapping[str, str], cores: int | None = None) -> None:
    """Set how OpenMP's threads wait, and their number where a quota allows less than all cores.

    OpenMP reads the environment once, when torch is loaded: call this before. What a user has set stays.

    Args:
        environment: os.environ; child processes inherit it.
        cores: cores that may be used; default: usable_cores().
    """
    if not any(name in environment for name in WAITING):
        environment["GOMP_SPINCOUNT"] = str(SPINS)
        environment["KMP_BLOCKTIME"] = "0"  # ms; Intel's and LLVM's OpenMP, in conda's builds and on macOS
    count = usable_cores() if cores is None else cores
    if count < (os.cpu_count() or 1):
        environment.setdefault("OMP_NUM_THREADS", str(count))


def _quota(root: Path) -> float | None:
    """The cores' worth of CPU time of this process's control group, from cgroup v2 or v1; None if not limited."""
    v2, v1 = _control_groups(root, "cpu")
    limits = [*map(_v2_limit, v2), *map(_v1_limit, v1)]
    return min((limit for limit in limits if limit is not None), default=None)


def _control_groups(root: Path, controller: str) -> tuple[list[Path], list[Path]]:
    """The folders of this process's control groups of cgroup v2, and of v1 with this controller ("cpu", "memory")."""
    own, groups = _lines(root / "proc" / "self" / "cgroup"), root / "sys" / "fs" / "cgroup"
    v2 = [line[3:].strip("/") for line in own if line.startswith("0::")]
    v1 = [line.split(":", 2)[2].strip("/") for line in own if controller in line.split(":")[1].split(",")]
    return (
        [group for place in v2 for group in _upwards(groups, place)],
        [group for place in v1 for group in _upwards(groups / controller, place)],
    )


def _upwards(groups: Path, place: str) -> list[Path]:
    """A control group's folder and those above it: each may set a limit. In a container only the top is visible."""
    folder = groups / place
    return [folder, *(above for above in folder.parents if above.is_relative_to(groups))]


def _v2_limit(group: Path) -> float | None:
    return _ratio(*" ".join(_lines(group / "cpu.max")).split()[:2])


def _v1_limit(group: Path) -> float | None:
    return _ratio(*_lines(group / "cpu.cfs_quota_us"), *_lines(group / "cpu.cfs_period_us"))


def _v2_memory_left(group: Path) -> int | None:
    return _left(group, "memory.max", "memory.current", "inactive_file")


def _v1_memory_left(group: Path) -> int | None:
    return _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _left(group: Path, limit: str, used: str, cache: str) -> int | None:
    """Bytes up to a control group's limit; files in its cache make room. None without a limit."""
    limits, usages = (" ".join(_lines(group / name)) for name in (limit, used))
    if not limits.isdigit() or not usages.isdigit():
        return None
    caches = [line.split()[1] for line in _lines(group / "memory.stat") if line.startswith(f"{cache} ")]
    return max(0, int(limits) - int(usages) + sum(map(int, caches)))


def _ratio(*words: str) -> float | None:
    """Quota over period, both in microseconds; "max" and -1 mean no limit."""
    if len(words) != 2 or not all(word.isdigit() and int(word) for word in words):
        return None
    return int(words[0]) / int(words[1])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return []
