"""The story of a merge: base and adapter in, one checkpoint out, and how far it is from the model that was trained.

Over a quantised base there are several ways, and each changes the model: the adapter was trained over the weights that
the codes stand for. Into those weights (`dequantised`) it fits; into the base's own (`bf16`) or back into few bits
(`nf4`, `mxfp4`, ...) something is lost. How much is measured on held-out rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tunelab import plugins
from tunelab.config import Recipe
from tunelab.data.loader import TokenTable
from tunelab.errors import ModelError, RunError, UsageError
from tunelab.evaluation.divergence import AnswerDistributions, Divergence, answer_distributions, divergence
from tunelab.files import directory_written_atomically, write_json_atomically
from tunelab.models.adapters import load_adapter
from tunelab.models.digest import digest
from tunelab.models.load import DTYPES, load_model, load_tokenizer
from tunelab.models.merge import (
    MergeCheck,
    compare_logits,
    dequantize_layers,
    logits_of,
    merge_adapter,
    quantize_layers,
)
from tunelab.models.precision import FOLDER, weight_format
from tunelab.models.quantized_linear import quantized_layers
from tunelab.models.quantized_save import save_quantized
from tunelab.preparation.model import checkpoint_dtype, load_base
from tunelab.preparation.rows import prepare_with
from tunelab.progress import Progress, silent
from tunelab.records.runs import Run, open_run

#: Rows and tokens of each whose logits are compared one by one.
ROWS_COMPARED, TOKENS_COMPARED = 8, 128

#: Below this share of the adapter's improvement a merge is refused unless it is asked for twice.
LEAST_KEPT = 0.5

#: From this share on, a merge is as good as the adapter beside its base, for what is recommended.
WELL_KEPT = 0.95

DEQUANTISED = "dequantised"


@dataclass(frozen=True)
class Merged:
    """A merged checkpoint and how it compares with base + adapter.

    Args:
        format: "fp32", "bf16", "fp16": into the base's own weights; "dequantised": into those that its codes stand for;
            or the format that the sum is stored in.
        check: logits compared one by one; None where the merge is not meant to give the same model.
        quality: next-token distributions compared on held-out rows; None where no row has an answer.
        bytes: of the merged model's parameters.
    """

    path: Path
    format: str
    dtype: str
    check: MergeCheck | None
    quality: Divergence | None
    bytes: int


@dataclass(frozen=True)
class _Trained:
    """The model that was trained, as the merged one is compared with it."""

    logits: list[torch.Tensor]
    answers: AnswerDistributions | None
    base_loss: float


def merge_formats(recipe: Recipe) -> tuple[str, ...]:
    """Every format that an adapter of this recipe can be merged into."""
    dense = tuple(DTYPES)
    return (*dense, *((DEQUANTISED,) if recipe.precision.name != "none" else ()), *plugins.names(FOLDER))


def merge(
    run: Run | Path | str, out: Path | str, *, format: str = "auto", force: bool = False, progress: Progress = silent
) -> Merged:
    """Merge a run's adapter into its base and write one checkpoint, tokenizer and measurement (merge.json) included.

    Args:
        format: see Merged; "auto" = "dequantised" over a quantised base, else the dtype that the base's checkpoint has.
        force: write it also where it keeps less than half of the adapter's improvement.

    Raises:
        RunError: the run has no adapter, or is not finished.
        UsageError: `out` exists, or there is no such format.
        ModelError: the written checkpoint's logits are not those of base + adapter within the dtype's error; or it
            keeps less than half of what training gained.
    """
    run, recipe, tokenizer = _opened(run)
    target = Path(out)
    if target.exists():
        raise UsageError(f"{target}: exists already", "choose another directory with --out")
    into = _resolved(recipe, format)
    rows = _rows_to_compare(tokenizer, recipe, progress)
    progress("merging", 0, 3, "the trained model")
    trained = _trained(recipe, run, rows)
    progress("merging", 1, 3, "writing")
    model, dtype, is_same = merged_model(recipe, run, into)
    with directory_written_atomically(target) as folder:
        _save(model, folder)
        tokenizer.save_pretrained(folder)
        del model
        progress("merging", 2, 3, "measuring")
        form = weight_format(into, _format_options(recipe, into)) if into in plugins.names(FOLDER) else None
        written = load_model(str(folder), dtype=dtype, form=form)
        check = _checked(trained, written, rows, dtype) if is_same else None
        merged = Merged(target, into, _name(dtype), check, _quality(trained, written, rows), digest(written).bytes)
        _refuse_a_lost_gain(merged, recipe, force)
        write_json_atomically(folder / "merge.json", _to_json(merged))
    progress("merging", 3, 3)
    return merged


def compare_merges(run: Run | Path | str, *, progress: Progress = silent) -> dict[str, Divergence]:
    """All formats of a run's merged adapter, measured on held-out rows; writes nothing but merges.json in the run.

    Raises:
        RunError: the run has no adapter, or is not finished.
        ModelError: no held-out row has an answer.
    """
    run, recipe, tokenizer = _opened(run)
    rows = _rows_to_compare(tokenizer, recipe, progress)
    ways = merge_formats(recipe)
    progress("measuring", 0, len(ways) + 1, "the trained model")
    trained = _trained(recipe, run, rows)
    found: dict[str, Divergence] = {}
    for number, way in enumerate(ways, start=1):
        progress("measuring", number, len(ways) + 1, way)
        model, _, _ = merged_model(recipe, run, way)
        quality = _quality(trained, model, rows)
        if quality is None:
            raise ModelError(
                f"{run.path}: no held-out row has an answer to compare on", "train with data.held_out=0.05"
            )
        found[way] = quality
    progress("measuring", len(ways) + 1, len(ways) + 1)
    write_json_atomically(run.path / "merges.json", {way: quality.to_json() for way, quality in found.items()})
    return found


def recommended_merge(found: Mapping[str, Divergence]) -> str:
    """The format with the fewest bits of those that keep the improvement well, or else the one that keeps most."""
    bits = {way: weight_format(way).bits_per_weight for way in found if way in plugins.names(FOLDER)}
    kept = {way: quality.kept_improvement or 0.0 for way, quality in found.items()}
    well = [way for way, share in kept.items() if share >= WELL_KEPT]
    if not well:
        return max(kept, key=lambda way: kept[way])
    sixteen = {"fp32": 32.0}
    return min(well, key=lambda way: (bits.get(way, sixteen.get(way, 16.0)), found[way].kl))


def _opened(run: Run | Path | str) -> tuple[Run, Recipe, Any]:
    run = run if isinstance(run, Run) else open_run(Path(run))
    if run.model.exists():
        raise RunError(
            f"{run.path}: every weight was trained, there is no adapter to merge", f"use {run.model} as it is"
        )
    if not run.adapter.exists():
        raise RunError(f"{run.path}: no trained adapter there; the run is {run.status}", "finish the run first")
    return run, run.recipe, load_tokenizer(str(run.tokenizer))


def _resolved(recipe: Recipe, into: str) -> str:
    if into == "auto":
        return DEQUANTISED if recipe.precision.name != "none" else _name(checkpoint_dtype(recipe))
    if into not in merge_formats(recipe):
        raise UsageError(f"no format named {into!r} to merge into", f"known: auto, {', '.join(merge_formats(recipe))}")
    return into


def _rows_to_compare(tokenizer: object, recipe: Recipe, progress: Progress) -> list[tuple[list[int], list[bool]]]:
    """The held-out rows, or the first training rows where none are held out: ids, and which belong to answers."""
    data = prepare_with(tokenizer, recipe, progress=progress)
    table: TokenTable = data.held_out if len(data.held_out) else data.train
    count = len(table) if len(data.held_out) else min(ROWS_COMPARED, len(table))
    rows = (table.row(index) for index in range(count))
    return [(ids.tolist(), mask.tolist()) for ids, mask in rows]


def _short(rows: list[tuple[list[int], list[bool]]]) -> list[list[int]]:
    return [ids[:TOKENS_COMPARED] for ids, _ in rows[:ROWS_COMPARED]]


def _trained(recipe: Recipe, run: Run, rows: list[tuple[list[int], list[bool]]]) -> _Trained:
    model = load_adapter(load_base(recipe, dtype=torch.float32, device="cpu"), run.adapter)
    has_answers = any(any(mask[1:]) for _, mask in rows)
    answers = answer_distributions(model, rows) if has_answers else None
    with model.disable_adapter():
        base_loss = answer_distributions(model, rows).loss if has_answers else 0.0
    return _Trained(logits_of(model, _short(rows)), answers, base_loss)


def merged_model(recipe: Recipe, run: Run, into: str) -> tuple[PreTrainedModel, torch.dtype, bool]:
    """The merged model in memory, the dtype of what no format stores, and whether it is meant to be the trained one."""
    over_codes = recipe.precision.name != "none"
    own_weights = into in DTYPES
    if own_weights and over_codes:
        recipe = recipe.model_copy(update={"precision": type(recipe.precision)()})
    model = load_adapter(load_base(recipe, dtype=torch.float32, device="cpu"), run.adapter)
    dequantize_layers(model)
    merged = merge_adapter(model)
    dtype = DTYPES[into] if own_weights else checkpoint_dtype(recipe)
    merged = merged.to(dtype)
    if into in plugins.names(FOLDER):
        quantize_layers(merged, weight_format(into, _format_options(recipe, into)), recipe.precision.skip)
        return merged, dtype, False
    return merged, dtype, not (own_weights and over_codes)


def _format_options(recipe: Recipe, into: str) -> Mapping[str, Any]:
    return recipe.precision.options if recipe.precision.name == into else {}


def _save(model: PreTrainedModel, folder: Path) -> None:
    if quantized_layers(model):
        save_quantized(model, folder)
    else:
        model.save_pretrained(folder)


def _checked(
    trained: _Trained, written: PreTrainedModel, rows: list[tuple[list[int], list[bool]]], dtype: torch.dtype
) -> MergeCheck:
    check = compare_logits(trained.logits, logits_of(written, _short(rows)), dtype)
    if not check.passed:
        raise ModelError(
            f"the merged model's logits differ from base + adapter's by {check.largest_difference:.2g} of the "
            f"largest logit, more than {check.tolerance:.0e}",
            "keep the adapter apart, or merge with --format fp32",
        )
    return check


def _quality(trained: _Trained, model: PreTrainedModel, rows: list[tuple[list[int], list[bool]]]) -> Divergence | None:
    if trained.answers is None:
        return None
    return divergence(trained.base_loss, trained.answers, answer_distributions(model, rows))


def _refuse_a_lost_gain(merged: Merged, recipe: Recipe, force: bool) -> None:
    kept = None if merged.quality is None else merged.quality.kept_improvement
    if kept is not None and kept < LEAST_KEPT and not force:
        other = DEQUANTISED if recipe.precision.name != "none" else "auto"
        raise ModelError(
            f"merged into {merged.format}, the model keeps {kept:.0%} of what training gained on held-out rows",
            f"merge with --format {other}, keep the adapter apart, or write it all the same with --force",
        )


def _to_json(merged: Merged) -> dict[str, Any]:
    quality = None if merged.quality is None else merged.quality.to_json()
    return {"format": merged.format, "dtype": merged.dtype, "bytes": merged.bytes, "quality": quality}


def _name(dtype: torch.dtype) -> str:
    return {value: key for key, value in DTYPES.items()}[dtype]
