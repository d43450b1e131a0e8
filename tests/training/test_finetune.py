"""A whole run from a folder and a file: what it leaves, that it is exact, that it can be stopped and resumed."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from repeatable import repeatable
from rounding import assert_same_but_for_rounding
from sampled import sampled
from tiny import FAMILIES, recipe, tiny_model
from transformers import AutoModelForCausalLM

from tunelab.config import load_recipe
from tunelab.errors import Interrupted, RunError, TrainingError, UsageError
from tunelab.models.digest import weights_hash
from tunelab.models.merge import logits_of
from tunelab.records.runs import CONTENTS, Run
from tunelab.training import finetune as module
from tunelab.training import mean_losses
from tunelab.training.checkpoint import CheckpointStore, trainable_weights
from tunelab.training.finetune import finetune, resume

ROWS = [[72, 101, 108, 108, 111], [256, 3, 4, 5, 6, 7, 8]]


def signals_after(step: int, number: int = signal.SIGINT, times: int = 1) -> Callable[..., None]:
    """A progress that sends this process a signal when a step is done."""

    def progress(stage: str, done: int, total: int | None, detail: str = "") -> None:
        if stage == "training" and done == step:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return progress


@pytest.mark.parametrize(("family", "method"), sampled(FAMILIES, ["lora", "full"]))
def test_a_run_leaves_its_result_and_says_what_ran(
    family: str, method: str, models: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    seen: list[str] = []
    run = finetune(
        recipe(models[family], rows, tmp_path / "run", method=method, data__held_out=6, train__eval_every=3),
        progress=lambda stage, done, total, detail="": seen.append(stage),
    )
    assert (run.status, run.is_done) == ("finished", True)
    passes = [stage for stage, _ in itertools.groupby(seen)]
    assert passes[-5:] == ["held-out loss", "training", "held-out loss", "training", "held-out loss"]
    assert seen.count("training") == 7, "the start, and six steps"
    assert sorted(path.name for path in run.path.iterdir() if not path.name.startswith(".")) == sorted(
        [
            "adapter" if method == "lora" else "model",
            "checkpoints",
            "compared_rows.safetensors",
            "lint.json",
            "manifest.json",
            "metrics.jsonl",
            "recipe.yaml",
            "tokenizer",
        ]
    )
    written = {path.name for path in run.path.iterdir() if not path.name.startswith(".")}
    assert written - {"recipe.yaml", "manifest.json"} <= set(CONTENTS), "--overwrite must know what it may remove"
    losses = [record["loss"] for record in run.metrics("train")]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    assert [record["step"] for record in run.metrics("held-out")] == [3, 6]
    assert load_recipe(run.recipe_file).out == str(run.path)
    check_manifest(run, method)


def check_manifest(run: Run, method: str) -> None:
    manifest = run.manifest
    trained, data, digest = manifest["trained"], manifest["data"], manifest["model"]["digest"]
    assert manifest["weights_before"] != manifest["weights_after"]
    assert manifest["held_out_loss_after"] == run.metrics("held-out")[-1]["loss"] < manifest["held_out_loss_before"]
    assert (manifest["steps"], trained["steps"]) == (6, 6)
    assert trained["targets"] == sum(record["targets"] for record in run.metrics("train"))
    assert trained["tokens_per_second"] == pytest.approx(trained["tokens"] / trained["training_seconds"])
    assert trained["targets_per_second"] == pytest.approx(trained["targets"] / trained["training_seconds"])
    assert (data["train"]["kept"], data["held_out"]["kept"]) == (18, 6)
    assert data["train"]["sha256"] != data["held_out"]["sha256"]
    assert (digest["trainable"] < digest["parameters"]) == (method == "lora")
    assert manifest["model"]["fingerprint"].startswith("sha256:")
    assert manifest["compute"]["precision"] == "no"
    assert manifest["seeds"] == {"data": 0, "train": 0}
    assert manifest["peak_resident_bytes"] > 10**7
    assert (manifest["peak_gpu_bytes"], manifest["compute"]["gpu"]) == (None, None)
    assert manifest["wall_seconds"] > trained["training_seconds"] > 0
    (session,) = manifest["sessions"]
    assert session["environment"]["libraries"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert "source" in session["environment"]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # from within PEFT
@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_adapter_loads_in_plain_peft_with_the_logits_that_were_trained(
    family: str, models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Any] = []
    save = module.save_result
    monkeypatch.setattr(
        module, "save_result", lambda run, recipe, model, *how: (trained.append(model), save(run, recipe, model, *how))
    )
    run = finetune(recipe(models[family], rows, tmp_path / "run"))
    expected = logits_of(trained[0], ROWS)
    base = AutoModelForCausalLM.from_pretrained(models[family])
    untouched = logits_of(base, ROWS)
    loaded = logits_of(PeftModel.from_pretrained(base, run.adapter), ROWS)
    assert_same_but_for_rounding(loaded, expected)
    for row, plain in zip(loaded, untouched, strict=True):
        assert not torch.allclose(row, plain, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_model_loads_in_plain_transformers(
    family: str, models: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    run = finetune(recipe(models[family], rows, tmp_path / "run", method="full"))
    loaded, info = AutoModelForCausalLM.from_pretrained(run.model, output_loading_info=True)
    assert not info["missing_keys"]
    assert weights_hash({name: p.detach() for name, p in loaded.named_parameters()}) == run.manifest["weights_after"]


def test_a_seed_decides_the_adapter(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    hashes = []
    for number, seed in enumerate((0, 0, 1)):
        made = recipe(models["llama"], rows, tmp_path / str(number), train__seed=seed, adapter__dropout=0.1)
        hashes.append(finetune(made).manifest["weights_after"])
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(("method", "number"), sampled(["lora", "full"], [signal.SIGINT, signal.SIGTERM]))
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(
    method: str, number: int, models: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    def made(name: str) -> dict[str, Any]:
        more = {"adapter__dropout": 0.2} if method == "lora" else {}
        return recipe(
            models["gpt2"], rows, tmp_path / name, method=method, data__held_out=4, train__eval_every=2, **more
        )

    whole = finetune(made("whole"))
    with pytest.raises(Interrupted, match="stopped after step 3 of 6; a checkpoint was saved") as caught:
        finetune(made("halves"), progress=signals_after(3, number))
    assert caught.value.hint == f"resume with: tunelab train --resume {tmp_path / 'halves'}"
    assert caught.value.exit_code == 130
    halves = Run(tmp_path / "halves")
    assert halves.status == "interrupted"
    assert CheckpointStore(halves.checkpoints).newest_step() == 3
    assert not halves.adapter.exists()
    resumed = resume(halves.path)
    assert resumed.status == "finished"
    assert repeatable(resumed.metrics()) == repeatable(whole.metrics())
    for name in ("weights_before", "weights_after", "held_out_loss_before", "held_out_loss_after"):
        assert resumed.manifest[name] == whole.manifest[name], name
    assert resumed.manifest["trained"]["targets"] == whole.manifest["trained"]["targets"]
    assert len(resumed.manifest["sessions"]) == 2


def test_a_second_ctrl_c_ends_at_once(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="run: stopped at once; the steps since the last checkpoint") as caught:
        finetune(recipe(models["llama"], rows, tmp_path / "run"), progress=signals_after(2, times=2))
    assert caught.value.hint == f"resume with: tunelab train --resume {tmp_path / 'run'}"
    assert Run(tmp_path / "run").status == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before
    assert resume(tmp_path / "run").status == "finished"


def let_losses_be(losses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss on other rows is the first of these for the first weights that are measured, the second for the next...

    Weights that were measured before have the loss they had: what a run does with its losses is tested, and whether
    a real one rises is not left to the machine's arithmetic.
    """
    coming, known = iter(losses), dict[str, float]()

    def table_loss(target_loss: Any, *args: Any, **more: Any) -> tuple[float, int]:
        weights = weights_hash(trainable_weights(target_loss.model))
        if weights not in known:
            known[weights] = next(coming)
        return known[weights], 1

    monkeypatch.setattr(mean_losses, "table_loss", table_loss)


def test_the_best_weights_are_exactly_those_of_the_best_evaluation(
    models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes: list[str] = []
    save_best = CheckpointStore.save_best

    def spy(self: CheckpointStore, model: Any) -> None:
        hashes.append(weights_hash(trainable_weights(model)))
        save_best(self, model)

    monkeypatch.setattr(CheckpointStore, "save_best", spy)
    let_losses_be([5.0, 4.5, 3.0, 3.5, 3.25, 6.0], monkeypatch)
    made = recipe(
        models["llama"], rows, tmp_path / "run",
        data__validation=6, train__eval_every=1, train__load_best_at_end=True, train__steps=5,
    )  # fmt: skip
    run = finetune(made)
    assert [record["loss"] for record in run.metrics("validation")] == [4.5, 3.0, 3.5, 3.25, 6.0]
    assert len(set(hashes)) == 2, "those of step 1 and of step 2"
    assert run.manifest["trained"]["best_step"] == 2
    assert run.manifest["weights_after"] == hashes[-1]
    assert (run.manifest["validation_loss_before"], run.manifest["validation_loss_after"]) == (5.0, 3.0)
    assert "held_out_loss_before" not in run.manifest and run.manifest["held_out_loss_after"] is None


def test_early_stopping(models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_losses_be([5.0, 4.0, 3.0, 3.25, 3.125], monkeypatch)
    made = recipe(
        models["llama"], rows, tmp_path / "run",
        data__validation=6, train__eval_every=1, train__early_stopping_patience=2, train__steps=40,
    )  # fmt: skip
    run = finetune(made)
    assert (run.status, run.is_done) == ("stopped early", True)
    assert (run.manifest["trained"]["steps"], run.manifest["trained"]["best_step"]) == (4, 2)
    with pytest.raises(RunError, match="the run is stopped early; there is nothing to resume"):
        resume(run.path)


def test_how_a_step_is_computed_does_not_change_what_is_learned(
    models: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "padded": {"train__packing": False},
        "checkpointing": {"train__activation_checkpointing": True},
        "smaller": {"train__micro_batch_tokens": 128},
    }
    losses = {}
    for name, changes in ways.items():
        run = finetune(recipe(models["phi3"], rows, tmp_path / name, **changes))
        losses[name] = [record["loss"] for record in run.metrics("train")]
    for name, found in losses.items():
        assert found == pytest.approx(losses["plain"], rel=1e-4), name


def test_bfloat16_on_a_cpu(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    lora = finetune(recipe(models["llama"], rows, tmp_path / "lora", train__dtype="bf16"))
    assert set(lora.manifest["model"]["digest"]["dtypes"]) == {"bfloat16", "float32"}
    assert lora.manifest["compute"]["precision"] == "bf16"
    full = finetune(recipe(models["llama"], rows, tmp_path / "full", train__dtype="bf16", method="full"))
    assert set(full.manifest["model"]["digest"]["dtypes"]) == {"float32"}
    exact = finetune(recipe(models["llama"], rows, tmp_path / "exact"))
    assert exact.manifest["compute"]["precision"] == "no", "the next run in a process has its own precision"
    for run in (lora, full):
        losses = [record["loss"] for record in run.metrics("train")]
        assert losses[-1] < losses[0]
        assert losses[0] == pytest.approx(exact.metrics("train")[0]["loss"], rel=2e-2)


def test_weights_that_do_not_change_are_no_training(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    made = recipe(models["llama"], rows, tmp_path / "run", method="full", train__lr=1e-30)
    with pytest.raises(TrainingError, match="the trained weights did not change") as caught:
        finetune(made)
    assert "train.lr" in caught.value.hint
    run = Run(tmp_path / "run")
    assert (run.status, run.model.exists()) == ("failed", False)
    assert run.manifest["error"] == "TrainingError: the trained weights did not change"


def test_a_loss_that_is_no_number_leaves_the_last_good_checkpoint(
    models: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    made = recipe(
        models["llama"], rows, tmp_path / "run",
        method="full", train__lr=1e18, train__max_grad_norm=None, train__save_every=1, train__warmup=0,
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"step \d: the (loss is|gradient norm is) (nan|inf)") as caught:
        finetune(made)
    run = Run(tmp_path / "run")
    failed = int(str(caught.value).split()[1].rstrip(":"))
    store = CheckpointStore(run.checkpoints)
    assert (run.status, store.newest_step(), len(run.metrics("train"))) == ("failed", failed - 1, failed - 1)
    model = tiny_model("llama")
    optimizer = torch.optim.AdamW(model.parameters())
    assert store.restore(model, optimizer) is not None
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_held_out_loss_that_is_no_number_stops(
    models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mean_losses, "table_loss", lambda *args, **more: (math.nan, 3))
    with pytest.raises(TrainingError, match="the held-out loss is nan"):
        finetune(recipe(models["llama"], rows, tmp_path / "run", data__held_out=4))
    assert Run(tmp_path / "run").status == "failed"


def test_a_failed_run_that_is_resumed_forgets_its_error(
    models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*args: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_result", breaks)
        with pytest.raises(OSError, match="no space left"):
            finetune(recipe(models["llama"], rows, tmp_path / "run"))
    assert Run(tmp_path / "run").manifest["error"] == "OSError: no space left on device"
    run = resume(tmp_path / "run")
    assert (run.status, run.manifest["error"]) == ("finished", None)


def test_a_second_run_in_one_place_is_refused(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    made = recipe(models["llama"], rows, tmp_path / "run")
    run = finetune(made)
    before = run.manifest_file.read_bytes()
    with pytest.raises(RunError, match=r"already contains a run \(finished\)"):
        finetune(made)
    with pytest.raises(RunError, match="the run is finished; there is nothing to resume") as caught:
        resume(run.path)
    assert f"evaluate it (tunelab eval {run.path})" in caught.value.hint and "--resume" not in caught.value.hint
    assert run.manifest_file.read_bytes() == before
    assert finetune({**made, "train": {**made["train"], "steps": 2}}, overwrite=True).manifest["steps"] == 2


def test_what_a_run_needs_is_not_overwritten(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    run = finetune(recipe(models["llama"], rows, tmp_path / "run", method="full", train__lr=1e-3, train__steps=1))
    with pytest.raises(UsageError, match=r"model: .*run/model is in .*run, which would be replaced"):
        finetune(recipe(run.model, rows, run.path), overwrite=True)
    assert run.is_done and run.model.exists()


def test_what_is_about_to_run_is_said_before_the_first_step(
    models: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    made = recipe(models["llama"], rows, tmp_path / "run", data__held_out=6)
    with pytest.raises(Interrupted):
        finetune(made, notify=said.append, progress=signals_after(2))
    assert said[0].startswith("cpu, fp32 (checkpoint in fp32), ")
    assert "; template plain, rows up to 128 tokens; lr 0.01, " in said[0]
    assert said[0].endswith("batches of 4 rows in micro-batches of up to 160 tokens, packed")
    assert said[1].startswith("18 rows, ") and "; 6 steps, 1.2 epochs" in said[1]
    assert said[3].startswith("warning: with 6 held-out rows the minimum detectable difference is")
    estimate = r"about [\d.]+ s of training: [\d,]+ tokens at [\d.,]+ tokens/s \(%s\)"
    assert re.fullmatch(estimate % "a forward pass takes 1/2 of it", said[4]), said[4]
    resumed: list[str] = []
    resume(tmp_path / "run", notify=resumed.append)
    assert resumed[:-1] == [said[0], f"{said[1]}; resuming after step 2", *said[2:4]]
    assert re.fullmatch(estimate % "as before the interruption", resumed[-1]), resumed[-1]


def test_a_run_that_another_process_writes_is_refused(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        finetune(recipe(models["llama"], rows, tmp_path / "run"), progress=signals_after(2))
    run = Run(tmp_path / "run")
    before = run.manifest_file.read_bytes()
    with run.locked(), pytest.raises(RunError, match="another process is writing this run"):
        resume(run.path)
    assert run.manifest_file.read_bytes() == before
    assert resume(run.path).status == "finished"


def test_a_run_needs_no_place_of_its_own(
    models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = recipe(models["llama"], rows, tmp_path, train__steps=1)
    del made["out"]
    assert [str(finetune(made).path) for _ in range(2)] == ["runs/llama-lora-rows-1", "runs/llama-lora-rows-2"]


def test_a_recipe_from_a_file(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe(models["llama"], rows, tmp_path / "run", train__steps=1)))  # JSON is YAML
    assert finetune(file).status == "finished"


def test_nothing_is_printed(
    models: dict[str, Path], rows: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    finetune(recipe(models["llama"], rows, tmp_path / "run", data__held_out=4))
    assert capfd.readouterr() == ("", "")
