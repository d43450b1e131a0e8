"""Random models of each family whose answers vary, for tests of generating and scoring."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

VOCABULARY = 97
CONTEXT = 64
FAMILIES = ("gpt2", "llama", "phi3", "phi3-longrope")


def tiny_model(family: str) -> PreTrainedModel:
    """A random model of a family's shape, with weights large enough that its answers vary."""
    torch.manual_seed(7)
    common: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    shape = {
        **common,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": 0,
    }
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT)).eval()
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape)).eval()
    shape["original_max_position_embeddings"] = CONTEXT
    if family == "phi3-longrope":
        shape["original_max_position_embeddings"] = 24
        shape["rope_parameters"] = {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [3.0] * 4,
            "original_max_position_embeddings": 24,
            "partial_rotary_factor": 1.0,
        }
    return Phi3ForCausalLM(Phi3Config(**shape)).eval()
