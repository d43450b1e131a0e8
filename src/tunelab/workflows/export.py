"""The story of a merge: base and adapter in, one plain transformers checkpoint out, checked after it was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from tunelab.config import Recipe, load_recipe
from tunelab.data.loader import TokenTable
from tunelab.errors import ModelError, RunError, UsageError
from tunelab.files import directory_written_atomically
from tunelab.models.adapters import load_adapter
from tunelab.models.load import DTYPES, load_model, load_tokenizer
from tunelab.models.merge import MergeCheck, compare_logits, logits_of, merge_adapter
from tunelab.progress import Progress, silent
from tunelab.runs import Run, open_run
from tunelab.workflows.prepare import prepare_with

#: Rows and tokens of each that the merged model is compared on.
ROWS_COMPARED, TOKENS_COMPARED = 8, 128


@dataclass(frozen=True)
class Merged:
    """A merged checkpoint and how it compares with base + adapter."""

    path: Path
    check: MergeCheck
    dtype: str


def merge(run: Run | Path | str, out: Path | str, *, dtype: str = "auto", progress: Progress = silent) -> Merged:
    """Merge a run's adapter into its base and write a plain transformers checkpoint, tokenizer included.

    Args:
        dtype: of the written weights: fp32, bf16, fp16, or auto = what the base's own checkpoint has.

    Raises:
        RunError: the run has no adapter, or is not finished.
        UsageError: `out` exists.
        ModelError: the written checkpoint's logits are not those of base + adapter within the dtype's error.
    """
    run = run if isinstance(run, Run) else open_run(Path(run))
    target = Path(out)
    if run.model.exists():
        raise RunError(
            f"{run.path}: every weight was trained, there is no adapter to merge", f"use {run.model} as it is"
        )
    if not run.adapter.exists():
        raise RunError(f"{run.path}: no trained adapter there; the run is {run.status}", "finish the run first")
    if target.exists():
        raise UsageError(f"{target}: exists already", "choose another directory with --out")
    recipe = load_recipe(run.recipe_file)
    tokenizer = load_tokenizer(str(run.tokenizer))
    rows = _rows_to_compare(tokenizer, recipe, progress)
    chosen = _written_dtype(recipe, dtype)
    progress("merging", 0, 3, "loading")
    base = load_model(
        recipe.model.name,
        dtype=torch.float32,
        revision=recipe.model.revision,
        trust_remote_code=recipe.model.trust_remote_code,
    )
    adapted = load_adapter(base, run.adapter)
    expected = logits_of(adapted, rows)
    progress("merging", 1, 3, "writing")
    merged = merge_adapter(adapted).to(chosen)
    with directory_written_atomically(target) as folder:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        progress("merging", 2, 3, "checking")
        check = compare_logits(expected, logits_of(load_model(str(folder), dtype=chosen), rows), chosen)
        if not check.passed:
            raise ModelError(
                f"the merged model's logits differ from base + adapter's by {check.largest_difference:.2g} of the "
                f"largest logit, more than {check.tolerance:.0e}",
                "keep the adapter apart, or merge with --dtype fp32",
            )
    progress("merging", 3, 3)
    return Merged(target, check, {value: key for key, value in DTYPES.items()}[chosen])


def _rows_to_compare(tokenizer: object, recipe: Recipe, progress: Progress) -> list[list[int]]:
    """The first held-out rows, or training rows where none are held out, each cut to a few tokens."""
    data = prepare_with(tokenizer, recipe, progress=progress)
    table: TokenTable = data.held_out if len(data.held_out) else data.train
    return [table.row(index)[0][:TOKENS_COMPARED].tolist() for index in range(min(ROWS_COMPARED, len(table)))]


def _written_dtype(recipe: Recipe, dtype: str) -> torch.dtype:
    if dtype in DTYPES:
        return DTYPES[dtype]
    if dtype != "auto":
        raise UsageError(f"no dtype named {dtype!r}", f"known: auto, {', '.join(DTYPES)}")
    from transformers import AutoConfig

    own = AutoConfig.from_pretrained(recipe.model.name, revision=recipe.model.revision).dtype
    return own if own in DTYPES.values() else torch.float32
