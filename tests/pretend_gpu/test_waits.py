"""Where the host waits for the GPU: at most twice a step, whatever the number of layers, batches and rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_gpu.child import on_pretend_gpu
from pretend_gpu.device import SEEN
from tiny import model_folder, recipe, rows_file, tiny_model

from tunelab.inference.engine import generate
from tunelab.inference.sampling import Decoding
from tunelab.models.key_value_cache import KeyValueCache, cached_attention, read_tokens
from tunelab.models.shared_prefix import prefix_attention, read_after_prefix, read_prefix
from tunelab.training.finetune import finetune
from tunelab.training.loop import TrainingLoop
from tunelab.training.optimizer import adamw

Waits = dict[tuple[str, str], int]


def waits_of_steps(folder: Path, changes: dict[str, Any]) -> list[Waits]:
    """The waits of each step of a run, from one step's end to the next's, without those of checkpoints."""
    made = recipe(
        model_folder(folder / "model"),
        rows_file(folder / "rows.jsonl"),
        folder / "run",
        train__device="cuda",
        **changes,
    )
    found: list[Waits] = []
    own = TrainingLoop._step

    def watched(*arguments: Any) -> Any:
        SEEN.waits.clear()
        record = own(*arguments)
        found.append(dict(SEEN.waits))
        return record

    TrainingLoop._step = watched  # type: ignore[method-assign]
    finetune(made)
    return found


KINDS: dict[str, dict[str, Any]] = {
    "lora": {"train__dtype": "bf16", "train__steps": 3},
    "full": {"method": "full", "train__dtype": "bf16", "train__steps": 3, "train__activation_checkpointing": True},
    "fp16": {"train__dtype": "fp16", "train__steps": 3},
    "padded": {"train__dtype": "bf16", "train__steps": 3, "train__packing": False},
    "noise": {"train__dtype": "bf16", "train__steps": 3, "train__neftune_alpha": 5.0},
    "nf4": {"train__dtype": "bf16", "train__steps": 3, "precision": {"name": "nf4"}},
    "8 bits": {"train__dtype": "bf16", "train__steps": 3, "train__optimizer": "adamw-8bit"},
}


def check(kind: str, folder: Path) -> None:
    steps = on_pretend_gpu(waits_of_steps, folder, KINDS[kind])
    assert len(steps) == 3
    for step in steps[1:]:  # in the first one, what a layer needs once is made
        # Padded rows use the model's own attention: transformers looks at the positions once a pass.
        of_ours = {place: count for place, count in step.items() if kind != "padded" or "forward.py" not in place[1]}
        assert sum(of_ours.values()) <= 2, step


def test_a_step_waits_at_most_twice(tmp_path: Path) -> None:
    check("lora", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"lora"}))
def test_each_kind_of_step_waits_at_most_twice(kind: str, tmp_path: Path) -> None:
    check(kind, tmp_path)


def waits_of_decoding() -> list[Waits]:
    model, found = tiny_model("llama").to("cuda", torch.bfloat16), []
    with torch.no_grad(), cached_attention(model):
        cache = KeyValueCache(2, 64)
        read_tokens(model, cache, [], [], [[1, 2, 3], [4, 5]], range(2))
        for place in (3, 4):
            SEEN.waits.clear()
            read_tokens(model, cache, [7, 8], [place, place - 1])
            found.append(dict(SEEN.waits))
    with torch.no_grad(), prefix_attention(model):
        prefix = read_prefix(model, [1, 2, 3])
        SEEN.waits.clear()
        read_after_prefix(model, prefix, [[1, 2], [3]])
        found.append(dict(SEEN.waits))
    return found


def test_reading_tokens_does_not_wait() -> None:
    assert on_pretend_gpu(waits_of_decoding) == [{}, {}, {}]


class Numbers:
    """Decodes token ids as their numbers."""

    def decode(self, ids: list[int], **named: bool) -> str:
        return " ".join(str(token) for token in ids)


def waits_of_generating(options: dict[str, float]) -> int:
    """Waits while four rows generate 8 tokens each."""
    model: Any = tiny_model("llama").to("cuda", torch.bfloat16)
    prompts = [[3, 4, 5], [6, 7], [8] * 9, [9]]
    for tokens in (2, 8):  # the first time, what is needed once is made
        SEEN.waits.clear()
        decoding = Decoding(max_new_tokens=tokens, **options)  # type: ignore[arg-type]
        found = list(generate(model, Numbers(), prompts, decoding, stop_token_ids=(), micro_batch_tokens=10_000))  # type: ignore[arg-type]
        assert {len(one.token_ids) for one in found} == {tokens}
    return SEEN.waits.total()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.2}])
def test_a_generated_token_of_all_rows_is_one_wait(options: dict[str, float]) -> None:
    assert on_pretend_gpu(waits_of_generating, options) == 8


def fused() -> Counter[str]:
    weight = torch.nn.Parameter(torch.ones(3, 2, device="cuda"))
    settings: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8}
    optimizer = adamw([weight], **settings)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.state[weight]["step"].is_cuda
    return Counter({"fused": int(optimizer.param_groups[0]["fused"]), "waits": SEEN.waits.total()})


def test_adamw_on_a_gpu_is_one_kernel() -> None:
    assert on_pretend_gpu(fused) == {"fused": 1, "waits": 0}
    assert not adamw([torch.nn.Parameter(torch.ones(2))], lr=1.0, weight_decay=0.0, betas=(0.9, 0.9),
                     eps=1e-8).param_groups[0]["fused"]  # fmt: skip
