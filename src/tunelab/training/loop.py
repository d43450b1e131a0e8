"""The training loop: from a plan of steps to trained weights.

for every step of the plan:
    seed the random numbers from (seed, step, rank)         so that a resumed step draws the same numbers
    for every micro-batch of the step: forward, backward    loss = sum over targets / targets of the whole step
    check that loss and gradient are finite                 else stop; the last checkpoint is intact
    clip, step, log; evaluate and save when due
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from tunelab.data.loader import PackedBatch, Step, TrainingPlan, packed_batch
from tunelab.errors import TrainingError
from tunelab.progress import TRAINING, Progress, silent
from tunelab.records.runs import EXPERTS, VALIDATION
from tunelab.training.checkpoint import CheckpointStore, LoopState
from tunelab.training.expert_load import ExpertLoad
from tunelab.training.loss import TargetLoss
from tunelab.training.optimizer import Schedule, learning_rate
from tunelab.training.throughput import Throughput, shown

Outcome = Literal["finished", "stopped early", "interrupted"]


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the loop besides the plan; names and units as in the recipe's `train` section."""

    lr: float
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    max_grad_norm: float | None = 1.0
    eval_every: int | None = None
    early_stopping_patience: int | None = None
    save_every: int | None = None
    is_sharded: bool = False
    deterministic: bool = False
    seed: int = 0


@dataclass(frozen=True)
class StepResult:
    """One step: mean loss over its targets (nats), and the gradient norm before clipping.

    The norm is None if fp16's scaled gradients overflowed: the scaler skips such a step and lowers its scale.
    """

    loss: float
    gradient_norm: float | None


class TrainingLoop:
    """Trains `module` along `plan`.

    Args:
        module: the model with its loss, not yet prepared by accelerate.
        optimizer: over the module's trainable parameters.
        accelerator: provides the device and the processes.
        checkpoints: where states are saved; None = never.
        log: takes one record per step or evaluation, a flat mapping; called in the main process only.
        evaluate: returns the mean loss on the rows in `evaluated_on`; called in every process every `eval_every` steps.
        evaluated_on: "validation" or "held-out": the kind of these records in the log.
        should_stop: called after every step; True saves a checkpoint and ends the loop as interrupted.
    """

    def __init__(
        self,
        module: TargetLoss,
        optimizer: torch.optim.Optimizer,
        plan: TrainingPlan,
        settings: LoopSettings,
        accelerator: Accelerator,
        *,
        checkpoints: CheckpointStore | None = None,
        log: Callable[[dict[str, Any]], None] = lambda record: None,
        evaluate: Callable[[], float] | None = None,
        evaluated_on: str = VALIDATION,
        should_stop: Callable[[], bool] = lambda: False,
        progress: Progress = silent,
    ) -> None:
        self.model, self.attention = module.model, module.attention
        self.expert_load = ExpertLoad(module.model)
        self.plain_optimizer = optimizer
        self.module, self.optimizer = accelerator.prepare(module, optimizer)
        self.plan = plan
        self.settings = settings
        self.accelerator = accelerator
        self.checkpoints = checkpoints
        self.log = log
        self.evaluate = evaluate
        self.evaluated_on = evaluated_on
        self.should_stop = should_stop
        self.progress = progress
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def run(self) -> tuple[LoopState, Outcome]:
        """Train from the newest checkpoint, or from the start if there is none, to the end of the plan."""
        state = self._restore()
        started, before = time.perf_counter(), state.seconds
        throughput, total = Throughput(self.accelerator.device), self.plan.total_steps
        self.progress(TRAINING, state.step, total)
        # A run that was killed after early stopping, before its result was saved, must not train further.
        outcome: Outcome = "stopped early" if self._patience_is_spent(state) else "finished"
        self.module.train()
        with self.attention(), deterministic(self.settings.deterministic):
            while outcome == "finished" and state.step < total:
                record = self._step(state, total, throughput)
                state.seconds = before + time.perf_counter() - started
                self.progress(TRAINING, state.step, total, shown(record))
                self._evaluate_when_due(state, total)
                if self._patience_is_spent(state):
                    outcome = "stopped early"
                elif state.step < total and self._any_process(self.should_stop()):
                    outcome = "interrupted"
                if outcome != "finished" or self._save_is_due(state, total):
                    self._save(state)
        return state, outcome

    def _step(self, state: LoopState, total: int, throughput: Throughput) -> dict[str, Any]:
        """Run one step and log its record, which is returned."""
        began = time.perf_counter()
        step, epoch = self.plan.step(state.step)
        lr = learning_rate(
            state.step,
            total,
            peak=self.settings.lr,
            schedule=self.settings.schedule,
            warmup=self.settings.warmup,
        )
        result = self._gradients(step, state.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        state.step += 1
        state.targets += step.targets
        state.tokens += step.tokens
        record = {
            "kind": "train",
            "step": state.step,
            "steps": total,
            "epoch": round(epoch, 6),
            "loss": result.loss,
            "gradient_norm": result.gradient_norm,
            "lr": lr,
            "targets": step.targets,
            "tokens": step.tokens,
            **throughput.after_step(step.tokens, time.perf_counter() - began, total - state.step),
        }
        self._log(**record)
        return record

    def _gradients(self, step: Step, number: int) -> StepResult:
        """Forward and backward over a step's batches; leaves clipped gradients of the mean loss over its targets."""
        if step.targets == 0:
            raise TrainingError(f"step {number + 1} has no target tokens", "check the rows with `tunelab inspect`")
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        seed_step(self.settings.seed, number, rank)
        batches = self.plan.batches(step, rank=rank, ranks=ranks)
        passes = self._passes(step, len(batches))
        loss_sum = torch.zeros((), device=self.accelerator.device)
        for index in range(passes):
            # A process without rows still takes part in the exchange, with a loss of weight zero.
            self.expert_load.counts = has_rows = index < len(batches)
            rows = batches[index] if has_rows else [step.rows[0]]
            batch = packed_batch(self.plan.table, rows, self.plan.loss_on).to(self.accelerator.device)
            with nullcontext() if index == passes - 1 else self.accelerator.no_sync(self.module):
                loss = self._loss(batch)
                loss_sum += loss.detach() * has_rows
                self.accelerator.backward(loss * (ranks / step.targets * has_rows))
        loss_sum = self.accelerator.reduce(loss_sum, "sum")
        self.accelerator.unscale_gradients(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm or math.inf)
        # The one place of a step where the host waits for the GPU: both numbers are read at once.
        total, norm_before = torch.stack([loss_sum, norm.to(loss_sum)]).tolist()
        mean = total / step.targets
        if not math.isfinite(mean):
            raise TrainingError(
                f"step {number + 1}: the loss is {mean}; the previous step's weights are intact",
                "lower train.lr, use train.dtype=fp32 or bf16, or check the step's rows with `tunelab inspect`",
                diverged=True,
            )
        return StepResult(mean, self._checked(norm_before, number))

    def _passes(self, step: Step, own: int) -> int:
        """Micro-batches of a step: at least one, and of a sharded base as many in every process, which all gather its
        blocks together."""
        if not self.settings.is_sharded:
            return max(own, 1)
        ranks = self.accelerator.num_processes
        return max(len(self.plan.batches(step, rank=rank, ranks=ranks)) for rank in range(ranks))

    def _loss(self, batch: PackedBatch) -> Tensor:
        with self.accelerator.autocast():
            # As numbers: DistributedDataParallel would copy a tensor of them to the GPU.
            starts = batch.row_starts.tolist()
            return self.module(batch.input_ids, starts, batch.predicted_from, batch.labels)  # type: ignore[no-any-return]

    def _checked(self, norm: float, number: int) -> float | None:
        """The gradient norm before clipping; None if fp16 overflowed, see StepResult."""
        if math.isfinite(norm):
            return norm
        scaler = self.accelerator.scaler
        # At a high loss scale, overflow is normal in fp16; at a scale of 1 the scale is not the cause.
        if scaler is not None and scaler.get_scale() > 1:
            return None
        scaled = "" if scaler is None else " even with a loss scale of 1"
        raise TrainingError(
            f"step {number + 1}: the gradient norm is {norm}{scaled}; the previous step's weights are intact",
            "lower train.lr, or use train.dtype=fp32 or bf16",
            diverged=True,
        )

    def _evaluate_when_due(self, state: LoopState, total: int) -> None:
        """Evaluate every `eval_every` steps and at the end, and keep the best weights."""
        every = self.settings.eval_every
        if self.evaluate is None or every is None or (state.step % every and state.step != total):
            return
        loss = self.evaluate()
        improved = state.best_loss is None or loss < state.best_loss
        if improved:
            state.best_loss, state.best_step, state.evaluations_without_gain = loss, state.step, 0
            if self.checkpoints is not None and self.accelerator.is_main_process:
                self.checkpoints.save_best(self.model)
        else:
            state.evaluations_without_gain += 1
        self._log(kind=self.evaluated_on, step=state.step, loss=loss, best=improved)

    def _patience_is_spent(self, state: LoopState) -> bool:
        patience = self.settings.early_stopping_patience
        return patience is not None and state.evaluations_without_gain >= patience

    def _save_is_due(self, state: LoopState, total: int) -> bool:
        every = self.settings.save_every
        return state.step == total or (every is not None and state.step % every == 0)

    def _save(self, state: LoopState) -> None:
        if load := self.expert_load.read(lambda counts: self.accelerator.reduce(counts, "sum")):
            self._log(kind=EXPERTS, step=state.step, **load)
        if self.checkpoints is None:
            return
        if self.accelerator.scaler is not None:
            state.loss_scaling = self.accelerator.scaler.state_dict()
        if self.accelerator.is_main_process:
            self.checkpoints.save(state, self.model, self.plain_optimizer)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> LoopState:
        state = self.checkpoints.restore(self.model, self.plain_optimizer) if self.checkpoints is not None else None
        if state is None:
            return LoopState()
        if state.loss_scaling is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.loss_scaling)
        return state

    def _any_process(self, flag: bool) -> bool:
        """True in every process if it is True in any, so that all stop after the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        total = self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum")
        return bool(float(total) > 0)

    def _log(self, **record: Any) -> None:
        if self.accelerator.is_main_process:
            self.log(record)


@contextmanager
def deterministic(asked: bool) -> Iterator[None]:
    """Within the block torch takes only kernels that give the same bits every time.

    Raises:
        TrainingError: there is none for an operation of the model.
    """
    if not asked:
        yield
        return
    settings: Any = torch.utils.deterministic
    before, fills = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = False  # it makes faults repeatable, and costs time
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise TrainingError(
            f"train.deterministic=true: {str(error).splitlines()[0]}", "set train.deterministic=false"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fills


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's random numbers for one step of one process: dropout is a function of (seed, step, rank)."""
    generator = torch.Generator().manual_seed(seed)
    base = int(torch.randint(2**31, (), generator=generator))
    torch.manual_seed((base * 1_000_003 + step) * 4_099 + rank)
