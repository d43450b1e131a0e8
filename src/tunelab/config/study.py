"""A study: arms to compare, seeds, benchmarks, and the questions that its report answers."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tunelab.config.budgets import EXAMPLE, Budget, at_budget, budget_problems, budgets_of, match_problems
from tunelab.config.held_out_metrics import HELD_OUT_METRICS, HELD_OUT_SUBSTITUTES, metric_problem
from tunelab.config.other_tools import other_key
from tunelab.config.published import Published, wrong_figures
from tunelab.config.questions import HELD_OUT, Question, unclear_questions
from tunelab.config.reading import parse_recipe
from tunelab.config.recipe import EvaluateSettings, Recipe
from tunelab.config.scales import Scale, at_scale, small_note, small_title
from tunelab.config.search import Search
from tunelab.config.shipped_studies import study_file
from tunelab.config.study_tree import Tree, changed, merged
from tunelab.config.twins import said_of_twins, twins, with_own_model
from tunelab.config.types import Flag, Positive, Text
from tunelab.config.yaml_text import parse_yaml
from tunelab.errors import ConfigError, Problem, UsageError
from tunelab.files import as_path, read_text

#: The benchmark of general texts that shows what tuning cost elsewhere.
FORGETTING = "forgetting"

#: Keys of a benchmark in a study that are not its own options.
OF_EVERY_BENCHMARK = ("limit", "max_new_tokens")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Part):
    """One variant that the study compares."""

    tuned: bool = Field(True, description="false: the untrained base model.")
    recipe: Tree = Field(default_factory=dict, description="Keys in which this arm differs from the study's recipe.")


class Study(_Part):
    """Arms, seeds and benchmarks to run, and how to compare them."""

    title: Text = Field(description="Heading of the report, and the trackers' group.")
    recipe: Tree = Field(description="The recipe that all arms share; its keys: `tunelab keys`.")
    arms: dict[Text, Arm] = Field(description="Name -> what this arm changes. `{}`: the recipe as it is.")
    seeds: tuple[int, ...] = Field((0,), description="Each tuned arm is trained once per seed.")
    search: Search | None = Field(
        None, description="`{}`: each tuned arm finds its learning rate by its validation rows. null: no search."
    )
    budgets: dict[Text, tuple[Positive, ...]] | None = Field(
        None,
        description="`{train.epochs: [0.5, 1, 2]}`, or train.steps or data.train_size: each tuned arm is trained at "
        "each, with a whole schedule of its own. Answers are at the largest. null: once.",
    )
    benchmarks: dict[Text, Tree] = Field(
        description="Name -> its options, and `limit` and `max_new_tokens`. `held-out`: the recipe's held-out rows, "
        "with the keys of `recipe.evaluate`."
    )
    forgetting: Tree | None = Field(
        None,
        description="`{}`: measure what tuning cost elsewhere, in bits per byte on general texts that ship, against an "
        "untuned arm. Or options of the benchmark `forgetting`.",
    )
    questions: tuple[Question, ...] = Field((), description="Questions that the report answers first.")
    compare: tuple[tuple[Text, Text], ...] = Field(
        (), description="Pairs of arms, the second against the first. Empty: each arm against the first arm."
    )
    remove_checkpoints: Flag = Field(
        True, description="Remove a training's checkpoints, which are for resuming, once it is done. false: keep them."
    )
    price_per_hour: Positive | None = Field(None, description="Price of the machine, for the report's cost column.")
    published: tuple[Published, ...] = Field((), description="Published results, shown next to the measured ones.")
    small: Tree = Field(default_factory=dict, description="Overrides applied by `--scale small`.")
    tiny: Tree = Field(default_factory=dict, description="Overrides applied by `--scale tiny`.")
    note: str = Field("", description="A sentence that the study's reports open with; empty: none.")

    @model_validator(mode="before")
    @classmethod
    def _with_forgetting(cls, tree: Any) -> Any:
        """`forgetting` is a benchmark too; a stored study has both."""
        benchmarks = tree.get("benchmarks") or {}
        if not isinstance(tree.get(FORGETTING), Mapping) or not isinstance(benchmarks, Mapping):
            return tree
        return {**tree, "benchmarks": {**benchmarks, FORGETTING: benchmarks.get(FORGETTING, tree[FORGETTING])}}

    @property
    def trained_at(self) -> tuple[Budget, ...]:
        """The budgets, the smallest first; () = each arm is trained once per seed, as its recipe says."""
        return budgets_of(self.budgets or {})

    def at(self, budget: Budget | None) -> Study:
        """The study with one budget alone, whose recipes are those of its trainings; None = as it is."""
        return self if budget is None else self.model_copy(update={"budgets": {budget.key: (budget.value,)}})

    @cached_property
    def forgetting_pairs(self) -> tuple[tuple[str, str], ...]:
        """(untuned arm, tuned arm) for every arm whose forgetting is measured."""
        if FORGETTING not in self.benchmarks:
            return ()
        return tuple((base, arm) for arm in self.arms if (base := self.base_of(arm)) is not None)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of arms to compare, including those of the questions."""
        names = list(self.arms)
        chosen = self.compare or tuple((names[0], name) for name in names[1:])
        asked = ((one.against, one.arm) for one in self.questions)
        return tuple(dict.fromkeys((*chosen, *asked)))

    @property
    def comparisons(self) -> tuple[tuple[str, str, str, str | None], ...]:
        """All comparisons: two arms, the second against the first, a benchmark, and a metric (None = the headline
        metric). Held-out rows are compared by three metrics, other benchmarks by the headline metric and those that
        questions name.
        """
        found: dict[tuple[str, str, str, str | None], None] = {}
        for a, b in self.pairs:
            for benchmark in self.benchmarks:
                asked = [
                    one.decided_by for one in self.questions if (one.against, one.arm, one.on) == (a, b, benchmark)
                ]
                metrics = (*HELD_OUT_METRICS, *asked) if benchmark == HELD_OUT else (None, *asked)
                found |= dict.fromkeys((a, b, benchmark, metric) for metric in metrics)
        found |= dict.fromkeys((base, arm, FORGETTING, None) for base, arm in self.forgetting_pairs)
        return tuple(found)

    @property
    def asked(self) -> tuple[tuple[str, str, str, str | None, str | None], ...]:
        """The comparisons that questions ask for; corrected together, apart from the others, which are exploratory."""
        return tuple(dict.fromkeys((one.against, one.arm, one.on, one.decided_by, one.match) for one in self.questions))

    def base_of(self, arm: str) -> str | None:
        """The untuned arm that an arm's gain is measured from: of the same model, and of the same precision if there is
        one; None = there is none, or the arm itself is not tuned."""
        if not self.arms[arm].tuned:
            return None
        seed = self.seeds[0]
        own = self.arm_recipe(arm, seed)
        recipes = {name: self.arm_recipe(name, seed) for name, one in self.arms.items() if not one.tuned}
        same = {name: one for name, one in recipes.items() if one.model == own.model}
        return next((name for name, one in same.items() if one.precision == own.precision), next(iter(same), None))

    def without(self, gone: Collection[str]) -> Study:
        """The study without some arms, and without what asks about them or publishes them."""
        arms = {name: arm for name, arm in self.arms.items() if name not in gone}
        published = (one.of_arms(arms) for one in self.published)
        changes = {
            "arms": arms,
            "questions": tuple(one for one in self.questions if one.arm in arms and one.against in arms),
            "compare": tuple(pair for pair in self.compare if set(pair) <= set(arms)),
            "published": tuple(one for one in published if one.values),
        }
        return self.model_copy(update=changes) if gone else self

    def own_options(self, benchmark: str) -> Tree:
        """A benchmark's own options: without the keys that every benchmark has."""
        return {key: value for key, value in self.benchmarks[benchmark].items() if key not in OF_EVERY_BENCHMARK}

    def arm_recipe(self, arm: str, seed: int, *, is_asked: bool = False) -> Recipe:
        """The complete recipe of an arm with a seed, of a tuned one at the largest budget; `evaluate` as the benchmark
        of held-out rows has it. Without `is_asked`, the study was checked before, maybe by an earlier version.

        Raises:
            ConfigError: lists every problem.
        """
        tree = merged(self.recipe, self.arms[arm].recipe)
        tree = merged(tree, {"evaluate": self.benchmarks.get(HELD_OUT, {}), "train": {"seed": seed}})
        if self.arms[arm].tuned and self.budgets:
            tree = at_budget(tree, self.trained_at[-1])
        return _known_recipe(tree, f"arm {arm}", is_asked)


#: Recipes by what they were made from: a study's jobs, their keys and its report ask for the same ones many times.
_recipes: dict[tuple[str, str, bool], Recipe] = {}
_MOST_RECIPES = 4000


def _known_recipe(tree: Tree, origin: str, is_asked: bool) -> Recipe:
    made_from = repr(tree), origin, is_asked
    if made_from not in _recipes:
        if len(_recipes) >= _MOST_RECIPES:
            _recipes.clear()
        _recipes[made_from] = parse_recipe(tree, origin=origin, is_asked=is_asked)
    return _recipes[made_from]


def load_study(path: str | Path, changes: Sequence[str] = (), *, scale: Scale = "full") -> Study:
    """The study in a YAML file.

    Args:
        path: the file, or the name of a study that ships with the package.
        changes: "key.key=value" with the value in YAML, overrides of the study ("recipe.train.lr=1e-4"); "model=NAME"
            is short for recipe.model=NAME and also removes the model from every arm.
        scale: apply the file's section `small` or `tiny` (scales.py).

    Raises:
        ConfigError: lists every problem.
        UsageError: the file cannot be read, or has no section `small`.
    """
    origin = study_file(path)
    try:
        text = read_text(origin, UsageError, "save the study as UTF-8 text")
    except OSError as error:
        raise UsageError(f"{origin}: cannot be read: {error.strerror}", "give the path of a study's file") from None
    tree = parse_yaml(text, origin=str(origin))
    if not isinstance(tree, dict):
        raise ConfigError(str(origin), [Problem("study", "expected a mapping of keys", "begin with `title: ...`")])
    full, tree = tree, at_scale(tree, scale, str(origin))
    own_models = with_own_model(tree)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {change}: expected KEY=VALUE", "for example --set recipe.train.lr=1e-4")
        tree = changed(tree, key.strip(), parse_yaml(text, origin=change))
    study = parse_study(tree, str(origin))
    gone = twins(study.arms, own_models, with_own_model(tree))
    study = study.without(gone)
    models = {arm: study.arm_recipe(arm, study.seeds[0]).model.name for arm in study.arms}
    twins_said = said_of_twins(gone, next(iter(models.values())))
    if scale != "small":
        return study.model_copy(update={"note": " ".join(filter(None, (study.note, twins_said)))})
    note = " ".join(filter(None, (study.note, small_note(full, models), twins_said)))
    title = small_title(study.title, models) if study.title == full.get("title") else study.title
    return study.model_copy(update={"note": note, "title": title})


def as_study(study: Study | Mapping[str, Any] | Path | str) -> Study:
    """A study from any form that the Python API accepts: its object, a mapping, or a YAML file's path.

    Raises:
        ConfigError: lists every problem.
        UsageError: the file cannot be read, or the study is something else.
    """
    if isinstance(study, Study):
        return study
    if isinstance(study, Mapping):
        return parse_study(study)
    return load_study(as_path(study, "study"))


def parse_study(tree: Mapping[str, Any], origin: str = "study", *, is_asked: bool = True) -> Study:
    """A study from plain mappings.

    Args:
        is_asked: False for one in a study's directory, which rules of later versions do not apply to.

    Raises:
        ConfigError: lists every problem; each arm's recipe is checked too.
    """
    try:
        study = Study.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(origin, [_problem(one) for one in error.errors()]) from None
    wrong_limits = [*_wrong_limits(study), *_wrong_budgets(study)]
    problems = [*_wrong_names(study), *wrong_limits]
    recipes: dict[str, Recipe] = {}
    for arm in () if wrong_limits else study.arms:  # they would say the same for each arm
        try:
            for budget in study.trained_at or (None,):  # the largest is the last
                seed = study.seeds[0] if study.seeds else 0
                recipes[arm] = study.at(budget).arm_recipe(arm, seed, is_asked=is_asked)
        except ConfigError as error:
            problems += [Problem(f"arms.{arm}: {one.path}", one.message, one.hint) for one in error.problems]
    if study.search is not None:
        tuned = {name: recipe for name, recipe in recipes.items() if study.arms[name].tuned}
        problems += study.search.problems(study.seeds, None if problems else tuned)
    if problems:
        raise ConfigError(origin, problems)
    return study


def _wrong_names(study: Study) -> list[Problem]:
    problems = []
    if not study.arms:
        problems.append(Problem("arms", "is empty", "add at least one arm"))
    if not study.seeds or len(set(study.seeds)) != len(study.seeds):
        problems.append(Problem("seeds", f"{list(study.seeds)}, expected distinct integers", "seeds: [0]"))
    if study.forgetting is not None:
        problems += [
            Problem("forgetting", f"no untuned arm has the model of {arm}", "add one: `base: {tuned: false}`")
            for arm, one in study.arms.items()
            if one.tuned and study.seeds and _untuned(study, arm) is None
        ][:1]
        if study.benchmarks[FORGETTING] != study.forgetting:
            said = "has other options than benchmarks.forgetting"
            problems.append(Problem("forgetting", said, "set them in one of the two"))
    if not study.benchmarks:
        problems.append(Problem("benchmarks", "is empty", "benchmarks: {held-out: {}}"))
    problems += unclear_questions(study.questions)
    places = [
        (f"questions.{n}", name)
        for n, one in enumerate(study.questions)
        for name in (one.is_better, one.is_as_good, one.is_like, one.than, one.as_, one.to)
        if name is not None
    ]
    places += [(f"compare.{n}", name) for n, pair in enumerate(study.compare) for name in pair]
    places += [(f"published.{n}.values", name) for n, one in enumerate(study.published) for name in one.values]
    for place, name in places:
        if name not in study.arms:
            near = difflib.get_close_matches(name, study.arms, n=1)
            hint = f"did you mean {near[0]}?" if near else f"arms: {', '.join(study.arms)}"
            problems.append(Problem(place, f"unknown arm {name!r}", hint))
    for number, one in enumerate(study.questions):
        if one.on not in study.benchmarks:
            known = ", ".join(study.benchmarks)
            problems.append(
                Problem(f"questions.{number}.on", f"no benchmark {one.on!r} in the study", f"known: {known}")
            )
        if one.on == HELD_OUT and one.metric not in (None, *HELD_OUT_METRICS, *HELD_OUT_SUBSTITUTES):
            known = ", ".join((*HELD_OUT_METRICS, *HELD_OUT_SUBSTITUTES))
            said = metric_problem("compared", one.metric)
            problems.append(Problem(f"questions.{number}.metric", said, f"known: {known}"))
    tuned = {name: arm.tuned for name, arm in study.arms.items()}
    problems += match_problems(study.questions, study.trained_at, tuned, study.price_per_hour)
    return [*problems, *wrong_figures(study.published, study.benchmarks)]


def _untuned(study: Study, arm: str) -> str | None:
    """base_of(); "" where a recipe is wrong, which is reported by itself."""
    try:
        return study.base_of(arm)
    except ConfigError:
        return ""


def _wrong_limits(study: Study) -> Iterator[Problem]:
    """Keys of every benchmark that are no positive integers; a benchmark's own options are its module's to check."""
    for name, options in study.benchmarks.items():
        known = EvaluateSettings.model_fields if name == HELD_OUT else ()
        for key, value in options.items():
            if known and key not in known:
                yield Problem(f"benchmarks.{name}.{key}", "unknown key", f"known: {', '.join(known)}")
            elif key in OF_EVERY_BENCHMARK and not _is_positive(value) and not (key == "limit" and value is None):
                yield Problem(f"benchmarks.{name}.{key}", f"{value!r}, expected a positive integer", f"{key}: 100")


def _wrong_budgets(study: Study) -> list[Problem]:
    trees = {name: merged(study.recipe, arm.recipe) for name, arm in study.arms.items() if arm.tuned}
    return [] if study.budgets is None else budget_problems(study.budgets, trees)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _problem(details: Any) -> Problem:
    path = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        parts: dict[str, type[BaseModel]] = {"arms": Arm, "search": Search, "questions": Question}
        parts["published"] = Published
        part = parts.get(details["loc"][0], Study) if len(details["loc"]) > 1 else Study
        known = [field.alias or name for name, field in part.model_fields.items()]
        if path in Recipe.model_fields:
            return Problem(path, "unknown key", f"it is a key of the recipe: write it under recipe, as recipe.{path}")
        if other := other_key(path):
            return Problem(
                path, f"unknown key (of {', '.join(other.tools)})", f"under recipe: {other.remedy(details['input'])}"
            )
        return Problem(path, "unknown key", f"known: {', '.join(known)}")
    if details["type"] == "missing":
        return Problem(path, "is missing", f"add {path} to the study")
    if details["loc"][0] == "budgets" and details["type"] == "tuple_type":
        return Problem(path, f"{details['input']!r}, expected a list of numbers", f"write {EXAMPLE}")
    return Problem(path, str(details["msg"]))
