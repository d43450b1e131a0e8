"""A study: arms that differ in what is asked about, seeds, benchmarks, and the questions that its report answers."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from tunelab.config.reading import parse_recipe
from tunelab.config.recipe import Recipe
from tunelab.config.renamed import METRICS
from tunelab.config.types import Positive, Text
from tunelab.config.yaml_text import parse_yaml
from tunelab.errors import ConfigError, Problem, UsageError

#: The benchmark of the recipe's own held-out rows: perplexity, BLEU, ROUGE.
HELD_OUT = "held-out"

COMPLETION_LOSS, BLEU, ROUGE_L = "completion_loss", "bleu", "rougeL"

#: What held-out rows are compared by, the figure that decides first. Of other benchmarks it is the headline metric.
HELD_OUT_METRICS = (COMPLETION_LOSS, BLEU, ROUGE_L)

#: The headline metric of held-out rows.
HELD_OUT_HEADLINE = "completion_perplexity"

#: Every figure that held-out rows are scored by.
HELD_OUT_SCORES = (
    *(HELD_OUT_HEADLINE, "completion_bits_per_byte", "sequence_perplexity", "sequence_bits_per_byte"),
    *(BLEU, "rouge1", "rouge2", ROUGE_L),
)

#: What an arm costs, as `published` names it, and the training loss at its end.
PEAK_MEMORY, EPOCH_MINUTES = "peak memory in GB", "minutes an epoch"
TRAINING_HOURS, FINAL_LOSS = "training hours", "final training loss"
PUBLISHED_COSTS = (PEAK_MEMORY, EPOCH_MINUTES, TRAINING_HOURS, FINAL_LOSS)

Tree = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Part):
    """One column of the study."""

    tuned: bool = Field(True, description="false: the model as it is; nothing is trained.")
    recipe: Tree = Field(default_factory=dict, description="What this arm changes of the study's recipe.")


class Question(_Part):
    """What the report answers in a sentence at its beginning."""

    ask: Text = Field(description="The question in words.")
    is_better: Text = Field(description="The arm that might be better.")
    than: Text = Field(description="The arm that it is compared with.")
    on: Text = Field(description="The benchmark that decides.")
    metric: Text | None = Field(
        None,
        description="The figure that decides. Default: the benchmark's headline metric; of `held-out` completion_loss "
        "(others: bleu, rougeL).",
    )

    @property
    def decided_by(self) -> str | None:
        """The figure that decides; None = the benchmark's headline metric, which is known once it was scored."""
        return self.metric or (COMPLETION_LOSS if self.on == HELD_OUT else None)


class Published(_Part):
    """A figure that others published of some arms, shown beside the measured one."""

    what: Text = Field(
        description="A benchmark (its headline metric), `BENCHMARK SCORE`, or one of: " + ", ".join(PUBLISHED_COSTS)
    )
    values: dict[Text, FiniteFloat] = Field(description="Arm -> value, in the unit that the benchmark's score has.")
    source: Text

    def score(self, benchmarks: Collection[str]) -> tuple[str, str] | None:
        """The benchmark and the score's name ("" = the headline metric); None where it is no score of these."""
        if self.what in benchmarks:
            return self.what, ""
        benchmark, _, metric = self.what.rpartition(" ")
        return (benchmark, metric) if benchmark in benchmarks else None


class Study(_Part):
    """What is run and compared."""

    title: Text
    recipe: Tree = Field(description="The recipe that all arms share (docs/reference/recipe.md).")
    arms: dict[Text, Arm]
    seeds: tuple[int, ...] = Field((0,), description="Each tuned arm is trained once with each of these.")
    benchmarks: dict[Text, Tree] = Field(
        description="Name -> its options, and `limit`: items. `held-out`: the recipe's own held-out rows."
    )
    questions: tuple[Question, ...] = ()
    compare: tuple[tuple[Text, Text], ...] = Field(
        (), description="Pairs of arms, the second against the first. Empty: every arm against the first."
    )
    price_per_hour: Positive | None = Field(None, description="Of the machine, for the report's cost column.")
    published: tuple[Published, ...] = ()
    tiny: Tree = Field(default_factory=dict, description="What `--scale tiny` changes of this file.")

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of arms that are compared, and those that questions ask about."""
        names = list(self.arms)
        chosen = self.compare or tuple((names[0], name) for name in names[1:])
        asked = ((one.than, one.is_better) for one in self.questions)
        return tuple(dict.fromkeys((*chosen, *asked)))

    @property
    def comparisons(self) -> tuple[tuple[str, str, str, str | None], ...]:
        """All that is compared and corrected together: two arms, the second against the first, a benchmark, and a
        figure of it (None = the headline metric). Held-out rows are compared by three figures, other benchmarks by the
        headline metric and by what a question names.
        """
        found: dict[tuple[str, str, str, str | None], None] = {}
        for a, b in self.pairs:
            for benchmark in self.benchmarks:
                asked = [
                    one.decided_by for one in self.questions if (one.than, one.is_better, one.on) == (a, b, benchmark)
                ]
                metrics = HELD_OUT_METRICS if benchmark == HELD_OUT else (None, *asked)
                found |= dict.fromkeys((a, b, benchmark, metric) for metric in metrics)
        return tuple(found)

    def arm_recipe(self, arm: str, seed: int) -> Recipe:
        """The whole recipe of an arm with a seed.

        Raises:
            ConfigError: everything that is wrong with it, at once.
        """
        tree = merged(self.recipe, self.arms[arm].recipe)
        tree = merged(tree, {"train": {"seed": seed}})
        return parse_recipe(tree, origin=f"arm {arm}")


def load_study(path: str | Path, changes: Sequence[str] = (), *, tiny: bool = False) -> Study:
    """The study of a YAML file.

    Args:
        changes: "key.key=value" with the value in YAML, into the study's own tree ("recipe.train.lr=1e-4");
            "model=NAME" is short for recipe.model=NAME, and takes the model out of every arm.
        tiny: lay the file's `tiny` section over it.

    Raises:
        ConfigError: everything that is wrong, at once.
        UsageError: the file cannot be read.
    """
    origin = Path(path)
    try:
        tree = parse_yaml(origin.read_text(encoding="utf-8"), origin=str(origin))
    except OSError as error:
        raise UsageError(f"{origin}: cannot be read: {error.strerror}", "give the path of a study's file") from None
    if not isinstance(tree, dict):
        raise ConfigError(str(origin), [Problem("study", "expected a mapping of keys", "begin with `title: ...`")])
    if tiny:
        tree = merged(tree, tree.get("tiny") or {})
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {change}: expected KEY=VALUE", "for example --set recipe.train.lr=1e-4")
        tree = _changed(tree, key.strip(), parse_yaml(text, origin=change))
    return parse_study(tree, str(origin))


def parse_study(tree: Mapping[str, Any], origin: str = "study") -> Study:
    """A study from plain mappings.

    Raises:
        ConfigError: everything that is wrong, at once; each arm's recipe is checked too.
    """
    try:
        study = Study.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(origin, [_problem(one) for one in error.errors()]) from None
    problems = list(_wrong_names(study))
    for arm in study.arms:
        try:
            study.arm_recipe(arm, study.seeds[0] if study.seeds else 0)
        except ConfigError as error:
            problems += [Problem(f"arms.{arm}: {one.path}", one.message, one.hint) for one in error.problems]
    if problems:
        raise ConfigError(origin, problems)
    return study


def merged(tree: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """`tree` with `over` laid on it: mappings are joined key by key, all else is replaced."""
    result = copy.deepcopy(dict(tree))
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping):
            # A shorthand (`model: gpt2`, `precision: nf4`) below a mapping is written out as its first key.
            first = {"model": "name", "precision": "name"}.get(key)
            base = below if isinstance(below, Mapping) else ({first: below} if first and below is not None else {})
            result[key] = merged(base, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def _changed(tree: Tree, path: str, value: Any) -> Tree:
    if path == "model":
        arms = {
            name: {**arm, "recipe": {key: one for key, one in (arm.get("recipe") or {}).items() if key != "model"}}
            for name, arm in tree.get("arms", {}).items()
        }
        return {**tree, "arms": arms, "recipe": {**tree.get("recipe", {}), "model": value}}
    over: Any = value
    for name in reversed(path.split(".")):
        over = {name: over}
    return merged(tree, over)


def _wrong_names(study: Study) -> list[Problem]:
    problems = []
    if not study.arms:
        problems.append(Problem("arms", "there are none", "name at least one"))
    if not study.seeds or len(set(study.seeds)) != len(study.seeds):
        problems.append(Problem("seeds", f"{list(study.seeds)}, expected different numbers", "seeds: [0]"))
    if not study.benchmarks:
        problems.append(Problem("benchmarks", "there are none", "benchmarks: {held-out: {}}"))
    places = [(f"questions.{n}", name) for n, one in enumerate(study.questions) for name in (one.is_better, one.than)]
    places += [(f"compare.{n}", name) for n, pair in enumerate(study.compare) for name in pair]
    places += [(f"published.{n}.values", name) for n, one in enumerate(study.published) for name in one.values]
    for place, name in places:
        if name not in study.arms:
            near = difflib.get_close_matches(name, study.arms, n=1)
            hint = f"did you mean {near[0]}?" if near else f"arms: {', '.join(study.arms)}"
            problems.append(Problem(place, f"there is no arm {name!r}", hint))
    for number, one in enumerate(study.questions):
        if one.on not in study.benchmarks:
            known = ", ".join(study.benchmarks)
            problems.append(Problem(f"questions.{number}.on", f"no benchmark {one.on!r} is run", f"known: {known}"))
        if one.on == HELD_OUT and one.metric not in (None, *HELD_OUT_METRICS):
            known = ", ".join(HELD_OUT_METRICS)
            said = _metric_problem("compared", one.metric)
            problems.append(Problem(f"questions.{number}.metric", said, f"known: {known}"))
    return [*problems, *_wrong_figures(study)]


def _wrong_figures(study: Study) -> Iterator[Problem]:
    """What is published of no arm, or of something that the study does not measure."""
    for number, one in enumerate(study.published):
        if not one.values:
            yield Problem(f"published.{number}.values", "there are none", "values: {ARM: NUMBER}")
        score = one.score(study.benchmarks)
        if score is None and one.what not in PUBLISHED_COSTS:
            measured = (*study.benchmarks, "BENCHMARK SCORE", *PUBLISHED_COSTS)
            near = difflib.get_close_matches(one.what, measured, n=1, cutoff=0.8)
            hint = f"did you mean {near[0]!r}? " if near else ""
            said = f"the study does not measure {one.what!r}"
            yield Problem(f"published.{number}.what", said, f"{hint}known: {', '.join(measured)}")
        if score and score[0] == HELD_OUT and score[1] not in ("", *HELD_OUT_SCORES):
            said = _metric_problem("scored", score[1])
            yield Problem(f"published.{number}.what", said, f"known: {', '.join(HELD_OUT_SCORES)}")


def _metric_problem(done: str, metric: str) -> str:
    renamed = f"renamed: {METRICS[metric]}" if metric in METRICS else ""
    return renamed or f"held-out rows are not {done} by {metric!r}"


def _problem(details: Any) -> Problem:
    path = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {"arms": Arm, "questions": Question, "published": Published}
        known = parts.get(details["loc"][0], Study).model_fields if len(details["loc"]) > 1 else Study.model_fields
        return Problem(path, "there is no such key", f"known: {', '.join(known)}")
    if details["type"] == "missing":
        return Problem(path, "is missing", f"add {path} to the study")
    return Problem(path, str(details["msg"]))
