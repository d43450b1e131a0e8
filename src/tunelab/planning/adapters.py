"""Which layers get an adapter by a recipe's words, and how many parameters that trains: the rules of models/targets.py
on names alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tunelab.config import AdapterSettings
from tunelab.errors import UsageError
from tunelab.planning.shape import Linear, ModelShape

HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class Adapters:
    """Where a recipe's adapters are.

    Args:
        ranks: for each of the model's layers, the rank by the linear layer's name.
        parameters: of all LoRA matrices (and DoRA's magnitudes).
        tensors: number of them.
        in_full: parameters of modules that are trained in full next to them.
        not_counted: of what is trained in full, names whose size is not known here.
    """

    ranks: tuple[dict[str, int], ...]
    parameters: int
    tensors: int
    in_full: int
    not_counted: tuple[str, ...]

    @property
    def trained(self) -> int:
        return self.parameters + self.in_full


def adapters_of(shape: ModelShape, settings: AdapterSettings) -> Adapters:
    """The adapters that these settings put on a model.

    Raises:
        UsageError: they match no layer, or one of their names or numbers does not.
    """
    stacks = _expert_stacks(shape)
    _check_layers(shape, settings)
    places = [(number, one) for number in range(shape.layers) for one in (*shape.linears, *stacks)]
    chosen = [(number, one) for number, one in places if _is_chosen(shape, number, one, settings)]
    head = Linear(HEAD, shape.hidden, shape.vocabulary)
    has_head = isinstance(settings.targets, tuple) and HEAD in settings.targets
    if not chosen and not has_head:
        known = ", ".join(sorted({one.name for _, one in places}))
        raise UsageError(f"adapter.targets: {settings.targets!r} matches no linear layer", f"linear layers: {known}")
    _check_names(shape, settings, {one.name for _, one in places})
    ranks: tuple[dict[str, int], ...] = tuple({} for _ in range(shape.layers))
    for number, one in chosen:
        ranks[number][one.name] = settings.rank
    layers = [one for _, one in chosen] + [head] * has_head
    parameters = sum(settings.rank * (one.inputs + one.outputs) * _copies(shape, one) for one in layers)
    if settings.use_dora:
        parameters += sum(one.outputs for one in layers)
    in_full, unknown = _trained_in_full(shape, settings.also_train)
    return Adapters(ranks, parameters, (3 if settings.use_dora else 2) * len(layers), in_full, unknown)


def _check_layers(shape: ModelShape, settings: AdapterSettings) -> None:
    if unknown := [number for number in settings.layers or () if not 0 <= number < shape.layers]:
        raise UsageError(f"adapter.layers: there is no layer {unknown[0]}", f"its layers are 0 to {shape.layers - 1}")


def _check_names(shape: ModelShape, settings: AdapterSettings, known: set[str]) -> None:
    """Each name matches a layer, as `train` demands; not where layers have names that are not known here."""
    if not shape.is_known or shape.experts:
        return
    for key, names in (("targets", settings.targets), ("exclude", settings.exclude)):
        for one in names if isinstance(names, tuple) else ():
            if one != HEAD and not any(_matches(f".{name}", [one]) for name in known):
                raise UsageError(
                    f"adapter.{key}: {one!r} matches no linear layer", f"linear layers: {', '.join(sorted(known))}"
                )


def _expert_stacks(shape: ModelShape) -> tuple[Linear, ...]:
    """Experts' weights by the names that adapters use; widths are those of one expert."""
    if not shape.experts:
        return ()
    wide = Linear("mlp.experts.gate_up_proj", shape.hidden, 2 * shape.intermediate)
    return wide, Linear("mlp.experts.down_proj", shape.intermediate, shape.hidden)


def _copies(shape: ModelShape, linear: Linear) -> int:
    return shape.experts if ".experts." in linear.name else 1


def _is_chosen(shape: ModelShape, number: int, linear: Linear, settings: AdapterSettings) -> bool:
    name = f"{shape.prefix}{number}.{linear.name}"
    if settings.layers is not None and number not in settings.layers:
        return False
    if settings.exclude and _matches(name, settings.exclude):
        return False
    if settings.targets == "all-linear":
        return True
    if settings.targets == "attention":
        return "attn" in name
    return _matches(name, settings.targets)


def _matches(name: str, wanted: str | Sequence[str]) -> bool:
    """As PEFT: a regular expression matches the whole name, a name the end of it."""
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in wanted)


def _trained_in_full(shape: ModelShape, names: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    table = shape.vocabulary * shape.hidden
    sizes = {"embed_tokens": table, "wte": table, HEAD: table, "norms": shape.parameters.get("norms", 0)}
    known = [name for name in names if name in sizes]
    tied = shape.is_tied and HEAD in known and {"embed_tokens", "wte"} & set(known)
    count = sum(sizes[name] for name in known) - (table if tied else 0)
    return count, tuple(name for name in names if name not in sizes)
