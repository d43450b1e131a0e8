"""train.deterministic: torch takes kernels that repeat their bits, or the run stops and names the operation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import recipe

from tunelab.errors import TrainingError
from tunelab.training.finetune import finetune
from tunelab.training.loop import TrainingLoop


@pytest.mark.parametrize("asked", [True, False])
def test_it_holds_in_every_step_and_not_after_the_run(
    asked: bool, models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    step = TrainingLoop._step

    def watched(*arguments: Any) -> Any:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return step(*arguments)

    monkeypatch.setattr(TrainingLoop, "_step", watched)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    finetune(recipe(models["llama"], rows, tmp_path / "run", train__deterministic=asked, train__steps=2))
    assert seen == [asked] * 2
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_such_a_kernel_stops_the_run(
    models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*arguments: Any) -> Any:
        raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set ...\nmore")

    monkeypatch.setattr(TrainingLoop, "_loss", refuses)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with pytest.raises(TrainingError, match=r"train.deterministic=true: cumsum_cuda_kernel does not have") as caught:
        finetune(recipe(models["llama"], rows, tmp_path / "run", train__deterministic=True))
    assert caught.value.hint == "set train.deterministic=false"
