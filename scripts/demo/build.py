"""Makes the demo's own assets: tokenizer, pretrained base model and instruction rows, all from text generated here.

    python -m scripts.demo.build [--out src/tunelab/assets] [--steps N] [--threads 2]

Run it from the repository root. docs/demo-assets.md says what comes out, how long it takes and how exactly it repeats.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.demo import instructions, text

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM

SEED = 20261121
DATE = "2026-11-21"
DOCUMENTS = 44_000
"""Documents of prose to pretrain on; each is read once."""
HELD_OUT_DOCUMENTS = 500
TOKENIZER_DOCUMENTS = 6_000
VOCABULARY = 2048
END, PAD = "<|endoftext|>", "<|pad|>"
BLOCK = 192
"""Tokens a row while pretraining; documents are joined, with END after each."""
BATCH_SIZE = 10
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 100


def write_rows(path: Path) -> int:
    """The instruction rows as JSON lines; gives their number."""
    rows = instructions.instruction_rows(SEED)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="\n")
    return len(rows)


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE (as GPT-2's) on the first documents of the prose and on the instructions' own words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    rows = ("\n".join(row.values()) for row in instructions.instruction_rows(SEED))
    tokenizer.train_from_iterator([*text.documents(SEED, TOKENIZER_DOCUMENTS), *rows], trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """In the form of transformers: tokenizer.json, tokenizer_config.json. END closes a text; nothing opens one."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(str(folder))
    # transformers 5 writes its own class's new name, which transformers 4 does not know; both know this one.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8", newline="\n")


def encode_prose(tokenizer: Tokenizer, documents: int, seed: int) -> torch.Tensor:
    """Prose as rows of BLOCK + 1 token ids, int64 [rows, BLOCK + 1]; the rest that fills no row is left out."""
    import torch

    end = tokenizer.token_to_id(END)
    encoded = tokenizer.encode_batch(list(text.documents(seed, documents)))
    ids = torch.tensor([token for document in encoded for token in (*document.ids, end)])
    rows = len(ids) // (BLOCK + 1)
    return ids[: rows * (BLOCK + 1)].view(rows, BLOCK + 1)


def make_model(vocabulary: int) -> LlamaForCausalLM:
    """A Llama of 2.2 million parameters: sizes are multiples of 64, so that every block-wise weight format fits it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to a twentieth of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LEARNING_RATE * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def batches(rows: torch.Tensor, steps: int) -> Iterator[torch.Tensor]:
    """`steps` batches [BATCH_SIZE, BLOCK + 1] in a seeded order, no row twice."""
    import torch

    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
    for step in range(steps):
        yield rows[order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]]


def pretrain(model: LlamaForCausalLM, rows: torch.Tensor, steps: int) -> list[float]:
    """Next-token training in fp32 with AdamW; gives the loss (nats a token) of every step."""
    import torch
    from torch.nn.functional import cross_entropy

    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    losses: list[float] = []
    begun = time.monotonic()
    model.train()
    for step, batch in enumerate(batches(rows, steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 49:
            rate = (step + 1) * BATCH_SIZE * BLOCK / (time.monotonic() - begun)
            print(f"step {step + 1}/{steps}  loss {sum(losses[-50:]) / 50:.4f}  {rate:,.0f} tokens/s", file=sys.stderr)
    return losses


def prose_loss(model: LlamaForCausalLM, tokenizer: Tokenizer) -> float:
    """Loss (nats a token) on prose of another seed, which the model has not read; the weights as they are, in fp32."""
    import torch
    from torch.nn.functional import cross_entropy

    rows = encode_prose(tokenizer, HELD_OUT_DOCUMENTS, SEED + 1)
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(rows), BATCH_SIZE):
            part = rows[start : start + BATCH_SIZE]
            logits = model(input_ids=part[:, :-1]).logits
            total += cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
    return total / (rows.numel() - len(rows))


def readme(record: dict[str, Any]) -> str:
    """The model's card, from the figures of its making."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    took = f"{record['training_seconds'] / 60:.1f} minutes on {record['threads']} CPU thread(s)"
    optimisation = f"{record['steps']} steps of {record['batch_tokens']:,} tokens, AdamW, fp32"
    losses = f"{record['final_loss']:.4f} in training (mean of the last 50 steps)"
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# The base model of `tunelab demo`

A Llama-shaped language model of {record["parameters"]:,} parameters with a byte-level BPE tokenizer of
{record["vocabulary"]:,} tokens. It has read prose about a made-up little world (28 people, 8 towns, trades, animals,
prices, words, sums) and has never seen an instruction. It exists so that fine-tuning can be tried in seconds and
without a network; it knows nothing of the real world.

| | |
|---|---|
| made by | `python -m scripts.demo.build`, from text that the project generates; no other text was used |
| date | {record["date"]} |
| seed | {record["seed"]} |
| text | {record["documents"]:,} documents, {record["tokens"]:,} tokens, each read once |
| training | {optimisation}, {took} |
| loss, nats a token | {losses}, {record["held_out_loss"]:.4f} on unseen prose (saved weights) |
| weights | stored as bf16; load them as fp32 to train them (`dtype=torch.float32`) |
| special tokens | `{END}` closes a text (id 0), `{PAD}` pads (id 1); no token opens a text |
| made with | {versions} |
| licence | Apache-2.0, as the project's code; so are the rows in `demo_instructions.jsonl` |

How exactly a second build repeats this one, and what the rows look like: `docs/demo-assets.md` in the repository.
"""


def record_of(
    model: LlamaForCausalLM, tokens: int, losses: list[float], seconds: float, threads: int
) -> dict[str, Any]:
    """The figures that build.json keeps and the README shows."""
    import tokenizers
    import torch
    import transformers

    return {
        "date": DATE,
        "seed": SEED,
        "documents": DOCUMENTS,
        "tokens": tokens,
        "vocabulary": model.config.vocab_size,
        "parameters": model.num_parameters(),
        "steps": len(losses),
        "batch_tokens": BATCH_SIZE * BLOCK,
        "threads": threads,
        "training_seconds": round(seconds, 1),
        "final_loss": round(sum(losses[-50:]) / len(losses[-50:]), 4),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """As bf16 safetensors, readable by all; the model itself then holds the rounded weights, in fp32 again."""
    import torch

    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    model.to(torch.float32)


def build(out: Path, steps: int | None, threads: int) -> dict[str, Any]:
    """Everything, into `out`; gives the figures of record_of(). `steps` cuts pretraining short, for a trial."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    folder = out / "demo_base"
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(out / "demo_instructions.jsonl")
    tokenizer = train_tokenizer()
    save_tokenizer(tokenizer, folder)
    rows = encode_prose(tokenizer, DOCUMENTS, SEED)
    model = make_model(tokenizer.get_vocab_size())
    begun = time.monotonic()
    losses = pretrain(model, rows, steps or len(rows) // BATCH_SIZE)
    seconds = time.monotonic() - begun
    save_model(model, folder)
    record = record_of(model, rows.numel(), losses, seconds, threads)
    record["held_out_loss"] = round(prose_loss(model, tokenizer), 4)
    (folder / "build.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8", newline="\n")
    (folder / "README.md").write_text(readme(record), encoding="utf-8", newline="\n")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("src/tunelab/assets"))
    parser.add_argument("--steps", type=int, default=None, help="stop after so many steps (default: all prose once)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    # Threads that wait sleep: where other work shares the cores, spinning ones make each step several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print(json.dumps(build(options.out, options.steps, options.threads), indent=2))


if __name__ == "__main__":
    main()
