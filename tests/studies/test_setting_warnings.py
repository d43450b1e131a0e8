"""Settings that decide a comparison in place of the methods are named: at the start, in the dry run, in the caveats."""

from __future__ import annotations

from typing import Any

import pytest

from tunelab.config.shipped_studies import shipped_studies
from tunelab.config.study import Study, load_study, parse_study
from tunelab.studies.run_study import foreseen
from tunelab.studies.setting_warnings import setting_warnings

LORA: dict[str, Any] = {"adapter": {"rank": 8, "alpha": 16}}


def study(arms: dict[str, dict[str, Any]], **changes: Any) -> Study:
    data = {"sources": ["alpaca"], "held_out": 100, "validation": 100}
    return parse_study(
        {
            "title": "t",
            "recipe": {"model": "gpt2", "data": data, **changes.pop("recipe", {})},
            "arms": {"base": {"tuned": False}, **{name: {"recipe": recipe} for name, recipe in arms.items()}},
            "benchmarks": {"held-out": {}},
            **changes,
        }
    )


RATE = {"train": {"lr": 1e-4}}
SHARED: list[tuple[dict[str, dict[str, Any]], str]] = [
    ({"full": {"method": "full"}, "lora": {}}, "LoRA's best one is about ten times that of full fine-tuning"),
    ({"r8": LORA, "r64": {"adapter": {"rank": 64, "alpha": 128}}}, "They differ in adapter.alpha, which scales"),
    ({"lora": {}, "rs": {"adapter": {"use_rslora": True}}}, "rsLoRA scales the update by the square root of the rank"),
    ({"lora": {}, "plus": {"train": {"loraplus_lr_ratio": 16}}}, "LoRA+ multiplies it for half of the matrices"),
    ({"lora": {}, "dora": {"adapter": {"use_dora": True}}}, "DoRA's best one is not LoRA's"),
]


@pytest.mark.parametrize(("arms", "reason"), SHARED)
def test_a_shared_rate_that_means_something_else_to_each_arm(arms: dict[str, dict[str, Any]], reason: str) -> None:
    (said,) = setting_warnings(study(arms, recipe=RATE))
    assert said.startswith(f"{' and '.join(arms)} share the learning rate 0.0001. {reason}")
    assert said.endswith("set `search: {}`, or give each its own train.lr.")
    assert setting_warnings(study(arms, recipe=RATE, search={})) == [], "a search gives each its own"
    apart = {name: {**recipe, "train": {"lr": 1e-4 * (place + 1)}} for place, (name, recipe) in enumerate(arms.items())}
    assert setting_warnings(study(apart)) == []


def test_arms_that_may_share_a_rate() -> None:
    assert setting_warnings(study({"full": {"method": "full"}, "lora": {}})) == [], "their defaults differ"
    assert setting_warnings(study({"r8": {"adapter": {"rank": 8}}, "r64": {"adapter": {"rank": 64}}})) == []
    assert setting_warnings(study({"lora": {}, "nf4": {"precision": "nf4"}})) == []
    assert setting_warnings(study({"lora": {}, "r8": {**LORA, "model": "distilgpt2"}})) == [], "other models"


def test_three_arms_at_one_rate_are_named_once() -> None:
    arms = {f"r{rank}": {"adapter": {"rank": rank, "alpha": 2 * rank}} for rank in (8, 16, 64)}
    (said,) = setting_warnings(study(arms))
    assert said.startswith("r8, r16 and r64 share the learning rate 0.0002. They differ in adapter.alpha")


NAMES = [["q_proj", "v_proj"], ["attn.c_attn", "attn.c_proj"], ["query_key_value", "attention.dense"], ["Wqkv"]]


EXPRESSIONS = [r".*\.self_attn\..*_proj", r".*\.c_attn"]


@pytest.mark.parametrize("targets", ["attention", *NAMES, *EXPRESSIONS, ["model.layers.0.self_attn.o_proj"]])
def test_attention_alone_against_full_fine_tuning(targets: str | list[str]) -> None:
    attention = {"adapter": {"targets": targets}}
    (said,) = setting_warnings(study({"full": {"method": "full"}, "lora": attention}, search={}))
    assert said.startswith("lora has adapters on attention alone, beside full fine-tuning (full).")
    assert said.endswith("set adapter.targets=all-linear.")
    assert setting_warnings(study({"lora": attention})) == []


def test_attention_is_left_by_an_exclusion() -> None:
    arms = {"full": {"method": "full"}, "lora": {"adapter": {"exclude": r".*\.mlp\..*"}}}
    assert setting_warnings(study(arms, search={}))[0].startswith("lora has adapters on attention alone")
    arms["lora"] = {"adapter": {"exclude": ["mlp.up_proj"]}}
    assert setting_warnings(study(arms, search={})) == []


@pytest.mark.parametrize(
    "targets", [["q_proj", "down_proj"], ["c_proj"], ["dense"], "all-linear", ["lm_head"], r".*\.(q|up)_proj"]
)
def test_adapters_on_other_layers_too(targets: str | list[str]) -> None:
    lora = {"adapter": {"targets": targets}}
    assert setting_warnings(study({"full": {"method": "full"}, "lora": lora}, search={})) == []


def test_large_batches_with_lora() -> None:
    large = {"train": {"batch_size": 128}}
    (said,) = setting_warnings(study({"full": {"method": "full", **large}, "lora": large}, search={}))
    assert said.startswith("lora: 128 rows per step. LoRA loses more than full fine-tuning at large batches")
    assert said.endswith("set train.batch_size=32 or less.")
    assert setting_warnings(study({"lora": {"train": {"batch_size": 64}}})) == []


def test_they_are_said_before_anything_runs() -> None:
    assert foreseen(study(SHARED[0][0], recipe=RATE))[-1].startswith("warning: full and lora share the learning rate")


def test_the_studies_that_ship_have_those_of_the_published_settings() -> None:
    attention = (
        "{} adapters on attention alone, beside full fine-tuning (full). That is worse than adapters on all linear "
        "layers, also with as many parameters, so it says little about LoRA: set adapter.targets=all-linear."
    )
    found = {shipped.name: setting_warnings(load_study(shipped.path)) for shipped in shipped_studies()}
    assert {name: said for name, said in found.items() if said} == {
        "llama32-1b-alpaca2k-one-rate": [
            "full, lora and qlora share the learning rate 0.0002. LoRA's best one is about ten times that of full "
            "fine-tuning. So their ranking may reflect the rate, not the methods: set `search: {}`, or give each its "
            "own train.lr.",
            attention.format("lora and qlora have"),
        ],
        "llama32-1b-alpaca2k-own-rates": [attention.format("lora and qlora have")],
        "llama32-3b-metamathqa-peft": [attention.format("lora, lora-r64, rslora-r64 and dora have")],
    }
