"""GGUF files hold the model: read back tensor by tensor, loaded by transformers, and run by llama.cpp where it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_files import needs_llama_cpp, next_token_of_both, with_merges
from sampled import sampled
from tiny import FAMILIES, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, MptConfig, MptForCausalLM

from tunelab.errors import ModelError, UsageError
from tunelab.models.gguf.settings import file_context
from tunelab.models.gguf.tensors import Kind
from tunelab.publishing.gguf_file import check_gguf, write_gguf

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [3.0, 2.0, 4.0, 5.0],
    "original_max_position_embeddings": 256,
    "partial_rotary_factor": 1.0,
}
#: name -> (family, changes of its config).
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, wide heads": ("llama", {"head_dim": 16}),
    "llama 3": ("llama", {"max_position_embeddings": 128, "rope_parameters": LLAMA3_ROPE}),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "gpt2, untied": ("gpt2", {"tie_word_embeddings": False}),
    "phi3, window": ("phi3", {"sliding_window": 64}),
    "phi3, longrope": (
        "phi3",
        {"max_position_embeddings": 512, "original_max_position_embeddings": 256, "rope_parameters": LONGROPE},
    ),
}


def made(name: str) -> Any:
    family, changes = MODELS[name]
    model = tiny_model(family, **{key: dict(v) if isinstance(v, dict) else v for key, v in changes.items()})
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that are all ones and zeros would prove nothing
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
    return model


def field(path: Path, key: str) -> Any:
    found = gguf.GGUFReader(path).get_field(key)
    return None if found is None else found.contents()


def kinds(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize(
    ("name", "kind", "dtype"),
    sampled(list(MODELS), ["F16", "Q8_0"], [torch.float32, torch.bfloat16, torch.float16]),
)
def test_every_tensor_reads_back(name: str, kind: Kind, dtype: torch.dtype, tmp_path: Path) -> None:
    model = made(name).to(dtype)
    path = tmp_path / "model.gguf"
    write_gguf(model, tiny_tokenizer(), path, kind=kind, name="tuned")
    extra = {"llama 3": 1, "phi3, longrope": 2}.get(name, 0)
    assert check_gguf(model, path, kind) == len(list(model.parameters())) + extra
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.gguf"]
    assert field(path, "general.name") == "tuned"


def test_weights_are_of_the_kind_and_small_tensors_full(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(made("gpt2"), tiny_tokenizer(), path, kind="Q8_0")
    found = kinds(path)
    assert found["blk.0.attn_qkv.weight"] == found["token_embd.weight"] == "Q8_0"
    assert found["position_embd.weight"] == found["blk.0.attn_qkv.bias"] == found["output_norm.weight"] == "F32"
    assert "output.weight" not in found
    write_gguf(made("llama"), tiny_tokenizer(), path, kind="Q8_0")
    assert kinds(path)["blk.0.ffn_down.weight"] == "F16"  # rows of 48 are no multiple of 32
    assert kinds(path)["blk.0.ffn_up.weight"] == "Q8_0"
    write_gguf(made("llama"), tiny_tokenizer(), path)
    assert set(kinds(path).values()) == {"F16", "F32"}


def test_metadata_tell_the_shape(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(made("llama, wide heads"), tiny_tokenizer(), path)
    expected = {
        "general.architecture": "llama",
        "general.file_type": 1,
        "llama.context_length": 128,
        "llama.embedding_length": 32,
        "llama.block_count": 2,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": 264,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.padding_token_id": 257,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": None,
    }
    assert {key: field(path, key) for key in expected} == expected
    assert field(path, "llama.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    write_gguf(made("phi3, window"), tiny_tokenizer(), path, kind="Q8_0")
    assert (field(path, "phi3.context_length"), field(path, "general.file_type")) == (64, 7)
    write_gguf(made("phi3, longrope"), tiny_tokenizer(), path)
    assert field(path, "phi3.rope.scaling.original_context_length") == 256
    assert field(path, "phi3.rope.scaling.attn_factor") == pytest.approx((1 + np.log(2) / np.log(256)) ** 0.5)
    write_gguf(made("llama, linear"), tiny_tokenizer(), path)
    assert (field(path, "llama.rope.scaling.type"), field(path, "llama.rope.scaling.factor")) == ("linear", 4.0)


def test_llama_3_frequencies_are_divided_as_published(tmp_path: Path) -> None:
    """Meta's rule: long waves are slowed by the factor, short ones kept, those between interpolated."""
    path = tmp_path / "model.gguf"
    model = made("llama 3")
    write_gguf(model, tiny_tokenizer(), path)
    (stored,) = [tensor.data for tensor in gguf.GGUFReader(path).tensors if tensor.name == "rope_freqs.weight"]
    expected = []
    for index in range(4):
        wave = 2 * np.pi * 10000.0 ** (2 * index / 8)
        smooth = (32 / wave - 1.0) / (4.0 - 1.0)
        between = 1 / ((1 - smooth) / 8.0 + smooth)
        expected.append(1.0 if wave < 32 / 4.0 else 8.0 if wave > 32 / 1.0 else between)
    np.testing.assert_allclose(stored, expected, rtol=1e-6)
    assert {1.0, 8.0} <= {round(value, 5) for value in expected}


@pytest.mark.parametrize(("name", "longest", "context"), [("phi3, longrope", 512, 256), ("phi3, window", 128, 64)])
def test_the_context_is_one_in_which_llama_cpp_does_the_same(name: str, longest: int, context: int) -> None:
    """Beyond longrope's original context llama.cpp takes the long factors for short texts too."""
    config = made(name).config
    assert (config.max_position_embeddings, file_context("Phi3ForCausalLM", config)) == (longest, context)


@pytest.mark.parametrize("name", ["llama", "llama, tied", "gpt2", "phi3"])
def test_transformers_loads_the_file_as_the_same_model(name: str, tmp_path: Path) -> None:
    model = made(name) if name != "gpt2" else tiny_model("gpt2", n_positions=1024)
    tokenizer = with_merges()
    write_gguf(model, tokenizer, tmp_path / "m.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).eval()
    ids = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, got = model(ids).logits, loaded(ids).logits
    assert (expected - got).abs().max() < 5e-3 * expected.abs().max()
    again = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in ("the thin man, then; étude", "  <|im_start|>the\n\n12 hats<|im_end|>"):
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.chat_template == tokenizer.chat_template


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_runs_the_same_model(name: str, tmp_path: Path) -> None:
    expected, got = next_token_of_both(made(name), tmp_path / "m.gguf")
    assert (got - expected).abs().max() < 0.05  # its cache of keys and values is fp16


# Models and files that are refused.


def test_other_architectures_are_refused_with_the_command_of_llama_cpp(tmp_path: Path) -> None:
    model = MptForCausalLM(MptConfig(vocab_size=300, d_model=8, n_layers=1, n_heads=1))
    refused = "a MptForCausalLM is not among the models whose GGUF files are verified: LlamaForCausalLM, "
    with pytest.raises(ModelError, match=refused) as caught:
        write_gguf(model, tiny_tokenizer(), tmp_path / "m.gguf", kind="BF16")
    assert "python convert_hf_to_gguf.py MERGED --outfile model.gguf --outtype bf16" in caught.value.hint
    with pytest.raises(ModelError, match=refused):
        check_gguf(model, tmp_path / "m.gguf", "F16")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"hidden_act": "gelu"}, "only with hidden_act 'silu'; this model has 'gelu'"),
        ("gpt2", {"activation_function": "relu"}, "only with activation_function 'gelu_new'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "only with scale_attn_by_inverse_layer_idx False"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
            "with rotary embeddings of type 'dynamic' is not verified",
        ),
    ],
)
def test_what_llama_cpp_would_run_otherwise_is_refused(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        write_gguf(tiny_model(family, **changes), tiny_tokenizer(), tmp_path / "m.gguf")


def test_heads_that_are_rotated_in_part_are_refused(tmp_path: Path) -> None:
    model = made("llama")
    model.config.rope_parameters = {**model.config.rope_parameters, "partial_rotary_factor": 0.5}
    with pytest.raises(ModelError, match="a LlamaForCausalLM with heads that are rotated in part is not verified"):
        write_gguf(model, tiny_tokenizer(), tmp_path / "m.gguf")


def test_adapters_must_be_merged_first(tmp_path: Path) -> None:
    model = made("llama")
    model.model.layers[0].mlp.up_proj.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"GGUF has no name for model\.layers\.0\.mlp\.up_proj\.extra\.weight"):
        write_gguf(model, tiny_tokenizer(), tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("value", "kind"), [(1e5, "F16"), (float("nan"), "F16"), (float("inf"), "BF16"), (1e7, "Q8_0")]
)
def test_weights_that_do_not_fit_are_refused_and_the_old_file_stays(value: float, kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    model = made("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = value
    with pytest.raises(ModelError, match=rf"tensor 'blk.1.attn_q.weight' has a value of .*, which {kind} cannot hold"):
        write_gguf(model, tiny_tokenizer(), path, kind=kind)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(("name", "kind"), sampled(["llama", "gpt2", "phi3"], ["F16", "BF16", "Q8_0"]))
def test_a_file_that_does_not_hold_the_model_is_found_out(name: str, kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    model = made(name)
    write_gguf(model, tiny_tokenizer(), path, kind=kind)
    for parameter in model.parameters():
        place = tuple(size // 2 for size in parameter.shape)
        before = parameter.data[place].item()
        # A row of Q8_0 has at least 32 values with one scale: its steps are at most a 127th of the largest.
        parameter.data[place] = before + (0.02 * parameter.abs().max().item() if parameter.ndim > 1 else 1e-5)
        with pytest.raises(ModelError, match="does not hold the model's values"):
            check_gguf(model, path, kind)
        parameter.data[place] = before
    check_gguf(model, path, kind)


def test_a_file_of_another_model_or_kind_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(made("llama, tied"), tiny_tokenizer(), path)
    with pytest.raises(ModelError, match=r"tensor 'output.weight' is missing"):
        check_gguf(made("llama"), path, "F16")
    with pytest.raises(ModelError, match=r"tensor '.*' is F16, expected Q8_0"):
        check_gguf(made("llama, tied"), path, "Q8_0")
    write_gguf(made("llama"), tiny_tokenizer(), path)
    with pytest.raises(ModelError, match=r"tensor 'output.weight' is not in the model"):
        check_gguf(made("llama, tied"), path, "F16")


def test_without_the_gguf_package_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    for use in (
        lambda: write_gguf(made("llama"), tiny_tokenizer(), tmp_path / "m.gguf"),
        lambda: check_gguf(made("llama"), tmp_path / "m.gguf", "F16"),
    ):
        with pytest.raises(UsageError, match="needs the package gguf, which is not installed") as caught:
            use()
        assert caught.value.hint == 'pip install "tunelab[export]"'
