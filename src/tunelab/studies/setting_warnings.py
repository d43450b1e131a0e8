"""Settings that decide a comparison in place of the methods: what it is, why it matters, what to do.

Said before anything runs, and in the report's caveats. A search of learning rates resolves those about a shared rate.

Sources:
    Schulman et al. 2025, LoRA Without Regret (thinkingmachines.ai/blog/lora): the best rate of LoRA is about ten times
        that of full fine-tuning; LoRA loses more at large batches, whatever its rank; on attention alone it is worse.
    github.com/Brokttv/Lora-Without-Regret: with alpha twice the rank the best rate falls 5.6-fold from rank 4 to 256,
        with one alpha less than twofold.
    Learning Rate Matters, arXiv 2602.04998: methods differ by up to 5.8 points at one rate, by 0.2 each at its best; on
        GSM8K that of DoRA is 3.6e-4, that of LoRA 2e-4.
    Hayou et al. 2024, LoRA+, arXiv 2402.12354, and PEFT's create_loraplus_optimizer: a rate lower by about a half.
    Kalajdzievski 2023, arXiv 2312.03732 (rsLoRA scales by alpha over the square root of the rank).
    Dettmers et al. 2023, QLoRA, arXiv 2305.14314, figure 2: adapters on all linear layers are needed to match full
        fine-tuning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

from tunelab.config import Recipe
from tunelab.config.study import Study
from tunelab.records.choices import own_rate
from tunelab.units import format_significant

#: Rows per step above which LoRA loses to full fine-tuning.
LARGE_BATCH = 64

#: Last parts of names that attention projections have, and no other layer of a model with them.
_PROJECTIONS = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"),
    *("c_attn", "query_key_value", "Wqkv"),
)

#: Linear layers of a block of Llama and of GPT-2.
_KNOWN = (
    *(f"model.layers.0.self_attn.{name}_proj" for name in "qkvo"),
    *(f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")),
    *(f"transformer.h.0.{name}" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")),
)

#: Why two recipes should not share a learning rate; "" = they may.
_Reason = Callable[[Recipe, Recipe], str]


def setting_warnings(study: Study) -> list[str]:
    """The sentences about a study's tuned arms.

    Args:
        study: as it was asked for, with its search.
    """
    recipes = {name: study.arm_recipe(name, study.seeds[0]) for name, arm in study.arms.items() if arm.tuned}
    rates = {name: own_rate(study, name) for name in recipes}
    shared = [] if study.search is not None else _shared_rates(recipes, rates)
    return [*shared, *_attention_only(recipes), *_large_batches(recipes)]


def _shared_rates(recipes: Mapping[str, Recipe], rates: Mapping[str, float]) -> Iterator[str]:
    """Arms at one learning rate that means something else to each; one sentence per reason and rate."""
    found: dict[tuple[str, float], dict[str, None]] = {}
    for a, b in combinations(recipes, 2):
        first, second = recipes[a], recipes[b]
        if first.model == second.model and rates[a] == rates[b]:
            for reason in filter(None, (one(first, second) for one in _REASONS)):
                found.setdefault((reason, rates[a]), {}).update({a: None, b: None})
    for (reason, lr), arms in found.items():
        yield (
            f"{_listed(list(arms))} share the learning rate {format_significant(lr, 3)}. {reason}. So their ranking "
            "may reflect the rate, not the methods: set `search: {}`, or give each its own train.lr."
        )


def _method(a: Recipe, b: Recipe) -> str:
    return "" if a.method == b.method else "LoRA's best one is about ten times that of full fine-tuning"


def _alpha(a: Recipe, b: Recipe) -> str:
    if not _both_lora(a, b) or a.adapter.alpha == b.adapter.alpha:
        return ""
    return "They differ in adapter.alpha, which scales the update as the rate does"


def _rslora(a: Recipe, b: Recipe) -> str:
    if not _both_lora(a, b) or a.adapter.use_rslora == b.adapter.use_rslora:
        return ""
    return "rsLoRA scales the update by the square root of the rank more than LoRA, which is a higher rate"


def _dora(a: Recipe, b: Recipe) -> str:
    if not _both_lora(a, b) or a.adapter.use_dora == b.adapter.use_dora:
        return ""
    return "DoRA's best one is not LoRA's (3.6e-4 against 2e-4 on Qwen3-0.6B)"


def _loraplus(a: Recipe, b: Recipe) -> str:
    if not _both_lora(a, b) or a.train.loraplus_lr_ratio == b.train.loraplus_lr_ratio:
        return ""
    return "LoRA+ multiplies it for half of the matrices, so its best one is lower"


def _both_lora(a: Recipe, b: Recipe) -> bool:
    return a.method == b.method == "lora"


_REASONS: tuple[_Reason, ...] = (_method, _alpha, _rslora, _dora, _loraplus)


def _attention_only(recipes: Mapping[str, Recipe]) -> Iterator[str]:
    full = [name for name, recipe in recipes.items() if recipe.method == "full"]
    attention = [name for name, recipe in recipes.items() if _is_attention_only(recipe)]
    if full and attention:
        yield (
            f"{_listed(attention)} {'has' if len(attention) == 1 else 'have'} adapters on attention alone, beside full "
            f"fine-tuning ({_listed(full)}). That is worse than adapters on all linear layers, also with as many "
            "parameters, so it says little about LoRA: set adapter.targets=all-linear."
        )


def _is_attention_only(recipe: Recipe) -> bool:
    targets = recipe.adapter.targets
    if recipe.method != "lora" or targets == "attention":
        return recipe.method == "lora"
    names = _adapted_of_known(recipe) if isinstance(targets, str) else targets
    return bool(names and all(map(_is_projection, names)))


def _adapted_of_known(recipe: Recipe) -> list[str]:
    """Names of Llama's and GPT-2's linear layers that all-linear or a regular expression, and `exclude`, leave."""
    targets, exclude = str(recipe.adapter.targets), recipe.adapter.exclude
    chosen = [name for name in _KNOWN if targets == "all-linear" or re.fullmatch(targets, name)]
    if isinstance(exclude, str):
        return [name for name in chosen if not re.fullmatch(exclude, name)]
    return [name for name in chosen if not any(f".{name}".endswith(f".{one}") for one in exclude)]


def _is_projection(name: str) -> bool:
    """Whether a name in adapter.targets is that of an attention projection: "q_proj", "attn.c_proj"."""
    *parents, last = name.split(".")
    return last in _PROJECTIONS or any("attn" in one or "attention" in one for one in parents[-1:])


def _large_batches(recipes: Mapping[str, Recipe]) -> Iterator[str]:
    sizes = {name: recipe.train.batch_size or 0 for name, recipe in recipes.items() if recipe.method == "lora"}
    large = {name: size for name, size in sizes.items() if size > LARGE_BATCH}
    if large:
        shown = ", ".join(f"{size:,}" for size in dict.fromkeys(large.values()))
        yield (
            f"{_listed(list(large))}: {shown} rows per step. LoRA loses more than full fine-tuning at large batches, "
            "whatever its rank: set train.batch_size=32 or less."
        )


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
