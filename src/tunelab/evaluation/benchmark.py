"""The words of evaluation: items that are asked, responses that are stored, grades and scores that are told.

All are plain data and go to JSON and back; nothing here needs a model. A benchmark is one module of
evaluation/benchmarks (or a user's own .py file) with these names:

    docstring   its first line is the summary shown in listings; then paper, repository, whose protocol it follows
    BENCHMARK   Benchmark: kind, chance level, what its items are clustered by, where its files come from
    Options     subclass of BenchmarkOptions: the benchmark's own settings (shots, protocol)
    items       (folder with its files, options) -> list of Items, in the order of the files
    EXAMPLE     Example: an item, a right and a wrong response to it
    grade       (response, options) -> the item's values by name, BENCHMARK.metric among them: right 1.0, wrong 0.0
    summarise   (graded responses, options) -> Scored

and, where other tools read the answers (a judge), optionally

    write_outputs   (responses, header of their file, folder) -> paths of the files that it wrote there

which scoring calls for files of our own, so that they lie beside responses.jsonl.

Grading needs no model, no network and not the benchmark's files: a response carries what it is graded against.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tunelab.errors import DataError, RunError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of one model, with its error.

    Attributes:
        name: "completion_perplexity", "bleu", ...
        value: the figure; always finite.
        error: its standard error in the same unit; None = unknown (one item), which is not zero.
        n: items that it was computed from.
        unit: what the value counts: "per token", "bits/byte", "0-100".
        higher_is_better: which way is good.
        protocol: everything that produced the figure and without which it cannot be compared ("signature": ...).
    """

    name: str
    value: float
    error: float | None
    n: int
    unit: str
    higher_is_better: bool
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or not (self.error is None or math.isfinite(self.error)):
            raise DataError(f"{self.name}: {self.value} ± {self.error} is no score: expected finite numbers")

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "protocol": dict(self.protocol)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Score:
        """Raises RunError where a key is missing or unknown."""
        return record_from_json(cls, value)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a benchmark asks.

    Attributes:
        id: unique among the benchmark's items ("virology/17").
        question: the item's own part of the prompt, up to where the answer begins.
        target: what a response is graded against, in values that JSON holds.
        examples: the few-shot part before the question, shared by many items and computed once; ends where the
            question begins, so that the prompt is examples + question.
        choices: continuations whose likelihoods are compared (" A", " B"); () where an answer is generated.
        cluster: items of one cluster are not independent of each other (a subject); "" = every item for itself.
    """

    id: str
    question: str
    target: Any
    examples: str = ""
    choices: tuple[str, ...] = ()
    cluster: str = ""

    @property
    def prompt(self) -> str:
        """The whole prompt, before any chat template."""
        return self.examples + self.question


@dataclass(frozen=True, slots=True)
class Response:
    """What a model gave for one item, as it is stored: grading needs no more than this.

    Attributes:
        item, question, target, cluster: the item's.
        prompt_hash: hash of model, prompt and decoding (responses.py); "" in files of other tools.
        text: the generated answer; "" where choices were scored.
        choices: the continuations that were scored; () where an answer was generated.
        log_probabilities: log p of each choice, in nats, summed over its tokens.
        choice_tokens: tokens of each choice.
        stop_reason: "stop", "length" or "context" (inference/engine.py); "" where choices were scored.
        prompt_tokens: tokens of the prompt that were read.
        truncated_tokens: tokens cut off the beginning of the prompt because the model's context is shorter.
        answer_tokens: tokens of the generated answer.
    """

    item: str
    prompt_hash: str
    question: str
    target: Any
    cluster: str = ""
    text: str = ""
    choices: tuple[str, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    choice_tokens: tuple[int, ...] = ()
    stop_reason: str = ""
    prompt_tokens: int = 0
    truncated_tokens: int = 0
    answer_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Response:
        """Raises RunError where a key is missing or unknown."""
        response = record_from_json(cls, value)
        lists: dict[str, Any] = {
            name: tuple(getattr(response, name)) for name in ("choices", "log_probabilities", "choice_tokens")
        }
        return dataclasses.replace(response, **lists)


@dataclass(frozen=True)
class HubFiles:
    """Where a benchmark's files lie on the Hugging Face hub.

    Args:
        repository: "owner/name" of a data set.
        revision: commit that is read; None where no commit is known for certain, then the newest is read.
        patterns: files that are fetched, such as "all/test-*.parquet".
    """

    repository: str
    revision: str | None
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark is.

    Args:
        kind: "likelihood" (choices are compared) or "generate" (an answer is written).
        metric: the headline metric: a key of what grade() gives, and the name of the first score.
        chance: what `metric` is for a model that guesses, 0 to 1; None where that means nothing.
        cluster: what items are clustered by ("subject"), as it is called in tables; None = they are independent.
        source: paper, and the repository whose protocol is followed.
        licence: of its items.
        hub: where its files come from; None = a path must be given.
        max_new_tokens: of a generated answer, at most.
        stop_strings: a generated answer ends before the first of these.
        size: how many items it has, for plans made before they are read; None = not known.
        chat: whether a model that has a chat template (or a run that was trained with a template) is asked in it by
            default. False follows those who measure base and chat models alike on the bare prompt.
    """

    kind: Literal["likelihood", "generate"]
    metric: str
    chance: float | None
    cluster: str | None
    source: str
    licence: str
    hub: HubFiles | None
    max_new_tokens: int = 0
    stop_strings: tuple[str, ...] = ()
    chat: bool = False
    size: int | None = None


class BenchmarkOptions(BaseModel):
    """Base of every benchmark's options. An unknown option is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str | None = Field(None, description="Folder with the benchmark's files, in place of the hub's.")


@dataclass(frozen=True)
class Example:
    """An item with a right and a wrong response to it, for the contract test."""

    item: Item
    right: Response
    wrong: Response


@dataclass(frozen=True, slots=True)
class Graded:
    """A response with its values by name, as grade() gave them; numbers, or lists of numbers (instruction by one)."""

    response: Response
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Scored:
    """What a benchmark found of one model.

    Args:
        scores: over all items; the first is the headline metric.
        groups: scores of a part ("subject virology") by its name.
        warnings: why a number should not be taken at its word, in sentences.
        facts: counts that explain the scores: letters that were chosen, answers that were cut.
    """

    scores: list[Score]
    groups: Mapping[str, list[Score]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "scores": [score.to_json() for score in self.scores],
            "groups": {name: [score.to_json() for score in scores] for name, scores in self.groups.items()},
            "warnings": self.warnings,
            "facts": dict(self.facts),
        }


def check_pairs(metric: str, responses: Sequence[str], references: Sequence[str]) -> None:
    """Raises DataError where there is nothing to measure, counts differ or a reference has no text.

    An empty response is a bad answer and gets its low score; an empty reference measures nothing.
    """
    if len(responses) != len(references):
        raise DataError(f"{metric}: {len(responses)} responses but {len(references)} references")
    if not responses:
        raise DataError(f"{metric}: there are no responses to score")
    for place, reference in enumerate(references):
        if not reference.strip():
            raise DataError(
                f"{metric}: the reference of item {place} is empty: no answer can be measured against it",
                "leave the item out",
            )


def record_from_json(kind: type[T], value: Mapping[str, Any]) -> T:
    fields = {one.name for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if missing := sorted(fields - set(value)):
        raise RunError(f"{kind.__name__} record lacks {', '.join(missing)}", "it was written by another version")
    if unknown := sorted(set(value) - fields):
        raise RunError(f"{kind.__name__} record has unknown {', '.join(unknown)}", "it was written by another version")
    return kind(**value)
