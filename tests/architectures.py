"""Tiny random models of the architectures of transformers that people tune, one line each.

SMALL holds the sizes of every configuration that has such a key; a line of ARCHITECTURES adds what makes its family
special, never at its default: scales that are not 1, soft caps that bite, windows shorter than the rows, tied heads,
rotary scaling, odd widths. Only Llama 4's chunks keep the length that real checkpoints have. `@` in a name separates
variants of one model type.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tunelab.models.forward import RowLayout

VOCABULARY = 264
CONTEXT = 128

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "embedding_size": 64,
    "word_embed_proj_dim": 64, "intermediate_size": 72, "ffn_dim": 72, "n_inner": 72, "d_ff": 72,
    "ffn_hidden_size": 72, "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": CONTEXT, "n_positions": CONTEXT, "n_ctx": CONTEXT, "max_seq_len": CONTEXT,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2,
    "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 16,
    "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "mamba_n_heads": 8,
    "mamba_d_head": 16, "mamba_num_heads": 8, "mamba_head_dim": 16, "mamba_d_state": 8, "mamba_n_groups": 1,
    "state_size": 8, "n_groups": 1, "rotary_dim": 8, "lru_width": 64, "attention_window_size": 4, "sliding_window": 4,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "block_size": 4, "initializer_range": 0.2,
}  # fmt: skip

#: What every configuration is given, known or not.
COMMON: dict[str, Any] = {"pad_token_id": 257, "bos_token_id": 256, "eos_token_id": 256}

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
QUIET = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
FALCON = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
WINDOWED = ["sliding_attention", "full_attention"]
HYBRID = {"mamba_expand": 2, "num_hidden_layers": 4}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "bamba": {"attn_layer_indices": [1], "mamba_expand": 2},
    "bloom": {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    "codegen": {**QUIET, "n_embd": 64},
    "cohere": {"logit_scale": 0.25, "use_qk_norm": True},
    "cohere2": {"logit_scale": 0.25, "num_hidden_layers": 4, "layer_types": WINDOWED * 2},
    "deepseek_v2": {"topk_method": "greedy", "routed_scaling_factor": 1.5, "num_experts_per_tok": 2},
    "deepseek_v3": {"routed_scaling_factor": 1.5, "rope_parameters": YARN, "norm_topk_prob": True},
    "exaone4": {"layer_types": WINDOWED, "tie_word_embeddings": True},
    "falcon": {**FALCON, "alibi": False, "multi_query": True, "parallel_attn": True},
    "falcon@alibi": {**FALCON, "alibi": True, "multi_query": False, "bias": True},
    "falcon_h1": {"lm_head_multiplier": 0.5, "embedding_multiplier": 2.0, "mamba_d_ssm": 128, "key_multiplier": 0.7},
    "falcon_mamba": {},
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 20},
    "gemma3_text": {"final_logit_softcapping": 5.0, "query_pre_attn_scalar": 20, "layer_types": WINDOWED},
    "glm": {"partial_rotary_factor": 0.5, "attention_bias": True},
    "glm4": {"partial_rotary_factor": 0.5},
    "gpt2": {**QUIET, "scale_attn_by_inverse_layer_idx": True},
    "gpt_bigcode": QUIET,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4, "embed_dropout": 0.0},
    "gpt_neox": {"rotary_pct": 0.5, "use_parallel_residual": False},
    "gpt_oss": {"layer_types": WINDOWED, "rope_parameters": YARN},
    "gptj": QUIET,
    "granite": {
        "logits_scaling": 8.0, "embedding_multiplier": 5.0, "residual_multiplier": 0.7, "attention_multiplier": 0.3,
    },
    "granitemoe": {"logits_scaling": 8.0, "embedding_multiplier": 5.0, "residual_multiplier": 0.7},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "logits_scaling": 8.0, "mamba_expand": 2},
    "helium": {},
    "jamba": {**HYBRID, "attn_layer_period": 4, "attn_layer_offset": 2, "use_mamba_kernels": False},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "llama": {"rope_parameters": LLAMA3, "attention_bias": True},
    "llama@odd": {"hidden_size": 36, "head_dim": 10, "intermediate_size": 50, "tie_word_embeddings": True},
    "llama4_text": {
        "num_hidden_layers": 4, "intermediate_size_mlp": 72, "attn_scale": 0.7, "moe_layers": [1, 3],
        "no_rope_layers": [1, 1, 1, 0],
    },
    "mamba": {},
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2, "n_groups": 1, "chunk_size": 8},
    "minimax": {"layer_types": ["linear_attention", "full_attention"]},
    "mistral": {"sliding_window": 4, "head_dim": 20},
    "mixtral": {"sliding_window": 4},
    "mpt": {"attn_config": {"alibi": True}, "no_bias": True},
    "nemotron": {"partial_rotary_factor": 0.5, "num_key_value_heads": 2},
    "olmo": {"clip_qkv": 2.0},
    "olmo2": {},
    "olmo3": {"layer_types": WINDOWED},
    "olmoe": {"norm_topk_prob": True},
    "opt": {"dropout": 0.0, "do_layer_norm_before": True, "word_embed_proj_dim": 32},
    "persimmon": {"partial_rotary_factor": 0.5},
    "phi": {"partial_rotary_factor": 0.5, "qk_layernorm": True},
    "phi3": {"partial_rotary_factor": 0.5, "sliding_window": 5},
    "phimoe": {"lm_head_bias": True, "attention_bias": True},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1, "layer_types": WINDOWED[::-1]},
    "qwen2_moe": {"decoder_sparse_step": 1},
    "qwen3": {"tie_word_embeddings": True, "head_dim": 24},
    "qwen3_moe": {"norm_topk_prob": True},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"], "partial_rotary_factor": 0.5},
    "recurrent_gemma": {"num_hidden_layers": 3, "logits_soft_cap": 5.0},
    "rwkv": {"attention_hidden_size": 64},
    "seed_oss": {"attention_bias": True},
    "smollm3": {"no_rope_layers": [1, 0], "tie_word_embeddings": True},
    "stablelm": {"partial_rotary_factor": 0.5, "use_qkv_bias": True, "attention_dropout": 0.0},
    "starcoder2": {"sliding_window": 4, "residual_dropout": 0.0, "embedding_dropout": 0.0},
    "vaultgemma": {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 3.0, "query_pre_attn_scalar": 20},
    "xglm": {"pad_token_id": 1, "dropout": 0.0, "attention_heads": 4, "attention_dropout": 0.0},
    "zamba2": {"num_hidden_layers": 4, "layer_types": ["mamba", "hybrid"] * 2, "hybrid_layer_ids": [1, 3]},
}  # fmt: skip


#: Those whose rows are not packed: padded with the model's own attention, since they have recurrent layers or positions
#: of their own, or an attention that cannot be replaced. They are also those that answer by transformers' own generate.
LAYOUTS: dict[str, RowLayout] = dict.fromkeys(
    (
        "bamba", "bloom", "codegen", "falcon", "falcon@alibi", "falcon_h1", "falcon_mamba", "gpt_neo", "gptj",
        "granitemoehybrid", "jamba", "lfm2", "llama4_text", "mamba", "mamba2", "minimax", "mpt", "nemotron",
        "qwen3_next", "recurrent_gemma", "rwkv", "stablelm", "xglm", "zamba2",
    ),
    "padded",
)  # fmt: skip

#: Those that run in the fast tests.
FAST = {
    "cohere", "deepseek_v3", "gemma2", "gemma3_text", "gpt_oss", "granite", "lfm2", "llama@odd", "mamba", "mixtral",
    "olmo2", "opt", "qwen3", "smollm3",
}  # fmt: skip


def tiny_architecture(name: str, *, seed: int = 7, **changes: Any) -> PreTrainedModel:
    """A random model in float32 and evaluation mode, with weights so large that attention is far from uniform."""
    kind = name.partition("@")[0]
    default = AutoConfig.for_model(kind)
    known = {key: value for key, value in SMALL.items() if _is_key(default, key)}
    if "qk_rope_head_dim" in known:  # latent attention: the head's width follows from its parts
        known.pop("head_dim", None)
    config = AutoConfig.for_model(kind, **{**known, **COMMON, **ARCHITECTURES[name], **changes})
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 1.2 * max(parameter.shape[-2:]) ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def _is_key(config: Any, key: str) -> bool:
    """Whether a configuration has this key, and not as a property computed from others or from its layers."""
    try:
        return getattr(config, key, None) is not None and not isinstance(getattr(type(config), key, None), property)
    except Exception:  # a key that differs from layer to layer
        return False
