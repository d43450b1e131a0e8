"""The families whose GGUF files llama.cpp runs as transformers runs the model: one line of FAMILIES each.

A line says what the file states of the configuration, what llama.cpp's code assumes of the rest, and how weights are
laid out differently. Whatever setting is neither stated, assumed nor without effect is refused, so that no file says
less than the model needs. `tests/publishing/test_gguf_families.py` runs each line's model in llama.cpp.
Source: the GGUF specification (ggml, docs/gguf.md), llama.cpp's model code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

#: A value of a file's metadata.
Value = int | float | bool | str
#: Metadata key without the architecture -> value.
Metadata = dict[str, Value]
#: A weight in float32, in the model's layout -> the same in the file's.
Change = Callable[[Tensor], Tensor]

#: Settings that every file states, or that change nothing when a model answers.
COMMON = frozenset({
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "layer_norm_eps", "norm_epsilon",
    "layer_norm_epsilon", "norm_eps", "rope_parameters", "tie_word_embeddings", "use_cache", "initializer_range",
    "pretraining_tp", "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop",
    "residual_dropout", "embedding_dropout", "layer_types", "sliding_window", "bos_token_id", "eos_token_id",
    "pad_token_id", "dtype", "classifier_dropout", "n_embd", "n_layer", "n_head", "n_positions", "n_inner", "n_ctx",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """How llama.cpp runs one class of models.

    Args:
        architecture: its name in GGUF.
        fixed: configuration key -> the values with which llama.cpp's code agrees.
        stated: further configuration keys that `metadata` writes, or that the weights themselves show.
        metadata: what the file says beyond the common shape.
        changes: part of a parameter's name (a regular expression) -> how its layout changes; the first that fits.
        names: part of a parameter's name (a regular expression) -> the same part in the names that the gguf package
            knows: those of the family's checkpoints, where transformers has others.
        ropes: types of rotary embeddings; none = the model has none.
        epsilon: configuration key of the norms' epsilon; "rms" in it: they are RMS norms.
        rotates_part: heads may be rotated in part.
        wide_heads: heads need not be hidden_size / num_attention_heads wide.
        has_window: llama.cpp has the family's sliding window. Where it has not, the file's context ends at the window.
        window_layers: it has that window in models of so many layers, and runs all others without one; 0: in all.
        has_groups: there may be fewer heads of keys and values than of queries.
        writes_head: the file holds a head of its own, even if it is tied to the embedding.
    """

    architecture: str
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    stated: tuple[str, ...] = ()
    metadata: Callable[[Any], Metadata] = lambda config: {}
    changes: Mapping[str, Callable[[Any], Change]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    ropes: tuple[str, ...] = ("default",)
    epsilon: str = "rms_norm_eps"
    rotates_part: bool = False
    wide_heads: bool = False
    has_window: bool = False
    window_layers: int = 0
    has_groups: bool = True
    writes_head: bool = False

    def change(self, name: str, config: Any) -> Change:
        """How a parameter's layout changes."""
        for part, made in self.changes.items():
            if re.search(part, name):
                return made(config)
        return unchanged

    def runs_window(self, layers: int) -> bool:
        """Whether llama.cpp has the window of a model of so many layers."""
        return self.has_window and self.window_layers in (0, layers)

    def known_name(self, name: str) -> str:
        """A parameter's name as the gguf package knows it."""
        for part, known in self.names.items():
            name = re.sub(part, known, name)
        return name


def unchanged(values: Tensor) -> Tensor:
    """Weights that the file holds as the model does."""
    return values


def neighbors(heads: int) -> Change:
    """The two halves of each head, row by row: llama.cpp rotates neighboring rows."""
    return lambda rows: rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def plus_one(values: Tensor) -> Tensor:
    """Weights of norms that multiply by 1 + weight."""
    return values + 1.0


def transposed(values: Tensor) -> Tensor:
    """Conv1D's [in, out] as [out, in]."""
    return values.T


def per_kind(heads: int) -> Change:
    """Rows of query, key and value per head -> all queries, all keys, all values."""
    return lambda rows: rows.reshape(heads, 3, -1, *rows.shape[1:]).swapaxes(0, 1).reshape(rows.shape)


def per_kind_of_groups(config: Any) -> Change:
    """Falcon's groups (some queries, a key, a value) -> all queries, all keys, all values."""
    groups = falcon_groups(config)
    width = config.hidden_size // config.num_attention_heads

    def change(rows: Tensor) -> Tensor:
        heads = rows.reshape(groups, -1, width, *rows.shape[1:])
        parts = heads[:, :-2], heads[:, -2:-1], heads[:, -1:]
        return torch.cat([part.reshape(-1, *rows.shape[1:]) for part in parts])

    return change


def falcon_groups(config: Any) -> int:
    """Heads of keys and values."""
    if config.new_decoder_architecture:
        return int(config.num_kv_heads)
    return 1 if config.multi_query else int(config.num_attention_heads)


def head_width(config: Any) -> int:
    """Dimensions of a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _gemma2(config: Any) -> Metadata:
    return _window(config) | {
        "attn_logit_softcapping": float(config.attn_logit_softcapping),
        "final_logit_softcapping": float(config.final_logit_softcapping),
    }


def _window(config: Any) -> Metadata:
    return {"attention.sliding_window": config.sliding_window}


def _granite(config: Any) -> Metadata:
    return {
        "attention.scale": float(config.attention_multiplier),
        "embedding_scale": float(config.embedding_multiplier),
        "residual_scale": float(config.residual_multiplier),
        "logit_scale": float(config.logits_scaling),
    }


def _experts(config: Any) -> Metadata:
    count = getattr(config, "num_local_experts", None) or config.num_experts
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    return {
        "expert_count": count,
        "expert_used_count": config.num_experts_per_tok,
        "expert_feed_forward_length": width,
    }


def _olmo(config: Any) -> Metadata:
    clamp: Metadata = {"attention.clamp_kqv": float(config.clip_qkv)} if config.clip_qkv else {}
    return {"attention.layer_norm_epsilon": 1e-5} | clamp


def _logit_scale(config: Any) -> Metadata:
    return {"logit_scale": float(config.logit_scale)}


def _parallel(config: Any) -> Metadata:
    return {"use_parallel_residual": bool(config.use_parallel_residual)}


Changes = Mapping[str, Callable[[Any], Change]]
Fixed = Mapping[str, tuple[Any, ...]]

INTERLEAVED: Changes = {
    r"\.q_proj\.": lambda config: neighbors(config.num_attention_heads),
    r"\.k_proj\.": lambda config: neighbors(config.num_key_value_heads),
}
OFFSET_NORMS: Changes = {r"norm\.weight$": lambda config: plus_one}
CONV1D: Changes = {r"\.c_\w+\.weight$": lambda config: transposed}
FUSED: Changes = {r"\.query_key_value\.": lambda config: per_kind(config.num_attention_heads)}
GROUPED: Changes = {r"\.query_key_value\.": per_kind_of_groups}

SILU: Fixed = {"hidden_act": ("silu", "swish")}
NO_BIAS: Fixed = {"attention_bias": (False, None), "mlp_bias": (False, None)}
TIED: Fixed = {"tie_word_embeddings": (True,)}
TANH_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
GEMMA: Fixed = {**TIED, "attention_bias": (False,), "use_bidirectional_attention": (False, None)}
GEMMA2: Fixed = {**GEMMA, "hidden_activation": ("gelu_pytorch_tanh",)}
BIASES = ("attention_bias", "mlp_bias")
WINDOWS = ("use_sliding_window", "max_window_layers")
GRANITE = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling")
LINEAR = ("default", "linear")
YARN = ("default", "yarn")
SCALED = ("default", "linear", "yarn")

EXPERTS = ("num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size")
#: Of the loss alone, or of training.
ROUTING = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")

LLAMA = Family(
    "llama", SILU, BIASES, changes=INTERLEAVED, ropes=("default", "linear", "yarn", "llama3"), wide_heads=True
)

#: Class of the model -> how llama.cpp runs it.
FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "Qwen2ForCausalLM": Family("qwen2", SILU, WINDOWS, ropes=SCALED),
    "Qwen3ForCausalLM": Family("qwen3", {**SILU, **NO_BIAS}, WINDOWS, ropes=YARN, wide_heads=True),
    "GemmaForCausalLM": Family(
        "gemma", {**GEMMA, "hidden_act": TANH_GELU}, changes=OFFSET_NORMS, wide_heads=True
    ),
    "Gemma2ForCausalLM": Family(
        "gemma2", GEMMA2, ("attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"), _gemma2,
        OFFSET_NORMS, wide_heads=True, has_window=True,
    ),
    "Gemma3ForCausalLM": Family(
        "gemma3", {**GEMMA2, "final_logit_softcapping": (None,), "attn_logit_softcapping": (None,)},
        ("query_pre_attn_scalar",), _window, OFFSET_NORMS, ropes=LINEAR, wide_heads=True,
        has_window=True,
    ),
    "Phi3ForCausalLM": Family(
        "phi3", SILU, ("original_max_position_embeddings",), ropes=("default", "longrope"), rotates_part=True
    ),
    "GPT2LMHeadModel": Family(
        "gpt2",
        {"activation_function": ("gelu_new", *TANH_GELU), "scale_attn_weights": (True,),
         "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)},
        ("reorder_and_upcast_attn",), changes=CONV1D, ropes=(), epsilon="layer_norm_epsilon",
    ),
    "Starcoder2ForCausalLM": Family(
        "starcoder2", {"hidden_act": TANH_GELU, "use_bias": (True,)}, ropes=SCALED, epsilon="norm_epsilon"
    ),
    "FalconForCausalLM": Family(
        "falcon",
        {"alibi": (False,), "bias": (False,), "parallel_attn": (True,), "activation": ("gelu",),
         "num_ln_in_parallel_attn": (None, 2)},
        ("new_decoder_architecture", "multi_query", "num_kv_heads", "ffn_hidden_size"),
        changes=GROUPED, ropes=SCALED, epsilon="layer_norm_epsilon",
    ),
    "StableLmForCausalLM": Family(
        "stablelm", {**SILU, "qk_layernorm": (False,)}, ("use_qkv_bias", "use_parallel_residual"), _parallel,
        ropes=SCALED, epsilon="layer_norm_eps", rotates_part=True, writes_head=True,
    ),
    "OlmoForCausalLM": Family("olmo", {**SILU, **NO_BIAS}, ("clip_qkv",), _olmo, INTERLEAVED),
    "Olmo2ForCausalLM": Family("olmo2", {**SILU, **NO_BIAS}, ropes=YARN, writes_head=True),
    "Olmo3ForCausalLM": Family(
        "olmo2", {**SILU, **NO_BIAS}, metadata=_window, has_window=True, writes_head=True
    ),
    "CohereForCausalLM": Family(
        "command-r", {**SILU, **NO_BIAS, **TIED, "use_qk_norm": (False,)}, ("logit_scale",), _logit_scale,
        epsilon="layer_norm_eps",
    ),
    "Cohere2ForCausalLM": Family(
        "cohere2", {**SILU, **NO_BIAS, **TIED}, ("logit_scale",), lambda config: _window(config) | _logit_scale(config),
        epsilon="layer_norm_eps", has_window=True,
    ),
    "SmolLM3ForCausalLM": Family(
        "smollm3", {**SILU, **NO_BIAS}, ("no_rope_layers", "no_rope_layer_interval", *WINDOWS), changes=INTERLEAVED
    ),
    "GraniteForCausalLM": Family(
        "granite", {**SILU, **NO_BIAS}, GRANITE, _granite, INTERLEAVED
    ),
    "GPTNeoXForCausalLM": Family(
        "gptneox", {"hidden_act": ("gelu",), "attention_bias": (True,)}, ("use_parallel_residual",), _parallel, FUSED,
        ropes=SCALED, epsilon="layer_norm_eps", rotates_part=True, writes_head=True,
    ),
    "PhiForCausalLM": Family(
        "phi2", {"hidden_act": TANH_GELU, "qk_layernorm": (False,)}, ropes=SCALED, epsilon="layer_norm_eps",
        rotates_part=True, writes_head=True,
    ),
    "NemotronForCausalLM": Family(
        "nemotron", {"hidden_act": ("relu2",), **NO_BIAS}, changes=OFFSET_NORMS, ropes=SCALED,
        epsilon="norm_eps", rotates_part=True, writes_head=True,
    ),
    "Glm4ForCausalLM": Family("glm4", {**SILU, **NO_BIAS, "attention_bias": (True,)}, rotates_part=True),
    "ArceeForCausalLM": Family("arcee", {"hidden_act": ("relu2",), **NO_BIAS}, changes=INTERLEAVED),
    "MixtralForCausalLM": Family(
        "llama", SILU, (*EXPERTS, *ROUTING), _experts, INTERLEAVED, ropes=LINEAR, wide_heads=True
    ),
    "Qwen3MoeForCausalLM": Family(
        "qwen3moe",
        {**SILU, **NO_BIAS, "norm_topk_prob": (True,), "decoder_sparse_step": (1,), "mlp_only_layers": ([], None)},
        (*EXPERTS, *ROUTING, *WINDOWS), _experts, ropes=SCALED, wide_heads=True,
    ),
    "OlmoeForCausalLM": Family(
        "olmoe", {**SILU, **NO_BIAS, "norm_topk_prob": (False,), "clip_qkv": (None,)}, (*EXPERTS, *ROUTING), _experts,
        ropes=SCALED, has_groups=False,
    ),
    "GraniteMoeForCausalLM": Family(
        "granitemoe", {**SILU, **NO_BIAS}, (*GRANITE, *EXPERTS, *ROUTING),
        lambda config: _granite(config) | _experts(config), INTERLEAVED,
        {r"\.block_sparse_moe\.router\.": ".mlp.gate.", r"\.block_sparse_moe\.": ".mlp."},
    ),
    "Exaone4ForCausalLM": Family(
        "exaone4", SILU, ("sliding_window_pattern",), lambda config: _window(config) if config.sliding_window else {},
        ropes=("default", "llama3"), has_window=True, window_layers=64,
    ),
    "BloomForCausalLM": Family(
        "bloom", {**TIED, "apply_residual_connection_post_layernorm": (False,)}, ("slow_but_exact",), changes=FUSED,
        names={r"^transformer\.": ""}, ropes=(), epsilon="layer_norm_epsilon",
    ),
    "SeedOssForCausalLM": Family(
        "seed_oss", {**SILU, **NO_BIAS, "attention_bias": (True,), "attention_out_bias": (False,)}, wide_heads=True
    ),
}  # fmt: skip
