"""Mixtures of experts and unusual backbones: trained where they are right, else refused in words beforehand."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import VOCABULARY, recipe, tiny_model, tiny_tokenizer
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaModel,
    MixtralConfig,
    MixtralForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
)

from tunelab.config import as_recipe
from tunelab.errors import ModelError
from tunelab.models.adapters import add_lora, coverage, resolve_targets
from tunelab.models.forward import backbone, packed_attention
from tunelab.models.linear_layers import linear_names
from tunelab.models.load import load_model
from tunelab.models.precision import weight_format
from tunelab.models.structure import row_layout
from tunelab.publishing.merge import compare_merges
from tunelab.publishing.quantize import quantize
from tunelab.training.finetune import finetune
from tunelab.training.forecast import experts_warning
from tunelab.training.loss import TargetLoss

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "pad_token_id": 257,
    "bos_token_id": 256, "eos_token_id": 256, "max_position_embeddings": 128,
}  # fmt: skip


def mixture(kind: str) -> Any:
    torch.manual_seed(5)
    if kind == "mixtral":
        return MixtralForCausalLM(MixtralConfig(**SHAPE)).eval()
    if kind == "phimoe":
        return PhimoeForCausalLM(PhimoeConfig(**SHAPE)).eval()
    return Llama4ForCausalLM(Llama4TextConfig(**SHAPE, intermediate_size_mlp=48, head_dim=8)).eval()


@pytest.mark.parametrize("kind", ["mixtral", "phimoe", "llama4"])
def test_routers_get_no_adapter_and_a_step_runs(kind: str) -> None:
    model = mixture(kind)
    before = torch.random.get_rng_state()
    assert not any(name.endswith((".router", ".gate")) for name in linear_names(model.train()))
    assert torch.equal(torch.random.get_rng_state(), before), "training is seeded"
    assert row_layout(model.eval()) == ("padded" if kind == "llama4" else "packed")
    ids, labels = torch.arange(3, 15), torch.arange(4, 15)
    own = float(model(input_ids=ids[None], labels=ids[None]).loss.detach())
    module = TargetLoss(add_lora(model, rank=2, alpha=4)).train()
    with packed_attention(module.model) if kind != "llama4" else nullcontext():
        loss = module(ids, torch.tensor([0, 12]), torch.arange(11), labels)
        loss.backward()
    if kind != "phimoe":  # its router draws random numbers in training
        assert float(loss.detach()) / 11 == pytest.approx(own, rel=1e-4)
    assert any(part.grad is not None and bool(part.grad.any()) for part in module.parameters())


def test_a_linear_layer_with_a_forward_of_its_own_still_counts() -> None:
    shape = {name: SHAPE[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    names = linear_names(FalconForCausalLM(FalconConfig(**shape)))
    assert "transformer.h.0.mlp.dense_h_to_4h" in names and len(names) == 8


def test_a_router_cannot_be_named_as_a_target() -> None:
    with pytest.raises(ModelError, match=r"adapter\.targets: 'router' matches no linear layer of PhimoeForCausalLM"):
        resolve_targets(mixture("phimoe"), ["router"])


def test_a_model_that_is_all_backbone_is_refused() -> None:
    small = {name: value for name, value in SHAPE.items() if name != "num_local_experts"}
    bare = LlamaModel(LlamaConfig(**small))
    with pytest.raises(ModelError, match="LlamaModel has no backbone apart from its output head"):
        backbone(bare)


@pytest.mark.parametrize("kind", ["mixtral", "llama4"])
@pytest.mark.parametrize("targets", ["all-linear", "attention"])
def test_experts_without_an_adapter_are_counted(kind: str, targets: str) -> None:
    model = add_lora(mixture(kind), rank=2, alpha=4, targets=targets)
    found = coverage(model)
    assert (found.stacked_tensors, found.stacked_weights) == (4, 2 * 4 * 3 * 48 * 32)
    asked = as_recipe({"model": "m", "data": "d.jsonl", "adapter": {"targets": targets}})
    warning = experts_warning(asked, model)
    if targets == "attention":
        assert warning is None and found.layers == 8
    else:
        assert warning is not None and "36.9 k weights in 4 stacked tensors" in warning
        assert found.layers == {"mixtral": 8, "llama4": 14}[kind], "what the experts share is adapted"


def test_a_model_without_experts_is_covered() -> None:
    model = add_lora(tiny_model("llama"), rank=2, alpha=4)
    assert coverage(model).stacked_tensors == 0 and coverage(model).layers == 14
    assert experts_warning(as_recipe({"model": "m", "data": "d.jsonl"}), model) is None


@pytest.mark.parametrize("kind", ["mixtral", "llama4"])
@pytest.mark.parametrize("name", ["nf4", "int8", "mxfp4"])
def test_stacked_experts_are_not_quantized_in_part(kind: str, name: str, tmp_path: Path) -> None:
    mixture(kind).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    match = r"is a mixture of experts, which cannot be quantized: model\.layers\.0\.\S*experts\.gate_up_proj and 3 more"
    with pytest.raises(ModelError, match=match) as refused:
        load_model(str(tmp_path / "base"), dtype=torch.float32, form=weight_format(name))
    assert "use precision=none" in refused.value.hint
    with pytest.raises(ModelError, match=match):
        quantize(tmp_path / "base", tmp_path / "out", precision=name)
    assert not (tmp_path / "out").exists()


def test_a_run_over_experts_is_merged_into_dense_formats(rows: Path, tmp_path: Path) -> None:
    mixture("mixtral").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    said: list[str] = []
    run = finetune(recipe(tmp_path / "base", rows, tmp_path / "run", data__held_out=4), notify=said.append)
    warning = [one for one in said if "experts get no adapter" in one]
    assert len(warning) == 1 and "4 stacked tensors" in warning[0] and "on 8 linear layers" in warning[0]
    assert run.manifest["adapter"] == {
        "layers": 8, "weights": 2 * 3072, "stacked_tensors": 4, "stacked_weights": 2 * 4 * 3 * 48 * 32
    }  # fmt: skip
    assert set(compare_merges(run)) == {"fp32", "bf16", "fp16"}
