"""Makes the demo's own assets: tokenizer, pretrained base model and instruction rows, all from text generated here.

    python -m scripts.demo.build [--out src/tunelab/assets] [--steps N] [--threads 2]

Run it from the repository root. docs/demo-assets.md says what comes out, how long it takes and how exactly it repeats.
"""

from __future__ import annotations

import argparse
import json
import math
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
TOKENIZER_DOCUMENTS = 6_000
VOCABULARY = 2048
END, PAD = "<|endoftext|>", "<|pad|>"
BLOCK = 192
"""Tokens a row while pretraining; documents are joined, with END after each."""
ROWS_PER_STEP = 20
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 60


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
    """In the form of transformers: tokenizer.json and tokenizer_config.json. END closes every text; nothing opens one."""
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


def encode_prose(tokenizer: Tokenizer, documents: int) -> torch.Tensor:
    """All prose as rows of BLOCK + 1 token ids, int64 [rows, BLOCK + 1]; the rest that fills no row is left out."""
    import torch

    end = tokenizer.token_to_id(END)
    encoded = tokenizer.encode_batch(list(text.documents(SEED, documents)))
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
    """`steps` batches [ROWS_PER_STEP, BLOCK + 1] in a seeded order, no row twice."""
    import torch

    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
    for step in range(steps):
        yield rows[order[step * ROWS_PER_STEP : (step + 1) * ROWS_PER_STEP]]


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
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % 50 == 49:
            rate = (step + 1) * ROWS_PER_STEP * BLOCK / (time.monotonic() - begun)
            print(f"step {step + 1}/{steps}  loss {sum(losses[-50:]) / 50:.4f}  {rate:,.0f} tokens/s", file=sys.stderr)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("src/tunelab/assets"))
    parser.add_argument("--steps", type=int, default=None, help="stop after so many steps (default: all prose once)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    folder = options.out / "demo_base"
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    count = write_rows(options.out / "demo_instructions.jsonl")
    tokenizer = train_tokenizer()
    save_tokenizer(tokenizer, folder)
    rows = encode_prose(tokenizer, DOCUMENTS)
    steps = options.steps or len(rows) // ROWS_PER_STEP
    print(f"{count} rows, {rows.numel():,} tokens, {steps} steps, {time.monotonic() - begun:.1f} s", file=sys.stderr)
    model = make_model(tokenizer.get_vocab_size())
    losses = pretrain(model, rows, steps)
    model.to(torch.bfloat16).save_pretrained(folder)
    print(sum(losses[-50:]) / 50)


if __name__ == "__main__":
    main()
