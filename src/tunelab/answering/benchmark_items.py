"""Load benchmarks: look them up by name, check their options, read their items and apply the limit."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tunelab import plugins
from tunelab.errors import ConfigError, DataError, Problem, UsageError
from tunelab.evaluation.benchmark import Benchmark, BenchmarkOptions, Item
from tunelab.evaluation.benchmark_files import FOLDER, is_items_file, load_benchmark, read_items
from tunelab.scoring.read_responses import checked_options


@dataclass(frozen=True)
class LoadedBenchmark:
    """A benchmark whose options are checked and whose items are read.

    Args:
        name: as given: a name, or the path of a user's own .py or .jsonl file.
        items: the items to evaluate, in the files' order.
        header: identifies it: name, options except `data`, hash of all items, limit, number of items evaluated.
    """

    name: str
    module: ModuleType
    options: BenchmarkOptions
    items: list[Item]
    header: dict[str, Any]

    @property
    def label(self) -> str:
        """Its short name, which prefixes options and names folders."""
        return plugins.label(self.name)

    @property
    def about(self) -> Benchmark:
        describe = getattr(self.module, "about", None)
        found: Benchmark = describe(self.items, self.options) if describe else self.module.BENCHMARK
        return found


def load_benchmarks(
    names: Sequence[str], options: Mapping[str, Mapping[str, Any]] | None = None, limit: int | None = None
) -> list[LoadedBenchmark]:
    """Load benchmarks with their options and items.

    Raises:
        UsageError: unknown benchmark, a benchmark named twice, or options of one that is not named.
        ConfigError: lists every problem with the options.
        DataError: files are missing or unreadable.
    """
    if not names:
        raise UsageError("no benchmark is named", f"known: {', '.join(plugins.names(FOLDER))}")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}, expected 1 or more", "omit it to evaluate all items")
    labels = [plugins.label(name) for name in names]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UsageError(f"{twice[0]} is named twice", "name each benchmark once")
    given = options or {}
    modules = [load_benchmark(name) for name in names]
    if strange := sorted(set(given) - set(labels)):
        raise UsageError(
            f"options of {', '.join(strange)} are given, but only {', '.join(labels)} is evaluated",
            "add it to the benchmarks, or omit the options",
        )
    problems: list[Problem] = []
    checked: list[BenchmarkOptions] = []
    for label, module in zip(labels, modules, strict=True):
        try:
            checked.append(checked_options(module, label, given.get(label, {})))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError("options of the benchmarks", problems)
    return [_load(name, module, its, limit) for name, module, its in zip(names, modules, checked, strict=True)]


def _load(name: str, module: ModuleType, options: BenchmarkOptions, limit: int | None) -> LoadedBenchmark:
    label = plugins.label(name)
    items, options = read_items(name, module, options)
    repeated = [name for name, count in Counter(item.id for item in items).items() if count > 1]
    if repeated:
        raise DataError(
            f"{label}: two items have the id {repeated[0]!r}", "responses are stored under their items' ids"
        )
    asked = evenly_limited(items, limit)
    header = {
        # A file of items is identified by its content, wherever it is.
        "benchmark": Path(name).name if is_items_file(name) else name,
        "benchmark_options": options.model_dump(mode="json", exclude={"data"}),
        "items": len(asked),
        "items_sha256": items_hash(items),
        "limit": limit,
    }
    return LoadedBenchmark(name, module, options, asked, header)


def texts_of(items: Sequence[Item]) -> list[tuple[str, str]]:
    """Id and own text of each item: its question and its choices, without the few-shot part."""
    return [(item.id, f"{item.question} {' '.join(item.choices)}") for item in items]


def evenly_limited(items: Sequence[Item], limit: int | None) -> list[Item]:
    """`limit` items in their original order: the first of every cluster, then the second of each, and so on.

    An item without a cluster is its own cluster.
    """
    if limit is None or limit >= len(items):
        return list(items)
    counts: dict[str, int] = {}
    turns = []
    for place, item in enumerate(items):
        turn = counts.get(item.cluster, 0) if item.cluster else 0
        counts[item.cluster] = turn + 1
        turns.append((turn, place))
    return [items[place] for place in sorted(place for _, place in sorted(turns)[:limit])]


def items_hash(items: Sequence[Item]) -> str:
    """SHA-256 over ids, prompts, choices and targets of all items; equal for the same benchmark data."""
    content = hashlib.sha256()
    for item in items:
        parts = [item.id, item.examples, item.question, list(item.choices), item.target]
        parts += [item.ending] if item.ending else []
        content.update(json.dumps(parts, sort_keys=True).encode("ascii") + b"\n")
    return f"sha256:{content.hexdigest()}"
