"""Merging a run: base and adapter in, one checkpoint out, and how far it is from the model that was trained.

Over a quantized base there are several formats, and each changes the model: the adapter was trained over the
dequantized weights. It fits those (`dequantised`); with the original weights (`bf16`) or quantized again (`nf4`,
`mxfp4`, ...) something is lost. How much is measured on held-out rows.

Structure is checked exactly, rounding is judged. In float32 each layer must give the same outputs with its adapter and
with the sum, to 1e-5, and the written checkpoint is compared with the sum bit for bit. Rounding the sum to 16 bits
changes every model, and how much is too much depends on the model: it is judged against what 16 bits cost the trained
model itself, with a separate adapter, on the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tunelab import plugins
from tunelab.config import Recipe
from tunelab.data.stored_rows import load_table
from tunelab.errors import DataError, ModelError, RunError, UsageError
from tunelab.failures import explained
from tunelab.files import as_path, check_is_new, directory_written_atomically, write_json_atomically
from tunelab.inference.divergence import (
    FLOOR_MULTIPLE,
    AnswerDistributions,
    Divergence,
    Row,
    answer_distributions,
    divergence,
)
from tunelab.models.adapters import load_adapter, without_adapter
from tunelab.models.digest import digest
from tunelab.models.load import DTYPES, dtype_name, load_model
from tunelab.models.merge import (
    EXACT,
    MergeCheck,
    adapted_outputs,
    compare_outputs,
    dequantize_layers,
    merge_adapter,
    quantize_layers,
    rounded,
    weight_digests,
)
from tunelab.models.precision import FOLDER
from tunelab.models.quantized_linear import quantized_layers
from tunelab.models.quantized_save import save_quantized
from tunelab.notebook import shown_in_notebooks
from tunelab.preparation.base import run_tokenizer, trained_recipe
from tunelab.preparation.model import checkpoint_dtype, load_base
from tunelab.preparation.published import published_tokenizer, set_end_tokens
from tunelab.preparation.rows import prepare_with, rows_to_keep, table_rows
from tunelab.progress import Progress, silent
from tunelab.publishing.stored_layers import check_stored_layers, format_of_sum, storable
from tunelab.records.runs import Run, open_run, resume_command
from tunelab.report.model_card import write_model_card
from tunelab.units import format_share

#: A merge that keeps less than this share of the adapter's improvement is refused unless forced.
LEAST_KEPT = 0.5

#: A merge that keeps this share of the improvement is as good as a separate adapter, for the recommendation.
WELL_KEPT = 0.95

DEQUANTISED = "dequantised"
NOT_MEASURED = "not measured: the run has no row with an answer to compare on"


@dataclass(frozen=True)
class Merged:
    """A merged checkpoint and how it compares with base + adapter.

    Args:
        format: "fp32", "bf16", "fp16": with the base's original weights; "dequantised": with its dequantized weights;
            or the format that the sum is quantized to.
        check: each layer with its adapter and with the sum, in float32; None if the merge is not meant to give the same
            model.
        quality: next-token distributions compared on held-out rows; None if no row has an answer.
        floor: the same for base + adapter in this dtype, unmerged: what the dtype alone costs the trained model. None
            if there is no quality, or the merge is not meant to give the same model.
        bytes: of the merged model's parameters.
    """

    path: Path
    format: str
    dtype: str
    check: MergeCheck | None
    quality: Divergence | None
    floor: Divergence | None
    bytes: int

    @property
    def most_kl(self) -> float | None:
        """The largest KL from the trained model that is written without force; None if there is no floor."""
        return None if self.floor is None else self.floor.most_kl

    def to_json(self) -> dict[str, Any]:
        """All but the path, as in merge.json."""
        return {
            "format": self.format,
            "dtype": self.dtype,
            "bytes": self.bytes,
            "quality": None if self.quality is None else self.quality.to_json(),
            "floor": None if self.floor is None else self.floor.to_json(),
            "most_kl": self.most_kl,
        }


@dataclass(frozen=True)
class MergeFormat:
    """What a run's merged model would be in one format.

    Args:
        quality: next-token distributions compared with the trained model's on held-out rows.
        bytes: of the merged model's parameters.
    """

    quality: Divergence
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {**self.quality.to_json(), "bytes": self.bytes}


@dataclass(frozen=True)
class _Trained:
    """The trained model, for comparison with the merged one."""

    answers: AnswerDistributions | None
    base_loss: float


def merge_formats(recipe: Recipe) -> tuple[str, ...]:
    """Every format that an adapter of this recipe can be merged into."""
    dense = tuple(DTYPES)
    return (*dense, *((DEQUANTISED,) if recipe.precision.name != "none" else ()), *plugins.names(FOLDER))


def merge(
    run: Run | Path | str,
    out: Path | str,
    *,
    format: str = "auto",
    base: Path | str | None = None,
    force: bool = False,
    progress: Progress = shown_in_notebooks,
) -> Merged:
    """Merge a run's adapter into its base and write one checkpoint, with tokenizer and measurement (merge.json).

    It is measured on rows that the run keeps, so the data is not needed.

    Args:
        format: see Merged; "auto" = "dequantised" over a quantized base, else the dtype of the base's checkpoint.
        base: the folder where the run's base is now, if it moved.
        force: write it even if rounding costs it more than FLOOR_MULTIPLE times what it costs the trained model; or, if
            it is not meant to be the same model, even if it keeps less than half of the adapter's improvement.

    Raises:
        RunError: the run has no adapter, is not finished, or its base is not the one that it was trained on.
        UsageError: `out` exists, or there is no such format.
        ModelError: a layer with the sum does not match the layer with its adapter, or the written weights do not match
            the sum; or rounding, or the format, loses too much (see `force`); or other programs could not load it.
    """
    target = as_path(out, "out")
    check_is_new(target)
    run, recipe, tokenizer = _opened(run, base)
    into = _resolved(recipe, format)
    form = format_of_sum(recipe, into)
    if form is not None:
        check_stored_layers(recipe, form)
    rows = _rows_to_compare(run, tokenizer, recipe, progress)
    progress("merging", 0, 4, "loading the trained model")
    trained = _trained(recipe, run, tokenizer, rows)
    progress("merging", 1, 4, "writing")
    model, dtype, check = merged_model(recipe, run, tokenizer, into)
    with directory_written_atomically(target) as folder:
        set_end_tokens(model, tokenizer, recipe)
        _save(model, folder)
        published_tokenizer(tokenizer, recipe).save_pretrained(folder)
        weights = weight_digests(model, dtype)
        del model
        progress("merging", 2, 4, "measuring")
        written = load_model(str(folder), dtype=dtype, form=form)
        _check_written(weights, weight_digests(written, dtype))
        quality, size = _quality(trained, written, rows), digest(written).bytes
        del written
        progress("merging", 3, 4, "measuring the trained model in this dtype")
        floor = _floor(recipe, run, tokenizer, trained, rows, dtype) if check is not None else None
        merged = Merged(target, into, dtype_name(dtype), check, quality, floor, size)
        _refuse_what_rounding_lost(merged, force)
        _refuse_a_lost_gain(merged, recipe, force)
        write_json_atomically(folder / "merge.json", merged.to_json())
        write_model_card(run, merged=merged.to_json(), folder=folder)
    progress("merging", 4, 4)
    return merged


def compare_merges(
    run: Run | Path | str, *, base: Path | str | None = None, progress: Progress = silent
) -> dict[str, MergeFormat]:
    """Measure a run's merged adapter on held-out rows in every format that merge() writes; only merges.json is written.

    Raises:
        RunError: the run has no adapter, is not finished, or its base is not the one that it was trained on.
        ModelError: no held-out row has an answer.
    """
    run, recipe, tokenizer = _opened(run, base)
    rows = _rows_to_compare(run, tokenizer, recipe, progress)
    formats = storable(recipe, {name: format_of_sum(recipe, name) for name in merge_formats(recipe)})
    progress("measuring", 0, len(formats) + 1, "loading the trained model")
    trained = _trained(recipe, run, tokenizer, rows)
    found: dict[str, MergeFormat] = {}
    for number, name in enumerate(formats, start=1):
        progress("measuring", number, len(formats) + 1, name)
        model, _, _ = merged_model(recipe, run, tokenizer, name)
        quality = _quality(trained, model, rows)
        if quality is None:
            raise ModelError(
                f"{run.path}: no held-out row has an answer to compare on", "train with data.held_out=0.05"
            )
        found[name] = MergeFormat(quality, digest(model).bytes)
    progress("measuring", len(formats) + 1, len(formats) + 1)
    write_json_atomically(run.path / "merges.json", {name: one.to_json() for name, one in found.items()})
    return found


def recommended_merge(recipe: Recipe, found: Mapping[str, MergeFormat]) -> str:
    """The format to merge a run of this recipe into.

    Over a base that is not quantized: the dtype of its checkpoint, or the dense one nearest to the trained model if
    that one does not keep the improvement well. Nobody asked to quantize it, so no quantized format is recommended.
    Over a quantized base: the smallest format that keeps the improvement well, or else the one that keeps it best. What
    seems clearly better than the trained model is another model that was lucky on these rows: its distance counts as
    much as a loss.
    """
    kept = {name: one.quality.kept_improvement for name, one in found.items()}
    if recipe.precision.name == "none":
        own = dtype_name(checkpoint_dtype(recipe))
        share = kept[own]
        keeps = share is None or share >= WELL_KEPT
        return own if keeps else min(DTYPES, key=lambda name: found[name].quality.kl)
    away = {name: math.inf if share is None else abs(share - 1) for name, share in kept.items()}
    well = [name for name, distance in away.items() if distance <= 1 - WELL_KEPT]
    if not well:
        return min(away, key=lambda name: away[name])
    return min(well, key=lambda name: (found[name].bytes, found[name].quality.kl))


def _opened(run: Run | Path | str, base: Path | str | None) -> tuple[Run, Recipe, Any]:
    run = open_run(run)
    if run.model.exists():
        raise RunError(f"{run.path}: full fine-tuning, there is no adapter to merge", f"use {run.model} as it is")
    if not run.adapter.exists():
        raise RunError(f"{run.path}: no trained adapter; the run is {run.status}", resume_command(run.path))
    return run, trained_recipe(run, base), run_tokenizer(run)


def _resolved(recipe: Recipe, into: str) -> str:
    if into == "auto":
        return DEQUANTISED if recipe.precision.name != "none" else dtype_name(checkpoint_dtype(recipe))
    if into not in merge_formats(recipe):
        raise UsageError(f"no format named {into!r} to merge into", f"known: auto, {', '.join(merge_formats(recipe))}")
    return into


def _rows_to_compare(run: Run, tokenizer: Any, recipe: Recipe, progress: Progress) -> Sequence[Row]:
    """The rows that the run keeps for this: ids, and which belong to answers.

    Runs of before kept none: they are prepared again from the data, and none are left if that is gone.
    """
    if run.compared_rows.exists():
        with explained(f"{run.compared_rows}: damaged", RunError, "restore it from a copy"):
            return table_rows(load_table(run.compared_rows))
    try:
        return table_rows(rows_to_keep(prepare_with(tokenizer, recipe, progress=progress)))
    except (DataError, UsageError):
        return []


def _trained(recipe: Recipe, run: Run, tokenizer: Any, rows: Sequence[Row]) -> _Trained:
    model = load_adapter(load_base(recipe, tokenizer, dtype=torch.float32, device="cpu"), run.adapter)
    has_answers = any(any(mask[1:]) for _, mask in rows)
    answers = answer_distributions(model, rows) if has_answers else None
    with without_adapter(model):
        base_loss = answer_distributions(model, rows).loss if has_answers else 0.0
    return _Trained(answers, base_loss)


def merged_model(
    recipe: Recipe, run: Run, tokenizer: Any, into: str
) -> tuple[PreTrainedModel, torch.dtype, MergeCheck | None]:
    """The merged model in memory, the dtype of unquantized weights, and how the sum compares with base + adapter.

    There is no check if the merged model is not meant to be the trained one; its sum is exact anyway.

    Raises:
        ModelError: a layer with the sum does not match the layer with its adapter, or is not finite in the dtype.
    """
    over_codes = recipe.precision.name != "none"
    own_weights, form = into in DTYPES, format_of_sum(recipe, into)
    is_same = form is None and not (own_weights and over_codes)
    if own_weights and over_codes:
        recipe = recipe.model_copy(update={"precision": type(recipe.precision)()})
    model = load_adapter(load_base(recipe, tokenizer, dtype=torch.float32, device="cpu"), run.adapter)
    expected = adapted_outputs(model)
    dequantize_layers(model)
    merged = merge_adapter(model)
    check = _checked(compare_outputs(expected, merged))
    dtype = DTYPES[into] if own_weights else checkpoint_dtype(recipe)
    merged = rounded(merged, dtype)
    if form is not None:
        quantize_layers(merged, form, recipe.precision.skip)
    return merged, dtype, check if is_same else None


def _save(model: PreTrainedModel, folder: Path) -> None:
    if quantized_layers(model):
        save_quantized(model, folder)
    else:
        model.save_pretrained(folder)


def _checked(check: MergeCheck) -> MergeCheck:
    if not check.passed:
        raise ModelError(
            f"a merged layer's outputs differ from base + adapter's by {check.largest_difference:.2g} of the largest "
            f"in float32, more than {EXACT:.0e}",
            "keep the adapter separate: this layer and its adapter are not simply a sum",
        )
    return check


def _check_written(merged: Mapping[str, str], written: Mapping[str, str]) -> None:
    """Check that what was read back is what was written, weight for weight and bit for bit."""
    other = sorted(name for name in {*merged, *written} if merged.get(name) != written.get(name))
    if other:
        raise ModelError(
            f"{len(other)} weights of the written checkpoint differ from the merged ones: {', '.join(other[:3])}",
            "keep the adapter separate: this architecture changes when saved and loaded",
        )


def _floor(
    recipe: Recipe, run: Run, tokenizer: Any, trained: _Trained, rows: Sequence[Row], dtype: torch.dtype
) -> Divergence | None:
    """What a dtype alone costs the trained model, with a separate adapter, computed as an evaluation computes it."""
    if trained.answers is None:
        return None
    if dtype == torch.float32:
        return divergence(trained.base_loss, trained.answers, trained.answers)
    model = load_adapter(load_base(recipe, tokenizer, dtype=dtype, device="cpu"), run.adapter)
    with torch.autocast("cpu", dtype):
        return divergence(trained.base_loss, trained.answers, answer_distributions(model, rows))


def _quality(trained: _Trained, model: PreTrainedModel, rows: Sequence[Row]) -> Divergence | None:
    if trained.answers is None:
        return None
    return divergence(trained.base_loss, trained.answers, answer_distributions(model, rows))


def _refuse_what_rounding_lost(merged: Merged, force: bool) -> None:
    """Check that a merge meant to be the trained model is about as close to it as the dtype allows."""
    quality, floor = merged.quality, merged.floor
    if any(found is not None and not math.isfinite(found.kl) for found in (quality, floor)):
        raise ModelError(
            f"merged into {merged.format}, the model's probabilities are not finite: {merged.dtype} overflows",
            "merge with --format bf16 or fp32",
        )
    if quality is None or floor is None or merged.most_kl is None:
        return
    if quality.kl > merged.most_kl and not force:
        raise ModelError(
            f"merged into {merged.format}, the model's KL from base + adapter is {quality.kl:.1e} nats on held-out "
            f"rows, more than {FLOOR_MULTIPLE:g} times the {floor.kl:.1e} that {merged.dtype} alone costs base + "
            f"adapter (same most likely token: {format_share(1 - quality.changed)}, {merged.dtype} alone: "
            f"{format_share(1 - floor.changed)})",
            "merge with --format fp32, keep the adapter separate, or write it anyway with --force",
        )


def _refuse_a_lost_gain(merged: Merged, recipe: Recipe, force: bool) -> None:
    """Check that a merge that gives a different model keeps what training gained."""
    kept = None if merged.quality is None or merged.check is not None else merged.quality.kept_improvement
    if kept is not None and kept < LEAST_KEPT and not force:
        other = DEQUANTISED if recipe.precision.name != "none" else "auto"
        raise ModelError(
            f"merged into {merged.format}, the model keeps {format_share(kept, 0)} of training's improvement on "
            "held-out rows",
            f"merge with --format {other}, keep the adapter separate, or write it anyway with --force",
        )
