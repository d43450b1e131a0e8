"""Properties of a plan: more never needs less, parts add up, and what is said to fit is right at the border."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.config import parse_recipe, resolve
from tunelab.errors import UsageError
from tunelab.planning.advice import SMALLER, check_fits, fitting, what_would_fit
from tunelab.planning.cards import CARDS, card_of
from tunelab.planning.estimate import COMPARED, Plan
from tunelab.planning.fit import largest_micro_batch, longest_row, verdict
from tunelab.planning.known import config_of
from tunelab.planning.rows import RowLengths, format_hours, hours
from tunelab.planning.shape import shape_of
from tunelab.planning.sharding import on_several
from tunelab.units import GIB

NAMES = (
    "distilgpt2",
    "Llama-3.2-1B",
    "Qwen2.5-0.5B",
    "Qwen3-0.6B",
    "phi-4",
    "gemma-2-2b",
    "gemma-3-1b-pt",
    "SmolLM3-3B",
)


def plan_of(name: str, **keys: Any) -> Plan:
    """The plan of a model with recipe keys (`train__optimizer`)."""
    tree: dict[str, Any] = {"model": name, "data": "alpaca"}
    for key, value in keys.items():
        section, _, last = key.rpartition("__")
        (tree.setdefault(section, {}) if section else tree)[last] = value
    return Plan(shape_of(config_of(name).values, name), resolve(parse_recipe(tree)))


recipes = st.fixed_dictionaries(
    {
        "name": st.sampled_from(NAMES),
        "method": st.sampled_from(list(COMPARED)),
        "rank": st.integers(1, 128),
        "tokens": st.integers(1, 20_000),
        "checkpointing": st.booleans(),
        "optimizer": st.sampled_from(["adamw", "adamw-8bit"]),
        "dropout": st.sampled_from([0.0, 0.1]),
        "on_gpu": st.booleans(),
    }
)


def any_plan(drawn: dict[str, Any]) -> Plan:
    train = {"activation_checkpointing": drawn["checkpointing"], "optimizer": drawn["optimizer"]}
    plan = plan_of(
        drawn["name"],
        train={**train, "micro_batch_tokens": drawn["tokens"]},
        adapter={"rank": drawn["rank"], "dropout": drawn["dropout"]},
    )
    return replace(plan, on_gpu=drawn["on_gpu"]).as_method(COMPARED[drawn["method"]])


def with_layers(plan: Plan, layers: int) -> Plan:
    return replace(plan, shape=replace(plan.shape, layers=layers))


@settings(max_examples=25)
@given(recipes, st.integers(1, 5_000))
def test_more_rank_tokens_or_layers_never_need_less(drawn: dict[str, Any], more: int) -> None:
    plan = any_plan(drawn)
    allocated = plan.peak().allocated
    assert plan.peak(plan.tokens + more).allocated >= allocated
    assert any_plan({**drawn, "rank": drawn["rank"] + more}).peak().allocated >= allocated
    assert with_layers(plan, plan.shape.layers + 1).peak().allocated >= allocated


@settings(max_examples=25)
@given(recipes)
def test_parts_add_up(drawn: dict[str, Any]) -> None:
    plan = any_plan(drawn)
    peak = plan.peak()
    assert peak.allocated == max(moment.total for moment in peak.moments)
    for moment in peak.moments:
        assert moment.total == pytest.approx(sum(moment.parts.values())) and min(moment.parts.values()) >= 0
    least, most = plan.card_bytes()
    assert least < most and peak.allocated < most
    assert sum(plan.shape.parameters.values()) == plan.shape.total


@settings(max_examples=25)
@given(recipes, st.floats(1, 80))
def test_the_inverse_is_right_at_the_border(drawn: dict[str, Any], gib: float) -> None:
    plan, memory = any_plan(drawn), gib * GIB
    found = largest_micro_batch(plan, memory)
    if found:
        assert verdict(plan, memory, found) == "fits"
    if found < 2**20:
        assert verdict(plan, memory, found + 1) != "fits"
    row = longest_row(plan, memory)
    assert row <= (plan.shape.context or row)
    if row:
        assert plan.card_bytes(row, row)[1] <= memory
    if row < (plan.shape.context or 0):
        assert plan.card_bytes(row + 1, row + 1)[1] > memory


@settings(max_examples=25)
@given(recipes, st.floats(1, 80))
def test_the_recipe_that_fits_does_fit_and_computes_the_same(drawn: dict[str, Any], gib: float) -> None:
    plan, memory = any_plan(drawn), gib * GIB
    found = fitting(plan, memory)
    if found is None:
        with pytest.raises(UsageError, match="does not fit"):
            check_fits(plan, memory)
        return
    assert verdict(found, memory) == "fits" and check_fits(plan, memory).recipe == found.recipe
    assert found.tokens >= found.longest == plan.longest and found.tokens <= plan.tokens
    changed = ("micro_batch_tokens", "activation_checkpointing")
    same = [plan.recipe.train.model_dump(exclude=set(changed)), plan.recipe.model_dump(exclude={"train"})]
    assert same == [found.recipe.train.model_dump(exclude=set(changed)), found.recipe.model_dump(exclude={"train"})]


def test_ways_that_would_fit_are_named() -> None:
    with pytest.raises(
        UsageError, match=r"Llama-3\.2-1B: full fine-tuning does not fit 10\.00 GiB with rows of 1,024"
    ) as e:
        check_fits(plan_of("Llama-3.2-1B", method="full"), 10 * GIB)
    assert e.value.hint == "these would fit: LoRA, LoRA, int8 base, LoRA, NF4 base, LoRA, MXFP4 base"
    with pytest.raises(UsageError, match=r"LoRA does not fit 100\.0 MiB") as e:
        check_fits(plan_of("Llama-3.2-1B"), 100 * 2**20)
    assert e.value.hint.startswith("use a smaller model")


def test_the_published_figures_of_two_studies_are_within_the_range_of_their_unknown_settings() -> None:
    """Llama-2-7B on LitGPT, 11.09 GB in NF4 and 18.89 GB in bf16 (studies/): one row of Alpaca, its length unknown."""
    for precision, gigabytes in (("nf4", 11.09), ("none", 18.89)):
        plan = plan_of("Llama-2-7b-hf", precision=precision, adapter={"rank": 8, "targets": ["q_proj", "v_proj"]})
        assert plan.peak(64).allocated < gigabytes * 1e9 < plan.peak(4096).allocated


def test_kernels_and_doubts_are_said() -> None:
    assert plan_of("Llama-3.2-1B").ways.kernel == "varlen"
    assert plan_of("Llama-3.2-1B", method="full").ways.kernel == "varlen"
    assert plan_of("Llama-3.2-1B", train={"dtype": "fp32"}).ways.kernel == "efficient"
    gemma = plan_of("gemma-2-2b")
    assert gemma.ways.kernel == "math" and gemma.error == 0.10 and "square of the longest row" in gemma.doubts[0]
    assert gemma.peak(4096, 4096).allocated > 1.5 * gemma.peak(4096, 512).allocated
    mixture = plan_of("Mixtral-8x7B-v0.1", precision="nf4")
    assert mixture.error == 0.15 and any("mixture" in doubt for doubt in mixture.doubts)
    unknown = replace(gemma, shape=replace(gemma.shape, is_known=False))
    assert unknown.error == 0.25 and "counted like Llama" in unknown.doubts[0]
    padded = plan_of("Llama-3.2-1B", train={"packing": False})
    assert padded.ways.kernel == "efficient" and padded.doubts[0].startswith("rows are padded") and padded.error == 0.10
    further = plan_of("Llama-3.2-1B", adapter={"from": "runs/first"})
    assert "adapter.from has its own rank" in further.doubts[0]
    also = plan_of("Llama-3.2-1B", adapter={"also_train": ["score"]})
    assert also.doubts == ["not counted: score of adapter.also_train"]
    t4 = replace(plan_of("Llama-3.2-1B"), has_bfloat16=False)
    assert "train.dtype=fp16" in t4.doubts[0] and t4.ways.kernel == "efficient"


def test_a_gpu_without_bfloat16_is_planned_in_the_dtype_that_train_takes_there() -> None:
    t4 = replace(plan_of("Llama-3.2-1B"), has_bfloat16=False)
    asked = replace(plan_of("Llama-3.2-1B", train={"dtype": "fp32"}), has_bfloat16=False)
    assert t4.peak() == asked.peak() and "train.dtype=auto is fp32" in t4.doubts[0]
    in_16_bits = replace(plan_of("Llama-3.2-1B", train={"dtype": "fp16"}), has_bfloat16=False)
    assert in_16_bits.compute_bytes == 2 and "auto is" not in in_16_bits.doubts[0]


def test_a_checkpoint_that_is_stored_quantized_gets_no_advice_to_take_another_format() -> None:
    dense = plan_of("Llama-3.2-3B")
    stored = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    plan = replace(dense, shape=replace(dense.shape, quantization=stored))
    assert "NF4" in what_would_fit(dense, 6 * GIB)
    assert what_would_fit(plan, 6 * GIB) == SMALLER


def test_advice_that_is_followed_is_no_longer_given() -> None:
    followed = plan_of("Llama-3.2-1B", train={"dtype": "fp16", "packing": False})
    assert not any("no bfloat16" in doubt for doubt in replace(followed, has_bfloat16=False).doubts)


def test_names_and_layers_that_match_nothing_are_refused_as_in_train() -> None:
    for adapter, message in (
        ({"targets": ["q_proj", "w_proj"]}, r"adapter\.targets: 'w_proj' matches no linear layer"),
        ({"exclude": ["w_proj"]}, r"adapter\.exclude: 'w_proj' matches no linear layer"),
        ({"layers": [0, 16]}, r"adapter\.layers: there is no layer 16"),
    ):
        with pytest.raises(UsageError, match=message):
            _ = plan_of("Llama-3.2-1B", adapter=adapter).adapters
    assert plan_of("Llama-3.2-1B", adapter={"targets": ["q_proj", "lm_head"]}).trained


@pytest.mark.parametrize(
    ("stored", "form"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "fp4"),
        ({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}, "mxfp4"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "gptq"}, "none"),
    ],
)
def test_a_checkpoint_that_is_stored_quantized_is_planned_so(stored: dict[str, Any], form: str) -> None:
    dense = plan_of("Llama-3.2-1B")
    plan = replace(dense, shape=replace(dense.shape, quantization=stored))
    assert plan.precision == form and plan.base_bytes == plan_of("Llama-3.2-1B", precision=form).base_bytes
    assert any("is not known" in doubt for doubt in plan.doubts) == (form == "none")


def test_the_dtype_on_disk_and_new_tokens_are_read() -> None:
    sizes = [
        plan_of("Llama-3.2-1B", method="full", train={"save_dtype": dtype}).disk_bytes["result"]
        for dtype in ("auto", "bf16", "fp32")
    ]
    assert sizes[0] == sizes[1] == sizes[2] / 2
    named = plan_of("Llama-3.2-1B", model={"name": "Llama-3.2-1B", "new_tokens": ["<x>"]})
    assert named.doubts == ["model.new_tokens adds rows to the embeddings, which are not counted"]


def test_8_bit_moments_are_paged_apart() -> None:
    plain = plan_of("Llama-3.2-1B", method="full").peak()
    paged = plan_of("Llama-3.2-1B", method="full", train={"optimizer": "adamw-8bit"}).peak()
    assert plain.paged == 0 and paged.paged == pytest.approx(2.03125 * 1_235_814_400)
    assert paged.allocated < plain.allocated - 9e9


def test_cards_by_name_and_by_size() -> None:
    assert [card_of(card.name) for card in CARDS] == list(CARDS)
    for text, name in (
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("A100", "A100 80GB"),
        ("nvidia a100-40gb", "A100 40GB"),
    ):
        assert card_of(text).name == name
    assert card_of("24GB").memory == 24e9 and card_of("24 GiB").memory == 24 * GIB and card_of("24GB").flops is None
    with pytest.raises(UsageError, match="--gpu H10: unknown GPU") as e:
        card_of("H10")
    assert e.value.hint.startswith("did you mean H100? give its memory")


def test_hours_are_a_range_that_grows_with_rows() -> None:
    plan, card = plan_of("Llama-3.2-1B"), card_of("A100")
    rows = RowLengths([200, 400, 1000] * 1000, 900_000)
    twice = RowLengths([200, 400, 1000] * 2000, 1_800_000)
    least, most = hours(plan, card, rows) or (0, 0)
    assert 0 < least < most < (hours(plan, card, twice) or (0, 0))[1] and hours(plan, card_of("24GB"), rows) is None
    assert rows.quantiles == (400, 1000, 1000) and rows.steps(plan.recipe.train) == 564
    assert rows.filled(plan.recipe.train) <= 4096 and rows.target_share == pytest.approx(0.5625)
    full = hours(plan_of("Llama-3.2-1B", method="full"), card, rows)
    assert full and full[1] > 0
    assert format_hours(0.1, 0.5) == "6 to 30 min" and format_hours(2, 5) == "2 to 5 h"
    assert format_hours(48, 96) == "2 to 4 days"
    fixed = plan_of("Llama-3.2-1B", train={"steps": 10, "batch_size": None, "batch_tokens": 5000})
    assert rows.trained_tokens(fixed.recipe.train) == 50_000 and rows.steps(fixed.recipe.train) == 10


def test_sharding_divides_what_is_trained_and_copies_do_not() -> None:
    plan = plan_of("Llama-3.1-8B", method="full")
    four, eight = on_several(plan, 4), on_several(plan, 8)
    assert four.copies == eight.copies and four.copies[0] > plan.card_bytes()[0]
    assert eight.sharded[1] < four.sharded[1] < plan.card_bytes()[1] / 2
