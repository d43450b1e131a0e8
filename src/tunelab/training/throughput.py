"""Throughput of a training: what a step's record says about time and memory, and how a record is shown."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch

from tunelab.progress import SEPARATOR
from tunelab.records.runs import Run
from tunelab.training.meter import resident_peak_bytes
from tunelab.units import format_bytes, format_number, format_rate, format_significant

#: Fields of a step's record that depend on the machine and the moment: a resumed run repeats all others, bit for bit.
TIMING_FIELDS = ("seconds", "tokens_per_second", "seconds_left", "peak_resident_bytes", "peak_gpu_bytes")

#: Tokens per second are a mean over this many steps.
WINDOW = 20


class Throughput:
    """Measures one session of a training; starts when it is created.

    Args:
        device: peak GPU memory is measured if it is one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recent: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._steps = 0
        self._started = time.perf_counter()

    def after_step(self, tokens: int, seconds: float, steps_left: int) -> dict[str, float | int]:
        """TIMING_FIELDS after a step of this many tokens, which took this many seconds.

        Seconds left include what evaluations and checkpoints have cost per step so far. Memory is the peak since the
        run's start; GPU memory is missing without a GPU.
        """
        self._recent.append((tokens, seconds))
        self._steps += 1
        fields: dict[str, float | int] = {
            "seconds": seconds,
            "tokens_per_second": sum(count for count, _ in self._recent) / sum(took for _, took in self._recent),
            "seconds_left": steps_left * (time.perf_counter() - self._started) / self._steps,
            "peak_resident_bytes": resident_peak_bytes(),
        }
        if self._device.type == "cuda":
            fields["peak_gpu_bytes"] = torch.cuda.max_memory_allocated(self._device)
        return fields


def shown(record: Mapping[str, Any]) -> str:
    """A step's record as the detail of a progress: loss and tokens/s first."""
    norm = record["gradient_norm"]
    fields = [
        f"loss {format_number(record['loss'], 3)}",
        format_rate(record["tokens_per_second"]),
        f"lr {format_significant(record['lr'], 3)}",
        "gradients overflowed" if norm is None else f"gradient norm {format_significant(norm, 3)}",
        f"epoch {format_number(record['epoch'], 2)}",
        f"peak {format_bytes(record.get('peak_gpu_bytes', record['peak_resident_bytes']))}",
    ]
    return SEPARATOR.join(fields)


def last_rate(run: Run, step: int) -> float:
    """Tokens per second at this step, which an earlier session did; 0 if there is none."""
    rates = {int(one["step"]): one.get("tokens_per_second") for one in run.metrics("train")}
    return rates.get(step) or 0.0
