"""`train.micro_batch_tokens: auto` takes what surely fits: not a token too many, not fewer than could be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.config import parse_recipe, resolve
from tunelab.planning.advice import STEP
from tunelab.planning.automatic import automatic, with_automatic
from tunelab.planning.estimate import Plan
from tunelab.planning.fit import verdict
from tunelab.planning.known import config_of
from tunelab.planning.shape import shape_of
from tunelab.units import GIB

NAMES = ("distilgpt2", "Qwen3-0.6B", "gemma-3-1b-pt")


def plan_of(name: str, on_gpu: bool = True, **train: Any) -> Plan:
    tree = {
        "model": name,
        "data": {"sources": ["alpaca"], "max_length": train.pop("max_length", None)},
        "train": {"micro_batch_tokens": "auto", **train},
    }
    return Plan(shape_of(config_of(name).values, name), resolve(parse_recipe(tree)), on_gpu=on_gpu)


@settings(max_examples=15)
@given(st.sampled_from(NAMES), st.booleans(), st.integers(1, 600), st.integers(64, 1024), st.floats(0.5, 40))
def test_it_is_the_largest_that_surely_fits(name: str, on_gpu: bool, rows: int, longest: int, gib: float) -> None:
    plan, memory = plan_of(name, on_gpu, batch_size=rows, max_length=longest), gib * GIB
    found, step = automatic(plan, memory), rows * longest
    assert longest <= found.tokens <= step and f": {found.tokens:,}," in found.sentence
    if found.sentence.startswith("warning"):
        assert found.tokens == longest and verdict(plan, memory, longest + STEP) != "fits"
        return
    assert verdict(plan, memory, found.tokens) == "fits"
    assert found.tokens == step or verdict(plan, memory, found.tokens + STEP) != "fits"


def test_the_sentence_says_the_number_and_what_bounds_it() -> None:
    plan = plan_of("Llama-3.2-1B", batch_size=8, max_length=512)
    assert automatic(plan, 80 * GIB).sentence == (
        "train.micro_batch_tokens=auto: 4,096, a whole step, surely fits 80.00 GiB of the GPU"
    )
    many = plan_of("Llama-3.2-1B", batch_size=256, max_length=512)
    assert "the most that surely fit 24.00 GiB of the GPU" in automatic(many, 24 * GIB).sentence
    small = automatic(many, 2 * GIB)
    assert (small.tokens, small.sentence) == (
        512,
        "warning: train.micro_batch_tokens=auto: 512, the longest row alone, may not fit 2.00 GiB of the GPU",
    )
    on_cpu = automatic(plan_of("distilgpt2", on_gpu=False, batch_size=4, max_length=64), 8 * GIB)
    assert on_cpu.tokens == 256 and on_cpu.sentence.endswith("surely fits 8.00 GiB of available memory")


def test_a_step_in_tokens_ends_with_the_row_that_reaches_it_and_is_shared_out() -> None:
    plan = plan_of("distilgpt2", batch_size=None, batch_tokens=6000, max_length=512)
    assert automatic(plan, 80 * GIB).tokens == 6512
    assert automatic(replace(plan, gpus=4), 80 * GIB).tokens == 2012
    by_rows = plan_of("distilgpt2", batch_size=10, max_length=512)
    assert automatic(replace(by_rows, gpus=4), 80 * GIB).tokens == 3 * 512


def test_what_cannot_be_predicted_takes_the_default_and_says_so() -> None:
    plan = plan_of("Llama-3.2-1B")
    unknown = replace(plan, shape=replace(plan.shape, is_known=False))
    found = automatic(unknown, 80 * GIB)
    assert found.tokens == 4096 and "the default: this architecture's layers are not known" in found.sentence
    planned, said = with_automatic(plan, None)
    assert planned.tokens == 4096 and said and "the default: the device's memory is not known" in said
    long = plan_of("Llama-3.2-1B", max_length=8192)
    assert with_automatic(long, None)[0].tokens == 8192, "a row fits into its micro-batch"


def test_a_number_stays() -> None:
    plan = plan_of("distilgpt2", micro_batch_tokens=640)
    assert with_automatic(plan, GIB) == (plan, None)


def test_only_auto_and_counts_are_values() -> None:
    for wrong in ("most", 0, 1.5, None):
        with pytest.raises(Exception, match="auto, or a positive integer"):
            plan_of("distilgpt2", micro_batch_tokens=wrong)
