"""Generate answers: open a run, or a model with or without an adapter, and answer prompts.

responder = open_responder("runs/alpaca")
for piece in responder.stream("Name three colours."):
    ...
answers = responder.answer_into("answers.jsonl", read_prompts("prompts.jsonl"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunelab.answering.responder import ARMS, Responder, Weights
from tunelab.config import load_recipe, resolve
from tunelab.errors import RunError, UsageError
from tunelab.models.load import load_tokenizer
from tunelab.preparation.rows import default_data_settings, load_recipe_tokenizer
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
) -> Responder:
    """Open a finished run, or a model with or without an adapter, for answering.

    Args:
        arm: "tuned" or "base"; None = tuned if there is one.
        template: with `model`: its prompt template; None = see default_data_settings(). A run has its own.
        changes: with `model`: recipe overrides as on the command line, such as "train.dtype=bf16".
        raw: use a prompt's text as it is, without the template.

    Raises:
        UsageError: conflicting arguments.
        RunError: there is no such run, or it is not finished.
        ModelError: the tokenizer cannot be loaded, or has no chat template.
    """
    if arm not in (None, *ARMS):
        raise UsageError(f"no arm named {arm!r}", f"known: {', '.join(ARMS)}")
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
        return _of_run(run if isinstance(run, Run) else open_run(Path(run)), arm or "tuned", raw)
    if arm == "tuned" and adapter is None:
        raise UsageError(f"{model} has no tuned arm", "give an adapter (--adapter DIR), or a run")
    # A recipe requires data sources; none are read here.
    flags = {"model": model, "data.template": template, "data.sources": ["alpaca"]}
    recipe = resolve(load_recipe(None, list(changes), flags))
    tokenizer = load_recipe_tokenizer(recipe)
    has_prompt_template = True
    if template is None and not any(change.startswith("data.") for change in changes):
        data = default_data_settings(tokenizer, Path(adapter) if adapter is not None else None)
        recipe = recipe.model_copy(update={"data": data})
        of_run = adapter is not None and Run(Path(adapter).parent).recipe_file.exists()
        has_prompt_template = of_run or bool(tokenizer.chat_template)
    laid_on = Path(adapter) if adapter is not None and arm != "base" else None
    weights = Weights(recipe.model.name, recipe.model.revision, laid_on)
    return Responder(recipe, tokenizer, "base" if laid_on is None else "tuned", raw, weights, has_prompt_template)


def _of_run(run: Run, arm: str, raw: bool) -> Responder:
    check_finished(run)
    recipe = run.recipe
    weights = Weights(recipe.model.name, recipe.model.revision)
    if arm == "tuned" and run.adapter.exists():
        weights = Weights(recipe.model.name, recipe.model.revision, run.adapter)
    elif arm == "tuned":
        weights = Weights(str(run.model), digest=run.manifest["weights_after"])
    return Responder(recipe, load_tokenizer(str(run.tokenizer)), arm, raw, weights)


def subject_of(subject: Run | Path | str) -> tuple[Run | None, str | None]:
    """Tell a run from a model's name: (run, None) or (None, name).

    Raises:
        RunError: a directory that is neither.
        UsageError: a recipe file.
    """
    if isinstance(subject, Run):
        return subject, None
    path = Path(subject)
    if path.suffix in (".yaml", ".yml"):
        raise UsageError(f"{path}: is a recipe, not a model", "give the run that it made, or a model's name or folder")
    if not path.is_dir():
        return None, str(subject)
    if Run(path).recipe_file.exists():
        return Run(path), None
    if not (path / "config.json").exists():
        raise RunError(
            f"{path}: neither a run (no recipe.yaml) nor a model (no config.json)",
            "give the directory that `tunelab train` printed, or a folder saved by transformers",
        )
    return None, str(path)
