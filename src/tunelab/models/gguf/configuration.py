"""The configuration of a GGUF file's model, from its metadata: the inverse of settings.py, checked against it.

transformers' own reader leaves out much of what a file says (scaled rotary embeddings, widths of heads, soft caps),
without a word. Here every key of the architecture must be what a file of the configured model would say.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import transformers

from tunelab.errors import ModelError
from tunelab.models.gguf.families import FAMILIES, Family
from tunelab.models.gguf.file_header import GgufFile
from tunelab.models.gguf.settings import active_window, file_metadata

#: Metadata key -> the configuration keys of which a class has at most one, where the value is the same.
SAME = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size", "ffn_hidden_size", "n_inner"),
    "attention.head_count": ("num_attention_heads",),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "attention.scale": ("attention_multiplier",),
    "attention.clamp_kqv": ("clip_qkv",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "logit_scale": ("logits_scaling", "logit_scale"),
    "use_parallel_residual": ("use_parallel_residual",),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",),
}
#: Configuration key -> the tensor that a model has where it is true.
BIASES = {
    **dict.fromkeys(("attention_bias", "use_qkv_bias", "use_bias"), "attn_q.bias"),
    "mlp_bias": "ffn_up.bias",
}
#: Of Meta's Llama 3.1 and 3.2: a file holds the divisors, not the rule that they come from.
LLAMA3_RULE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
#: Keys of an architecture that say nothing of its forward pass.
WITHOUT_EFFECT = frozenset({"rope.scaling.finetuned", "vocab_size", "context_length"})
#: Keys that are lengths of texts; no other number is larger than the dimensions of the tensors.
LENGTHS = frozenset({"context_length", "attention.sliding_window", "rope.scaling.original_context_length"})


def class_of(file: GgufFile) -> str:
    """The class of a file's model, by its architecture and what tells the classes that share one apart.

    Raises:
        ModelError: the architecture is not among those that are verified.
    """
    architecture = str(file.says.get("general.architecture"))
    classes = [name for name, family in FAMILIES.items() if family.architecture == architecture]
    if not classes:
        known = ", ".join(dict.fromkeys(family.architecture for family in FAMILIES.values()))
        raise ModelError(
            f"{file.path}: its architecture is {architecture}; GGUF files are read of {known}",
            "use the model in transformers' form (its repository on the hub)",
        )
    has = file.says.keys()
    if architecture == "llama":
        return "MixtralForCausalLM" if "llama.expert_count" in has else "LlamaForCausalLM"
    if architecture == "olmo2":
        return "Olmo3ForCausalLM" if "olmo2.attention.sliding_window" in has else "Olmo2ForCausalLM"
    return classes[0]


def own_metadata(file: GgufFile) -> dict[str, Any]:
    """Metadata of the file's architecture, without its name.

    Raises:
        ModelError: a number is larger than any dimension of the file's tensors.
    """
    prefix = f"{file.says['general.architecture']}."
    says = {key.removeprefix(prefix): _short(value) for key, value in file.says.items() if key.startswith(prefix)}
    most = max([len(file.tensors), *(length for tensor in file.tensors.values() for length in tensor.shape)], default=0)
    for key in ("embedding_length", "block_count", "feed_forward_length", "attention.head_count", "context_length"):
        if not isinstance(says.get(key), int) or says[key] < 1:
            raise differs(file, f"{prefix}{key} is {says.get(key)}, expected a positive integer")
    for key, value in says.items():
        if isinstance(value, int) and abs(value) > most and key not in LENGTHS | {"vocab_size"}:
            raise differs(file, f"{prefix}{key} is {value:,}, more than any of its tensors")
    return says


def _short(value: Any) -> Any:
    """A number in float32 as people write it: 1e-06 in place of 9.999999974752427e-07."""
    is_float32 = isinstance(value, float) and math.isfinite(value) and float(np.float32(value)) == value
    return float(str(np.float32(value))) if is_float32 else value


def file_config(class_name: str, file: GgufFile, says: Mapping[str, Any]) -> Any:
    """The configuration of the file's model; what a file cannot say is at the class's default.

    Args:
        says: of own_metadata().
    """
    family, kind = FAMILIES[class_name], getattr(transformers, class_name).config_class
    default = kind()
    settings: dict[str, Any] = {key: copy.copy(values[0]) for key, values in family.fixed.items()}
    settings |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # written with the tokenizer's
    if not family.runs_window(says["block_count"]):
        settings["sliding_window"] = None
        if family.window_layers:
            settings["layer_types"] = ["full_attention"] * says["block_count"]
    for key, names in SAME.items():
        name = next((name for name in names if hasattr(default, name)), None)
        if key in says and name is not None:
            settings[name] = says[key]
    settings[family.epsilon] = says.get(f"attention.layer_norm_{'rms_' if 'rms' in family.epsilon else ''}epsilon")
    settings |= {key: f"blk.0.{tensor}" in file.tensors for key, tensor in BIASES.items() if key not in family.fixed}
    settings["tie_word_embeddings"] = _is_tied(family, file)
    settings["vocab_size"] = file.tensors["token_embd.weight"].shape[0]
    if family.ropes:
        settings |= _key_heads(class_name, says) | _ropes(class_name, family, file, says)
    if family.wide_heads or "head_dim" in default.to_dict():
        settings["head_dim"] = _head_width(says)
    if "query_pre_attn_scalar" in family.stated:
        settings["query_pre_attn_scalar"] = _query_scale(says)
    known = {key for key in settings if hasattr(default, key)} | ({"head_dim"} if family.wide_heads else set())
    return kind(**{key: settings[key] for key in known})


def _head_width(says: Mapping[str, Any]) -> int:
    return int(says.get("attention.key_length", says["embedding_length"] // says["attention.head_count"]))


def _query_scale(says: Mapping[str, Any]) -> int:
    """What llama.cpp divides Gemma's queries by, squared."""
    if says["block_count"] in (46, 62):
        return int(says["embedding_length"] // says["attention.head_count"])
    return _head_width(says)


def _is_tied(family: Family, file: GgufFile) -> bool:
    """Whether the head is the embedding: it is left out, or, where llama.cpp needs one, it is the same."""
    head, table = file.tensors.get("output.weight"), file.tensors["token_embd.weight"]
    if head is None:
        return True
    if not family.writes_head or (head.kind, head.shape) != (table.kind, table.shape):
        return False
    return bool(np.array_equal(head.stored(file.path), table.stored(file.path)))


def _key_heads(class_name: str, says: Mapping[str, Any]) -> dict[str, Any]:
    heads = says["attention.head_count"]
    keys = says.get("attention.head_count_kv", heads)
    if class_name != "FalconForCausalLM":
        return {"num_key_value_heads": keys}
    is_new = keys not in (1, heads)
    return {"multi_query": keys == 1, "new_decoder_architecture": is_new, "num_kv_heads": keys}


def _ropes(class_name: str, family: Family, file: GgufFile, says: Mapping[str, Any]) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": float(says.get("rope.freq_base", 10000.0))}
    if family.rotates_part:  # said even if it is 1: classes have other defaults
        rope["partial_rotary_factor"] = says.get("rope.dimension_count", _head_width(says)) / _head_width(says)
    kind = says.get("rope.scaling.type")
    if kind in ("linear", "yarn"):
        rope |= {"rope_type": kind, "factor": says.get("rope.scaling.factor")}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = says.get("rope.scaling.original_context_length")
    if "rope_freqs.weight" in file.tensors:
        divisors = file.tensors["rope_freqs.weight"].values(file.path)
        rope |= {"rope_type": "llama3", "factor": float(divisors.max()), **LLAMA3_RULE}
    if "rope_factors_long.weight" in file.tensors:
        return {"rope_parameters": rope | _long_rope(file, says)} | _original(says)
    if class_name in ("Gemma3ForCausalLM", "Olmo3ForCausalLM"):
        local = float(says.get("rope.freq_base_swa", 10000.0)) if class_name[0] == "G" else rope["rope_theta"]
        sliding = {"rope_type": "default", "rope_theta": local}
        return {"rope_parameters": {"full_attention": rope, "sliding_attention": sliding}}
    return {"rope_parameters": rope}


def _original(says: Mapping[str, Any]) -> dict[str, Any]:
    return {"original_max_position_embeddings": says.get("rope.scaling.original_context_length")}


def _long_rope(file: GgufFile, says: Mapping[str, Any]) -> dict[str, Any]:
    """Phi-3's rotary embeddings. Queries and keys are scaled by how often the context holds the original one: stated
    where the file's context is shorter than the model's."""
    rope: dict[str, Any] = {"rope_type": "longrope"} | _original(says)
    for name in ("long", "short"):
        tensor = file.tensors.get(f"rope_factors_{name}.weight")
        rope[f"{name}_factor"] = [] if tensor is None else tensor.values(file.path).tolist()
    original, scale = says.get("rope.scaling.original_context_length"), says.get("rope.scaling.attn_factor", 1.0)
    if original and scale > 1.0:
        rope["factor"] = round(math.exp((scale**2 - 1.0) * math.log(original)), 3)
    return rope


def check_metadata(class_name: str, config: Any, file: GgufFile, says: Mapping[str, Any]) -> None:
    """Check that a file of the configured model would say what this file says.

    Raises:
        ModelError: a key differs, or says what the model does not have.
    """
    expected = file_metadata(class_name, config)
    width = expected["embedding_length"] // expected["attention.head_count"]  # type: ignore[operator]
    assumed: dict[str, Any] = {
        "attention.head_count_kv": expected["attention.head_count"],
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.sliding_window": active_window(config),
        "expert_feed_forward_length": expected["feed_forward_length"],
        "rope.freq_base": 10000.0,
        "rope.freq_base_swa": 10000.0,
        "rope.dimension_count": says.get("attention.key_length", width),
        "rope.scaling.type": "none",
        "rope.scaling.attn_factor": 1.0,
    }
    for key in sorted((expected.keys() | says.keys()) - WITHOUT_EFFECT):
        there, here = says.get(key, assumed.get(key)), expected.get(key, assumed.get(key))
        if key == "attention.sliding_window" and here is None and there >= says["context_length"]:
            continue
        if not _same(there, here):
            raise differs(file, f"{key} is {there} in the file, and {here} in the model that would be built")


def _same(there: Any, here: Any) -> bool:
    if isinstance(there, int | float) and isinstance(here, int | float):
        return math.isclose(there, here, rel_tol=1e-6)
    return bool(there == here)


def differs(file: GgufFile, why: str) -> ModelError:
    """The error where a file says something of its model that the built one would not have."""
    return ModelError(
        f"{file.path}: not read, since the model would differ: {why}",
        "use the model in transformers' form (its repository on the hub)",
    )
