"""The models that speed is measured on: shapes of known models with random weights, and Alpaca rows as their data.

Speed does not depend on what the weights say, so nothing need be downloaded; tokenizers are real ones.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Shape:
    """A causal language model's size. `dtype` is what its weights are saved in."""

    name: str
    family: Literal["llama", "gpt2"]
    hidden: int
    layers: int
    heads: int
    key_heads: int
    intermediate: int
    vocabulary: int
    dtype: str = "float32"


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("15M", "llama", 288, 6, 6, 6, 768, 32_000),  # llama2.c's stories15M
        Shape("82M", "gpt2", 768, 6, 12, 12, 3072, 50_257),  # DistilGPT-2
        Shape("135M", "llama", 576, 30, 9, 3, 1536, 49_152),  # SmolLM-135M
        Shape("1B", "llama", 2048, 16, 32, 8, 8192, 128_256, "bfloat16"),  # Llama-3.2-1B
        Shape("7B", "llama", 4096, 32, 32, 32, 11_008, 32_000, "bfloat16"),  # Llama-2-7B
        Shape("8B", "llama", 4096, 32, 32, 8, 14_336, 128_256, "bfloat16"),  # Llama-3.1-8B
    )
}

#: What is measured where no shapes are named, by device.
USUAL_SHAPES = {"cpu": ("15M", "82M", "135M"), "cuda": ("135M", "1B", "8B")}


def save_model(shape: Shape, folder: Path, seed: int = 0) -> None:
    """A model of this shape with random weights, in transformers' format."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    if shape.family == "gpt2":
        config: Any = GPT2Config(
            vocab_size=shape.vocabulary,
            n_embd=shape.hidden,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_positions=1024,
            # Dropout in the base would make losses incomparable; DistilGPT-2's own 0.1 is a choice of its pretraining.
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            resid_pdrop=0.0,
        )
    else:
        config = LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_heads,
            intermediate_size=shape.intermediate,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, shape.dtype))
    model.save_pretrained(folder)


def load_tokenizer(shape: Shape, data: Path, scratch: Path) -> Any:
    """GPT-2's tokenizer for GPT-2 shapes, Llama-2's for the others (its ids fit every Llama vocabulary here)."""
    from transformers import GPT2TokenizerFast, LlamaTokenizerFast

    if shape.family == "llama":
        return LlamaTokenizerFast.from_pretrained(data / "tokenizers/llama2")
    scratch.mkdir(parents=True, exist_ok=True)
    shutil.copy(data / "tokenizers/gpt2/encoder.json", scratch / "vocab.json")
    shutil.copy(data / "tokenizers/gpt2/vocab.bpe", scratch / "merges.txt")
    return GPT2TokenizerFast.from_pretrained(scratch)


def alpaca_rows(model: Path, data: Path, count: int, longest: int = 1024) -> list[dict[str, list[int]]]:
    """The first `count` rows of alpaca-cleaned, shuffled by seed 0, in tunelab's Alpaca template, in the tokens
    of the tokenizer that lies in the model's folder.

    Each row: "input_ids", and "answer_mask", 1 where a token belongs to the answer and is learned.
    """
    import tunelab

    table = tunelab.prepare(
        {
            "model": str(model),
            "data": {
                "sources": [str(data / "alpaca/alpaca_cleaned.json")],
                "size": count + count // 10 + 8,  # a few are longer than the window and left out
                "held_out": 0,
                "max_length": longest,
            },
        }
    ).train
    rows = []
    for index in range(min(count, len(table))):
        ids, mask = table.row(index)
        rows.append({"input_ids": ids.tolist(), "answer_mask": mask.astype(int).tolist()})
    if len(rows) < count:
        raise SystemExit(f"{data}: {len(rows)} rows of at most {longest} tokens, {count} wanted; lower --rows")
    return rows


def write_rows(rows: list[dict[str, list[int]]], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_rows(path: Path) -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def training_work(shape: Shape, rows: list[dict[str, list[int]]], rank: int) -> float:
    """Floating-point operations that LoRA training of all linear layers needs on these rows, nothing wasted.

    A frozen weight costs 2 operations a token forward and 2 backward (the gradient of its input; it has none itself);
    a trained one 6; the output head only where a token is learned; attention within a row, causal: half a square.
    """
    hidden, head = shape.hidden, shape.hidden // shape.heads
    if shape.family == "gpt2":
        linears = [(hidden, 3 * hidden), (hidden, hidden), (hidden, shape.intermediate), (shape.intermediate, hidden)]
    else:
        linears = [(hidden, hidden)] * 2 + [(hidden, shape.key_heads * head)] * 2
        linears += [(hidden, shape.intermediate)] * 2 + [(shape.intermediate, hidden)]
    frozen = sum(inputs * outputs for inputs, outputs in linears)
    trained = sum(rank * (inputs + outputs) for inputs, outputs in linears)
    tokens = sum(len(row["input_ids"]) for row in rows)
    targets = sum(sum(row["answer_mask"][1:]) for row in rows)
    squares = sum(len(row["input_ids"]) ** 2 for row in rows)
    per_layer = tokens * (4 * frozen + 6 * trained) + 6 * squares * hidden
    return float(shape.layers * per_layer + 4 * targets * hidden * shape.vocabulary)
