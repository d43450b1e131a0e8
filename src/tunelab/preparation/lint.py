"""Check data before they are trained on: the rows of a recipe, or the texts of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunelab.config import Recipe, RecipeLike, as_recipe, resolve
from tunelab.data.prepared import PreparedData
from tunelab.data.reader import load_examples
from tunelab.errors import DataError
from tunelab.linting import lint as checks
from tunelab.linting.benchmark_overlap import benchmark_overlap
from tunelab.linting.finding import Finding
from tunelab.linting.lint import Lint
from tunelab.linting.rows import TRAINING, LintedRows
from tunelab.notebook import shown_in_notebooks
from tunelab.preparation.rows import (
    check_local_files,
    fit_to_model,
    lint_rows,
    prepare_with,
    row_encoder,
    selected,
    with_template,
)
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.progress import Progress, silent


def lint(recipe: RecipeLike | None = None, *, progress: Progress = shown_in_notebooks, **changes: Any) -> Lint:
    """What the data checks find in a recipe's rows. Nothing is trained; bad rows are listed, not fatal.

    Args:
        recipe: its object, a mapping, or a YAML file's path.
        changes: recipe keys, as in finetune().

    Raises:
        TunelabError: the recipe, its data or its tokenizer cannot be used; the message says why.
    """
    return lint_recipe(resolve(as_recipe(recipe, changes)), progress)[0]


def lint_recipe(recipe: Recipe, progress: Progress) -> tuple[Lint, PreparedData]:
    """What lint() finds, and the rows."""
    check_local_files(recipe.data)
    tokenizer = load_recipe_tokenizer(recipe)
    recipe = fit_to_model(recipe, tokenizer)
    try:
        data = prepare_with(tokenizer, recipe, progress=progress)
    except DataError:  # bad rows, maybe: without them, or the same error again
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"on_bad_row": "skip"})})
        data = prepare_with(tokenizer, recipe, may_be_empty=True, progress=progress)
    return lint_rows(tokenizer, recipe, data, progress=progress), data


def overlaps(
    recipe: Recipe, items: Mapping[str, Sequence[tuple[str, str]]], progress: Progress = silent
) -> list[Finding]:
    """Training rows of a recipe that share text with the items of benchmarks, one finding per benchmark.

    Args:
        items: benchmark -> id and text of each item.
    """
    tokenizer = load_recipe_tokenizer(recipe)
    recipe = with_template(recipe, tokenizer)
    examples = selected(recipe.data, row_encoder(tokenizer, recipe).template, progress).train
    rows = LintedRows({TRAINING: range(len(examples))}, [one.origin for one in examples], examples)
    found = [benchmark_overlap(rows, name, its) for name, its in items.items()]
    return [one for one in found if one is not None]


def lint_file(path: Path | str, *, progress: Progress = shown_in_notebooks) -> Lint:
    """What the data checks find in the texts of a data file, without a model: no tokens, no template, no splits.

    Raises:
        DataError: the file cannot be read, its format is unknown, or no row of it can be used.
    """
    source = load_examples("auto", path=Path(path), on_bad_row="skip", progress=progress)
    rows = LintedRows(
        splits={TRAINING: range(len(source.examples))},
        origins=[one.origin for one in source.examples],
        examples=source.examples,
        bad=source.bad_rows,
    )
    return checks.lint(rows, progress)
