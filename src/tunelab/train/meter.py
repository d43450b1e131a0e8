"""What a run costs: wall time, tokens per second, peak memory."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall time; peak bytes resident in this process since it began, and on the GPU since the meter started.

    `gpu_peak` is None where no GPU is used: unknown is not zero.
    """

    seconds: float
    resident_peak: int
    gpu_peak: int | None


class Meter:
    """Started when made; read as often as wanted."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> Cost:
        gpu = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None
        return Cost(time.perf_counter() - self.start, resident_peak_bytes(), gpu)


def resident_peak_bytes() -> int:
    """Largest resident memory that this process has had so far (getrusage: KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
