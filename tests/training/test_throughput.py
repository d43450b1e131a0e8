"""What a step's record says about time and memory, and the detail that progress shows of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tunelab.training import throughput
from tunelab.training.throughput import TIMING_FIELDS, WINDOW, Throughput, shown

RECORD = {
    "kind": "train", "step": 12, "steps": 300, "epoch": 0.3125, "loss": 2.3141, "gradient_norm": 0.8211, "lr": 2e-4,
    "tokens_per_second": 1234.4, "peak_resident_bytes": 812 * 2**20,
}  # fmt: skip


def test_tokens_per_second_are_a_mean_over_the_last_steps() -> None:
    measured = Throughput(torch.device("cpu"))
    measured.after_step(10**6, 1.0, 100)
    for _ in range(WINDOW):
        fields = measured.after_step(300, 2.0, 0)
    assert fields["tokens_per_second"] == 150 and fields["seconds"] == 2.0
    assert fields.keys() == set(TIMING_FIELDS) - {"peak_gpu_bytes"}


def test_seconds_left_count_all_time_since_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 108.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(now))
    fields = Throughput(torch.device("cpu")).after_step(300, 2.0, 5)
    assert fields["seconds_left"] == 40.0, "5 steps of 8 seconds: 2 of training, 6 of an evaluation or a checkpoint"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "loss 2.314  1,234 tokens/s  lr 0.0002  gradient norm 0.821  epoch 0.31  peak 812.0 MiB"),
        ({"gradient_norm": None}, "loss 2.314  1,234 tokens/s  lr 0.0002  gradients overflowed  epoch 0.31"),
        ({"peak_gpu_bytes": 3 * 2**30}, "epoch 0.31  peak 3.00 GiB"),
    ],
)
def test_a_record_is_shown_with_the_loss_first(changes: dict[str, Any], expected: str) -> None:
    assert expected in shown({**RECORD, **changes})
