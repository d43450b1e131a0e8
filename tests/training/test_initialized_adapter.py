"""A run whose adapter begins with initial matrices of PEFT's resumes to the bit and is evaluated over its own base."""

from __future__ import annotations

from pathlib import Path

import pytest
from repeatable import repeatable
from tiny import recipe

from tunelab.errors import Interrupted
from tunelab.publishing.merge import merge
from tunelab.training.finetune import finetune, resume
from tunelab.training.loop import TrainingLoop


@pytest.mark.parametrize("init", ["pissa", "eva", "mica", "corda"])
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(
    init: str, models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = {"rank": 2, "alpha": 4, "init": init, "targets": ["q_proj", "down_proj"]}
    common = {"adapter": adapter, "train__steps": 2, "train__save_every": 1, "data__held_out": 4}
    whole = finetune(recipe(models["llama"], rows, tmp_path / "whole", **common))
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_any_process", lambda self, flag: True)
        with pytest.raises(Interrupted):
            finetune(recipe(models["llama"], rows, tmp_path / "half", **common))
    half = resume(tmp_path / "half")
    assert repeatable(half.metrics()) == repeatable(whole.metrics())
    for name in ("weights_before", "weights_after", "held_out_loss_before", "held_out_loss_after"):
        assert half.manifest[name] == whole.manifest[name], name
    files = [(one.adapter / "adapter_model.safetensors").read_bytes() for one in (half, whole)]
    assert files[0] == files[1]
    if init == "pissa":
        merged = merge(whole, tmp_path / "merged")
        assert merged.check is not None and merged.check.passed
        assert merged.quality is not None and merged.quality.kl < 1e-6
