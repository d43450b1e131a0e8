"""Data types of evaluation: benchmark items, stored responses, grades and scores.

All are plain data with JSON round trips and need no model. A benchmark is one module in
evaluation/benchmarks (or a user's own .py file) with these names:

    docstring   its first line is the summary in listings; then paper, repository, and the protocol it follows
    BENCHMARK   Benchmark: kind, chance level, clusters of its items, where its files come from
    Options     subclass of BenchmarkOptions: the benchmark's own settings (shots, protocol)
    items       (folder with its files, options) -> list of Items, in the order of the files
    EXAMPLE     Example: an item with a right and a wrong response
    grade       (response, options) -> the item's values by name, BENCHMARK.metric among them: right 1.0, wrong 0.0
    summarise   (graded responses, options) -> Scored

and optionally

    about           (items, options) -> Benchmark: BENCHMARK, if parts of it depend on them
    write_outputs   (responses, header of their file, folder) -> paths of the files it wrote there, if other tools (a
                    judge) read the answers; scoring calls it for tunelab's own response files, so that the outputs are
                    next to responses.jsonl

A benchmark without Python is a JSON Lines file of items (items_file.py).

Grading needs no model, no network and none of the benchmark's files: a response carries its own target.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tunelab.config.types import shown
from tunelab.errors import DataError, RunError
from tunelab.records.evaluation_files import is_blind

T = TypeVar("T")

#: What a field of a stored record is annotated as -> the types that its value may have, and their name.
_CHECKED: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "text"),
    "int": ((int,), "an integer"),
    "float": ((int, float), "a number"),
    "float | None": ((int, float, type(None)), "a number or null"),
    "bool": ((bool,), "true or false"),
}


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one model, with its standard error.

    Attributes:
        name: "completion_perplexity", "bleu", ...
        value: always finite.
        error: standard error in the same unit; None = unknown (one item), which is not zero.
        n: number of items.
        unit: unit of the value: "per token", "bits/byte", "0-100".
        higher_is_better: direction of the metric.
        protocol: everything that must be equal for the value to be comparable ("signature": ...).
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
            raise DataError(f"{self.name}: {self.value} ± {self.error} is not a score: expected finite numbers")

    @property
    def is_blind(self) -> bool:
        """Whether the metric cannot see most of the references, so that its value means nothing (metrics/unseen.py)."""
        return is_blind(self.protocol, self.n)

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "protocol": dict(self.protocol)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Score:
        """Raises RunError if a key is missing or unknown, or a value has another type."""
        return record_from_json(cls, value)


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a benchmark.

    Attributes:
        id: unique among the benchmark's items ("virology/17").
        question: the item's own part of the prompt, up to where the answer begins; the whole text of an item whose
            text is measured.
        target: what a response is graded against; JSON-serializable.
        examples: the few-shot part before the question, shared by many items and computed once. The prompt is
            examples + question.
        choices: continuations whose likelihoods are compared (" A", " B"); () for a generated answer.
        cluster: items in one cluster (a subject) are not independent; "" = the item is its own cluster.
        ending: what follows every choice and is scored in its place (partial evaluation): the choices differ in how
            likely they make it. "" = the choices themselves are scored.
    """

    id: str
    question: str
    target: Any
    examples: str = ""
    choices: tuple[str, ...] = ()
    cluster: str = ""
    ending: str = ""

    @property
    def prompt(self) -> str:
        """The whole prompt, before any chat template is applied."""
        return self.examples + self.question


@dataclass(frozen=True, slots=True)
class Response:
    """A model's stored response to one item; grading needs nothing else.

    Attributes:
        item, question, target, cluster: copied from the item.
        prompt_hash: hash of model, prompt and decoding (responses.py); "" in other tools' files.
        text: the generated answer; "" for scored choices.
        choices: the scored continuations; () for a generated answer.
        log_probabilities: log p of each choice (or of the item's ending after it), in nats, summed over its tokens; of
            the text alone if a text is measured.
        choice_tokens: tokens of each that are scored.
        stop_reason: "stop", "length" or "context" (inference/engine.py); "" for scored choices.
        prompt_tokens: number of prompt tokens that the model read.
        truncated_tokens: prompt tokens truncated on the left to fit the model's context.
        answer_tokens: number of tokens of the generated answer.
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
        """Raises RunError if a key is missing or unknown."""
        response = record_from_json(cls, value)
        lists: dict[str, Any] = {
            name: tuple(getattr(response, name)) for name in ("choices", "log_probabilities", "choice_tokens")
        }
        return dataclasses.replace(response, **lists)


@dataclass(frozen=True)
class HubFiles:
    """Location of a benchmark's files on the Hugging Face hub.

    Args:
        repository: "owner/name" of a dataset.
        revision: commit to read; None = the newest, if no commit is known for certain.
        patterns: files to download, such as "all/test-*.parquet".
    """

    repository: str
    revision: str | None
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """Description of a benchmark.

    Args:
        kind: "likelihood" (choices are compared), "generate" (an answer is generated) or "text" (the likelihood of the
            question's text is measured, never in a template).
        metric: the headline metric: a key of grade()'s result, and the name of the first score.
        chance: the value of `metric` for a model that guesses, 0 to 1; None = not applicable.
        cluster: what items are clustered by ("subject"), as named in tables; None = items are independent.
        source: paper, and the repository whose protocol it follows.
        licence: of its items.
        hub: where its files come from; None = a path is required, or they ship.
        shipped: folder in the package's assets with its files; None = they do not ship.
        max_new_tokens: limit of a generated answer.
        stop_strings: a generated answer ends before the first of them.
        size: number of items, for plans made before they are read; None = unknown.
        chat: whether to prompt in the template by default, if the model has a chat template or the run was trained
            with one. False prompts base and chat models alike with raw text.
    """

    kind: Literal["likelihood", "generate", "text"]
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
    shipped: str | None = None


class BenchmarkOptions(BaseModel):
    """Base class of benchmark options. Unknown options are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str | None = Field(None, description="Folder with the benchmark's files, in place of the hub's.")


@dataclass(frozen=True)
class Example:
    """An item with a right and a wrong response, for the contract test."""

    item: Item
    right: Response
    wrong: Response


@dataclass(frozen=True, slots=True)
class Graded:
    """A response with its values by name from grade(): numbers, or lists of numbers (one per instruction)."""

    response: Response
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Scored:
    """A benchmark's result for one model.

    Args:
        scores: over all items; the first is the headline metric.
        groups: scores of subsets by name ("subject virology").
        warnings: reasons to read a score with caution, one sentence each.
        facts: counts that explain the scores, such as letters chosen or answers cut off.
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
    """Raises DataError if there is nothing to score, counts differ or a reference is empty.

    An empty response is a bad answer and scores low; an empty reference cannot be scored against.
    """
    if len(responses) != len(references):
        raise DataError(f"{metric}: {len(responses)} responses but {len(references)} references")
    if not responses:
        raise DataError(f"{metric}: there are no responses to score")
    for place, reference in enumerate(references):
        if not reference.strip():
            raise DataError(
                f"{metric}: the reference of item {place} is empty: no answer can be scored against it",
                "omit the item",
            )


#: Kind of record -> its fields, and what each may be.
_fields_of: dict[type[Any], dict[str, tuple[tuple[type, ...], str]]] = {}


def record_from_json(kind: type[T], value: Mapping[str, Any]) -> T:
    if kind not in _fields_of:
        known = dataclasses.fields(kind)  # type: ignore[arg-type]
        _fields_of[kind] = {one.name: _CHECKED.get(str(one.type), ((object,), "")) for one in known}
    types_of = _fields_of[kind]
    fields = set(types_of)
    if missing := sorted(fields - set(value)):
        raise RunError(f"{kind.__name__} record lacks {', '.join(missing)}", "it was written by another version")
    if unknown := sorted(set(value) - fields):
        raise RunError(f"{kind.__name__} record has unknown {', '.join(unknown)}", "it was written by another version")
    for name, (types, what) in types_of.items():
        found = value[name]
        # True and false are integers to Python.
        if not isinstance(found, types) or (isinstance(found, bool) and int in types):
            raise RunError(
                f"{kind.__name__} record: {name} is {shown(found)}, expected {what}",
                "the file is damaged: evaluate again",
            )
    return kind(**value)
