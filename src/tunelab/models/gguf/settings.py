"""What a GGUF file says of a model, and a refusal of every setting that it cannot say.

llama.cpp attends to all tokens where a family has a window and llama.cpp has none for it: such a file's context ends at
the window, within which the two are the same. So does that of a Modelfile.
"""

from __future__ import annotations

import math
from typing import Any

from transformers import PretrainedConfig

from tunelab.errors import ModelError
from tunelab.models.gguf.families import COMMON, FAMILIES, Family, Metadata, falcon_groups, head_width

#: With a GGUF file as the only form that does not fit, what else can be done.
CONVERTER = (
    "merge it (tunelab merge RUN --out MERGED), then, in a checkout of llama.cpp: "
    "python convert_hf_to_gguf.py MERGED --outfile model.gguf --outtype {outtype}"
)
#: Rotary settings that are stated, by type; another value than the library's default is refused.
ROPE_KEYS = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "yarn": frozenset({"factor", "original_max_position_embeddings"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "longrope": frozenset({"short_factor", "long_factor", "factor", "original_max_position_embeddings"}),
}
#: Of yarn, the values that llama.cpp has.
YARN_DEFAULTS = {"beta_fast": (32, None), "beta_slow": (1, None), "truncate": (True, None), "mscale": (None,)}


def family_of(class_name: str, outtype: str = "f16") -> Family:
    """The line of FAMILIES for a class of models.

    Raises:
        ModelError: there is none.
    """
    if class_name not in FAMILIES:
        raise ModelError(
            f"a {class_name} is not among the models whose GGUF files are verified: {', '.join(FAMILIES)}",
            CONVERTER.format(outtype=outtype),
        )
    return FAMILIES[class_name]


def check_settings(class_name: str, config: Any, outtype: str = "f16") -> None:
    """Refuse what llama.cpp would run differently from transformers, and what no test has compared.

    Raises:
        ModelError: a setting that llama.cpp does not have, or one that the file does not say.
    """
    family = family_of(class_name, outtype)
    for key, values in family.fixed.items():
        value = getattr(config, key, None)
        if value not in values:
            raise ModelError(
                f"llama.cpp runs a {class_name} only with {key} {values[0]!r}; this model has {value!r}",
                "export as transformers checkpoint (--to hf)",
            )
    default = type(config)()
    known = COMMON | family.fixed.keys() | set(family.stated) | PretrainedConfig().to_dict().keys()
    for key in sorted(default.to_dict().keys() - known):
        if getattr(config, key) != getattr(default, key):
            raise _unverified(class_name, f"{key} {getattr(config, key)!r}", outtype)
    has_window = family.runs_window(config.num_hidden_layers)
    needed = (*family.stated, *(["sliding_window"] if has_window else []))
    for key in needed:  # llama.cpp puts its own default in the place of what a file does not say
        if getattr(config, key, None) is None and getattr(default, key, None) is not None:
            raise ModelError(
                f"llama.cpp runs a {class_name} only with {key}; this model has none",
                "export as transformers checkpoint (--to hf)",
            )
    _check_layers(class_name, family, config, outtype)
    if not family.wide_heads and head_width(config) * config.num_attention_heads != config.hidden_size:
        raise _unverified(class_name, f"heads that are {head_width(config)} wide", outtype)
    if not family.has_groups and config.num_key_value_heads != config.num_attention_heads:
        raise ModelError(
            f"llama.cpp runs a {class_name} only with num_key_value_heads {config.num_attention_heads}, one for each "
            f"head; this model has {config.num_key_value_heads}",
            "export as transformers checkpoint (--to hf)",
        )
    if family.ropes:
        _check_rope(class_name, family, config, outtype)


def _unverified(class_name: str, what: str, outtype: str) -> ModelError:
    return ModelError(f"a GGUF file of a {class_name} with {what} is not verified", CONVERTER.format(outtype=outtype))


def _check_layers(class_name: str, family: Family, config: Any, outtype: str) -> None:
    """llama.cpp has the order of window and full layers, and of layers without positions, in its code."""
    layers = config.num_hidden_layers
    default = type(config)(num_hidden_layers=layers)
    has_window = family.runs_window(layers)
    # What has a window there also has its rotary embeddings in some layers alone: a shorter context is not enough.
    if family.window_layers and not has_window and config.sliding_window is not None:
        raise ModelError(
            f"llama.cpp runs a {class_name} of {layers} layers only without sliding_window; this model has "
            f"{config.sliding_window}",
            "export as transformers checkpoint (--to hf)",
        )
    for key in ("layer_types", "no_rope_layers"):
        if key == "layer_types" and not has_window:
            continue
        if getattr(config, key, None) != getattr(default, key, None):
            raise _unverified(class_name, f"{key} {getattr(config, key)!r}", outtype)
    scale = getattr(config, "query_pre_attn_scalar", None)
    # llama.cpp tells Gemma's 27B by its layers: there the width of a head is that of the hidden states.
    if scale is not None and (config.num_hidden_layers in (46, 62) or scale != head_width(config)):
        width = config.hidden_size // config.num_attention_heads
        if config.num_hidden_layers not in (46, 62) or scale != width:
            raise _unverified(class_name, f"query_pre_attn_scalar {scale}", outtype)


def _check_rope(class_name: str, family: Family, config: Any, outtype: str) -> None:
    for kind, rope in all_ropes(config).items():
        allowed = family.ropes if kind != "sliding_attention" else ("default",)
        if rope["rope_type"] not in allowed:
            raise _unverified(class_name, f"rotary embeddings of type {rope['rope_type']!r}", outtype)
        local = 10000.0 if class_name.startswith("Gemma3") else main_rope(config)["rope_theta"]
        if kind == "sliding_attention" and rope["rope_theta"] != local:
            raise _unverified(class_name, f"a rope_theta of {rope['rope_theta']} in layers with a window", outtype)
        if rope.get("partial_rotary_factor", 1.0) != 1.0 and not family.rotates_part:
            raise _unverified(class_name, "heads that are rotated in part", outtype)
        _check_rope_keys(class_name, rope, outtype)


def _check_rope_keys(class_name: str, rope: dict[str, Any], outtype: str) -> None:
    known = ROPE_KEYS[rope["rope_type"]] | {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    for key in sorted(rope.keys() - known):
        value = rope[key]
        if rope["rope_type"] == "yarn" and value in YARN_DEFAULTS.get(key, ()):
            continue
        if key == "attention_factor" and (value is None or _is_own_factor(rope, value)):
            continue
        raise _unverified(class_name, f"rotary embeddings with {key} {value!r}", outtype)


def _is_own_factor(rope: dict[str, Any], value: float) -> bool:
    return rope["rope_type"] == "yarn" and math.isclose(value, 0.1 * math.log(rope["factor"]) + 1.0, rel_tol=1e-6)


def all_ropes(config: Any) -> dict[str, dict[str, Any]]:
    """Rotary settings by kind of layer; one kind, "", if all layers share them."""
    rope = dict(config.rope_parameters)
    return {"": rope} if "rope_type" in rope else {kind: dict(one) for kind, one in rope.items() if one}


def main_rope(config: Any) -> dict[str, Any]:
    """Rotary settings of the layers that attend to all tokens."""
    ropes = all_ropes(config)
    return ropes.get("") or ropes["full_attention"]


def rotary_width(config: Any) -> int:
    """Dimensions of a head that are rotated."""
    return int(head_width(config) * main_rope(config).get("partial_rotary_factor", 1.0))


def file_metadata(class_name: str, config: Any) -> Metadata:
    """What a file says of the model's shape, by key without the architecture."""
    family = FAMILIES[class_name]
    found: Metadata = {
        "vocab_size": config.vocab_size,
        "context_length": file_context(class_name, config),
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": _feed_forward(config),
        "attention.head_count": config.num_attention_heads,
    }
    if hasattr(config, family.epsilon):
        kind = "layer_norm_rms_epsilon" if "rms" in family.epsilon else "layer_norm_epsilon"
        found[f"attention.{kind}"] = float(getattr(config, family.epsilon))
    if family.ropes:
        found |= {"attention.head_count_kv": _key_heads(config)} | _rope_metadata(config)
    if family.wide_heads:
        found |= {"attention.key_length": head_width(config), "attention.value_length": head_width(config)}
    return found | family.metadata(config)


def file_context(class_name: str, config: Any) -> int:
    """Tokens of context within which llama.cpp runs the model as transformers does.

    At most the window of layers for which llama.cpp has none. With longrope at most the original context: beyond it
    llama.cpp takes the long factors for short texts too.

    Raises:
        ModelError: the class is not in FAMILIES.
    """
    family = family_of(class_name)
    longest: Any = getattr(config, "max_position_embeddings", None)
    context = int(longest or getattr(config, "seq_length", 2048))
    window = None if family.runs_window(config.num_hidden_layers) else active_window(config)
    is_long = family.ropes and main_rope(config)["rope_type"] == "longrope"
    return min(context, window or context, _original_context(config) if is_long else context)


def _original_context(config: Any) -> int:
    rope = main_rope(config)
    original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(original or config.max_position_embeddings)


def active_window(config: Any) -> int | None:
    """The sliding window of at least one layer, None if all layers attend to all tokens."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return None
    return int(window)


def _feed_forward(config: Any) -> int:
    named = (getattr(config, key, None) for key in ("intermediate_size", "ffn_hidden_size", "n_inner"))
    return int(next((width for width in named if width), 4 * config.hidden_size))


def _key_heads(config: Any) -> int:
    if config.model_type == "falcon":
        return falcon_groups(config)
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _rope_metadata(config: Any) -> Metadata:
    rope = main_rope(config)
    found: Metadata = {"rope.freq_base": float(rope["rope_theta"]), "rope.dimension_count": rotary_width(config)}
    kind = rope["rope_type"]
    if kind in ("linear", "yarn"):
        found |= {"rope.scaling.type": kind, "rope.scaling.factor": float(rope["factor"])}
    if kind in ("yarn", "longrope"):
        found["rope.scaling.original_context_length"] = _original_context(config)
    if kind == "longrope":
        found["rope.scaling.attn_factor"] = _attention_factor(config)
    return found


def _attention_factor(config: Any) -> float:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    return float(ROPE_INIT_FUNCTIONS["longrope"](config, device="cpu")[1])
