"""Experts stored in a weight format: what their model computes is what transformers computes with the same weights."""

from __future__ import annotations

import copy
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_architecture
from peft.tuners.lora.layer import ParamWrapper
from safetensors.torch import load_file, save_file
from tiny import recipe, tiny_tokenizer
from torch import Tensor, nn
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tunelab.answering.held_out_evaluation import evaluate
from tunelab.errors import Interrupted, ModelError
from tunelab.models.adapters import add_lora, coverage
from tunelab.models.digest import digest
from tunelab.models.expert_stack import ExpertLora, quantized_stacks
from tunelab.models.linear_layers import dense_stacks
from tunelab.models.load import load_model
from tunelab.models.loftq import absorb_quantization_error
from tunelab.models.merge import adapted_outputs, compare_outputs, dequantize_layers, merge_adapter
from tunelab.models.precision import weight_format
from tunelab.publishing.merge import merge
from tunelab.publishing.quantize import quantize
from tunelab.training.finetune import finetune, resume
from tunelab.training.forecast import dense_experts_sentence

IDS = torch.arange(3, 24)[None]


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def saved(name: str, folder: Path, **changes: Any) -> str:
    tiny_architecture(name, **changes).save_pretrained(folder)
    return str(folder)


def with_an_adapter(model: Any) -> Any:
    adapted = add_lora(model, rank=2, alpha=4)
    torch.manual_seed(3)
    for key, parameter in adapted.named_parameters():
        if "lora_B" in key:
            nn.init.normal_(parameter, std=0.3)
    return adapted.eval()


@pytest.mark.parametrize(
    ("name", "form"), [("mixtral", "nf4"), ("qwen2_moe", "int8"), ("granitemoe", "mxfp4"), ("gpt_oss", "nf4")]
)
def test_quantized_experts_compute_what_transformers_does_with_the_dequantized(
    name: str, form: str, tmp_path: Path
) -> None:
    model = load_model(saved(name, tmp_path), dtype=torch.float32, form=weight_format(form))
    assert len(quantized_stacks(model)) == 4 and not dense_stacks(model) and dense_experts_sentence(model) is None
    assert digest(model).parameters == digest(tiny_architecture(name)).parameters
    adapted = with_an_adapter(copy.deepcopy(model))
    assert coverage(adapted).expert_tensors == 4
    found, with_adapter, expected = logits(model), logits(adapted), adapted_outputs(adapted)
    dequantize_layers(model)
    assert not quantized_stacks(model)
    assert torch.allclose(logits(model), found, atol=1e-4), "transformers' own forward over the same weights"
    dequantize_layers(adapted)
    merged = merge_adapter(adapted)
    assert compare_outputs(expected, merged).passed
    assert float((with_adapter - found).abs().max()) > 1e-2
    assert torch.allclose(logits(merged), with_adapter, atol=1e-3)


@pytest.mark.parametrize("name", ["qwen2_moe", "mixtral", "gpt_oss"])
@pytest.mark.parametrize("skip", [[], ["experts.down_proj"]])
def test_matrices_have_the_names_that_they_have_over_full_weights(name: str, skip: list[str], tmp_path: Path) -> None:
    """PEFT nests the adapters of one module in the order of its parameters: a checkpoint's must not decide it."""
    form = weight_format("int8")
    over_codes = with_an_adapter(load_model(saved(name, tmp_path), dtype=torch.float32, form=form, skip=skip))
    found, expected = (
        {key: tuple(one.shape) for key, one in model.named_parameters() if "lora_" in key}
        for model in (over_codes, with_an_adapter(tiny_architecture(name)))
    )
    assert found == expected


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_gradients_of_adapted_experts_are_pefts_own(name: str) -> None:
    adapted = with_an_adapter(tiny_architecture(name))
    gradients = []
    for own in (True, False):
        for module in adapted.modules():
            if isinstance(module, ExpertLora | ParamWrapper):
                module.__class__ = ExpertLora if own else ParamWrapper
        adapted.zero_grad()
        adapted(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append({key: one.grad for key, one in adapted.named_parameters() if one.requires_grad})
    for key, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][key], rtol=1e-3, atol=1e-6), key
    assert any("experts" in key and bool(one.any()) for key, one in gradients[0].items())


@pytest.mark.parametrize("form", ["nf4", None])
def test_no_copy_of_an_expert_is_kept_for_backward(form: str | None, tmp_path: Path) -> None:
    precision = None if form is None else weight_format(form)
    model = load_model(saved("mixtral", tmp_path), dtype=torch.float32, form=precision)
    adapted = with_an_adapter(model)
    weights, kept = {one.data_ptr() for one in adapted.parameters()}, []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(0 if tensor.data_ptr() in weights else tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = adapted(input_ids=IDS[:, :6], labels=IDS[:, :6], use_cache=False).loss
    loss.backward()
    assert max(kept) < 64 * 72, "the smaller of an expert's two matrices"


def test_interrupted_and_resumed_a_run_over_experts_is_the_same_run(rows: Path, tmp_path: Path) -> None:
    saved("mixtral", tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    changes = {"precision": "int8", "train__steps": 4, "train__save_every": 2, "data__held_out": 0}
    whole = finetune(recipe(tmp_path / "base", rows, tmp_path / "whole", **changes))

    def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
        if stage == "training" and done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        finetune(recipe(tmp_path / "base", rows, tmp_path / "half", **changes), progress=stops)
    again = resume(tmp_path / "half")
    assert again.manifest["weights_after"] == whole.manifest["weights_after"]
    loads = [run.metrics("experts") for run in (whole, again)]
    assert [one["step"] for one in loads[0]] == [2, 4] and loads[0][0] == loads[1][0]


def test_experts_that_stay_dense_are_counted(tmp_path: Path) -> None:
    model = load_model(saved("llama4_text", tmp_path), dtype=torch.bfloat16, form=weight_format("nf4"))
    said = dense_experts_sentence(model)
    assert said is not None and said.startswith("experts are not quantized: 111 k of ") and " in bfloat16" in said
    skipped = load_model(
        saved("mixtral", tmp_path / "m"), dtype=torch.float32, form=weight_format("int8"), skip=["experts.down_proj"]
    )
    assert len(quantized_stacks(skipped)) == 2 and len(dense_stacks(skipped)) == 2


def test_quantized_experts_are_trained_over_but_not_stored(tmp_path: Path) -> None:
    folder = saved("mixtral", tmp_path / "base")
    tiny_tokenizer().save_pretrained(folder)
    match = r"is a mixture of experts, which cannot be stored quantized: model\.layers\.0\.\S*gate_up_proj and 3 more"
    with pytest.raises(ModelError, match=match) as refused:
        quantize(folder, tmp_path / "out", precision="nf4")
    assert "merge into bf16" in refused.value.hint and "in memory" in refused.value.hint
    adapted = add_lora(load_model(folder, dtype=torch.float32, form=weight_format("nf4")), rank=2, alpha=4)
    with pytest.raises(ModelError, match=r"LoftQ is not possible for quantized experts \(model\.layers\.0"):
        absorb_quantization_error(adapted, tmp_path)
    wrapper = next(module for module in adapted.modules() if isinstance(module, ExpertLora))
    with pytest.raises(ModelError, match="an adapter cannot be merged into experts stored in nf4"):
        wrapper.merge()


def as_gpt_oss_stores_it(folder: Path) -> Any:
    """A tiny checkpoint with blocks and scales; the model that transformers' own dequantization makes of it."""
    model = tiny_architecture("gpt_oss", intermediate_size=64)
    form, tensors = weight_format("mxfp4"), {}
    for name, weight in model.state_dict().items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = weight.clone()
            continue
        parts = [form.quantize(expert.T.contiguous()) for expert in weight]  # [in, out] each
        scales = torch.stack([part["scales"] for part in parts])
        blocks = torch.stack([part["codes"] for part in parts]).view(*scales.shape, 16)
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = blocks, scales
        parent, _, last = name.rpartition(".")
        dense = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        setattr(model.get_submodule(parent), last, nn.Parameter(dense, requires_grad=False))
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {**model.config.to_dict(), "architectures": ["GptOssForCausalLM"]}
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tiny_tokenizer().save_pretrained(folder)
    return model


def test_gpt_oss_in_its_own_mxfp4_goes_through_every_verb(rows: Path, tmp_path: Path) -> None:
    expected = as_gpt_oss_stores_it(tmp_path / "base")
    model = load_model(str(tmp_path / "base"), dtype=torch.float32, form=weight_format("mxfp4"))
    assert len(quantized_stacks(model)) == 4
    assert torch.allclose(logits(model), logits(expected), atol=1e-4)
    with pytest.raises(ModelError, match="its weights are stored in mxfp4, and precision is none"):
        load_model(str(tmp_path / "base"), dtype=torch.float32)
    changes = {"precision": "mxfp4", "data__held_out": 4, "train__steps": 3, "evaluate": {"max_new_tokens": 3}}
    said: list[str] = []
    run = finetune(recipe(tmp_path / "base", rows, tmp_path / "run", **changes), notify=said.append)
    assert any(one.startswith("mixture of experts: the adapter is on 8 linear layers") for one in said)
    assert run.manifest["model"]["digest"]["dtypes"]["mxfp4"] == 2 * 4 * 3 * 64 * 64
    assert run.manifest["held_out_loss_after"] < run.manifest["held_out_loss_before"]
    assert {one.name for one in evaluate(run).arms["tuned"]} >= {"completion_perplexity"}
    merged = merge(run, tmp_path / "merged")
    assert merged.format == "dequantised" and merged.check is not None
    with pytest.raises(ModelError, match="is a mixture of experts, which cannot be stored quantized"):
        merge(run, tmp_path / "again", format="mxfp4")


def test_a_damaged_stack_is_named(tmp_path: Path) -> None:
    as_gpt_oss_stores_it(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "intermediate_size": 32}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.experts\.gate_up_proj: a weight .* in mxfp4: codes is"):
        load_model(str(tmp_path / "base"), dtype=torch.float32, form=weight_format("mxfp4"))


@pytest.mark.parametrize("suffix", ["weight", "weight_packed"])
def test_experts_that_another_program_quantized_are_named(suffix: str, tmp_path: Path) -> None:
    """Those of bitsandbytes keep the name of the weight, those of compressed-tensors do not."""
    folder = Path(saved("mixtral", tmp_path))
    tensors = load_file(folder / "model.safetensors")
    of_experts = [name for name in tensors if ".experts." in name]
    codes = {name.removesuffix("weight") + suffix: torch.zeros(8, 1, dtype=torch.uint8) for name in of_experts}
    kept = {name: tensor for name, tensor in tensors.items() if name not in of_experts}
    save_file({**kept, **codes}, folder / "model.safetensors", {"format": "pt"})
    stored = weight_format("nf4").checkpoint_config([]) if suffix == "weight" else {
        "quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": stored}), encoding="utf-8")
    form = weight_format("nf4" if suffix == "weight" else "mxfp4")
    match = r"experts are stored quantized, each apart \(model\.layers\.0\.mlp\.experts\.0\.w\d\.weight"
    with pytest.raises(ModelError, match=match) as refused:
        load_model(str(folder), dtype=torch.float32, form=form)
    assert "use the unquantized checkpoint" in refused.value.hint
