"""A first study for a model, rows and a question: the text of its file, with a comment on why each line is there.

What the questions compare is fair from the start: a learning rate for each arm, three trainings of each, margins, rows
that choose apart from rows that measure, and what tuning cost elsewhere.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import jinja2

from tunelab.config import parse_recipe, resolve
from tunelab.config.methods import DEFAULT_METHODS, METHODS
from tunelab.config.study import Study, parse_study
from tunelab.config.yaml_text import parse_yaml
from tunelab.errors import DataError, UsageError
from tunelab.preparation.rows import check_local_files, read_source, select
from tunelab.records.cells import cells_of
from tunelab.studies.requirements import check_requirements
from tunelab.units import format_counted

BASE = "base"


#: Rows that measure and rows that choose: this share of all, but not fewer and not more.
HELD_OUT_SHARE, FEWEST_HELD_OUT, MOST_HELD_OUT = 0.2, 50, 300
VALIDATION_SHARE, FEWEST_VALIDATION, MOST_VALIDATION = 0.1, 25, 100

#: Rows below which a study is refused: those that measure, those that choose, and as many to train on.
FEWEST_ROWS = 2 * (FEWEST_HELD_OUT + FEWEST_VALIDATION)

#: Training rows up to which they are passed over three times, and once above.
FEW_TRAINING_ROWS = 5_000

ASSETS = Path(__file__).resolve().parents[1] / "assets"
_TEMPLATE = jinja2.Template(
    (ASSETS / "new_study.yaml.jinja").read_text(encoding="utf-8"),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
)

#: Words that YAML reads as a boolean or as nothing.
_NOT_NAMES = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")

_QUESTION = re.compile(
    r"(?:(?:is|does|do)\s+)?(?P<arm>[\w-]+)\s+(?:is\s+)?"
    r"(?P<form>better than|as good as|match|like)\s+(?P<other>[\w-]+)\s*\??",
    re.IGNORECASE,
)

#: Words of a question -> the study's keys for its two arms.
_FORMS = {
    "better than": ("is_better", "than"),
    "as good as": ("is_as_good", "as"),
    "match": ("is_as_good", "as"),
    "like": ("is_like", "to"),
}


@dataclass(frozen=True, slots=True)
class Rows:
    """How the rows are divided: those that measure, those that choose, and the rest to train on."""

    held_out: int
    validation: int
    training: int

    @property
    def all(self) -> int:
        return self.held_out + self.validation + self.training


@dataclass(frozen=True, slots=True)
class NewStudy:
    """A study that is not written yet: the text of its file, what that says, and its rows."""

    text: str
    study: Study
    rows: Rows


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question of two arms; `keys` are those of the study for them."""

    text: str
    keys: tuple[str, str]
    arm: str
    other: str


def new_study(
    file: str,
    model: str,
    sources: Sequence[str],
    methods: Sequence[str] = (),
    questions: Sequence[str] = (),
    *,
    size: int | None = None,
) -> NewStudy:
    """A study of ways to fine-tune a model on rows, checked against both.

    Args:
        file: the name that the study's file will have.
        model: a hub name or a local folder.
        sources: names of sources, or data files.
        methods: of METHODS; none = those that the questions name, or else DEFAULT_METHODS.
        questions: "Is qlora as good as lora?"; none = whether each method helps, and whether it is as good as the
            costlier one.
        size: rows sampled from the data; None = all.

    Raises:
        UsageError: an unknown method, no method but base, a question in another form, or no such file.
        DataError: the rows cannot be read, or are too few.
        ConfigError: the model, its tokenizer or disk space is missing.
    """
    asked = [_asked(question) for question in questions]
    named = [name for one in asked for name in (one.arm, one.other)]
    chosen = [name for name in dict.fromkeys((*methods, *named)) if name != BASE]
    if methods and not chosen:
        raise UsageError(
            f"--compare {BASE}: is the model as it is, which every study measures",
            f"name what it is compared with: {', '.join(METHODS)}; or omit --compare",
        )
    arms = _checked(chosen or DEFAULT_METHODS)
    rows = _divided(_count(sources, size))
    text = _text(file, model, sources, size, arms, asked or _usual_questions(arms), rows)
    study = parse_study(parse_yaml(text, origin=file), file)
    check_requirements(study, cells_of(study), Path())
    return NewStudy(text, study, rows)


def _asked(question: str) -> _Asked:
    found = _QUESTION.fullmatch(question.strip())
    if found is None:
        raise UsageError(
            f"--question {question!r}: expected two methods, and how they are compared",
            'write "Is qlora as good as lora?", "Is lora better than base?" or "Is qlora like lora?"',
        )
    form, arm, other = (found[name].lower() for name in ("form", "arm", "other"))
    if arm == other:
        raise UsageError(f"--question {question!r}: compares {arm} with itself", "name two methods")
    return _Asked(question.strip(), _FORMS[form], arm, other)


def _checked(names: Sequence[str]) -> list[str]:
    """The names, if all are methods that differ. Raises UsageError."""
    if unknown := [name for name in names if name not in METHODS]:
        near = difflib.get_close_matches(unknown[0], METHODS, n=1)
        remedy = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"unknown method {unknown[0]!r}", f"{remedy}known: {', '.join(METHODS)}")
    for one, other in combinations(names, 2):
        if METHODS[one].recipe == METHODS[other].recipe:
            raise UsageError(f"{one} and {other} are the same method", "name one of the two")
    return list(names)


def _count(sources: Sequence[str], size: int | None) -> int:
    """How many rows there are to divide. Raises DataError if they are too few."""
    data = resolve(parse_recipe({"model": "-", "data": {"sources": list(sources), "size": size, "held_out": 0}})).data
    check_local_files(data)
    loaded = [read_source(data, number) for number in range(len(data.sources))]
    rows = len(select(data, loaded).train)
    if rows < FEWEST_ROWS:
        of = "" if size is None else f" of --size {size}"
        few = "add rows; with fewer, a comparison of methods can hardly show a difference"
        has_enough = sum(len(one.examples) for one in loaded) >= FEWEST_ROWS
        raise DataError(
            f"{', '.join(sources)}: {format_counted(rows, 'row')}{of}, expected at least {FEWEST_ROWS} "
            f"({FEWEST_HELD_OUT} that measure, {FEWEST_VALIDATION} that choose, the rest to train on)",
            f"give --size {FEWEST_ROWS} or more, or omit it to use all rows" if size and has_enough else few,
        )
    return rows


def _divided(rows: int) -> Rows:
    held_out = min(MOST_HELD_OUT, max(FEWEST_HELD_OUT, round(HELD_OUT_SHARE * rows)))
    validation = min(MOST_VALIDATION, max(FEWEST_VALIDATION, round(VALIDATION_SHARE * rows)))
    return Rows(held_out, validation, rows - held_out - validation)


def _usual_questions(arms: Sequence[str]) -> list[_Asked]:
    """Does each method help, and is each as good as the costlier one that it could replace?"""
    found = [_Asked(f"Does {arm} improve the model?", _FORMS["better than"], arm, BASE) for arm in arms]
    costliest = "full" if "full" in arms else arms[0]
    for arm in arms:
        other = "lora" if "lora" in arms and "precision" in METHODS[arm].recipe else costliest
        if arm not in (other, costliest):
            found.append(_Asked(f"Is {arm} as good as {other}?", _FORMS["as good as"], arm, other))
    return found


def _text(
    file: str,
    model: str,
    sources: Sequence[str],
    size: int | None,
    arms: Sequence[str],
    asked: Sequence[_Asked],
    rows: Rows,
) -> str:
    """The file; JSON is YAML, so that names with any characters stay strings."""
    what = " or ".join([", ".join(arms[:-1]), arms[-1]] if len(arms) > 1 else arms)
    title = f"Which way of fine-tuning is worth it on {', '.join(sources)}: {what}?"
    text: str = _TEMPLATE.render(
        file=shlex.quote(file),
        title=json.dumps(asked[0].text if len(asked) == 1 else title, ensure_ascii=False),
        model=_quoted(model),
        sources=", ".join(map(_quoted, sources)),
        size=size,
        rows=rows,
        epochs=3 if rows.training <= FEW_TRAINING_ROWS else 1,
        arms=[(name, _arm(name), METHODS[name].what) for name in arms],
        asked=[(json.dumps(one.text, ensure_ascii=False), *one.keys, one.arm, one.other) for one in asked],
        has_margins=any(one.keys[0] != "is_better" for one in asked),
    )
    return text


def _arm(name: str) -> str:
    recipe = METHODS[name].recipe
    return f"{{recipe: {_flow(recipe)}}}" if recipe else "{}"


def _flow(value: Any) -> str:
    """A value as YAML on one line, without quotes around keys and names."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    return json.dumps(value).strip('"')


def _quoted(name: str) -> str:
    """A name as YAML; quoted where it could be read as something else."""
    is_plain = re.fullmatch(r"(?:\.{0,2}/)?[A-Za-z][\w./-]*", name) and name.lower() not in _NOT_NAMES
    return name if is_plain else json.dumps(name, ensure_ascii=False)
