"""How benchmarks are evaluated: the settings, as an object or a mapping."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tunelab.answering.responder import checked_arms
from tunelab.errors import UsageError
from tunelab.files import as_path


@dataclass(frozen=True)
class BenchmarkSettings:
    """How benchmarks are evaluated. Only `limit`, `options` and `template` change what is measured.

    Args:
        options: benchmark -> its options by name; `data` is a folder with its files.
        limit: items per benchmark, spread evenly over clusters; None = all.
        arms: of a run, or of a model with an adapter; () = base and tuned.
        adapter: with a model: the PEFT adapter to apply.
        template: with a model: its prompt template; None = its chat template, or that of the adapter's run.
        in_template: True = prompt in the template, False = raw text; None = the benchmark's default.
        changes: with a model: recipe overrides as on the command line, such as "train.dtype=bf16".
        max_new_tokens: of a generated answer; overrides the benchmark's.
        micro_batch_tokens: tokens computed at once; overrides the recipe's.
        out: with a model: directory of the responses; a run stores them in its own directory.
        backend: "tunelab" or "vllm"; likelihoods always come from tunelab.
        base: with a run: the folder where its base is now, if it moved.

    Raises:
        UsageError: a value is not of its type, or an arm is unknown.
    """

    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limit: int | None = None
    arms: str | Sequence[str] = ()
    adapter: Path | str | None = None
    template: str | None = None
    in_template: bool | None = None
    changes: str | Sequence[str] = ()
    max_new_tokens: int | None = None
    micro_batch_tokens: int | None = None
    out: Path | str = Path("evaluations")
    backend: str = "tunelab"
    base: Path | str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and (isinstance(self.limit, bool) or not isinstance(self.limit, int)):
            raise UsageError(f"limit is {self.limit!r}, expected a positive integer", "omit it to evaluate all items")
        changes = (self.changes,) if isinstance(self.changes, str) else tuple(self.changes)
        adapter = None if self.adapter is None else as_path(self.adapter, "adapter")
        found = {"arms": checked_arms(self.arms), "out": as_path(self.out, "out"), "changes": changes}
        for name, value in {**found, "adapter": adapter}.items():
            object.__setattr__(self, name, value)


def as_settings(settings: BenchmarkSettings | Mapping[str, Any] | None) -> BenchmarkSettings:
    """Settings from their object or a mapping; None = the defaults.

    Raises:
        UsageError: unknown setting, or a value that is not of its type.
    """
    if isinstance(settings, BenchmarkSettings):
        return settings
    given = dict(settings or {})
    known = [one.name for one in fields(BenchmarkSettings)]
    if unknown := [name for name in given if name not in known]:
        near = difflib.get_close_matches(str(unknown[0]), known, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"benchmarks have no setting {unknown[0]!r}{meant}", f"known: {', '.join(known)}")
    return BenchmarkSettings(**given)


def names_of(benchmarks: str | Sequence[str]) -> list[str]:
    """The benchmarks' names; one text may name several, comma-separated."""
    named = benchmarks.split(",") if isinstance(benchmarks, str) else map(str, benchmarks)
    return [name.strip() for name in named if name.strip()]
