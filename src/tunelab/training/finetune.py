"""A run from start to end: recipe -> rows -> model -> training -> saved result, and a manifest of what really ran."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from tunelab.config import Recipe, RecipeLike, as_recipe, resolve, to_yaml
from tunelab.cpu import usable_cores
from tunelab.data.loader import TrainingPlan
from tunelab.data.prepared import PreparedData
from tunelab.errors import Interrupted, RunError, TunelabError
from tunelab.failures import in_words, system_error
from tunelab.files import recover_all_in
from tunelab.models.digest import weights_hash
from tunelab.models.forward import underlying
from tunelab.models.structure import row_layout
from tunelab.notebook import said_in_notebooks, shown_in_notebooks
from tunelab.preparation.base import run_tokenizer, trained_recipe
from tunelab.preparation.model import with_dtype
from tunelab.preparation.rows import (
    check_local_files,
    fit_to_model,
    rows_to_choose_by,
    table_rows,
    without_held_out,
)
from tunelab.preparation.start import keep_first, keep_start, start_identity, with_start
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.progress import Progress, unheard
from tunelab.records.runs import HELD_OUT, VALIDATION, Run, eval_command, new_run, now, open_run, resume_command
from tunelab.report.model_card import write_model_card
from tunelab.training.checkpoint import CheckpointStore, LoopState, trainable_weights
from tunelab.training.device_memory import check_memory, device_memory, with_micro_batch
from tunelab.training.forecast import data_warnings, forecast, time_sentence
from tunelab.training.interrupt import asked_to_stop
from tunelab.training.loop import Outcome, TrainingLoop
from tunelab.training.loss import TargetLoss
from tunelab.training.manifest import check_unchanged, closing, opening, resolved_sentence, resolved_settings
from tunelab.training.mean_losses import HELD_OUT_LOSS, VALIDATION_LOSS, Measure, mean_losses
from tunelab.training.meter import Meter
from tunelab.training.optimizer import adamw, loraplus_factors
from tunelab.training.saved_weights import round_for_saving, save_result, saved_dtype
from tunelab.training.setup import (
    build_model,
    check_nothing_needed_in,
    checked_rows,
    default_path,
    keep_tokenizer_and_rows,
    loop_settings,
    make_accelerator,
    release,
    rows_to_initialize,
    training_plan,
)
from tunelab.training.sharding import shard_base
from tunelab.training.throughput import last_rate
from tunelab.training.token_warnings import token_sentences
from tunelab.training.trackers import tracked


def finetune(
    recipe: RecipeLike | None = None,
    *,
    overwrite: bool = False,
    measures_held_out: bool = True,
    progress: Progress = shown_in_notebooks,
    notify: Callable[[str], None] = said_in_notebooks,
    **changes: Any,
) -> Run:
    """Run a recipe in a new run directory.

        finetune("recipe.yaml", train={"lr": 1e-4}, out="runs/first")
        finetune(model="distilgpt2", data="rows.jsonl")

    Args:
        recipe: its object, a mapping, or a YAML file's path; None = only the changes.
        progress: called after each step; default: a bar in a notebook, nothing elsewhere.
        changes: recipe keys that replace the recipe's; a mapping is merged into its section.
        overwrite: remove a run that the recipe's `out` contains, with its evaluations.
        measures_held_out: False for a training that only helps to choose: held-out rows stay apart and unseen.
        notify: called with sentences for a person: what the training is about to do, and warnings; default: printed in
            a notebook.

    Raises:
        TunelabError: the recipe, its data or its model cannot be used, or training had to stop; the message says why.
        Interrupted: Ctrl-C or SIGTERM arrived; a checkpoint was saved, and resume() continues from it.
    """
    given = resolve(with_start(as_recipe(recipe, changes)))
    check_local_files(given.data)
    tokenizer = load_recipe_tokenizer(given)
    resolved = with_dtype(fit_to_model(given, tokenizer))
    accelerator = make_accelerator(resolved)
    try:
        resolved = with_micro_batch(resolved, accelerator, notify)
        run = start_on_main(accelerator, resolved, overwrite=overwrite)
        return _execute(run, resolved, tokenizer, accelerator, progress, notify, measures_held_out)
    finally:
        release(accelerator)


def resume(
    path: Run | Path | str,
    *,
    base: Path | str | None = None,
    measures_held_out: bool = True,
    progress: Progress = shown_in_notebooks,
    notify: Callable[[str], None] = said_in_notebooks,
) -> Run:
    """Resume a run from its newest checkpoint; the result is what an uninterrupted run would have given.

    Args:
        base: the folder where the run's base is now, if it moved.
        measures_held_out, notify: as for finetune().

    Raises:
        RunError: there is no run, it is finished, or its base or rows are not those that it started with.
    """
    run = open_run(path)
    if run.is_done:
        raise RunError(
            f"{run.path}: the run is {run.status}; there is nothing to resume",
            f"evaluate it ({eval_command(run.path)}), or train again with --overwrite or another --out",
        )
    started = "data" in run.manifest
    keep_threads(run.manifest)
    recipe = trained_recipe(run, base)
    check_local_files(recipe.data)
    tokenizer = run_tokenizer(run) if started else load_recipe_tokenizer(recipe)
    accelerator = make_accelerator(recipe)
    try:
        recipe = with_micro_batch(recipe, accelerator, notify)
        return _execute(run, recipe, tokenizer, accelerator, progress, notify, measures_held_out)
    finally:
        release(accelerator)


def keep_threads(manifest: dict[str, Any]) -> None:
    """Compute with as many threads as the run began with, where there are as many cores: sums keep their order."""
    threads = manifest.get("compute", {}).get("threads")
    if threads is not None and threads <= usable_cores():
        torch.set_num_threads(threads)


def _execute(
    run: Run,
    recipe: Recipe,
    tokenizer: Any,
    accelerator: Accelerator,
    progress: Progress,
    notify: Callable[[str], None],
    measures_held_out: bool,
) -> Run:
    with run.locked() if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            recover_all_in(run.path)
        try:
            listener = notify if accelerator.is_main_process else unheard
            _train(run, recipe, tokenizer, accelerator, progress, listener, measures_held_out)
        except (Interrupted, KeyboardInterrupt) as stop:
            if accelerator.is_main_process:
                run.update_manifest(status="interrupted", ended=now())
            if isinstance(stop, Interrupted):
                raise
            raise Interrupted(
                f"{run.path}: stopped at once; the steps since the last checkpoint will be run again",
                f"resume with: {resume_command(run.path)}",
            ) from None
        except Exception as error:
            if accelerator.is_main_process:
                with suppress(OSError):  # on a full disk the status stays "running", which can be resumed as well
                    run.update_manifest(status="failed", ended=now(), error=f"{type(error).__name__}: {error}")
            if system_error(error) is not None and any(run.checkpoints.glob("step-*")):
                said = in_words(error)
                raise RunError(
                    said.message, f"{said.hint.partition(', then')[0]}; {resume_command(run.path)}"
                ) from error
            raise
    return run


def _train(
    run: Run,
    recipe: Recipe,
    tokenizer: Any,
    accelerator: Accelerator,
    progress: Progress,
    notify: Callable[[str], None],
    measures_held_out: bool,
) -> None:
    meter = Meter(accelerator.device)
    with accelerator.main_process_first():
        data, found = checked_rows(run, recipe, tokenizer, progress)
        if accelerator.is_main_process:
            keep_start(run, recipe)
    if not measures_held_out:
        data = without_held_out(data)
    started_from = start_identity(run, recipe)
    check_memory(recipe, data.train, device_memory(accelerator.device), notify)
    model = _model(run, recipe, tokenizer, accelerator, data)
    check_unchanged(run, data)
    module = TargetLoss(model, layout=row_layout(model, recipe.train.packing), noise_alpha=recipe.train.neftune_alpha)
    shard_base(module, accelerator, recipe.train.sharding)
    plan = training_plan(recipe, data.train, module.layout)
    checkpoints = CheckpointStore(run.checkpoints, recipe.train.keep_checkpoints)
    if accelerator.is_main_process:
        for sentence in checkpoints.recover():
            notify(sentence)
        if recipe.train.load_best_at_end:
            checkpoints.check_best()
        resumed = bool(checkpoints.paths())
        keep_tokenizer_and_rows(run, tokenizer, data, found)
        opened = opening(run, recipe, data, module, tokenizer, plan, accelerator, resumed, started_from, found)
        run.update_manifest(**opened)
        run.keep_metrics_up_to(checkpoints.newest_step())
    accelerator.wait_for_everyone()
    measures = mean_losses(module, data, recipe, accelerator, progress)
    step = checkpoints.newest_step()
    notify(resolved_sentence(resolved_settings(recipe, accelerator, module.layout)))
    said = forecast(recipe, plan, model, held_out=len(data.held_out), step=step)
    for sentence in (*said, *token_sentences(recipe, tokenizer, data.train), *data_warnings(recipe, data, found)):
        notify(sentence)
    forward, earlier = _measure_before(run, data, measures, accelerator), last_rate(run, step)
    if step < plan.total_steps and (forward or earlier):
        notify(time_sentence(recipe, plan, forward=forward, earlier=earlier, step=step))
    with tracked(run, recipe, accelerator):
        state, outcome = _run_loop(run, recipe, module, plan, accelerator, checkpoints, measures, progress)
    if recipe.train.load_best_at_end:
        checkpoints.load_best(model)
    trained = weights_hash(trainable_weights(model))  # before they are rounded: the proof that they changed
    saved = None
    if recipe.method == "full":
        saved = round_for_saving(recipe, underlying(model), table_rows(rows_to_choose_by(data)))
    losses = {f"{name}_after": measure() for name, measure in measures.items()}
    if accelerator.is_main_process:
        proof = {**closing(run, trained, state, meter, outcome), **losses, "saved": saved}
        save_result(run, recipe, model, tokenizer, saved_dtype(saved))
        write_model_card(run, {**run.manifest, **proof})
        run.update_manifest(**proof)
    accelerator.wait_for_everyone()


def _model(run: Run, recipe: Recipe, tokenizer: Any, accelerator: Accelerator, data: PreparedData) -> nn.Module:
    """The model to train; the run keeps how its adapter began, where a resumed run needs that."""
    start, rows = run.start if run.start.exists() else None, rows_to_initialize(recipe, data.train)
    accelerator.wait_for_everyone()  # before the main process writes it
    model = build_model(recipe, tokenizer, accelerator, rows=rows, start=start)
    if accelerator.is_main_process:
        keep_first(run, recipe, model)
    return model


def _measure_before(run: Run, data: PreparedData, measures: dict[str, Measure], accelerator: Accelerator) -> float:
    """Measure and record the losses before the first step; tokens per second of that, or 0."""
    tables = {HELD_OUT_LOSS: data.held_out, VALIDATION_LOSS: data.validation}
    tokens, began = 0, time.perf_counter()
    for name, measure in measures.items():
        if f"{name}_before" not in run.manifest:
            before = measure()
            tokens += tables[name].tokens
            if accelerator.is_main_process:
                run.update_manifest(**{f"{name}_before": before})
    return tokens / (time.perf_counter() - began)


def _run_loop(
    run: Run,
    recipe: Recipe,
    module: TargetLoss,
    plan: TrainingPlan,
    accelerator: Accelerator,
    checkpoints: CheckpointStore,
    measures: dict[str, Measure],
    progress: Progress,
) -> tuple[LoopState, Outcome]:
    settings = recipe.train
    optimizer = adamw(
        module.parameters(),
        lr=settings.lr or 0.0,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        eps=settings.eps,
        in_8_bits=settings.optimizer == "adamw-8bit",
        lr_factors=_lr_factors(recipe, module),
    )

    def log(record: dict[str, Any]) -> None:
        run.append_metrics(record)
        kind = record["kind"]
        scalars = {f"{kind}/{name}": value for name, value in record.items() if name not in ("kind", "step", "load")}
        accelerator.log(scalars, step=record["step"])

    with asked_to_stop() as should_stop:
        loop = TrainingLoop(
            module,
            optimizer,
            plan,
            loop_settings(recipe, plan),
            accelerator,
            checkpoints=checkpoints,
            log=log,
            evaluate=measures.get(VALIDATION_LOSS) or measures.get(HELD_OUT_LOSS),
            evaluated_on=VALIDATION if VALIDATION_LOSS in measures else HELD_OUT,
            should_stop=should_stop,
            progress=progress,
        )
        state, outcome = loop.run()
    if outcome == "interrupted":
        raise Interrupted(
            f"stopped after step {state.step} of {plan.total_steps}; a checkpoint was saved",
            f"resume with: {resume_command(run.path)}",
        )
    return state, outcome


def _lr_factors(recipe: Recipe, module: nn.Module) -> dict[nn.Parameter, float]:
    """LoRA+'s multiples of the learning rate, if the recipe asks for it."""
    train = recipe.train
    if train.loraplus_lr_ratio is None or train.lr is None:
        return {}
    return loraplus_factors(
        module, ratio=train.loraplus_lr_ratio, embedding_lr=train.loraplus_lr_embedding, lr=train.lr
    )


def start_on_main(accelerator: Accelerator, recipe: Recipe, *, overwrite: bool = False) -> Run:
    """Create the run directory in the main process; its path, or the error, goes to every process."""
    outcome: list[Any] = [None]
    if accelerator.is_main_process:
        path = Path(recipe.out) if recipe.out else default_path(recipe)
        try:
            if overwrite:
                check_nothing_needed_in(path, recipe)
            text = to_yaml(recipe.model_copy(update={"out": str(path)}))
            outcome = [new_run(path, text, overwrite=overwrite).path]
        except TunelabError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], TunelabError):
        raise outcome[0]
    return Run(outcome[0])
