"""Merging a run: a plain checkpoint with the logits of base + adapter, or an error that says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from logits import compare_logits
from sampled import sampled
from tiny import FAMILIES, model_folder, recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunelab.errors import Interrupted, ModelError, RunError, UsageError
from tunelab.inference.divergence import Divergence
from tunelab.models.adapters import load_adapter
from tunelab.models.load import load_model
from tunelab.models.merge import logits_of
from tunelab.models.precision import weight_format
from tunelab.publishing import merge as story
from tunelab.publishing.merge import MergeFormat, compare_merges, merge, recommended_merge
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune

ROWS = [[72, 101, 108, 108, 111], [256, 3, 4, 5, 6, 7, 8]]


@pytest.fixture(scope="module")
def run(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finetune(recipe(models["llama"], rows, tmp_path_factory.mktemp("merge") / "run", data__held_out=4))


@pytest.mark.parametrize(("family", "targets"), sampled(FAMILIES, ["all-linear", ["lm_head"]]))
def test_merged_is_adapted(family: str, targets: Any, rows: Path, tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base", family, tie_word_embeddings=True)
    run = finetune(recipe(base, rows, tmp_path / "run", adapter__targets=targets, train__steps=2))
    merged = merge(run, tmp_path / "merged")
    assert merged.check is not None and merged.check.passed
    assert merged.check.layers == (1 if targets == ["lm_head"] else {"gpt2": 8, "llama": 14, "phi3": 8}[family])
    assert (merged.dtype, merged.path) == ("fp32", tmp_path / "merged")
    expected = logits_of(load_adapter(load_model(str(base), dtype=torch.float32), run.adapter), ROWS)
    plain = AutoModelForCausalLM.from_pretrained(merged.path)
    assert compare_logits(expected, logits_of(plain, ROWS)).passed
    untouched = logits_of(load_model(str(base), dtype=torch.float32), ROWS)
    assert not compare_logits(expected, untouched).passed
    assert AutoTokenizer.from_pretrained(merged.path).eos_token_id == 256
    with pytest.raises(UsageError, match="merged: exists already"):
        merge(run.path, tmp_path / "merged")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_dtype_of_one_s_own(dtype: str, run: Run, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    merged = merge(
        run,
        tmp_path / dtype,
        format=dtype,
        progress=lambda stage, done, total, detail="": seen.append((stage, done, total)),
    )
    assert merged.dtype == dtype
    assert merged.check is not None and merged.check.passed, "exact before it is rounded"
    assert merged.quality is not None and merged.floor is not None and merged.most_kl is not None
    assert merged.floor.kl > 0 and 1e-8 < merged.quality.kl <= merged.most_kl
    stored = json.loads((merged.path / "merge.json").read_text(encoding="utf-8"))
    assert (stored["quality"]["kl"], stored["floor"]["kl"]) == (merged.quality.kl, merged.floor.kl)
    assert stored["most_kl"] == merged.most_kl == pytest.approx(4 * merged.floor.kl + 1e-5)
    assert seen[-1] == ("merging", 4, 4)
    with pytest.raises(UsageError, match="no format named 'int3' to merge"):
        merge(run, tmp_path / "other", format="int3")


def test_a_merge_that_changes_logits_is_not_written(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(adapted: Any) -> Any:
        return adapted.unload()

    monkeypatch.setattr(story, "merge_adapter", wrong)
    with pytest.raises(
        ModelError, match=r"a merged layer's outputs differ from base \+ adapter's by .* of the largest"
    ):
        merge(run, tmp_path / "merged", force=True)
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_come_back_from_the_files_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = story._save

    def off_by_a_bit(model: Any, folder: Path) -> None:
        with torch.no_grad():
            weight = model.model.norm.weight
            weight[0] = torch.nextafter(weight[0], torch.tensor(2.0))
            save(model, folder)
            weight[0] = torch.nextafter(weight[0], torch.tensor(-2.0))

    monkeypatch.setattr(story, "_save", off_by_a_bit)
    with pytest.raises(ModelError, match=r"1 weights of the written checkpoint differ from the merged ones: model\.n"):
        merge(run, tmp_path / "merged", force=True)
    assert not list(tmp_path.iterdir())


def test_a_merge_that_rounding_hurts_more_than_the_dtype_hurts_the_model_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_weights = story.rounded

    def coarse(model: Any, dtype: torch.dtype) -> Any:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_((parameter * 8).round() / 8)
        return round_weights(model, dtype)

    monkeypatch.setattr(story, "rounded", coarse)
    match = (
        r"merged into bf16, the model's KL from base \+ adapter is \S+ nats on held-out rows, more than 4 times the "
        r"\S+ that bf16 alone costs base \+ adapter \(same most likely token: [\d.]+ %, bf16 alone: [\d.]+ %\)"
    )
    with pytest.raises(ModelError, match=match) as refused:
        merge(run, tmp_path / "merged", format="bf16")
    assert "--format fp32" in refused.value.hint and "--force" in refused.value.hint
    assert not list(tmp_path.iterdir())
    merged = merge(run, tmp_path / "merged", format="bf16", force=True)
    assert merged.quality is not None and merged.most_kl is not None and merged.quality.kl > merged.most_kl


def test_probabilities_that_are_no_numbers_are_refused_also_by_force(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "divergence", lambda *arguments: quality(1.0, float("nan")))
    with pytest.raises(ModelError, match="merged into fp16, the model's probabilities are not finite: fp16 overflows"):
        merge(run, tmp_path / "merged", format="fp16", force=True)


def test_runs_that_cannot_be_merged(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    full = finetune(recipe(models["llama"], rows, tmp_path / "full", method="full", train__steps=1))
    with pytest.raises(RunError, match="full fine-tuning, there is no adapter to merge"):
        merge(full, tmp_path / "merged")

    def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
        import os
        import signal

        if stage == "training":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        finetune(recipe(models["llama"], rows, tmp_path / "half"), progress=stops)
    with pytest.raises(RunError, match="no trained adapter; the run is interrupted"):
        merge(tmp_path / "half", tmp_path / "merged")
    with pytest.raises(RunError, match="no run there"):
        merge(tmp_path / "none", tmp_path / "merged")


@pytest.fixture(scope="module")
def over_nf4(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("nf4") / "run"
    return finetune(recipe(models["llama"], rows, out, precision="nf4", data__held_out=6, train__steps=30))


@pytest.mark.parametrize(
    ("precision", "family"),
    [
        # Each format and each family once in `make test`, every pair in `make test-slow`.
        pytest.param(precision, family, marks=() if (row - column) % 3 == 0 else pytest.mark.slow)
        for row, precision in enumerate(("nf4", "int8", "mxfp4"))
        for column, family in enumerate(FAMILIES)
    ],
)
def test_into_the_weights_that_the_codes_stand_for_it_is_the_trained_model(
    family: str, precision: str, models: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    changes = {"precision": precision, "data__held_out": 4, "train__steps": 12}
    run = finetune(recipe(models[family], rows, tmp_path / "run", **changes))
    merged = merge(run, tmp_path / "merged")
    assert (merged.format, merged.dtype) == ("dequantised", "fp32")
    assert merged.check is not None and merged.check.passed
    assert merged.floor is not None and merged.floor.kl == 0
    assert merged.quality is not None and merged.quality.kl < 1e-6 and merged.quality.changed == 0
    assert merged.quality.kept_improvement == pytest.approx(1, abs=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(merged.path)
    form = weight_format(precision)
    trained = load_adapter(load_model(str(models[family]), dtype=torch.float32, form=form), run.adapter)
    assert compare_logits(logits_of(trained, ROWS), logits_of(plain, ROWS)).passed
    # Into few bits again: it loads, and is another model. (In mxfp4 other programs could not load these shapes.)
    precision = "nf4" if precision == "mxfp4" else precision
    form = weight_format(precision)
    again = merge(run, tmp_path / "again", format=precision, force=True)
    assert again.check is None and again.floor is None and again.quality is not None and again.quality.kl > 0
    assert again.bytes < merged.bytes
    loaded = load_model(str(again.path), dtype=torch.float32, form=form)
    assert type(loaded.lm_head) is torch.nn.Linear
    stored = json.loads((again.path / "merge.json").read_text(encoding="utf-8"))
    assert stored["format"] == precision and stored["quality"]["kl"] == again.quality.kl


def test_all_ways_are_measured_and_one_is_recommended(over_nf4: Run) -> None:
    found = compare_merges(over_nf4)
    assert set(found) == {"fp32", "bf16", "fp16", "dequantised", "nf4", "fp4", "int8"}, "48 wide: no mxfp4 for others"
    kl = {name: one.quality.kl for name, one in found.items()}
    assert kl["dequantised"] < 1e-6 < kl["bf16"] and kl["int8"] < kl["nf4"]
    assert all(one.quality.trained_loss < one.quality.base_loss for one in found.values())
    assert recommended_merge(over_nf4.recipe, found) in found
    size = {name: one.bytes for name, one in found.items()}
    assert size["nf4"] < size["int8"] < size["fp32"] == size["dequantised"] and size["bf16"] == size["fp16"]
    assert 2 * size["bf16"] == size["fp32"]
    stored = json.loads((over_nf4.path / "merges.json").read_text(encoding="utf-8"))
    assert stored["nf4"]["kept_improvement"] == found["nf4"].quality.kept_improvement
    assert stored["nf4"]["bytes"] == size["nf4"]


def test_without_answers_nothing_can_be_compared(over_nf4: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "_quality", lambda *arguments: None)
    with pytest.raises(ModelError, match="no held-out row has an answer to compare on"):
        compare_merges(over_nf4)


def quality(kept: float, kl: float = 0.1) -> Divergence:
    return Divergence(tokens=10, kl=kl, changed=0.0, base_loss=2.0, trained_loss=1.0, loss=2.0 - kept)


SIZES = {"fp32": 32, "bf16": 16, "fp16": 16, "dequantised": 16, "int8": 8, "nf4": 4, "mxfp4": 4}
NO_GAIN = Divergence(tokens=10, kl=0.1, changed=0.0, base_loss=1.0, trained_loss=1.0, loss=1.0)


def sized(**qualities: Divergence) -> dict[str, MergeFormat]:
    return {name: MergeFormat(quality, SIZES[name]) for name, quality in qualities.items()}


def test_over_a_quantized_base_the_smallest_that_keeps_the_gain_is_recommended(over_nf4: Run) -> None:
    asked = over_nf4.recipe
    good = {"bf16": quality(0.99), "int8": quality(0.97), "nf4": quality(0.96), "mxfp4": quality(0.5)}
    assert recommended_merge(asked, sized(**good)) == "nf4"
    assert recommended_merge(asked, sized(**{**good, "nf4": quality(0.94)})) == "int8"
    assert recommended_merge(asked, sized(bf16=quality(1.0, 0.2), dequantised=quality(1.0, 0.0))) == "dequantised"
    assert recommended_merge(asked, sized(bf16=quality(0.7), nf4=quality(0.8))) == "nf4"
    lucky = {"nf4": quality(1.178), "mxfp4": quality(0.76)}
    assert recommended_merge(asked, sized(**{**good, **lucky})) == "int8", (
        "118 % is as far from the trained model as 82 %"
    )
    assert recommended_merge(asked, sized(**lucky)) == "nf4"
    assert NO_GAIN.kept_improvement is None and recommended_merge(asked, sized(bf16=NO_GAIN)) == "bf16"


def test_over_a_plain_base_a_dense_dtype_is_recommended_however_well_a_quantized_one_does(run: Run) -> None:
    dense = {"fp32": quality(1.0, 0.0), "bf16": quality(0.99, 0.1), "fp16": quality(0.99, 0.05)}
    found = sized(**dense, int8=quality(1.2, 0.0), nf4=quality(1.1, 0.0))
    assert recommended_merge(run.recipe, found) == "fp32", "the checkpoint's own dtype"
    lossy = sized(**{**dense, "fp32": quality(0.5, 0.2)}, int8=quality(1.2, 0.0))
    assert recommended_merge(run.recipe, lossy) == "fp16", "the nearest dense one"
    assert recommended_merge(run.recipe, sized(fp32=NO_GAIN, bf16=NO_GAIN, fp16=NO_GAIN)) == "fp32"


def test_a_merge_that_loses_the_gain_is_refused_unless_told(
    over_nf4: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "divergence", lambda *arguments: quality(0.4))
    with pytest.raises(ModelError, match="merged into nf4, the model keeps 40 % of training's improvement") as caught:
        merge(over_nf4, tmp_path / "merged", format="nf4")
    assert "--format dequantised" in caught.value.hint and not list(tmp_path.iterdir())
    assert merge(over_nf4, tmp_path / "merged", format="nf4", force=True).quality == quality(0.4)


def test_ways_that_a_base_does_not_have(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no format named 'dequantised' to merge"):
        merge(run, tmp_path / "merged", format="dequantised")
