"""Loading with quantised layers: the same model however its files lie, all that was asked, and little memory."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from architectures import tiny_architecture
from rounding import assert_same_but_for_rounding
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, tiny_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tunelab.errors import ModelError
from tunelab.models.digest import digest
from tunelab.models.load import load_model
from tunelab.models.merge import dequantize_layers, logits_of, quantize_layers
from tunelab.models.precision import weight_format
from tunelab.models.quantized_linear import quantized_layers
from tunelab.models.quantized_save import save_quantized

FORMATS = ("nf4", "fp4", "int8", "mxfp4")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS = [[5, 9, 200, 31, 7], [3, 4, 5, 6]]
FP32 = torch.float32


def saved(path: Path, family: str, **changes: Any) -> Path:
    tiny_model(family, **changes).save_pretrained(path)
    return path


def wide(family: str) -> dict[str, int]:
    """A shape whose widths are whole blocks of every format."""
    return {"n_embd": 64} if family == "gpt2" else {"hidden_size": 64, "intermediate_size": 128}


def same_layers(one: Any, other: Any) -> None:
    """Two models have the same codes and scales, and the same other weights."""
    first, second = quantized_layers(one), quantized_layers(other)
    assert first.keys() == second.keys() and first
    for name, layer in first.items():
        assert all(torch.equal(tensor, second[name].packed[key]) for key, tensor in layer.packed.items()), name
    rest = dict(other.named_parameters())
    assert all(torch.equal(parameter, rest[name]) for name, parameter in one.named_parameters())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_but_the_head_is_quantised(family: str, name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, family)
    model = load_model(str(folder), dtype=FP32, form=weight_format(name))
    layers = quantized_layers(model)
    assert len(layers) == {"gpt2": 8, "llama": 14, "phi3": 8}[family]
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    assert digest(model).dtypes[name] == sum(layer.in_features * layer.out_features for layer in layers.values())
    assert not any(parameter.requires_grad for layer in layers.values() for parameter in layer.parameters())
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    # The dense model with the weights that the codes stand for gives the same logits.
    dense = tiny_model(family)
    for layer_name, layer in layers.items():
        own = dense.get_submodule(layer_name)
        own.weight.data.copy_(layer.weight.T if layer.from_conv1d else layer.weight)
    assert_same_but_for_rounding(logits_of(model, ROWS), logits_of(dense, ROWS))
    assert len(model.generate(torch.tensor([ROWS[0]]), max_new_tokens=3, do_sample=False)[0]) == 8


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_loaded_without_the_original(family: str, name: str, tmp_path: Path) -> None:
    if name == "mxfp4" and family == "gpt2":
        return  # TestForOtherPrograms: it is not written
    folder = saved(tmp_path / "dense", family, tie_word_embeddings=family == "llama", **wide(family))
    model = load_model(str(folder), dtype=torch.bfloat16, form=weight_format(name))
    (tmp_path / "few").mkdir()
    save_quantized(model, tmp_path / "few")
    again = load_model(str(tmp_path / "few"), dtype=torch.bfloat16, form=weight_format(name))
    same_layers(model, again)
    assert all(torch.equal(a, b) for a, b in zip(logits_of(model, ROWS), logits_of(again, ROWS), strict=True))
    with pytest.raises(ModelError, match=f"its weights are stored in {name}, and precision is none"):
        load_model(str(tmp_path / "few"), dtype=FP32)
    other = "int8" if name != "int8" else "nf4"
    with pytest.raises(ModelError, match=f"its weights are stored in {name}, and precision is {other}"):
        load_model(str(tmp_path / "few"), dtype=FP32, form=weight_format(other))


def test_buffers_that_a_checkpoint_has_are_saved_too(tmp_path: Path) -> None:
    model = tiny_architecture("apertus")  # the constants of its activation
    with torch.no_grad():
        model.model.layers[0].mlp.act_fn.beta.fill_(0.7)
    model.save_pretrained(tmp_path / "dense")
    first = load_model(str(tmp_path / "dense"), dtype=FP32, form=weight_format("nf4"))
    save_quantized(first, tmp_path / "stored")
    again = load_model(str(tmp_path / "stored"), dtype=FP32, form=weight_format("nf4"))
    same_layers(first, again)
    assert float(again.model.layers[0].mlp.act_fn.beta) == pytest.approx(0.7)


def test_double_quantisation_is_asked_for_as_it_is_stored(tmp_path: Path) -> None:
    form = weight_format("nf4", {"double_quantization": False})
    model = load_model(str(saved(tmp_path / "dense", "llama")), dtype=FP32, form=form)
    (tmp_path / "few").mkdir()
    save_quantized(model, tmp_path / "few")
    same_layers(model, load_model(str(tmp_path / "few"), dtype=FP32, form=form))
    with pytest.raises(ModelError, match="its weights are stored with double_quantization=False"):
        load_model(str(tmp_path / "few"), dtype=FP32, form=weight_format("nf4"))


def loaded_elsewhere(folder: Path) -> Any:
    """As a user of transformers loads it: no dtype given, nothing missing, nothing left over."""
    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    return model.eval()


def of_whole_blocks(layer: bitsandbytes.nn.Linear4bit, x: torch.Tensor) -> torch.Tensor:
    """The layer's product, its weight dequantised as blocks of 64.

    bitsandbytes' own forward is right on a GPU and on a CPU without AVX-512. With it, version 0.50 dequantises rows
    that are no whole blocks wrongly, and its kernel for AVX512-BF16 refuses them.
    """
    state = layer.weight.quant_state
    blocks = -(-state.shape.numel() // 64)
    scales = bitsandbytes.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    codes = torch.nn.functional.pad(layer.weight.data.view(-1), (0, blocks * 32 - layer.weight.numel()))
    weight = torch.ops.bitsandbytes.dequantize_4bit(codes, scales, 64, state.quant_type, (blocks, 64), x.dtype)
    return torch.nn.functional.linear(x, weight.view(-1)[: state.shape.numel()].view(state.shape), layer.bias)


class TestForOtherPrograms:
    """What is written, transformers loads with bitsandbytes or compressed-tensors; what it could not is refused."""

    @pytest.mark.parametrize(
        ("family", "name", "dtype"),
        [
            # Each family in each format once in `make test`, in one of the dtypes; all of them in `make test-slow`.
            pytest.param(*case, marks=() if sum(places) % 3 == 0 else pytest.mark.slow)
            for places, case in zip(
                itertools.product(range(len(FAMILIES)), range(len(FORMATS)), range(len(DTYPES))),
                itertools.product(FAMILIES, FORMATS, DTYPES),
                strict=True,
            )
        ],
    )
    def test_transformers_loads_it_in_its_default_dtype(
        self, family: str, name: str, dtype: torch.dtype, tmp_path: Path
    ) -> None:
        if name == "mxfp4" and family == "gpt2":
            return  # refused, below
        tiny_model(family, **wide(family)).to(dtype).save_pretrained(tmp_path / "dense")
        model = load_model(str(tmp_path / "dense"), dtype=dtype, form=weight_format(name))
        (tmp_path / "few").mkdir()
        save_quantized(model, tmp_path / "few")
        plain = loaded_elsewhere(tmp_path / "few")
        with torch.no_grad():
            logits = plain(torch.tensor([ROWS[0]])).logits[0].float()
        ours = load_model(str(tmp_path / "few"), dtype=FP32, form=weight_format(name))
        expected = logits_of(ours, ROWS)[0]
        # They compute in bfloat16, and LLM.int8 quantizes activations too.
        assert float((logits - expected).abs().max()) <= 0.05 * float(expected.abs().max())

    @pytest.mark.parametrize(
        "width", [pytest.param(33, marks=pytest.mark.slow), 48, 100]
    )  # 33: torch compiles a kernel
    @pytest.mark.parametrize("name", ["nf4", "fp4", "int8"])
    def test_bitsandbytes_loads_widths_that_are_no_whole_blocks(self, name: str, width: int, tmp_path: Path) -> None:
        heads = {33: 3, 48: 4, 100: 4}[width]
        folder = saved(tmp_path / "dense", "gpt2", n_embd=width, n_head=heads)
        (tmp_path / "few").mkdir()
        save_quantized(load_model(str(folder), dtype=FP32, form=weight_format(name)), tmp_path / "few")
        elsewhere = loaded_elsewhere(tmp_path / "few")
        for layer in elsewhere.modules():
            if isinstance(layer, bitsandbytes.nn.Linear4bit):
                layer.forward = partial(of_whole_blocks, layer)
        with torch.no_grad():
            logits = elsewhere(torch.tensor([ROWS[0]])).logits[0].float()
        expected = logits_of(load_model(str(tmp_path / "few"), dtype=FP32, form=weight_format(name)), ROWS)[0]
        assert float((logits - expected).abs().max()) <= 0.05 * float(expected.abs().max())

    def test_compressed_tensors_could_not_load_conv1d(self, tmp_path: Path) -> None:
        model = load_model(str(saved(tmp_path, "gpt2")), dtype=FP32, form=weight_format("mxfp4"))
        with pytest.raises(ModelError, match="compressed-tensors cannot store 8 of 8 layers in mxfp4: ") as refused:
            save_quantized(model, tmp_path)
        assert "transformer.h.0.attn.c_attn (a Conv1D), " in str(refused.value)
        assert refused.value.hint.startswith("write nf4, fp4 or int8; training with precision=mxfp4")

    @pytest.mark.parametrize("width", [33, 48, 100])
    def test_compressed_tensors_could_not_load_parts_of_blocks(self, width: int, tmp_path: Path) -> None:
        folder = saved(tmp_path / "dense", "llama", intermediate_size=width)
        model = load_model(str(folder), dtype=FP32, form=weight_format("mxfp4"))
        first = rf"model\.layers\.0\.mlp\.down_proj \({width} wide\), model\.layers\.1\.mlp\.down_proj"
        with pytest.raises(ModelError, match=f"cannot store 2 of 14 layers in mxfp4: {first}") as refused:
            save_quantized(model, tmp_path)
        assert "precision.skip=[mlp.down_proj]" in refused.value.hint
        (tmp_path / "few").mkdir()
        kept = load_model(str(folder), dtype=FP32, form=weight_format("mxfp4"), skip=["mlp.down_proj"])
        save_quantized(kept, tmp_path / "few")
        with torch.no_grad():
            logits = loaded_elsewhere(tmp_path / "few")(torch.tensor([ROWS[0]])).logits[0].float()
        expected = logits_of(kept, ROWS)[0]
        assert float((logits - expected).abs().max()) <= 0.05 * float(expected.abs().max())


def test_checkpoints_of_bitsandbytes_are_read(tmp_path: Path) -> None:
    """Written by transformers and bitsandbytes themselves, double quantisation on; and in 8 bits."""
    folder = saved(tmp_path / "dense", "llama", hidden_size=64, intermediate_size=128)
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    for name, config in (("nf4", four), ("int8", BitsAndBytesConfig(load_in_8bit=True))):
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.bfloat16)
        model.save_pretrained(tmp_path / name)
    rounded = tiny_model("llama", hidden_size=64, intermediate_size=128).bfloat16()
    rounded.save_pretrained(tmp_path / "rounded")
    for name in ("nf4", "int8"):
        theirs = load_model(str(tmp_path / name), dtype=torch.bfloat16, form=weight_format(name))
        ours = load_model(str(tmp_path / "rounded"), dtype=torch.bfloat16, form=weight_format(name))
        if name == "nf4":
            same_layers(theirs, ours)
        for key, layer in quantized_layers(theirs).items():
            difference = layer.packed["codes"].int() - quantized_layers(ours)[key].packed["codes"].int()
            assert int(difference.abs().max()) <= 1, key


def test_other_quantised_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="its weights are stored by gptq"):
        load_model(str(folder), dtype=FP32)


def test_shards_prefixes_and_other_dtypes_make_no_difference(tmp_path: Path) -> None:
    form = weight_format("mxfp4")
    whole = load_model(str(saved(tmp_path / "whole", "gpt2")), dtype=FP32, form=form)
    tiny_model("gpt2").save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    same_layers(whole, load_model(str(tmp_path / "shards"), dtype=FP32, form=form))
    # As GPT-2 lies on the hub: the backbone's names alone, and buffers that no longer exist.
    bare = saved(tmp_path / "bare", "gpt2")
    tensors = {name.removeprefix("transformer."): part for name, part in load_file(bare / "model.safetensors").items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    save_file(tensors, bare / "model.safetensors", metadata={"format": "pt"})
    same_layers(whole, load_model(str(bare), dtype=FP32, form=form))


def test_a_tied_weight_may_be_stored_as_the_heads(tmp_path: Path) -> None:
    form = weight_format("nf4")
    folder = saved(tmp_path, "llama", tie_word_embeddings=True)
    whole = load_model(str(folder), dtype=FP32, form=form)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    again = load_model(str(folder), dtype=FP32, form=form)
    same_layers(whole, again)
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_a_real_model_is_quantised(shared_data: Path) -> None:
    folder = shared_data / "models" / "tinystories656k"
    model = load_model(str(folder), dtype=FP32, form=weight_format("mxfp4"))
    dense = load_model(str(folder), dtype=FP32)
    few, full = logits_of(model, ROWS)[0], logits_of(dense, ROWS)[0]
    assert 0 < float((few - full).norm()) < 0.3 * float(full.norm())


def test_named_layers_are_left_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path / "dense", "llama")
    skip = ["down_proj", "model.layers.1.self_attn.q_proj"]
    model = load_model(str(folder), dtype=FP32, form=weight_format("nf4"), skip=skip)
    names = quantized_layers(model)
    assert len(names) == 11 and not any(name.endswith("down_proj") for name in names)
    assert "model.layers.0.self_attn.q_proj" in names and skip[1] not in names
    (tmp_path / "few").mkdir()
    save_quantized(model, tmp_path / "few")
    same_layers(model, load_model(str(tmp_path / "few"), dtype=FP32, form=weight_format("nf4")))
    with pytest.raises(
        ModelError, match=r"precision\.skip: 'c_attn' matches no linear layer of LlamaForCausalLM"
    ) as caught:
        load_model(str(folder), dtype=FP32, form=weight_format("nf4"), skip=["c_attn"])
    assert "mlp.down_proj" in caught.value.hint


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "llama")
    file = folder / "model.safetensors"
    whole = load_file(file)

    def refused(change: dict[str, Any], message: str) -> None:
        tensors = {name: part for name, part in {**whole, **change}.items() if part is not None}
        save_file(tensors, file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=message):
            load_model(str(folder), dtype=FP32, form=weight_format("nf4"))

    layer = "model.layers.0.mlp.up_proj"
    refused({f"{layer}.weight": None}, f"{layer}: the weight is missing")
    refused({f"{layer}.weight": torch.ones(3, 4)}, rf"{layer}: the weight is \(3, 4\), the model expects \(48, 32\)")
    bad = whole[f"{layer}.weight"].clone()
    bad[0, 0] = float("nan")
    refused({f"{layer}.weight": bad}, f"{layer}: a weight is infinite or NaN")
    refused({"model.norm.weight": None}, r"the weight files lack 1 weights of LlamaForCausalLM: model\.norm\.weight")
    refused({"model.norm.weight": torch.ones(3)}, r"model\.norm\.weight is \(3,\), the model expects \(32,\)")
    file.unlink()
    with pytest.raises(ModelError, match="no safetensors weights"):
        load_model(str(folder), dtype=FP32, form=weight_format("nf4"))


def test_saving_a_dense_model_this_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a checkpoint stores layers in one format; the model has none"):
        save_quantized(tiny_model("llama"), tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_dequantising_and_quantising_layers_of_a_model(family: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, family)
    model = load_model(str(folder), dtype=FP32, form=weight_format("int8"))
    before = logits_of(model, ROWS)
    dequantize_layers(model)
    assert not quantized_layers(model)
    assert_same_but_for_rounding(logits_of(model, ROWS), before)
    dense = AutoModelForCausalLM.from_pretrained(folder)
    quantize_layers(dense, weight_format("int8"))
    same_layers(dense, load_model(str(folder), dtype=FP32, form=weight_format("int8")))


PEAK = """
import sys, torch
from tunelab.models.digest import digest
from tunelab.models.load import load_model
from tunelab.models.precision import weight_format
def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))
weight_format("nf4").quantize(torch.randn(64, 64))  # libraries are loaded before it is measured
load_model(sys.argv[2], dtype=torch.bfloat16, form=weight_format("nf4"))
before = status("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the high-water mark starts anew
model = load_model(sys.argv[1], dtype=torch.bfloat16, form=weight_format(sys.argv[3]))
print(status("VmHWM") - before, digest(model).bytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers"), [("nf4", 6), ("mxfp4", 6), ("int8", 12)])
def test_loading_needs_little_more_than_the_quantised_model(name: str, layers: int, tmp_path: Path) -> None:
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": layers, "vocab_size": 4000}
    model = tiny_model("llama", **shape).bfloat16()
    dense = sum(parameter.nbytes for parameter in model.parameters())
    largest = max(parameter.nbytes for parameter in model.parameters())
    model.save_pretrained(tmp_path / "large")
    small = saved(tmp_path / "small", "llama")
    run = [sys.executable, "-c", PEAK, str(tmp_path / "large"), str(small), name]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    peak, size = map(int, done.stdout.split()[-2:])
    # The numbers in between while a weight is quantised, a part of it at a time, and what the process takes for itself.
    slack = 96 * 2**20
    assert peak <= size + largest + slack, f"{peak / 2**20:.0f} MiB, {size / 2**20:.0f} of them the model"
    assert size + largest + slack < dense  # which loading it dense first would need, and the quantised model besides
