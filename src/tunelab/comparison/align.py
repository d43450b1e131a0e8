"""Align two sets of graded items: the same items under the same protocol, or an error that lists every difference.

Two models can only be compared if everything else is the same. What may differ is listed (model, adapter, precision);
any other difference is an error. All differences are reported at once, each with its remedy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunelab.errors import DataError

#: Header keys that identify the model, and so may differ between two compared models.
OF_THE_MODEL = (
    "model_name",
    "revision",
    "model",
    "weights",
    "adapter",
    "arm",
    "precision",
    "dtype",
    "files",
    "decoding.stop_token_ids",
)

#: Header keys whose differences are reported but never refused, so that results can be compared across upgrades.
NEVER_REFUSED = ("tunelab",)

#: Stands for the value of a key that only the other side has.
ABSENT = "(absent)"

#: Header keys that select the items; they may differ if only common items are compared.
_OF_THE_ITEMS = ("items", "limit")

#: What to do about a difference, by the first part of its key.
_REMEDIES = {
    "date": "the chat template writes a date: evaluate both with one (data.date=YYYY-MM-DD)",
    "template": "evaluate both in the same template, or in none (--no-chat-template)",
    "decoding": "generate again with the same decoding",
    "benchmark": "compare scores of one benchmark",
    "benchmark_options": "evaluate both with the same benchmark options",
    "items_sha256": "evaluate both on the same benchmark files",
    "items": "evaluate both with the same --limit, or compare common items only",
    "limit": "evaluate both with the same --limit, or compare common items only",
    "data": "evaluate both on the same held-out rows: the same sources, split, template and tokenizer",
    "protocol": "score both files again with this version and the same options",
}
_SHOWN = 3  # items named in an error
_LONGEST = 60  # characters of a value or prompt that are shown


@dataclass(frozen=True, slots=True)
class GradedItems:
    """One model's results on one benchmark, as needed for a comparison.

    Attributes:
        name: shown in errors and verdicts ("tuned", "run-1/mmlu").
        values: the metric of each item, by item id, in the benchmark's order.
        prompts: the prompt of each item, as text or hash; items without one are not compared by prompt. Do not use a
            hash that covers the model, like that in responses.jsonl: it differs between any two models.
        clusters: of each item; missing or "" = the item is its own cluster.
        clustered_by: what clusters are ("subject"); "" = not known.
        header: what produced the answers: the first line of responses.jsonl.
        protocol: what must be equal for the score to be comparable (Score.protocol).
    """

    name: str
    values: Mapping[str, float]
    prompts: Mapping[str, str] = field(default_factory=dict)
    clusters: Mapping[str, str] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    clustered_by: str = ""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Items that both models answered, in the order of a.

    Attributes:
        a_name, b_name: names of the two.
        items: ids, [n].
        a, b: values, [n] each.
        clusters: [n]; None if no item has one.
        only_in_a, only_in_b: ids left out because the other side lacks them.
        differing: header and protocol keys that differ and are allowed to, with a's and b's value (or ABSENT).
        clustered_by: what clusters are ("subject"); "" = not known.
    """

    a_name: str
    b_name: str
    items: list[str]
    a: list[float]
    b: list[float]
    clusters: list[str] | None
    only_in_a: list[str]
    only_in_b: list[str]
    differing: dict[str, tuple[Any, Any]]
    clustered_by: str = ""


def align(
    a: GradedItems, b: GradedItems, *, allow_diff: Collection[str] = OF_THE_MODEL, common_items_only: bool = False
) -> Pairs:
    """Pair the items of both in one order.

    Args:
        a, b: the two sides.
        allow_diff: header and protocol keys that may differ, dotted if nested ("decoding.temperature",
            "protocol.shots"); a key includes everything below it.
        common_items_only: leave out items that one side lacks instead of refusing them. They are listed.

    Raises:
        DataError: anything else differs (lists all items, prompts, clusters, header and protocol keys), a value is not
            finite, or there is no common item.
    """
    for side in (a, b):
        for item, value in side.values.items():
            if not math.isfinite(value):
                raise DataError(f"{side.name}: item {item!r} has the value {value}: expected a finite number")
    allowed = {*allow_diff, *NEVER_REFUSED, *(_OF_THE_ITEMS if common_items_only else ())}
    items = [item for item in a.values if item in b.values]
    only_in_a = [item for item in a.values if item not in b.values]
    only_in_b = [item for item in b.values if item not in a.values]
    differing = dict(_differing(_labelled(a), _labelled(b)))
    refused = {key: pair for key, pair in differing.items() if not _is_allowed(key, allowed)}
    problems = [_key_problem(key, *pair, a.name, b.name) for key, pair in refused.items()]
    if not common_items_only:
        problems += [_missing_problem(ids, have, lack) for ids, have, lack in _lacking(a, b, only_in_a, only_in_b)]
    problems += _text_problems(a, b, items)
    if problems:
        count = f"{len(problems)} difference{'s' if len(problems) > 1 else ''}"
        lines = "".join(f"\n  {problem}\n    {remedy}" for problem, remedy in problems)
        raise DataError(
            f"{a.name} and {b.name} cannot be compared: {count}{lines}",
            "a key that is meant to differ can be allowed by name (--allow-diff)" if refused else "",
        )
    if not items:
        raise DataError(f"{a.name} and {b.name} have no item in common", "evaluate both on the same benchmark")
    clusters = [a.clusters.get(item, "") for item in items]
    return Pairs(
        a.name,
        b.name,
        items,
        [float(a.values[item]) for item in items],
        [float(b.values[item]) for item in items],
        clusters if any(clusters) else None,
        only_in_a,
        only_in_b,
        differing,
        a.clustered_by,
    )


def _labelled(side: GradedItems) -> dict[str, Any]:
    return {**side.header, **({"protocol": dict(side.protocol)} if side.protocol else {})}


def _differing(a: Mapping[str, Any], b: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Dotted keys whose values differ, with both values."""
    for key in dict.fromkeys((*a, *b)):
        left, right = a.get(key, ABSENT), b.get(key, ABSENT)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _differing(left, right, f"{above}{key}.")
        elif _plain(left) != _plain(right):
            yield f"{above}{key}", (left, right)


def _plain(value: Any) -> Any:
    """The value after a JSON round trip: a tuple becomes a list."""
    return list(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _is_allowed(key: str, allowed: Collection[str]) -> bool:
    parts = key.split(".")
    return any(".".join(parts[: depth + 1]) in allowed for depth in range(len(parts)))


def _key_problem(key: str, left: Any, right: Any, name_a: str, name_b: str) -> tuple[str, str]:
    remedy = _REMEDIES.get(key.split(".")[0], "evaluate both in the same way")
    return f"{key}: {_shown(left)} in {name_a}, {_shown(right)} in {name_b}", remedy


def _lacking(
    a: GradedItems, b: GradedItems, only_in_a: list[str], only_in_b: list[str]
) -> Iterator[tuple[list[str], str, str]]:
    if only_in_a:
        yield only_in_a, a.name, b.name
    if only_in_b:
        yield only_in_b, b.name, a.name


def _missing_problem(ids: Sequence[str], have: str, lack: str) -> tuple[str, str]:
    problem = f"items: {len(ids)} of {have} {'are' if len(ids) > 1 else 'is'} not in {lack}: {_listed(ids)}"
    return problem, f"finish the evaluation of {lack}, or compare common items only"


def _text_problems(a: GradedItems, b: GradedItems, items: Sequence[str]) -> list[tuple[str, str]]:
    """Items with another prompt, or in another cluster, under the same id."""
    problems = []
    known = [item for item in items if item in a.prompts and item in b.prompts]
    if other := [item for item in known if a.prompts[item] != b.prompts[item]]:
        example = _first_difference(a.prompts[other[0]], b.prompts[other[0]])
        problems.append(
            (
                f"prompts: {len(other)} of {len(items)} items have different prompts: {_listed(other)} ({example})",
                "evaluate both on the same files with the same version of tunelab",
            )
        )
    if moved := [item for item in items if a.clusters.get(item, "") != b.clusters.get(item, "")]:
        where = f"{_shown(a.clusters.get(moved[0], ''))} against {_shown(b.clusters.get(moved[0], ''))}"
        problems.append(
            (
                f"clusters: {len(moved)} of {len(items)} items are in different clusters: {_listed(moved)} ({where})",
                "score both files again with this version",
            )
        )
    return problems


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:_SHOWN])) + (", …" if len(ids) > _SHOWN else "")


def _first_difference(a: str, b: str) -> str:
    """Both texts, starting shortly before the first difference."""
    same = next((place for place, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, same - 10)
    return f"{_shown(a[start:])} against {_shown(b[start:])}, from character {start}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
