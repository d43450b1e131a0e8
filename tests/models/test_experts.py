"""Mixtures of experts and unusual backbones: trained where they are right, else refused in words beforehand."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_architecture
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
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

from tunelab.errors import ModelError
from tunelab.models.adapters import add_lora, coverage, load_adapter, save_adapter
from tunelab.models.expert_adapters import stacked_targets
from tunelab.models.forward import backbone, packed_attention
from tunelab.models.linear_layers import linear_names
from tunelab.models.structure import check_own_logits, row_layout
from tunelab.models.targets import resolve_targets
from tunelab.publishing.merge import compare_merges, merge
from tunelab.training.expert_load import ExpertLoad
from tunelab.training.finetune import finetune
from tunelab.training.forecast import experts_sentence, router_loss_sentence
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


def test_a_router_is_adapted_where_it_is_named() -> None:
    model = mixture("mixtral")
    assert resolve_targets(model, ["q_proj", "gate"]) == ["q_proj"]
    assert stacked_targets(model, ["q_proj", "gate"]) == ["mlp.gate.weight"]
    found = coverage(add_lora(model, rank=2, alpha=4, targets=["q_proj", "gate"]))
    assert (found.layers, found.routers, found.expert_tensors, found.stacked_tensors) == (4, 2, 0, 4)
    with pytest.raises(ModelError, match=r"'w1' matches no linear layer of MixtralForCausalLM") as refused:
        resolve_targets(mixture("mixtral"), ["w1"])
    assert "experts.gate_up_proj" in refused.value.hint


def test_routers_that_are_linear_layers_are_neither_adapted_nor_quantized() -> None:
    model = tiny_architecture("qwen2_moe")
    assert not any("shared_expert_gate" in name for name in linear_names(model))
    assert resolve_targets(model, ["shared_expert_gate"]) == ["shared_expert_gate"]


def test_a_model_that_is_all_backbone_is_refused() -> None:
    small = {name: value for name, value in SHAPE.items() if name != "num_local_experts"}
    bare = LlamaModel(LlamaConfig(**small))
    with pytest.raises(ModelError, match="LlamaModel has no backbone apart from its output head"):
        backbone(bare)


STACKED = 2 * 4 * 3 * 48 * 32  # layers, experts, three matrices of each


@pytest.mark.parametrize("kind", ["mixtral", "llama4"])
@pytest.mark.parametrize("targets", ["all-linear", "attention"])
def test_what_of_a_mixture_has_an_adapter_is_said(kind: str, targets: str) -> None:
    model = add_lora(mixture(kind), rank=2, alpha=4, targets=targets)
    found, said = coverage(model), experts_sentence(coverage(model))
    assert said is not None
    if targets == "attention":
        assert (found.stacked_tensors, found.stacked_weights) == (4, STACKED) and found.layers == 8
        assert said.endswith("; no adapter on 36.9 k weights of experts in 4 tensors and routers")
    else:
        assert (found.expert_tensors, found.expert_weights, found.stacked_tensors) == (4, STACKED, 0)
        assert found.layers == {"mixtral": 8, "llama4": 14}[kind]
        assert said.endswith("and 36.9 k weights of experts in 4 stacked tensors; no adapter on routers")


def test_a_model_without_experts_is_covered() -> None:
    model = add_lora(tiny_model("llama"), rank=2, alpha=4)
    assert coverage(model).stacked_tensors == 0 and coverage(model).layers == 14
    assert experts_sentence(coverage(model)) is None


def test_experts_are_adapted_by_name_with_a_rank_each() -> None:
    model = add_lora(mixture("mixtral"), rank=2, alpha=4, targets=["experts.down_proj"])
    names = {name: tuple(one.shape) for name, one in model.named_parameters() if one.requires_grad}
    assert len(names) == 4 and set(names.values()) == {(4 * 2, 48), (32, 4 * 2)}


@pytest.mark.parametrize(("option", "key"), [({"dropout": 0.1}, "dropout=0.1"), ({"use_dora": True}, "use_dora=true")])
def test_what_peft_cannot_do_on_experts_is_refused(option: dict[str, Any], key: str) -> None:
    match = rf"adapter\.{key}: not possible on experts, whose weights are parameters .*\(experts\.down_proj\)"
    with pytest.raises(ModelError, match=match) as refused:
        add_lora(mixture("mixtral"), rank=2, alpha=4, **option)
    assert "attention" in refused.value.hint
    add_lora(mixture("mixtral"), rank=2, alpha=4, targets="attention", **option)


#: PEFT takes `shared_expert.gate_proj` of the first two for the experts of before, when they were linear layers.
@pytest.mark.parametrize("name", ["qwen2_moe", "deepseek_v3", "mixtral", "gpt_oss", "llama4_text"])
def test_saved_adapters_of_mixtures_load_here_and_in_plain_peft(name: str, tmp_path: Path) -> None:
    model = add_lora(tiny_architecture(name), rank=2, alpha=4).eval()
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(model, tmp_path)
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        own = load_adapter(tiny_architecture(name), tmp_path).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT reads a property that has another name now
            plain = PeftModel.from_pretrained(tiny_architecture(name), str(tmp_path)).eval()
        assert coverage(own) == coverage(model)
        for other in (own, plain):
            assert torch.allclose(other(input_ids=ids, use_cache=False).logits, expected, atol=1e-4)


def test_a_run_over_experts_counts_their_load_and_is_merged(rows: Path, tmp_path: Path) -> None:
    mixture("mixtral").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    said: list[str] = []
    run = finetune(recipe(tmp_path / "base", rows, tmp_path / "run", data__held_out=4), notify=said.append)
    assert any(one.startswith("mixture of experts: the adapter is on 8 linear layers with") for one in said)
    assert run.manifest["adapter"] == {
        "layers": 8, "weights": 2 * 3072, "expert_tensors": 4, "expert_weights": STACKED, "stacked_tensors": 0,
        "stacked_weights": 0, "routers": 0, "of": 8, "modules": {f"self_attn.{one}_proj": [0, 1] for one in "qkvo"},
        "from": None,
    }  # fmt: skip
    record = run.metrics("experts")[-1]
    assert record["load"].keys() == {"0", "1"} and record["unused"] == 0
    for shares in record["load"].values():
        assert sum(shares) == pytest.approx(1, abs=1e-4) and max(shares) <= record["largest_share"]
    assert set(compare_merges(run)) == {"fp32", "bf16", "fp16"}
    merged = merge(run, tmp_path / "merged")
    assert merged.check is not None and merged.check.layers == 8 + 4


@pytest.mark.parametrize("kind", ["mixtral", "llama4"])
def test_the_shares_of_experts_are_those_of_the_router(kind: str) -> None:
    model = mixture(kind).train()
    load, seen, ids = ExpertLoad(model), [], torch.arange(3, 15)[None]
    router = model.model.layers[1].mlp.gate if kind == "mixtral" else model.model.layers[1].feed_forward.router
    router.register_forward_hook(lambda module, given, output: seen.append(output[-1]))
    model(input_ids=ids, use_cache=False)
    chosen = seen[0] if kind == "mixtral" else seen[0].topk(model.config.num_experts_per_tok).indices
    expected = torch.bincount(chosen.flatten(), minlength=4) / chosen.numel()
    found = load.read()
    assert found is not None and found["load"]["1"] == pytest.approx(expected.tolist(), abs=1e-5)
    model.eval()(input_ids=ids, use_cache=False)
    assert load.read() is None, "evaluation is not counted"


@pytest.mark.parametrize("adds", [True, False])
def test_a_loss_of_routers_that_is_left_out_is_said(adds: bool) -> None:
    model = tiny_architecture("mixtral", output_router_logits=adds, router_aux_loss_coef=0.02)
    check_own_logits(model)
    said = router_loss_sentence(model)
    expected = "not in the loss: the routers' load-balancing loss (router_aux_loss_coef 0.02 in config.json)"
    assert said is not None and said.startswith(expected) if adds else said is None


def test_an_adapter_from_when_each_expert_had_linear_layers_loads(tmp_path: Path) -> None:
    """As PEFT saved it over transformers 4: matrices of each expert apart, under the names of before."""
    torch.manual_seed(9)
    model, tensors = mixture("mixtral"), {}
    with torch.no_grad():
        for layer, block in enumerate(model.model.layers):
            experts = block.mlp.experts
            parts = {"w1": experts.gate_up_proj[:, :48], "w3": experts.gate_up_proj[:, 48:], "w2": experts.down_proj}
            for name, weights in parts.items():
                for expert, weight in enumerate(weights):
                    a, b = torch.randn(2, weight.shape[1]) * 0.3, torch.randn(weight.shape[0], 2) * 0.3
                    key = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                    tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
                    weight += 3.0 * b @ a
    LoraConfig(r=2, lora_alpha=6, target_modules=["w1", "w2", "w3"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    adapted = load_adapter(mixture("mixtral"), tmp_path).eval()
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        found, expected = (one(input_ids=ids, use_cache=False).logits for one in (adapted, model))
        assert torch.allclose(found, expected, atol=1e-4)
