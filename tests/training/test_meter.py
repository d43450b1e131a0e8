"""What a run costs is measured, and what cannot be measured is unknown."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tunelab.records.runs import new_run
from tunelab.training import meter
from tunelab.training.checkpoint import LoopState
from tunelab.training.manifest import closing
from tunelab.training.meter import Meter, reset_resident_peak, resident_peak_bytes

MIB = 2**20


def test_time_and_memory_on_a_cpu() -> None:
    started = Meter(torch.device("cpu"))
    before = resident_peak_bytes()
    block = np.ones(100 * 2**17)  # 100 MiB
    time.sleep(0.01)
    cost = started.read()
    assert block.any()
    assert 0.01 <= cost.seconds < 60
    assert cost.resident_peak >= max(before, 100 * MIB)
    assert cost.gpu_peak is None
    assert cost.resident_start is None or 10 * MIB < cost.resident_start <= cost.resident_peak - 90 * MIB
    assert started.read().seconds > cost.seconds


@pytest.mark.skipif(not meter.STATUS.exists(), reason="needs /proc, as Linux has it: the peak can be reset there alone")
def test_a_run_is_not_charged_for_what_was_used_before_it() -> None:
    block = np.ones(300 * 2**17)
    high = resident_peak_bytes()
    del block
    Meter(torch.device("cpu"))
    assert resident_peak_bytes() < high - 200 * MIB


def test_without_proc_the_peak_is_getrusage_s_in_the_system_s_unit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Usage:
        ru_maxrss = 2048

    monkeypatch.setattr(meter, "STATUS", tmp_path / "none")
    monkeypatch.setattr(meter, "CLEAR_REFS", tmp_path / "none" / "none")
    monkeypatch.setattr(meter.resource, "getrusage", lambda who: Usage())
    reset_resident_peak()  # not possible there, and no error

    def under(platform: str) -> Any:
        monkeypatch.setattr(meter.sys, "platform", platform)
        return resident_peak_bytes()

    assert (under("linux"), under("darwin")) == (2048 * 1024, 2048)


def test_the_peak_is_that_of_all_sessions(tmp_path: Path) -> None:
    """A run that is resumed at its last step uses little memory in its last session."""
    run = new_run(tmp_path / "run", "")
    run.update_manifest(weights_before="1")
    run.append_metrics({"kind": "train", "step": 1, "loss": 1.0, "peak_resident_bytes": 2**50})
    state = LoopState(step=1, tokens=1, seconds=1.0)
    found = closing(run, "2", state, Meter(torch.device("cpu")), "finished")
    assert (found["peak_resident_bytes"], found["peak_gpu_bytes"]) == (2**50, None)
