"""A benchmark of your own without Python: a JSON Lines file of prompts with answers or choices.

Each line is one item, either with an answer to generate or with choices whose likelihoods are compared:

    {"prompt": "What is the capital of France?", "answer": "Paris", "match": "contains"}
    {"prompt": "The capital of France is", "choices": ["Lyon", "Paris"], "answer": "Paris"}

A response carries the answers and the match rule of its line, so that grading does not need the file.

Sources: `accuracy_norm` (log-likelihood divided by the choice's characters) and the space before a choice follow
EleutherAI/lm-evaluation-harness 0.4 (acc_norm, target_delimiter).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from tunelab.errors import BadRow, DataError, UsageError
from tunelab.evaluation.benchmark import Benchmark, BenchmarkOptions, Example, Graded, Item, Response, Score, Scored
from tunelab.evaluation.benchmarks._scores import cut_warnings, is_cut, mean_score, truncated_warnings
from tunelab.evaluation.match_rules import MATCHES, Match, matches, normalized, number_of
from tunelab.evaluation.multiple_choice import by_cluster, grade_choice, near_chance
from tunelab.evaluation.probabilities import probability_scores
from tunelab.files import parse_json
from tunelab.statistics.standard_errors import clustered_mean_with_error
from tunelab.units import format_counted

FIELDS = ("prompt", "answer", "choices", "match", "id", "group", "metadata")

#: Names of these fields in other tools' files, for the hint on an unknown field.
OTHER_NAMES = {
    **dict.fromkeys(("question", "input", "query", "instruction"), "prompt"),
    **dict.fromkeys(("target", "label", "gold", "expected", "reference", "output", "completion", "answers"), "answer"),
    **dict.fromkeys(("options", "endings"), "choices"),
    **dict.fromkeys(("subject", "category", "task"), "group"),
    **dict.fromkeys(("rule", "metric", "scorer"), "match"),
}

MOST_CHOICES = 26
MOST_SHOWN = 20  # bad lines named in an error

#: Above this share of wrong answers that contain the expected one, `exact` measures the format more than the content.
FORM_SHARE = 0.2

BENCHMARK = Benchmark(
    kind="generate",
    metric="accuracy",
    chance=None,
    cluster="group",
    source="your own file (docs/guides/benchmarks.md)",
    licence="your own",
    hub=None,
    max_new_tokens=128,
    chat=True,
)


class Options(BenchmarkOptions):
    """Options of a file of items."""

    data: str | None = Field(None, description="File to read in place of the named one.")
    match: Match | None = Field(None, description="Match rule of lines that name none. Default: exact.")
    stop: tuple[str, ...] = Field((), description="A generated answer ends before the first of these texts.")
    sha256: str | None = Field(None, description="SHA-256 that the file must have; set when it is read.")

    @field_validator("stop", mode="before")
    @classmethod
    def _one_text(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


_TARGET = {"answers": ["Paris"], "match": "contains"}
_QUESTION = "What is the capital of France?"

EXAMPLE = Example(
    item=Item("1", _QUESTION, _TARGET),
    right=Response("1", "", _QUESTION, _TARGET, text="It is Paris."),
    wrong=Response("1", "", _QUESTION, _TARGET, text="It is Lyon."),
)


def about(items: Sequence[Item], options: Options) -> Benchmark:
    """BENCHMARK for these items: choices are compared, answers are generated."""
    if items[0].choices:
        return replace(BENCHMARK, kind="likelihood", max_new_tokens=0)
    return replace(BENCHMARK, stop_strings=options.stop)


def pinned(path: Path, options: Options) -> Options:
    """The options with the file's SHA-256, which so becomes part of what identifies an evaluation.

    Raises:
        DataError: the file cannot be read, or is not the one that the options name.
    """
    found = hashlib.sha256(_content(path)).hexdigest()
    if options.sha256 not in (None, found):
        raise DataError(
            f"{path}: its SHA-256 is {found[:12]}…, expected {str(options.sha256)[:12]}…: the file changed",
            "restore the file, or evaluate again from the start to use the new one",
        )
    return options.model_copy(update={"sha256": found})


def items(path: Path, options: Options) -> list[Item]:
    """The items of a file; an item's id is its `id`, or else its line number.

    Raises:
        DataError: the file cannot be read or has no items, or lines cannot be used: lists them with the reasons.
    """
    found: list[Item] = []
    bad: list[str] = []
    places: dict[str, int] = {}
    for number, text in _lines(path):
        try:
            item = _item(text, number, options)
            if found and bool(item.choices) != bool(found[0].choices):
                raise BadRow("has choices, other lines have none" if item.choices else "has no choices, other lines do")
            if item.id in places:
                raise BadRow(f"id {item.id!r} is already at line {places[item.id]}")
        except BadRow as reason:
            bad.append(f"line {number}: {reason.message}" + (f" ({reason.hint})" if reason.hint else ""))
            continue
        places[item.id] = number
        found.append(item)
    if bad:
        more = [f"and {len(bad) - MOST_SHOWN} more"] if len(bad) > MOST_SHOWN else []
        shown = "".join(f"\n  {path}: {line}" for line in (*bad[:MOST_SHOWN], *more))
        count = format_counted(len(bad), "line")
        raise DataError(
            f"{path}: {count} cannot be used:{shown}", "fix them; docs/guides/benchmarks.md lists the fields"
        )
    if not found:
        raise DataError(f"{path}: has no items", 'each line is one: {"prompt": "...", "answer": "..."}')
    if found[0].choices and (options.match or options.stop):
        raise UsageError(
            f"{path}: its items have choices, which are compared by likelihood: match and stop do not apply", "omit it"
        )
    return found


def grade(response: Response, options: Options) -> dict[str, float]:
    """`accuracy`: 1.0 if the answer matches, or if the right choice is the likeliest; else 0.0.

    For choices also `accuracy_norm` (by log-likelihood per character of the choice), `tied`, and the values of
    probabilities.py.

    Raises:
        DataError: the target is not one of this module's, or log-probabilities are missing.
    """
    if response.choices:
        values = grade_choice(response)
        per_character = [
            value / len(choice.strip())
            for value, choice in zip(response.log_probabilities, response.choices, strict=True)
        ]
        chosen = per_character.index(max(per_character))
        del values["chosen"]
        return {**values, "accuracy_norm": float(chosen == response.target)}
    target = response.target
    if not isinstance(target, Mapping) or not {"answers", "match"} <= set(target) or target["match"] not in MATCHES:
        raise DataError(
            f"item {response.item}: target is {target!r}, expected answers and a match rule",
            "the responses are from another benchmark, or from another version",
        )
    return {"accuracy": float(matches(response.text, target["answers"], target["match"]))}


def summarise(graded: Sequence[Graded], options: Options) -> Scored:
    """Accuracy with its standard error, clustered by group if there are groups; for choices the scores of
    probabilities.py; per group; and warnings."""
    of_choices = bool(graded) and bool(graded[0].response.choices)
    names = ("accuracy", "accuracy_norm") if of_choices else ("accuracy",)
    clusters = [one.response.cluster for one in graded]
    scores = _accuracies(graded, names)
    if any(clusters):
        estimate = clustered_mean_with_error([one.values["accuracy"] for one in graded], clusters)
        protocol = {"error": "clustered by group"}
        scores.append(Score("accuracy_clustered", estimate.value, estimate.error, estimate.n, "0-1", True, protocol))
    scores += probability_scores(graded, {}) if of_choices else []
    groups = {f"group {name}": _accuracies(part, names) for name, part in by_cluster(graded).items() if name}
    warnings = [*cut_warnings(graded), *truncated_warnings(graded)]
    facts: dict[str, Any] = {"prompts_truncated": sum(one.response.truncated_tokens > 0 for one in graded)}
    if of_choices:
        chance = math.fsum(1 / len(one.response.choices) for one in graded) / len(graded)
        right = [score for score in scores if score.name in ("accuracy", "accuracy_clustered")]
        widest = max(right, key=lambda score: score.error or 0.0)
        warnings += near_chance(widest, round(scores[0].value * scores[0].n), chance) if len(graded) > 1 else []
        facts |= {"ties": sum(int(one.values["tied"]) for one in graded), "chance": chance}
    else:
        warnings += _only_contained(graded)
        facts["answers_cut"] = sum(is_cut(one.response) for one in graded)
    return Scored(scores=scores, groups=groups, warnings=warnings, facts=facts)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", "give the path of a JSON Lines file of items") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", "give a JSON Lines file of items") from None


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, numbered from 1. Only line feeds end a line: JSON texts may contain U+2028."""
    try:
        text = _content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}: line {line}: not UTF-8", "save the file as UTF-8 text") from None
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _item(line: str, number: int, options: Options) -> Item:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise BadRow(f"not JSON: {error}", "one JSON object per line") from None
    if not isinstance(row, dict):
        raise BadRow(f"is {type(row).__name__}, expected a JSON object", '{"prompt": "...", "answer": "..."}')
    for name in row:
        if name not in FIELDS:
            raise BadRow(f"unknown field {name!r}", _meant(name, row))
    prompt = _text(row, "prompt")
    group = _text(row, "group") if row.get("group") is not None else ""
    name = row.get("id", number)
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise BadRow(f"'id' is {name!r}, expected a string or an integer")
    if row.get("choices") is None:
        return Item(str(name), prompt, _answer_target(row, options), cluster=group)
    choices = _choices(row)
    return Item(
        id=str(name),
        question=prompt,
        target=_right_choice(row, choices),
        choices=tuple(choice if prompt[-1].isspace() or choice[0].isspace() else f" {choice}" for choice in choices),
        cluster=group,
    )


def _meant(name: str, row: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.7)
    meant = OTHER_NAMES.get(name.lower()) or (near[0] if near else "")
    if meant and meant not in row:
        return f"did you mean {meant!r}?"
    return f"put what is not evaluated under 'metadata'; known: {', '.join(FIELDS)}"


def _text(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        raise BadRow(f"has no {name!r}")
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{name!r} is {value!r}, expected a text")
    return value


def _answer_target(row: Mapping[str, Any], options: Options) -> dict[str, Any]:
    """What a generated answer is graded against: all accepted answers, as texts, and the rule."""
    match = row.get("match") or options.match or "exact"
    if match not in MATCHES:
        near = difflib.get_close_matches(str(match), MATCHES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(MATCHES)}"
        raise BadRow(f"no match rule {match!r}", hint)
    if row.get("answer") is None:
        raise BadRow("has no 'answer'", "add the expected answer, or choices")
    given = row["answer"]
    answers = [_answer_text(one, match) for one in (given if isinstance(given, list) else [given])]
    if not answers:
        raise BadRow("'answer' is an empty list, expected at least one accepted answer")
    return {"answers": answers, "match": match}


def _answer_text(value: Any, match: Match) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise BadRow(f"'answer' has {value!r}, expected a text or a number")
    text = str(value)
    if match == "number" and number_of(text) is None:
        raise BadRow(f"'answer' is {value!r}, which is not a number", "match by another rule")
    if match == "normalized" and not normalized(text):
        raise BadRow(f"'answer' is {value!r}: nothing is left of it without punctuation", "match: exact")
    if match == "regex":
        try:
            re.compile(text)
        except re.error as error:
            raise BadRow(f"'answer' is {value!r}, not a regular expression: {error}") from None
    return text


def _choices(row: Mapping[str, Any]) -> list[str]:
    choices = row["choices"]
    if not isinstance(choices, list) or not 2 <= len(choices) <= MOST_CHOICES:
        raise BadRow(f"'choices' is {reprlib.repr(choices)}, expected a list of 2 to {MOST_CHOICES} texts")
    for choice in choices:
        if not isinstance(choice, str) or not choice.strip():
            raise BadRow(f"'choices' has {choice!r}, expected a text", "put numbers in quotes")
    stripped = [choice.strip() for choice in choices]
    if repeated := [choice for choice in stripped if stripped.count(choice) > 1]:
        raise BadRow(f"'choices' has {repeated[0]!r} twice")
    if row.get("match") is not None:
        raise BadRow("has choices and 'match'", "choices are compared by likelihood; omit 'match'")
    return choices


def _right_choice(row: Mapping[str, Any], choices: Sequence[str]) -> int:
    """The index of the right choice; `answer` is its text, or its index from 0."""
    answer = row.get("answer")
    found = [place for place, choice in enumerate(choices) if choice.strip() == str(answer).strip()]
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        if found not in ([], [answer]):
            raise BadRow(
                f"'answer' is {answer}, which is the text of choice {found[0]} and the index of another",
                f"put it in quotes if it is the text: {json.dumps(str(answer))}",
            )
        return answer
    if isinstance(answer, str) and found:
        return found[0]
    raise BadRow(
        f"'answer' is {answer!r}, which is not one of the choices",
        f"give the text of the right choice, or its index from 0 to {len(choices) - 1}",
    )


def _accuracies(graded: Sequence[Graded], names: Sequence[str]) -> list[Score]:
    protocol = {"error": "standard error of the mean over items"}
    return [mean_score(name, [one.values[name] for one in graded], protocol) for name in names]


def _only_contained(graded: Sequence[Graded]) -> list[str]:
    """A warning if `exact` or `normalized` refuses many answers that contain what was expected."""
    strict = [one for one in graded if one.response.target["match"] in ("exact", "normalized")]
    missed = [
        one
        for one in strict
        if not one.values["accuracy"] and matches(one.response.text, one.response.target["answers"], "contains")
    ]
    if not strict or len(missed) <= FORM_SHARE * len(strict):
        return []
    return [
        f"{len(missed)} of {len(strict)} answers contain the expected one but do not equal it and count as wrong: "
        "match by contains, number or regex, or ask for the answer alone"
    ]
