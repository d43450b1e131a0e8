"""Names that changed after format 1: recipe keys, metrics and fields of the likelihoods, each with its new name.

Two readers share these tables. An old name in a recipe or study that a user writes is an error that gives the new name.
A file that tunelab wrote in format 1 (records/old_format.py) is translated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunelab.errors import Problem

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Renamed:
    """A recipe key's old and new dotted path; `values`: old value -> new value, None = values are unchanged."""

    old: str
    new: str
    values: Mapping[Any, Any] | None = None


METHODS = {"lora": "lora", "none": "full"}

RECIPE_KEYS = (
    Renamed("train.rows_per_step", "train.batch_size"),
    Renamed("train.tokens_per_step", "train.batch_tokens"),
    Renamed("train.tokens_per_batch", "train.micro_batch_tokens"),
    Renamed("train.clip", "train.max_grad_norm"),
    Renamed("train.patience", "train.early_stopping_patience"),
    Renamed("train.final", "train.load_best_at_end", {"best": True, "last": False}),
    Renamed("evaluate.batch_tokens", "evaluate.micro_batch_tokens"),
    Renamed("adapter.kind", "method", METHODS),
)

#: Metrics of held-out rows.
METRICS = {
    "response_loss": "completion_loss",
    "response_perplexity": "completion_perplexity",
    "response_bits_per_byte": "completion_bits_per_byte",
    "text_perplexity": "sequence_perplexity",
    "text_bits_per_byte": "sequence_bits_per_byte",
}

#: Costs that `published` names.
PUBLISHED_COSTS = {"minutes an epoch": "minutes per epoch"}

#: Fields of a held-out row in likelihoods.jsonl.
LIKELIHOOD_FIELDS = {
    "answer_nll": "completion_nll",
    "answer_tokens": "completion_tokens",
    "answer_bytes": "completion_bytes",
    "text_nll": "sequence_nll",
    "text_tokens": "sequence_tokens",
    "text_bytes": "sequence_bytes",
}


def recipe_renamed(tree: Mapping[str, Any]) -> tuple[Tree, list[Problem]]:
    """A recipe's tree with old names replaced, and a problem for each old name that gives the new one.

    A tree with only new names is returned unchanged. If both names are set, the new one wins.
    """
    result: Tree = {name: dict(value) if isinstance(value, Mapping) else value for name, value in tree.items()}
    problems: list[Problem] = []
    adapter = result.get("adapter")
    if isinstance(adapter, str) and adapter in METHODS:
        # The shorthand replaced the whole section: null sets its other keys to their defaults.
        result["adapter"] = None
        result.setdefault("method", METHODS[adapter])
        problems.append(Problem("adapter", f"renamed: method={METHODS[adapter]}"))
    for key in RECIPE_KEYS:
        section, _, name = key.old.partition(".")
        place = result.get(section)
        if not isinstance(place, dict) or name not in place:
            continue
        value = place.pop(name)
        if key.values is None or _is_one_of(value, key.values):
            value = value if key.values is None else key.values[value]
            above, _, new_name = key.new.rpartition(".")
            (place if above else result).setdefault(new_name, value)
            problems.append(Problem(key.old, f"renamed: {key.new}={_word(value)}"))
        else:
            problems.append(Problem(key.old, f"renamed: {key.new}", f"the old values were {', '.join(key.values)}"))
    return result, problems


def recipe_as_before(tree: Mapping[str, Any]) -> Tree:
    """The inverse of recipe_renamed, for a whole recipe or some of its sections.

    Keys of a study's jobs are hashes of recipes with the old names, so that studies of format 1 can be resumed.
    """
    result: Tree = {name: dict(value) if isinstance(value, Mapping) else value for name, value in tree.items()}
    for key in RECIPE_KEYS:
        above, _, name = key.new.rpartition(".")
        place = result.get(above) if above else result
        if not isinstance(place, dict) or name not in place:
            continue
        value = place.pop(name)
        section, _, old_name = key.old.partition(".")
        back = {new: old for old, new in (key.values or {}).items()}
        result.setdefault(section, {})[old_name] = back.get(value, value) if key.values else value
    if isinstance(train := result.get("train"), dict):
        if train.get("save_dtype") == "auto":
            del train["save_dtype"]  # it did not exist, nor did the next three
        if train.get("packing") == "auto":
            train["packing"] = True  # the default then: packed, or refused
        for name, default in (("sharding", "none"), ("deterministic", False)):
            if train.get(name) == default:
                del train[name]
        if train.get("neftune_alpha", "") is None:
            del train["neftune_alpha"]
        if train.get("loraplus_lr_ratio", "") is None:
            del train["loraplus_lr_ratio"]
            train.pop("loraplus_lr_embedding", None)
    if isinstance(adapter := result.get("adapter"), dict):
        for name in ("from", "layers", "exclude", "also_train"):
            if not adapter.get(name, True):
                del adapter[name]
    if isinstance(model := result.get("model"), dict) and model.get("new_tokens", "") is None:
        del model["new_tokens"]
    if isinstance(data := result.get("data"), dict):
        for name in ("date", "thoughts", "train_size"):
            if data.get(name, "") is None:
                del data[name]
        if data.get("validation") == 0:
            del data["validation"]
        if not data.get("allow", True):
            del data["allow"]
    return result


def study_renamed(tree: Mapping[str, Any]) -> Tree:
    """A study's tree of format 1 with the new names, and with the default template of then."""
    result = _study_renamed(tree)
    recipe = dict(result.get("recipe") or {})
    data = recipe.get("data")
    if data is not None:
        section = data if isinstance(data, Mapping) else {"sources": data}
        result["recipe"] = {**recipe, "data": {"template": "alpaca", **section}}
    return result


def _study_renamed(tree: Mapping[str, Any]) -> Tree:
    """A study's tree, or its `tiny` section, with the new names."""
    result = dict(tree)
    if isinstance(recipe := result.get("recipe"), Mapping):
        result["recipe"], _ = recipe_renamed(recipe)
    if isinstance(arms := result.get("arms"), Mapping):
        result["arms"] = {name: _study_renamed(arm) if isinstance(arm, Mapping) else arm for name, arm in arms.items()}
    if isinstance(tiny := result.get("tiny"), Mapping):
        result["tiny"] = _study_renamed(tiny)
    result |= {
        part: [{**one, key: metric_renamed(one[key])} if isinstance(one.get(key), str) else one for one in result[part]]
        for part, key in (("questions", "metric"), ("published", "what"))
        if isinstance(result.get(part), list | tuple)
    }
    return result


def metric_renamed(name: str) -> str:
    """The current name of a metric or published cost: "response_loss", also "held-out response_loss"."""
    if name in PUBLISHED_COSTS:
        return PUBLISHED_COSTS[name]
    before, space, metric = name.rpartition(" ")
    return f"{before}{space}{METRICS.get(metric, metric)}"


def _is_one_of(value: Any, known: Mapping[Any, Any]) -> bool:
    return isinstance(value, str) and value in known


def _word(value: Any) -> str:
    """A value as written after `key=`."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
