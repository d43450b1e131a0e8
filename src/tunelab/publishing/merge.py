"""The story of a merge: base and adapter in, one checkpoint out, and how far it is from the model that was trained.

Over a quantised base there are several ways, and each changes the model: the adapter was trained over the weights that
the codes stand for. Into those weights (`dequantised`) it fits; into the base's own (`bf16`) or back into few bits
(`nf4`, `mxfp4`, ...) something is lost. How much is measured on held-out rows.

What is checked exactly and what is judged are two things. The sum is checked in float32, where each layer gives with
its adapter what it gives with the sum, to 1e-5, and what is written is compared with it bit for bit. Rounding the sum
to 16 bits changes every model, and how much is too much depends on the model: it is judged against what 16 bits cost
the trained model itself, base and adapter apart, on the same rows.
"""

from __future__ import annotations

import math
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
from tunelab.models.precision import FOLDER, weight_format
from tunelab.models.quantized_linear import quantized_layers
from tunelab.models.quantized_save import save_quantized
from tunelab.preparation.model import checkpoint_dtype, load_base
from tunelab.preparation.rows import prepare_with
from tunelab.progress import Progress, silent
from tunelab.records.runs import Run, open_run

#: A merge is refused, unless it is asked for twice, where its KL from the trained model is more than this many times
#: what its dtype alone costs the trained model, base and adapter apart. Sound merges were between 0.25 and 1.62 times
#: that, and 0.96 for a real bf16 model (docs/decisions/0017).
FLOOR_MULTIPLE = 4.0

#: Added to that limit, nats: in float32 the floor is zero, and what is left is the order of sums. A perplexity changes
#: by a factor of 1.00001.
FLOOR_LEAST = 1e-5

#: Training rows that are compared on where no rows are held out.
ROWS_COMPARED = 8

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
        check: each layer with its adapter and with the sum, in float32; None where the merge is not meant to give the
            same model.
        quality: next-token distributions compared on held-out rows; None where no row has an answer.
        floor: the same of base + adapter in this dtype, unmerged: what the dtype alone costs the trained model. None
            where there is no quality, or the merge is not meant to give the same model.
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
        """The largest KL from the trained model that is written unasked; None where there is no floor."""
        return None if self.floor is None else FLOOR_MULTIPLE * self.floor.kl + FLOOR_LEAST


@dataclass(frozen=True)
class _Trained:
    """The model that was trained, as the merged one is compared with it."""

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
        force: write it also where rounding costs it more than FLOOR_MULTIPLE times what it costs the trained model; or,
            where it is not meant to be the same model, where it keeps less than half of the adapter's improvement.

    Raises:
        RunError: the run has no adapter, or is not finished.
        UsageError: `out` exists, or there is no such format.
        ModelError: a layer's sum is not the layer with its adapter, or the written weights not those of the sum; or
            rounding, or the format, loses too much, as `force` says.
    """
    run, recipe, tokenizer = _opened(run)
    target = Path(out)
    if target.exists():
        raise UsageError(f"{target}: exists already", "choose another directory with --out")
    into = _resolved(recipe, format)
    rows = _rows_to_compare(tokenizer, recipe, progress)
    progress("merging", 0, 4, "the trained model")
    trained = _trained(recipe, run, rows)
    progress("merging", 1, 4, "writing")
    model, dtype, check = merged_model(recipe, run, into)
    with directory_written_atomically(target) as folder:
        _save(model, folder)
        tokenizer.save_pretrained(folder)
        weights = weight_digests(model, dtype)
        del model
        progress("merging", 2, 4, "measuring")
        form = weight_format(into, _format_options(recipe, into)) if into in plugins.names(FOLDER) else None
        written = load_model(str(folder), dtype=dtype, form=form)
        _check_written(weights, weight_digests(written, dtype))
        quality, size = _quality(trained, written, rows), digest(written).bytes
        del written
        progress("merging", 3, 4, "measuring the trained model in this dtype")
        floor = _floor(recipe, run, trained, rows, dtype) if check is not None else None
        merged = Merged(target, into, _name(dtype), check, quality, floor, size)
        _refuse_what_rounding_lost(merged, force)
        _refuse_a_lost_gain(merged, recipe, force)
        write_json_atomically(folder / "merge.json", _to_json(merged))
    progress("merging", 4, 4)
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


def _trained(recipe: Recipe, run: Run, rows: list[tuple[list[int], list[bool]]]) -> _Trained:
    model = load_adapter(load_base(recipe, dtype=torch.float32, device="cpu"), run.adapter)
    has_answers = any(any(mask[1:]) for _, mask in rows)
    answers = answer_distributions(model, rows) if has_answers else None
    with model.disable_adapter():
        base_loss = answer_distributions(model, rows).loss if has_answers else 0.0
    return _Trained(answers, base_loss)


def merged_model(recipe: Recipe, run: Run, into: str) -> tuple[PreTrainedModel, torch.dtype, MergeCheck | None]:
    """The merged model in memory, the dtype of what no format stores, and how the sum compares with base + adapter.

    There is no check where the merged model is not meant to be the trained one; that its sum is exact holds all the
    same.

    Raises:
        ModelError: a layer's sum is not the layer with its adapter, or is not finite in the dtype.
    """
    over_codes = recipe.precision.name != "none"
    own_weights, in_format = into in DTYPES, into in plugins.names(FOLDER)
    is_same = not in_format and not (own_weights and over_codes)
    if own_weights and over_codes:
        recipe = recipe.model_copy(update={"precision": type(recipe.precision)()})
    model = load_adapter(load_base(recipe, dtype=torch.float32, device="cpu"), run.adapter)
    expected = adapted_outputs(model)
    dequantize_layers(model)
    merged = merge_adapter(model)
    check = _checked(compare_outputs(expected, merged))
    dtype = DTYPES[into] if own_weights else checkpoint_dtype(recipe)
    merged = rounded(merged, dtype)
    if in_format:
        quantize_layers(merged, weight_format(into, _format_options(recipe, into)), recipe.precision.skip)
    return merged, dtype, check if is_same else None


def _format_options(recipe: Recipe, into: str) -> Mapping[str, Any]:
    return recipe.precision.options if recipe.precision.name == into else {}


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
            "keep the adapter apart: this layer and its adapter are not simply a sum",
        )
    return check


def _check_written(merged: Mapping[str, str], written: Mapping[str, str]) -> None:
    """What was read back must be what was written, weight for weight and bit for bit."""
    other = sorted(name for name in {*merged, *written} if merged.get(name) != written.get(name))
    if other:
        raise ModelError(
            f"{len(other)} weights of the written checkpoint are not those that were merged: {', '.join(other[:3])}",
            "keep the adapter apart: this architecture does not come back from its own files",
        )


def _floor(
    recipe: Recipe, run: Run, trained: _Trained, rows: list[tuple[list[int], list[bool]]], dtype: torch.dtype
) -> Divergence | None:
    """What a dtype alone costs the trained model, base and adapter apart, computed as an evaluation computes them."""
    if trained.answers is None:
        return None
    if dtype == torch.float32:
        return divergence(trained.base_loss, trained.answers, trained.answers)
    model = load_adapter(load_base(recipe, dtype=dtype, device="cpu"), run.adapter)
    with torch.autocast("cpu", dtype):
        return divergence(trained.base_loss, trained.answers, answer_distributions(model, rows))


def _quality(trained: _Trained, model: PreTrainedModel, rows: list[tuple[list[int], list[bool]]]) -> Divergence | None:
    if trained.answers is None:
        return None
    return divergence(trained.base_loss, trained.answers, answer_distributions(model, rows))


def _refuse_what_rounding_lost(merged: Merged, force: bool) -> None:
    """A merge that is meant to be the trained model may be as far from it as that is from itself in this dtype."""
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
            f"adapter (same most likely token: {1 - quality.changed:.1%}, {merged.dtype} alone: "
            f"{1 - floor.changed:.1%})",
            "merge with --format fp32, keep the adapter apart, or write it all the same with --force",
        )


def _refuse_a_lost_gain(merged: Merged, recipe: Recipe, force: bool) -> None:
    """A merge that makes another model must keep what training gained."""
    kept = None if merged.quality is None or merged.check is not None else merged.quality.kept_improvement
    if kept is not None and kept < LEAST_KEPT and not force:
        other = DEQUANTISED if recipe.precision.name != "none" else "auto"
        raise ModelError(
            f"merged into {merged.format}, the model keeps {kept:.0%} of what training gained on held-out rows",
            f"merge with --format {other}, keep the adapter apart, or write it all the same with --force",
        )


def _to_json(merged: Merged) -> dict[str, Any]:
    quality, floor = (None if found is None else found.to_json() for found in (merged.quality, merged.floor))
    return {
        "format": merged.format,
        "dtype": merged.dtype,
        "bytes": merged.bytes,
        "quality": quality,
        "floor": floor,
        "most_kl": merged.most_kl,
    }


def _name(dtype: torch.dtype) -> str:
    return {value: key for key, value in DTYPES.items()}[dtype]
