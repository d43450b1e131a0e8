"""Generate answers: open a run, or a model with or without an adapter, and answer prompts.

responder = open_responder("runs/alpaca")
for piece in responder.stream("Name three colours."):
    ...
answers = responder.answer_into("answers.jsonl", read_prompts("prompts.jsonl"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunelab.answering.responder import Responder, Weights, checked_arms
from tunelab.config import Recipe, load_recipe, resolve
from tunelab.data.chat_templates import is_chat
from tunelab.data.templates import AUTO
from tunelab.errors import RunError, UsageError
from tunelab.files import as_path
from tunelab.models.gguf.reading import is_local_model
from tunelab.preparation.base import (
    base_name,
    check_base_of_adapter,
    dated,
    own_recipe,
    run_tokenizer,
    trained_recipe,
)
from tunelab.preparation.rows import with_template
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.records.runs import Run, check_finished, open_run


def open_responder(
    run: Run | Path | str | None = None,
    *,
    model: str | None = None,
    adapter: Path | str | None = None,
    arm: str | None = None,
    template: str | None = None,
    changes: Sequence[str] = (),
    raw: bool = False,
    base: Path | str | None = None,
) -> Responder:
    """Open a finished run, or a model with or without an adapter, for answering.

    Args:
        arm: "tuned" or "base"; None = tuned if there is one.
        template: with `model`: its prompt template; None = that of the adapter's run, else the model's chat template,
            else alpaca. A run has its own.
        changes: with `model`: recipe overrides as on the command line, such as "train.dtype=bf16".
        raw: use a prompt's text as it is, without the template.
        base: with a run: the folder where its base is now, if it moved.

    Raises:
        UsageError: conflicting arguments.
        RunError: there is no such run, it is not finished, or its base is not the one that it was trained on.
        ModelError: the tokenizer cannot be loaded, or has no chat template.
    """
    if arm is not None:
        checked_arms(arm)
    if run is None and model is None:
        raise UsageError("no model to answer with", "give a run's directory, or --model NAME")
    if run is not None:
        given = {"model": model, "adapter": adapter, "template": template, "changes": " ".join(changes) or None}
        wrong = [f"{name} {value}" for name, value in given.items() if value is not None]
        if wrong:
            raise UsageError(
                f"a run answers with its own model and template; {', '.join(wrong)} cannot change it",
                "omit it (--raw and --arm are allowed), or give --model instead of the run",
            )
        return _of_run(open_run(run), arm or "tuned", raw, base)
    if base is not None:
        raise UsageError(f"--base {base} without a run", "a model is named with --model alone")
    if arm == "tuned" and adapter is None:
        raise UsageError(f"{model} has no tuned arm", "give an adapter (--adapter DIR), or a run")
    # A recipe requires data sources; none are read here.
    flags = {"model": model, "data.template": template, "data.sources": ["alpaca"]}
    recipe = resolve(load_recipe(None, list(changes), flags))
    recipe, tokenizer, has_prompt_template = prompted(recipe, Path(adapter) if adapter is not None else None)
    laid_on = Path(adapter) if adapter is not None and arm != "base" else None
    weights = Weights(recipe.model.name, recipe.model.revision, laid_on)
    return Responder(recipe, tokenizer, "base" if laid_on is None else "tuned", raw, weights, has_prompt_template)


def prompted(recipe: Recipe, adapter: Path | None) -> tuple[Recipe, Any, bool]:
    """A model's recipe with the template to prompt it in, the tokenizer, and whether the template is more than a guess.

    An adapter in a run's folder is prompted as it was trained, with the run's own tokenizer, and its template unless
    another one is named; another adapter with the tokenizer beside it, if there is one.

    Raises:
        RunError: the adapter was trained on another model.
        UsageError: the recipe names another tokenizer or date than the adapter's run.
    """
    if adapter is not None:
        check_base_of_adapter(adapter, recipe.model.name)
    run = Run(adapter.parent) if adapter is not None else None
    if adapter is not None and run is not None and run.recipe_file.exists():
        return _prompted_as_trained(recipe, adapter, run)
    tokenizer = load_recipe_tokenizer(recipe, beside=adapter)
    is_named = recipe.data.template != AUTO or recipe.data.chat_template is not None
    recipe = with_template(recipe, tokenizer)
    return recipe, tokenizer, is_named or is_chat(recipe.data.template)


def _prompted_as_trained(recipe: Recipe, adapter: Path, run: Run) -> tuple[Recipe, Any, bool]:
    trained, data = own_recipe(run), recipe.data
    named, own = recipe.model.tokenizer, trained.model.tokenizer
    if named not in (None, own):
        raise UsageError(
            f"model.tokenizer is {named}, but {adapter} was trained with {own or 'the tokenizer of its base'}",
            "omit model.tokenizer: the run keeps its tokenizer",
        )
    # Which ids end an answer depends on whether the tokenizer is the base's own.
    as_trained = {"tokenizer": own, "new_tokens": trained.model.new_tokens}
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=as_trained)})
    if data.chat_template is not None or data.template not in (AUTO, trained.data.template):
        tokenizer = load_recipe_tokenizer(_without_tokenizer(recipe), beside=run.tokenizer)
        return with_template(recipe, tokenizer), tokenizer, True
    tokenizer = run_tokenizer(run)
    day = dated(tokenizer, trained)
    if data.date is not None and data.date != day:
        raise UsageError(
            f"data.date is {data.date}, but {adapter} was trained with {day or 'no date in its template'}",
            "omit data.date",
        )
    update = {"template": trained.data.template, "thoughts": data.thoughts or trained.data.thoughts}
    return recipe.model_copy(update={"data": data.model_copy(update=update)}), tokenizer, True


def _without_tokenizer(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"tokenizer": None})})


def _of_run(run: Run, arm: str, raw: bool, base: Path | str | None) -> Responder:
    check_finished(run)
    recipe, tokenizer, called = own_recipe(run), run_tokenizer(run), base_name(run)
    if arm == "tuned" and not run.adapter.exists():
        weights = Weights(str(run.model), digest=run.manifest["weights_after"], called=called)
        return Responder(recipe, tokenizer, arm, raw, weights)
    place = trained_recipe(run, base).model
    adapter = run.adapter if arm == "tuned" else None
    known = run.manifest["model"]["fingerprint"]
    weights = Weights(place.name, place.revision, adapter, called=called, fingerprint=known)
    return Responder(recipe, tokenizer, arm, raw, weights)


def subject_of(subject: Run | Path | str) -> tuple[Run | None, str | None]:
    """Tell a run from a model's name: (run, None) or (None, name).

    Raises:
        RunError: a directory that is neither.
        UsageError: a recipe file.
    """
    if isinstance(subject, Run):
        return subject, None
    path = as_path(subject, "run or model")
    if path.suffix in (".yaml", ".yml"):
        raise UsageError(f"{path}: is a recipe, not a model", "give the run that it made, or a model's name or folder")
    if not path.is_dir():
        return None, str(subject)
    if Run(path).recipe_file.exists():
        return Run(path), None
    if not is_local_model(path):
        raise RunError(
            f"{path}: neither a run (no recipe.yaml) nor a model (no config.json)",
            "give the directory that `tunelab train` printed, or a folder saved by transformers",
        )
    return None, str(path)
