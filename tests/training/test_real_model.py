"""The real pretrained model on real instructions: it learns, resumes to the same bits, and its adapter is PEFT's."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from repeatable import repeatable
from rounding import assert_same_but_for_rounding
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunelab.errors import Interrupted
from tunelab.models.adapters import load_adapter
from tunelab.models.load import load_model
from tunelab.models.merge import logits_of
from tunelab.models.structure import row_layout
from tunelab.publishing.merge import merge
from tunelab.training.finetune import finetune, resume


@pytest.fixture(scope="module")
def model(shared_data: Path) -> Path:
    return shared_data / "models" / "tinystories656k"


def made(model: Path, data: Path, out: Path) -> dict[str, Any]:
    return {
        "model": {"name": str(model)},
        "adapter": {"rank": 8, "dropout": 0.05},
        "data": {
            "sources": [{"name": "alpaca", "path": str(data)}],
            "size": 40,
            "held_out": 8,
            "max_length": 256,
        },
        "train": {"steps": 8, "batch_size": 4, "lr": 4e-3, "device": "cpu", "dtype": "fp32", "eval_every": 4},
        "out": str(out),
    }


def test_packed_sequences_are_right_for_it(model: Path) -> None:
    assert row_layout(load_model(str(model), dtype=torch.float32)) == "packed"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # from within PEFT
def test_it_learns_resumes_and_its_adapter_is_peft_s(model: Path, shared_data: Path, tmp_path: Path) -> None:
    whole_file = json.loads((shared_data / "alpaca" / "alpaca_cleaned.json").read_text(encoding="utf-8"))
    data = tmp_path / "alpaca.json"
    data.write_text(json.dumps(whole_file[:200]), encoding="utf-8")

    def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
        if stage == "training" and done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    whole = finetune(made(model, data, tmp_path / "whole"))
    with pytest.raises(Interrupted, match="stopped after step 3 of 8"):
        finetune(made(model, data, tmp_path / "halves"), progress=stops)
    halves = resume(tmp_path / "halves")
    assert repeatable(halves.metrics()) == repeatable(whole.metrics())
    assert halves.manifest["weights_after"] == whole.manifest["weights_after"]
    assert whole.manifest["held_out_loss_after"] < whole.manifest["held_out_loss_before"] - 0.1
    tokenizer = AutoTokenizer.from_pretrained(whole.tokenizer)
    rows = [tokenizer(text)["input_ids"] for text in ("Once upon a time", "Give three tips for staying healthy.")]
    ours = logits_of(load_adapter(load_model(str(model), dtype=torch.float32), whole.adapter), rows)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    untouched = logits_of(base, rows)
    plain = logits_of(PeftModel.from_pretrained(base, whole.adapter), rows)
    assert_same_but_for_rounding(plain, ours)
    for got, before in zip(plain, untouched, strict=True):
        assert float((got - before).abs().max()) > 0.1
    check = merge(whole, tmp_path / "merged", format="fp32").check
    assert check is not None and check.passed
