"""The scores that a run's evaluations left, read from their files: what a model card shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunelab import plugins
from tunelab.config.questions import HELD_OUT
from tunelab.config.shareable import shareable_tree
from tunelab.errors import RunError
from tunelab.failures import explained
from tunelab.files import read_json
from tunelab.records.evaluation_files import SCORES, is_blind
from tunelab.records.old_format import read_scores
from tunelab.records.runs import Run


@dataclass(frozen=True)
class StoredScore:
    """One metric: see evaluation.benchmark.Score, whose fields these are."""

    name: str
    value: float
    error: float | None
    n: int
    unit: str
    higher_is_better: bool
    is_blind: bool


@dataclass(frozen=True)
class Measured:
    """One benchmark under one protocol.

    Args:
        benchmark: its name, or "held-out".
        arms: "base", "tuned" -> scores.
        limit: at most so many of its items; None = all.
        options: the benchmark's own (shots, protocol).
    """

    benchmark: str
    arms: dict[str, list[StoredScore]]
    limit: int | None
    options: Mapping[str, Any]

    @property
    def title(self) -> str:
        """For readers: "held-out rows", "mmlu (protocol lm-eval, shots 0)"."""
        if self.benchmark == HELD_OUT:
            return "held-out rows"
        said = ", ".join(f"{key} {value}" for key, value in self.options.items() if isinstance(value, str | int))
        return f"{self.benchmark} ({said})" if said else self.benchmark

    @property
    def items(self) -> int:
        """The largest number of items that a score is of."""
        return max((score.n for scores in self.arms.values() for score in scores), default=0)


def measured(run: Run) -> list[Measured]:
    """All that was evaluated of a run and its base, held-out rows first; arms under one protocol are together.

    Raises:
        RunError: a file of scores is damaged.
    """
    groups: dict[str, list[Measured]] = {}
    for path in sorted(run.evaluations.glob(f"*/{SCORES}")):
        with explained(f"{path}: not a valid score file", RunError, "remove its folder and evaluate again"):
            _add(groups, read_scores(read_json(path), path))
    found = [one for group in groups.values() for one in group]
    return sorted(found, key=lambda one: (one.benchmark != HELD_OUT, one.benchmark))


def _add(groups: dict[str, list[Measured]], content: Mapping[str, Any]) -> None:
    header, scores = content["header"], [_score(one) for one in content["scores"]]
    benchmark = plugins.label(content.get("benchmark", HELD_OUT))
    options = {key: value for key, value in shareable_tree(content.get("options", {})).items() if value is not None}
    # Arms belong together if they were asked the same items in the same way.
    key = json.dumps([benchmark, options, header.get("items"), header.get("limit"), len(content.get("rows", ()))])
    group = groups.setdefault(key, [])
    arm = header.get("arm", "tuned")
    lacking = next((one for one in group if arm not in one.arms), None)
    if lacking is None:
        items, limit = header.get("items"), header.get("limit")
        group.append(Measured(benchmark, {}, limit if limit and (items or limit) >= limit else None, options))
    (lacking or group[-1]).arms[arm] = scores


def _score(one: Mapping[str, Any]) -> StoredScore:
    error, n = one["error"], int(one["n"])
    known = (one["name"], float(one["value"]), None if error is None else float(error), n)
    return StoredScore(*known, one["unit"], bool(one["higher_is_better"]), is_blind(one.get("protocol", {}), n))
