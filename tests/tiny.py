"""Models, tokenizers, rows and recipes small enough to train within a test: random weights, a byte-level vocabulary."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from tunelab.data.loader import TokenTable
from tunelab.data.tokenize import EncodedRow
from tunelab.models.forward import packed_attention, packed_hidden_states
from tunelab.models.head import output_head

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # as conftest.py sets it
disable_progress_bar()

FAMILIES = ("gpt2", "llama", "phi3")
VOCABULARY = 264
CONTEXT = 128
WORDS = ("red", "blue", "cat", "dog", "sun", "moon", "one", "two", "up", "down")


def tiny_model(family: str, *, seed: int = 7, **changes: Any) -> Any:
    """A random causal language model of two layers, in evaluation mode; no dropout unless `changes` say so."""
    torch.manual_seed(seed)
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "bos_token_id": 256,
        "eos_token_id": 256,
        "initializer_range": 0.2,
    }
    if family == "gpt2":
        quiet = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
        return GPT2LMHeadModel(GPT2Config(**{**common, **shape, **quiet, **changes})).eval()
    shape = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": 257,
    }
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**{**common, **shape, **changes})).eval()
    return Phi3ForCausalLM(Phi3Config(**{**common, **shape, **changes})).eval()


def coarse_model(family: str) -> Any:
    """A model that bfloat16 changes a lot: logits of rows in one packed sequence and apart differ by more than 5 %.

    In float32 they are equal. Which weights do that depends on the machine's kernels: the first that do are taken.
    """
    depth = "n_layer" if family == "gpt2" else "num_hidden_layers"
    for seed in range(20):
        model = tiny_model(family, seed=seed, initializer_range=1.0, **{depth: 12})
        if _packed_difference(copy.deepcopy(model).to(torch.bfloat16)) > 5e-2:
            return model
    raise AssertionError(f"no {family} model that bfloat16 changes enough")


def _packed_difference(model: Any) -> float:
    """Largest difference of logits between rows in one packed sequence and apart, relative to the largest logit."""
    rows = [torch.arange(5), (torch.arange(7) * 3 + 1) % VOCABULARY]
    with torch.no_grad():
        apart = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows]).float()
        with packed_attention(model):
            packed = output_head(model)(packed_hidden_states(model, torch.cat(rows), torch.tensor([0, 5, 12]))).float()
    return float((packed - apart).abs().max() / apart.abs().max())


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, then end of sequence (256) and padding (257)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(tokenizer_models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")


def model_folder(path: Path, family: str = "llama", **changes: Any) -> Path:
    """A folder as `save_pretrained` leaves it: model and tokenizer."""
    tiny_model(family, **changes).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def rows_file(path: Path, rows: int = 24, seed: int = 3) -> Path:
    """A jsonl file of prompts and completions, a few words each, every one different."""
    draw = random.Random(seed)
    lines = []
    for number in range(rows):
        prompt = " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))
        answer = " ".join(draw.choices(WORDS, k=draw.randint(1, 5)))
        lines.append(json.dumps({"prompt": f"{number}: {prompt}", "completion": answer}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def recipe(model: Path, data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of six steps on these rows; `changes` are dotted keys with `__` for the dot (train__lr=1e-3)."""
    tree: dict[str, Any] = {
        "model": {"name": str(model)},
        "adapter": {"rank": 4, "alpha": 8},
        "data": {
            "sources": [{"name": "prompt_completion", "path": str(data)}],
            "template": "plain",
            "max_length": CONTEXT,
            "held_out": 0,
        },
        "train": {
            "steps": 6,
            "batch_size": 4,
            "lr": 1e-2,
            "micro_batch_tokens": 160,
            "save_every": 1000,  # at the end, and where it is stopped: by default a checkpoint would follow each step
            "device": "cpu",
            "dtype": "fp32",
        },
        "out": str(out),
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            tree[section][name] = value
        else:
            tree[section] = value
    return tree


def random_table(lengths: Sequence[int], *, seed: int = 5, vocabulary: int = VOCABULARY) -> TokenTable:
    """Rows of random tokens; the answer is the second half of each, and at least its last token."""
    draw = np.random.default_rng(seed)
    rows = []
    for number, length in enumerate(lengths):
        mask = np.arange(length) >= max(1, length // 2)
        ids = draw.integers(0, vocabulary, length).astype(np.int32)
        rows.append(EncodedRow(input_ids=ids, answer_mask=mask, reference="", origin=f"row {number}"))
    return TokenTable.of(rows)
