"""LoRA over a base in few bits: it learns what LoRA over the full base learns, resumes exactly, and keeps no copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rounding import assert_same_but_for_rounding
from sampled import sampled
from tiny import FAMILIES, model_folder, recipe, rows_file, tiny_model

from tunelab.answering.held_out_evaluation import evaluate
from tunelab.errors import Interrupted, ModelError, UsageError
from tunelab.models.adapters import add_lora
from tunelab.models.load import load_model
from tunelab.models.precision import weight_format
from tunelab.models.quantized_linear import quantized_layers
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune, resume

FORMATS = ("nf4", "fp4", "int8", "mxfp4")


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows_file(tmp_path_factory.mktemp("rows") / "rows.jsonl", rows=120)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that knows something: every weight trained on rows of the same kind as those that it is tuned on."""
    root = tmp_path_factory.mktemp("learned")
    base = model_folder(root / "base", "llama", hidden_size=64, intermediate_size=128)
    other = rows_file(root / "other.jsonl", rows=100, seed=11)
    changes = {"method": "full", "train__steps": 150, "train__lr": 3e-3, "train__batch_size": 8}
    return finetune(recipe(base, other, root / "run", **changes)).model


@pytest.fixture(scope="module")
def full_base(learned: Path, many_rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return losses(finetune(tuning(learned, many_rows, tmp_path_factory.mktemp("none") / "run")))


def tuning(base: Path, rows: Path, out: Path, **changes: Any) -> dict[str, Any]:
    settings = {"data__held_out": 30, "train__steps": 60, "train__batch_size": 8, "train__lr": 5e-3, **changes}
    return recipe(base, rows, out, **settings)


def losses(run: Run) -> dict[str, float]:
    """Mean loss of base and tuned on the held-out answers."""
    found = evaluate(run, max_new_tokens=1).likelihoods
    return {
        arm: sum(row.completion_nll for row in rows) / sum(row.completion_tokens for row in rows)
        for arm, rows in found.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("precision", FORMATS)
def test_it_learns_what_lora_over_the_full_base_learns(
    precision: str, learned: Path, many_rows: Path, full_base: dict[str, float], tmp_path: Path
) -> None:
    run = finetune(tuning(learned, many_rows, tmp_path / "run", precision=precision))
    found = losses(run)
    assert found["base"] != full_base["base"] and abs(found["base"] - full_base["base"]) < 0.15 * full_base["base"]
    assert found["tuned"] < found["base"] - 0.01
    assert abs(found["tuned"] - full_base["tuned"]) < 0.1 * full_base["tuned"]
    digest = run.manifest["model"]["digest"]
    assert digest["modules"]["QuantizedLinear"] == 14 and precision in digest["dtypes"]
    header = json.loads(next(run.evaluations.glob("tuned-*/responses.jsonl")).read_text("utf-8").splitlines()[0])
    assert precision in json.dumps(header)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "init", "optimizer"), [("nf4", "zero", "adamw-8bit"), ("mxfp4", "loftq", "adamw")]
)
def test_interrupted_and_resumed_it_is_the_same_run(
    precision: str, init: str, optimizer: str, learned: Path, many_rows: Path, tmp_path: Path
) -> None:
    changes = {"precision": precision, "adapter__init": init, "train__save_every": 4, "train__eval_every": 3}
    changes |= {"train__optimizer": optimizer, "adapter__rank": 64}  # 64 x 64: large enough for 8 bits
    whole = finetune(tuning(learned, many_rows, tmp_path / "whole", **changes))

    def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
        import os
        import signal

        if stage == "training" and done == 10:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        finetune(tuning(learned, many_rows, tmp_path / "half", **changes), progress=stops)
    again = resume(tmp_path / "half")
    assert again.manifest["weights_after"] == whole.manifest["weights_after"]
    assert again.manifest["weights_before"] == whole.manifest["weights_before"]


@pytest.mark.parametrize(("name", "checkpointing"), sampled(FORMATS, [False, True]))
def test_nothing_as_large_as_a_weight_is_kept_for_backward(name: str, checkpointing: bool, tmp_path: Path) -> None:
    tiny_model("llama", hidden_size=256, intermediate_size=512).save_pretrained(tmp_path)
    model = add_lora(load_model(str(tmp_path), dtype=torch.float32, form=weight_format(name)), rank=4, alpha=8)
    if checkpointing:
        from tunelab.training.setup import enable_activation_checkpointing

        enable_activation_checkpointing(model.get_base_model())
    model.train()
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    ids = torch.arange(6)[None]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=ids).logits.square().mean()
    largest = max(layer.in_features * layer.out_features for layer in quantized_layers(model).values())
    head = 264 * 256  # dense, and not quantised
    assert sorted(set(kept))[-1] <= head < largest
    loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora_" in name)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_the_adapter_are_those_over_the_dequantised_model(family: str, tmp_path: Path) -> None:
    from tunelab.models.merge import dequantize_layers

    tiny_model(family).save_pretrained(tmp_path)
    gradients = []
    for dense in (False, True):
        model = add_lora(load_model(str(tmp_path), dtype=torch.float32, form=weight_format("nf4")), rank=4, alpha=8)
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if "lora_B" in name:
                torch.manual_seed(number)
                torch.nn.init.normal_(parameter, std=0.1)
        if dense:
            dequantize_layers(model)
        model(input_ids=torch.arange(9)[None]).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for name, gradient in gradients[0].items():
        assert_same_but_for_rounding([gradient], [gradients[1][name]])


def test_pefts_own_merge_is_refused(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    model = add_lora(load_model(str(tmp_path), dtype=torch.float32, form=weight_format("nf4")), rank=4, alpha=8)
    with pytest.raises(ModelError, match="an adapter cannot be merged into weights stored in nf4"):
        model.merge_and_unload()


def test_options_that_a_format_does_not_have(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    wrong = {"name": "nf4", "options": {"scale_rule": "even"}}
    with pytest.raises(UsageError, match="nf4 has no option 'scale_rule'"):
        finetune(recipe(models["llama"], rows, tmp_path / "run", precision=wrong))
