"""What a run costs: wall time and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from tunelab.models.allocator import return_freed_memory

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall time, and peak bytes since the meter started: resident in this process, and on the GPU.

    `resident_start` is what was resident when the meter started: Python, its libraries, what earlier work left; None
    if the system does not say. `gpu_peak` is None without a GPU: unknown is not zero.
    """

    seconds: float
    resident_peak: int
    resident_start: int | None
    gpu_peak: int | None


class Meter:
    """Starts when it is created; can be read any number of times.

    On Linux the kernel's high-water mark is reset at the start, so that two runs in one process are measured
    separately; elsewhere the peak is that of the whole process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = time.perf_counter()
        return_freed_memory()
        reset_resident_peak()
        self.resident_start = resident_peak_bytes() if STATUS.exists() else None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> Cost:
        """The cost so far."""
        gpu = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        return Cost(time.perf_counter() - self.start, resident_peak_bytes(), self.resident_start, gpu)


def reset_resident_peak() -> None:
    """Reset the process's high-water mark of resident memory to the current value, if the system allows it."""
    try:
        CLEAR_REFS.write_text("5")  # proc(5): "5" resets VmHWM
    except OSError:
        return


def resident_peak_bytes() -> int:
    """Peak resident memory since the last reset (VmHWM), or since the process started if there is no /proc."""
    if STATUS.exists():
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere
