"""Which linear layers get an adapter: by name or regular expression, in which layers of the model, and which do not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from tunelab.errors import ModelError
from tunelab.models.expert_adapters import matches_stack, stacked_targets
from tunelab.models.linear_layers import is_end_of, last_part, linear_names, router_weights, stacked_weights

#: What `targets` may say in place of names or an expression.
WORDS = ("all-linear", "attention")

#: Linear layers of a Mamba mixer whose weights its fused kernels read themselves, past an adapter.
READ_BY_KERNELS = ("x_proj", "dt_proj", "out_proj")

#: A module's name up to the number of its layer, which is the first in it: PEFT's rule for `layers_to_transform`.
_UP_TO_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")

#: Names in a hint.
_NEAREST = 3


@dataclass(frozen=True, slots=True)
class Targets:
    """What of a model gets an adapter, by names that match it and nothing else.

    Args:
        modules: linear layers, as PEFT's `target_modules`.
        stacks: experts' weights, and routers that are no linear layers, as PEFT's `target_parameters`.
    """

    modules: list[str]
    stacks: list[str]


def resolve_targets(model: PreTrainedModel, targets: str | Sequence[str], **narrowed: Any) -> list[str]:
    """The linear layers of resolve()."""
    return resolve(model, targets, **narrowed).modules


def resolve(
    model: PreTrainedModel,
    targets: str | Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    exclude: str | Sequence[str] = (),
) -> Targets:
    """What gets an adapter: the names are short ones where these are unambiguous.

    Args:
        targets: "all-linear" (all but the output head; experts too, routers not), "attention", a regular expression
            that matches whole names, or names (each matches the end of the name of a layer, of experts' weights or of
            a router).
        layers: only in these layers of the model, from 0; None = in all.
        exclude: a regular expression, or names, of what gets none.

    Raises:
        ModelError: a name, number or expression matches nothing, or something that is no linear layer; or nothing is
            left.
    """
    modules, stacks = _chosen(model, targets), _stacks(model, targets)
    chosen = [*modules, *stacks]
    if layers is not None:
        _check_layers(model, layers)
        chosen = [name for name in chosen if layer_of(name) in layers]
    left = _without(model, chosen, exclude)
    if not left:
        raise ModelError(
            f"{type(model).__name__}: no linear layer is left to adapt",
            "choose more with adapter.targets or adapter.layers, or less with adapter.exclude",
        )
    kept = [name for name in stacks if name in left]
    is_whole = len(kept) == len(stacks) and not (isinstance(targets, str) and targets not in WORDS)
    return Targets(
        _shortest(model, [name for name in modules if name in left], targets),
        stacked_targets(model, targets) if is_whole else sorted(kept),
    )


def _stacks(model: PreTrainedModel, targets: str | Sequence[str]) -> list[str]:
    """Whole names of the experts' weights and routers that `targets` matches."""
    if isinstance(targets, str) and targets not in WORDS:
        return [name for name in stacked_weights(model) if re.fullmatch(targets, name)]
    known, short = {**stacked_weights(model), **dict.fromkeys(router_weights(model))}, stacked_targets(model, targets)
    return [name for name in known if any(is_end_of(one, name) for one in short)]


def layer_of(name: str) -> int | None:
    """The number of the layer that a module is in: 3 of "model.layers.3.self_attn.q_proj"; None of "lm_head"."""
    found = _UP_TO_LAYER.match(name)
    return int(found[1]) if found else None


def _chosen(model: PreTrainedModel, targets: str | Sequence[str]) -> list[str]:
    """Whole names of the layers that `targets` matches."""
    left_out, names = read_by_kernels(model), linear_names(model)
    if targets == "all-linear":
        return [name for name in names if name not in left_out]
    if targets == "attention":
        return _attention(model)
    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), None)
    known = [*names, *_linear_routers(model), *([head] if head else [])]
    chosen = _matched(model, targets, known) if isinstance(targets, str) else _named(model, targets, known)
    if read := [name for name in chosen if name in left_out]:
        what = targets if isinstance(targets, str) else next(one for one in targets if is_end_of(one, read[0]))
        raise ModelError(
            f"adapter.targets: {what!r} of {type(model).__name__}: fused kernels read its weight past an adapter",
            "name other layers, such as in_proj",
        )
    return chosen


def _linear_routers(model: PreTrainedModel) -> list[str]:
    """Names of routers that are plain linear layers: they are adapted only where they are named."""
    modules = dict(model.named_modules())
    routers = (name.removesuffix(".weight") for name in router_weights(model))
    return [name for name in routers if type(modules[name]) is nn.Linear]


def _attention(model: PreTrainedModel) -> list[str]:
    """Whole names of the attention projections."""
    parents = {name: name.split(".")[-2] for name in linear_names(model)}
    found = [name for name, parent in parents.items() if "attn" in parent or "attention" in parent]
    if not found:
        raise ModelError(
            f"{type(model).__name__}: no attention projections found by name",
            "give adapter.targets as a list of names; linear layers: " + ", ".join(last_parts(model)),
        )
    return found


def _named(model: PreTrainedModel, targets: Sequence[str], known: Sequence[str]) -> list[str]:
    """The layers whose names end with one of `targets`, each of which matches at least one."""
    for target in targets:
        if not any(is_end_of(target, name) for name in known) and not matches_stack(model, target):
            listed = [*last_parts(model), *stacked_targets(model, "all-linear")]
            raise ModelError(
                f"adapter.targets: {target!r} matches no linear layer of {type(model).__name__}",
                _nearest(target, listed) + "linear layers: " + ", ".join(listed),
            )
    return [name for name in known if any(is_end_of(target, name) for target in targets)]


def _matched(model: PreTrainedModel, pattern: str, known: Sequence[str]) -> list[str]:
    """The layers whose whole names match a regular expression, which matches nothing else, as in PEFT."""
    matched = [(name, module) for name, module in model.named_modules() if re.fullmatch(pattern, name)]
    stacks = _stacks(model, pattern)
    others = [(name, module) for name, module in matched if name not in known and name not in stacks]
    if others:
        name, module = others[0]
        raise ModelError(
            f"adapter.targets: {pattern!r} also matches {name or 'the whole model'} ({type(module).__name__}), which "
            "is no linear layer of the language model",
            r"end it with the layers' own names, such as .*\.(q_proj|v_proj)",
        )
    if not matched and not stacks:
        raise ModelError(
            f"adapter.targets: {pattern!r} matches no linear layer of {type(model).__name__}; it must match a whole "
            "name",
            _nearest_words(pattern, known) + "linear layers: " + ", ".join(last_parts(model)),
        )
    return [name for name, _ in matched if name not in stacks]


def _without(model: PreTrainedModel, chosen: Sequence[str], exclude: str | Sequence[str]) -> list[str]:
    """The chosen layers that `exclude` does not match; each of its parts matches at least one."""
    if isinstance(exclude, str):
        excluded = {exclude: [name for name in chosen if re.fullmatch(exclude, name)]}
    else:
        ends = {name: name.removesuffix(".weight") for name in chosen}  # of routers
        excluded = {one: [name for name in chosen if is_end_of(one, ends[name])] for one in exclude}
    for one, found in excluded.items():
        if not found:
            raise ModelError(
                f"adapter.exclude: {one!r} matches none of the layers of {type(model).__name__} that would be adapted",
                (_nearest_words(one, chosen) if isinstance(exclude, str) else _nearest(one, last_parts(model)))
                + "they are: "
                + ", ".join(dict.fromkeys(last_part(name) for name in chosen)),
            )
    gone = {name for found in excluded.values() for name in found}
    return [name for name in chosen if name not in gone]


def _check_layers(model: PreTrainedModel, layers: Iterable[int]) -> None:
    known = {number for name in linear_names(model) if (number := layer_of(name)) is not None}
    if unknown := [number for number in layers if number not in known]:
        raise ModelError(
            f"adapter.layers: {type(model).__name__} has no layer {unknown[0]}",
            f"its layers with linear weights are {min(known)} to {max(known)}" if known else "omit adapter.layers",
        )


def _shortest(model: nn.Module, chosen: Sequence[str], given: str | Sequence[str]) -> list[str]:
    """Names that match the chosen modules and no other (of a vision part): as given, or their last two parts, or all of
    their parts."""
    wanted, names = set(chosen), [name for name, _ in model.named_modules()]
    as_given = [] if isinstance(given, str) else [one for one in given if any(is_end_of(one, name) for name in chosen)]
    for short in (as_given, sorted({last_part(name) for name in chosen})):
        if all(any(is_end_of(one, name) for one in short) == (name in wanted) for name in names):
            return short
    return sorted(chosen)


def read_by_kernels(model: PreTrainedModel) -> list[str]:
    """Names of linear layers whose weights are read past an adapter: those of Mamba's mixers.

    transformers reads dt_proj's weight itself, its fused kernels those of all: an adapter there would not be trained.
    """
    mixers = {name for name, module in model.named_modules() if {"A_log", "D"} <= module._parameters.keys()}
    split = (name.rpartition(".") for name in linear_names(model))
    return [f"{mixer}.{last}" for mixer, _, last in split if mixer in mixers and last in READ_BY_KERNELS]


def last_parts(model: PreTrainedModel) -> list[str]:
    """The last two parts of linear layers' names, each once: what may be named as a target.

    Two, because the last one is not unique (GPT-2 has `c_proj` in attention and in the MLP).
    """
    return sorted({last_part(name) for name in linear_names(model)})


def _nearest_words(pattern: str, names: Sequence[str]) -> str:
    """A question with the parts of names that are most like the words of an expression which no name has; else what a
    whole name looks like."""
    parts = {part for name in names for part in name.split(".") if not part.isdigit()}
    unknown = [word for word in re.findall(r"[A-Za-z]\w{2,}", pattern) if word not in parts]
    near = [found[0] for word in unknown if (found := difflib.get_close_matches(word, parts, n=1))]
    if near:
        return f"did you mean {' and '.join(dict.fromkeys(near))}? "
    return f"a whole name is {names[0]}; " if names else ""


def _nearest(target: str, names: Sequence[str]) -> str:
    """A question with the names whose last parts, as many as the target has, are most like it; "" = none is."""
    ends = {last_part(name, 1 + target.count(".")): name for name in names}
    near = difflib.get_close_matches(target, ends, n=_NEAREST, cutoff=0.4)
    return f"did you mean {' or '.join(ends[one] for one in near)}? " if near else ""
