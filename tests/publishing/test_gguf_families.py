"""Every family of models/gguf/families.py: its tensors read back, and llama.cpp gives the model's own logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from architectures import tiny_architecture
from gguf_files import LlamaCpp, needs_llama_cpp, next_token_of_both
from gguf_models import GGUF_MODELS, gguf_model, rounded
from tiny import tiny_model, tiny_tokenizer

from tunelab.errors import ModelError
from tunelab.models.gguf.families import FAMILIES
from tunelab.models.gguf.settings import check_settings
from tunelab.publishing.gguf_file import check_gguf, write_gguf


def field(path: Path, key: str) -> Any:
    found = gguf.GGUFReader(path).get_field(key)
    return None if found is None else found.contents()


def test_every_family_has_a_model_here() -> None:
    names = {type(gguf_model(name)).__name__ for name in GGUF_MODELS}
    assert names | {"GPT2LMHeadModel"} == FAMILIES.keys()  # GPT-2's is in test_gguf_file.py


@pytest.mark.parametrize("name", GGUF_MODELS)
def test_every_tensor_reads_back(name: str, tmp_path: Path) -> None:
    model, path = gguf_model(name).to(torch.bfloat16), tmp_path / "model.gguf"
    write_gguf(model, tiny_tokenizer(), path, kind="BF16")
    assert check_gguf(model, path, "BF16") >= len(list(model.parameters()))


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("name", GGUF_MODELS)
def test_llama_cpp_runs_the_same_model(name: str, tmp_path: Path) -> None:
    expected, got = next_token_of_both(gguf_model(name), tmp_path / "m.gguf")
    assert (got - expected).abs().max() < 0.01 < 0.1 * (expected.max() - expected.min())


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["F16", "BF16"])
@pytest.mark.parametrize("name", ["llama3", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3, part"])
def test_llama_cpp_gives_the_greedy_answer(name: str, kind: Any, tmp_path: Path) -> None:
    """Each token is the model's likeliest, or as likely within rounding: llama.cpp multiplies a BF16 matrix by inputs
    that it rounds to bfloat16."""
    model = rounded(gguf_model(name))
    write_gguf(model, tiny_tokenizer(), tmp_path / "m.gguf", kind=kind)
    running, seen = LlamaCpp(tmp_path / "m.gguf"), set[int]()
    for first in (20, 70, 120, 170):
        prompt = list(range(first, first + 20))
        answer = running.greedy(prompt, 12)
        assert len(answer) == 12 or answer[-1] == 256  # the end of the sequence
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        got = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        assert (logits.max(dim=-1).values - got).max() < 0.01
        seen.update(answer)
    assert len(seen) > 3  # a random model repeats itself


def test_bfloat16_weights_are_stored_exactly(tmp_path: Path) -> None:
    model, path = gguf_model("qwen3").to(torch.bfloat16), tmp_path / "model.gguf"
    write_gguf(model, tiny_tokenizer(), path, kind="BF16")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}["blk.1.attn_output.weight"]
    assert (stored.tensor_type.name, field(path, "general.file_type")) == ("BF16", 32)
    values = gguf.quants.dequantize(stored.data, stored.tensor_type)
    assert torch.equal(torch.from_numpy(values), model.model.layers[1].self_attn.o_proj.weight.float())


def test_norms_of_gemma_are_stored_as_they_multiply(tmp_path: Path) -> None:
    model, path = gguf_model("gemma2"), tmp_path / "model.gguf"
    write_gguf(model, tiny_tokenizer(), path)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    expected = model.model.layers[0].post_feedforward_layernorm.weight.detach() + 1
    assert torch.equal(torch.tensor(tensors["blk.0.post_ffw_norm.weight"]), expected)
    assert field(path, "gemma2.attn_logit_softcapping") == 3.0 and field(path, "gemma2.final_logit_softcapping") == 5.0


def test_the_context_ends_at_a_window_that_llama_cpp_lacks(tmp_path: Path) -> None:
    for name, architecture, context in (("mistral, window", "llama", 60), ("gemma2", "gemma2", 128)):
        write_gguf(gguf_model(name), tiny_tokenizer(), tmp_path / "m.gguf")
        assert field(tmp_path / "m.gguf", f"{architecture}.context_length") == context
    write_gguf(tiny_model("phi3", sliding_window=64), tiny_tokenizer(), tmp_path / "m.gguf")
    assert field(tmp_path / "m.gguf", "phi3.context_length") == 64


REFUSED = [
    ("qwen3", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "of type 'dynamic'"),
    ("qwen3", {"attention_bias": True}, "only with attention_bias False; this model has True"),
    ("gemma2", {"query_pre_attn_scalar": 20}, "with query_pre_attn_scalar 20 is not verified"),
    ("gemma2", {"layer_types": ["full_attention"] * 2}, "with layer_types .* is not verified"),
    ("gemma2", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "of type 'linear'"),
    ("gemma2", {"attn_logit_softcapping": None}, "only with attn_logit_softcapping; this model has none"),
    ("gemma3", {"final_logit_softcapping": 5.0}, "only with final_logit_softcapping None; this model has 5.0"),
    ("olmo3", {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 500.0},
                                   "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
     r"with a rope_theta of 10000\.0 in layers with a window is not verified"),
    ("smollm3", {"no_rope_layers": [1, 0, 1, 0, 1]}, "with no_rope_layers .* is not verified"),
    ("cohere", {"use_qk_norm": True}, "only with use_qk_norm False"),
    ("qwen2", {"head_dim": 24}, "with heads that are 24 wide is not verified"),
    ("falcon", {"alibi": True}, "only with alibi False"),
    ("olmoe", {"num_key_value_heads": 2}, "only with num_key_value_heads 4, one for each head; this model has 2"),
    ("olmoe", {"norm_topk_prob": True}, "only with norm_topk_prob False; this model has True"),
    ("olmoe", {"clip_qkv": 2.0}, r"only with clip_qkv None; this model has 2\.0"),
    ("exaone4", {"sliding_window": 4}, "of 2 layers only without sliding_window; this model has 4"),
    ("exaone4, window", {"sliding_window": None}, "only with sliding_window; this model has none"),
    ("exaone4, window", {"layer_types": ["full_attention"] * 64}, "with layer_types .* is not verified"),
    ("bloom", {"apply_residual_connection_post_layernorm": True}, "only with apply_residual_.* False"),
    ("granitemoe", {"attention_bias": True}, "only with attention_bias False"),
    ("granite", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
     "with heads that are rotated in part is not verified"),
    ("llama, yarn", {"rope_parameters": {**GGUF_MODELS["llama, yarn"][1]["rope_parameters"], "beta_fast": 16}},
     "with rotary embeddings with beta_fast 16 is not verified"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_settings_that_a_file_cannot_say_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    architecture, own = GGUF_MODELS[name]
    model = tiny_architecture(architecture, **own)
    for key, value in changes.items():
        setattr(model.config, key, value)
    with pytest.raises(ModelError, match=message) as caught:
        check_settings(type(model).__name__, model.config, "q8_0")
    if "not verified" in caught.value.message:
        assert "python convert_hf_to_gguf.py MERGED --outfile model.gguf --outtype q8_0" in caught.value.hint
    else:  # llama.cpp's converter would write a file that llama.cpp runs otherwise
        assert "convert_hf_to_gguf" not in caught.value.hint


def test_a_setting_that_is_not_known_is_refused() -> None:
    """A key that a later transformers adds is not silently left out of the file."""
    config = gguf_model("qwen3").config

    class Later(type(config)):  # type: ignore[misc]
        new_scale: float = 1.0

        def to_dict(self) -> dict[str, Any]:
            return {**super().to_dict(), "new_scale": self.new_scale}

    later = Later(**config.to_dict())
    check_settings("Qwen3ForCausalLM", later)
    later.new_scale = 2.0
    with pytest.raises(ModelError, match=r"with new_scale 2\.0 is not verified"):
        check_settings("Qwen3ForCausalLM", later)
