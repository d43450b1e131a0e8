"""Tiny models of every family that is exported as GGUF, a line each; what a file must state is not at its default."""

from __future__ import annotations

import copy
from typing import Any

import torch
from architectures import LLAMA3, YARN, tiny_architecture

LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
#: Layers in the order that llama.cpp has in its code: one round of it, and one layer more.
GEMMA3 = {
    "query_pre_attn_scalar": 24, "head_dim": 24, "final_logit_softcapping": None, "layer_types": None,
    "num_hidden_layers": 7,
}  # fmt: skip
GLOBAL = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
LOCAL = {"rope_type": "default", "rope_theta": 10000.0}
FIVE_LAYERS = {"layer_types": None, "num_hidden_layers": 5}
FULL = {"use_sliding_window": False, "layer_types": None}
#: llama.cpp has EXAONE's window in models of 64 layers alone.
FULL_EXAONE = {"sliding_window": None, "layer_types": ["full_attention"] * 2}
NO_WINDOW = {"sliding_window": None}

#: name -> (line of tests/architectures.py, changes of its configuration).
GGUF_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3": ("llama", {}),
    "llama, yarn": ("llama", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "mistral": ("mistral", NO_WINDOW),
    "mistral, window": ("mistral", {"sliding_window": 60}),
    "qwen2": ("qwen2", FULL),
    "qwen2, yarn": ("qwen2", {**FULL, "rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "qwen3, yarn": ("qwen3", {"rope_parameters": YARN, "tie_word_embeddings": False}),
    "gemma": ("gemma", {"head_dim": 24}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 24, "head_dim": 24}),
    "gemma3": ("gemma3_text", GEMMA3),
    "gemma3, linear": (
        "gemma3_text",
        {**GEMMA3, "rope_parameters": {"full_attention": GLOBAL, "sliding_attention": LOCAL}},
    ),
    "phi3, part": ("phi3", {"sliding_window": None}),
    "starcoder2": ("starcoder2", NO_WINDOW),
    "starcoder2, linear": ("starcoder2", {**NO_WINDOW, "rope_parameters": LINEAR}),
    "falcon": ("falcon", {}),
    "falcon, groups": ("falcon", {"multi_query": False, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "stablelm": ("stablelm", {}),
    "stablelm, parallel": ("stablelm", {"use_parallel_residual": True, "tie_word_embeddings": True}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {"rope_parameters": YARN}),
    "olmo2, tied": ("olmo2", {"tie_word_embeddings": True}),
    "olmo3": ("olmo3", FIVE_LAYERS),
    "cohere": ("cohere", {"use_qk_norm": False}),
    "cohere2": ("cohere2", FIVE_LAYERS),
    "smollm3": ("smollm3", {"no_rope_layers": None, "num_hidden_layers": 5}),
    "granite": ("granite", {}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox, parallel": ("gpt_neox", {"use_parallel_residual": True}),
    "phi": ("phi", {"qk_layernorm": False}),
    "nemotron": ("nemotron", {}),
    "glm4": ("glm4", {}),
    "arcee": ("arcee", {}),
    "seed_oss": ("seed_oss", {"head_dim": 24}),
    "olmoe": ("olmoe", {"norm_topk_prob": False, "num_key_value_heads": 4}),
    "olmoe, yarn": ("olmoe", {"norm_topk_prob": False, "num_key_value_heads": 4, "rope_parameters": YARN}),
    "granitemoe": ("granitemoe", {"attention_multiplier": 0.3}),
    "granitemoe, tied": ("granitemoe", {"tie_word_embeddings": True}),
    "exaone4": ("exaone4", FULL_EXAONE),
    "exaone4, llama3": ("exaone4", {**FULL_EXAONE, "rope_parameters": LLAMA3, "tie_word_embeddings": False}),
    "exaone4, window": ("exaone4", {"num_hidden_layers": 64, "layer_types": None}),
    "exaone4, window, llama3": ("exaone4", {"num_hidden_layers": 64, "layer_types": None, "rope_parameters": LLAMA3}),
    "bloom": ("bloom", {"n_head": 4}),
    "mixtral": ("mixtral", NO_WINDOW),
    "mixtral, linear": ("mixtral", {**NO_WINDOW, "rope_parameters": LINEAR}),
    "falcon, linear": ("falcon", {"rope_parameters": LINEAR}),
    "stablelm, yarn": ("stablelm", {"rope_parameters": {**YARN, "partial_rotary_factor": 0.5}}),
    "gpt_neox, linear": ("gpt_neox", {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}}),
    "phi, yarn": ("phi", {"qk_layernorm": False, "rope_parameters": {**YARN, "partial_rotary_factor": 0.5}}),
    "nemotron, linear": ("nemotron", {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}}),
    "qwen3_moe, yarn": ("qwen3_moe", {"head_dim": 24, "rope_parameters": YARN}),
    "granite, untied": ("granite", {"tie_word_embeddings": False}),
    "qwen3_moe": ("qwen3_moe", {"head_dim": 24}),
}


def rounded(model: Any) -> Any:
    """The model with weights that bfloat16 holds exactly; rotary frequencies stay as they are."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).float())
    return model


def gguf_model(name: str, **changes: Any) -> Any:
    """One of GGUF_MODELS in float32."""
    architecture, own = GGUF_MODELS[name]
    return tiny_architecture(architecture, **copy.deepcopy({**own, **changes}))  # transformers adds to them
