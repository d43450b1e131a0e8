"""What ships to stand in at tiny scale for models, rows and benchmark items that are not on this machine.

Rows and items are files in the package (assets/stand_ins). A model is a configuration of its family, from the table
below, with the demo's tokenizer under the family's special tokens and chat template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).resolve().parents[1] / "assets"
TOKENIZER, FOLDER = ASSETS / "demo_base" / "tokenizer.json", ASSETS / "stand_ins"

#: Source, or data set on the hub -> its rows.
ROWS = {
    "alpaca": FOLDER / "alpaca_stand_ins.json",
    "alpaca-cleaned": FOLDER / "alpaca_cleaned_stand_ins.json",
    "alpaca-gpt4": FOLDER / "alpaca_gpt4_stand_ins.json",
    "oasst1": FOLDER / "oasst1_stand_ins.trees.jsonl",
    "meta-math/MetaMathQA": FOLDER / "metamathqa_stand_ins.json",
}

#: Benchmark -> the folder with its items.
ITEMS = {
    name: FOLDER / name
    for name in (
        *("alpacaeval", "arc_challenge", "arc_easy", "gsm8k", "hellaswag", "ifeval", "mmlu", "tinymmlu"),
        *("truthfulqa", "winogrande"),
    )
}

LLAMA3_CHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
PHI3_CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A model's architecture and its tokenizer's conventions.

    Args:
        config: the real model's configuration, without its vocabulary and without defaults; `model_type` names the
            architecture.
        special: special tokens by name ("eos_token").
        more_special: further special tokens, those of the chat template.
        begins_with_bos: the tokenizer puts `bos_token` before every text.
        chat_template: Jinja source; None = a base model without one.
    """

    config: Mapping[str, Any]
    special: Mapping[str, str]
    more_special: tuple[str, ...] = ()
    begins_with_bos: bool = False
    chat_template: str | None = field(default=None, repr=False)


GPT2 = Family(
    {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
        "tie_word_embeddings": True,
    },
    {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
)
DISTILGPT2 = Family({**GPT2.config, "n_layer": 6}, GPT2.special)

LLAMA2_7B = Family(
    {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
    {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    begins_with_bos=True,
)

_LLAMA31_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": False,
}
_LLAMA3_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA31_8B = Family(
    _LLAMA31_8B,
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    _LLAMA3_TOKENS,
    begins_with_bos=True,
)
LLAMA31_8B_INSTRUCT = Family(
    _LLAMA31_8B,
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    (*_LLAMA3_TOKENS, "<|end_of_text|>"),
    begins_with_bos=True,
    chat_template=LLAMA3_CHAT,
)

LLAMA_7B = Family(
    {**LLAMA2_7B.config, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}, LLAMA2_7B.special, begins_with_bos=True
)

_LLAMA32 = {
    **_LLAMA31_8B,
    "rope_scaling": {**_LLAMA31_8B["rope_scaling"], "factor": 32.0},
    "head_dim": 64,
    "tie_word_embeddings": True,
}
LLAMA32_1B = Family(
    {**_LLAMA32, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
    LLAMA31_8B.special,
    _LLAMA3_TOKENS,
    begins_with_bos=True,
)
LLAMA32_3B = Family(
    {
        **_LLAMA32,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "head_dim": 128,
    },
    LLAMA31_8B.special,
    _LLAMA3_TOKENS,
    begins_with_bos=True,
)

QWEN3_06B = Family(
    {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    ("<|im_start|>", "<|im_end|>"),
)

PHI3_MINI = Family(
    {
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "sliding_window": 2047,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
    {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"},
    ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    chat_template=PHI3_CHAT,
)

TINYSTORIES_656K = Family(
    {
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    {"bos_token": "<|start_story|>", "eos_token": "<|end_story|>", "pad_token": "<unk>", "unk_token": "<unk>"},
)

#: Name on the hub -> its family.
FAMILIES = {
    **dict.fromkeys(("distilgpt2", "distilbert/distilgpt2"), DISTILGPT2),
    **dict.fromkeys(("gpt2", "openai-community/gpt2"), GPT2),
    "huggyllama/llama-7b": LLAMA_7B,
    "meta-llama/Llama-2-7b-hf": LLAMA2_7B,
    "meta-llama/Llama-3.1-8B": LLAMA31_8B,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA31_8B_INSTRUCT,
    "meta-llama/Llama-3.2-1B": LLAMA32_1B,
    "meta-llama/Llama-3.2-3B": LLAMA32_3B,
    "microsoft/Phi-3-mini-4k-instruct": PHI3_MINI,
    "Qwen/Qwen3-0.6B-Base": QWEN3_06B,
    "raincandy-u/TinyStories-656K": TINYSTORIES_656K,
}


def stand_in_tokenizer(family: Family) -> Any:
    """The demo's tokenizer, with the special tokens and the chat template of a family."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    more = list(family.more_special)
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_file=str(TOKENIZER), **family.special, additional_special_tokens=more
    )
    if family.begins_with_bos:
        begin = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{begin[0]} $A", pair=f"{begin[0]} $A {begin[0]} $B", special_tokens=[begin]
        )
    tokenizer.chat_template = family.chat_template
    return tokenizer


def stand_in_config(family: Family, tokenizer: Any) -> Any:
    """The configuration of a family in its real size, for the ids of this tokenizer."""
    from transformers import AutoConfig

    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    fields = {**family.config, **ids, "vocab_size": len(tokenizer)}
    return AutoConfig.for_model(fields.pop("model_type"), **fields)
