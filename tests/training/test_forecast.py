"""Before the first step a training says what is known: rows, steps, tokens, the least memory, and too few rows."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import random_table, recipe, tiny_model
from transformers import LlamaForCausalLM

from tunelab.config import parse_recipe
from tunelab.data.loader import TrainingPlan
from tunelab.models.adapters import add_lora
from tunelab.training.forecast import few_rows_warning, forecast, least_bytes, padding_sentence, time_sentence

LENGTHS = (12, 9, 20, 7, 15, 4, 16, 11)


def plan(**changes: object) -> TrainingPlan:
    settings = {"epochs": 1.5, "steps": None, "batch_size": 4, "batch_tokens": None, "micro_batch_tokens": 64}
    return TrainingPlan(table=random_table(LENGTHS), **{**settings, **changes})  # type: ignore[arg-type]


def test_it_says_rows_tokens_steps_and_epochs() -> None:
    made = parse_recipe(recipe("m", "rows.jsonl", "out"))  # type: ignore[arg-type]
    model = add_lora(tiny_model("llama"), rank=4, alpha=8)
    table = plan().table
    said = forecast(made, plan(), model, held_out=0)
    counts = f"{sum(table.targets)} in the loss"
    assert said[0] == f"8 rows, {sum(LENGTHS)} tokens per epoch ({counts}); 3 steps, 1.5 epochs"
    assert len(said) == 2 and "the time left is shown from the first step on" in said[1]
    said = forecast(made, plan(loss_on="all", epochs=1.0), model, held_out=200, step=1)
    counts = f"{sum(LENGTHS) - 8} in the loss"
    assert said[0] == f"8 rows, {sum(LENGTHS)} tokens per epoch ({counts}); 2 steps, 1 epoch; resuming after step 1"


def test_the_time_is_estimated_from_a_forward_pass_or_from_steps_that_were_done() -> None:
    made = recipe("m", "rows.jsonl", "out")  # type: ignore[arg-type]
    whole = plan(epochs=2.0)
    tokens = 2 * sum(LENGTHS)

    def said(**changes: Any) -> str:
        tree = {**made, **changes, "train": {**made["train"], **changes.get("train", {})}}
        return time_sentence(parse_recipe(tree), whole, forward=12.0)

    assert said() == (
        f"about {tokens / 6:.1f} s of training: {tokens} tokens at 6 tokens/s (a forward pass takes 1/2 of it)"
    )
    assert f"{tokens} tokens at 4 tokens/s" in said(method="full")
    assert f"{tokens} tokens at 3 tokens/s" in said(method="full", train={"activation_checkpointing": True})
    left = tokens - sum(LENGTHS)
    resumed = time_sentence(parse_recipe(made), whole, earlier=5.0, step=2)
    assert resumed == f"about {left / 5:.1f} s of training: {left} tokens at 5 tokens/s (as before the interruption)"


def test_the_least_memory_is_weights_gradients_and_moments() -> None:
    model = add_lora(tiny_model("llama"), rank=4, alpha=8)
    made = recipe("m", "rows.jsonl", "out")  # type: ignore[arg-type]
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    weights = sum(one.nbytes for one in model.parameters())
    assert least_bytes(parse_recipe(made), model, weights) == weights + 12 * trained
    made["train"]["optimizer"] = "adamw-8bit"
    assert least_bytes(parse_recipe(made), model, weights) == weights + 6 * trained


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (0, None),
        (100, None),
        (1, "warning: with 1 held-out row no difference can be significant; hold out more (data.held_out; 200 where"),
        (5, "warning: with 5 held-out rows no difference can be significant; hold out more"),
        (
            15,
            "warning: with 15 held-out rows the minimum detectable difference is 0.78 standard deviations of the",
        ),
    ],
)
def test_few_held_out_rows_are_warned_of(rows: int, expected: str | None) -> None:
    warning = few_rows_warning(rows)
    assert warning == expected if expected is None else warning is not None and warning.startswith(expected)


@pytest.mark.parametrize(("seen", "how"), [("cumsum", "rows are padded"), ("mean", "rows run one at a time")])
def test_why_rows_are_not_packed_is_said_before_training(seen: str, how: str) -> None:
    class Mixes(LlamaForCausalLM):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model.embed_tokens.register_forward_hook(self.mixed)

        def mixed(self, module: Any, ids: Any, embedded: Any) -> Any:
            return embedded.cumsum(1) if seen == "cumsum" else embedded + embedded.mean(1, keepdim=True)

    model = add_lora(Mixes(tiny_model("llama").config).eval(), rank=4, alpha=8)
    said = forecast(parse_recipe(recipe("m", "rows.jsonl", "out")), plan(), model, held_out=200)  # type: ignore[arg-type]
    assert len(said) == 3
    assert said[-1].startswith(f"{how}, with the model's own attention: Mixes: pa")
    made = recipe("m", "rows.jsonl", "out", train__packing=False)  # type: ignore[arg-type]
    unpacked = padding_sentence(parse_recipe(made), model)
    assert unpacked == (said[-1] if how == "rows run one at a time" else None), "padding was asked for"
    asked = parse_recipe(recipe("m", "rows.jsonl", "out"))  # type: ignore[arg-type]
    assert padding_sentence(asked, add_lora(tiny_model("llama"), rank=4, alpha=8)) is None
