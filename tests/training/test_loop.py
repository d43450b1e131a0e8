"""The loop: learns, stops when it should, keeps the best, resumes to the same bits, and refuses what is no number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from repeatable import repeatable
from sampled import sampled
from tiny import random_table, tiny_model
from torch import Tensor

from tunelab.data.loader import TokenTable, TrainingPlan
from tunelab.errors import TrainingError
from tunelab.models.adapters import add_lora
from tunelab.models.digest import weights_hash
from tunelab.models.targets import resolve_targets
from tunelab.training.checkpoint import CheckpointStore, LoopState, trainable_weights
from tunelab.training.loop import LoopSettings, Outcome, TrainingLoop, seed_step
from tunelab.training.loss import TargetLoss
from tunelab.training.optimizer import adamw
from tunelab.training.throughput import shown

LENGTHS = (12, 9, 20, 7, 15, 4, 16, 11)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def lora_model(dropout: float = 0.0) -> Any:
    return add_lora(tiny_model("llama"), rank=4, alpha=8, dropout=dropout)


class Training:
    """A loop over a few random rows, with everything that it tells written down."""

    def __init__(self, model: Any, table: TokenTable | None = None, *, steps: int = 6, **more: Any) -> None:
        plan_names = ("batch_size", "micro_batch_tokens", "packing", "seed")
        loop_names = ("checkpoints", "evaluate", "should_stop", "accelerator")
        plan = {name: more.pop(name) for name in plan_names if name in more}
        parts = {name: more.pop(name) for name in loop_names if name in more}
        noise_alpha = more.pop("noise_alpha", None)
        self.model = model
        self.records: list[dict[str, Any]] = []
        self.shown: list[tuple[str, int, int | None, str]] = []
        self.plan = TrainingPlan(
            **{
                "table": table or random_table(LENGTHS),
                "epochs": 1,
                "steps": steps,
                "batch_size": 4,
                "batch_tokens": None,
                "micro_batch_tokens": 64,
                **plan,
            }
        )
        self.optimizer = adamw(model.parameters(), lr=0.0, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
        settings = LoopSettings(**{"lr": 1e-2, **more})
        accelerator = parts.pop("accelerator", None) or Accelerator(cpu=True)
        self.loop = TrainingLoop(
            TargetLoss(model, noise_alpha=noise_alpha),
            self.optimizer,
            self.plan,
            settings,
            accelerator,
            log=self.records.append,
            progress=lambda stage, done, total, detail="": self.shown.append((stage, done, total, detail)),
            **parts,
        )

    def run(self) -> tuple[LoopState, Outcome]:
        return self.loop.run()

    def of(self, kind: str, name: str) -> list[Any]:
        return [record[name] for record in self.records if record["kind"] == kind]

    @property
    def hash(self) -> str:
        return weights_hash(trainable_weights(self.model))


def after(calls: int) -> Callable[[], bool]:
    """A question that is answered yes from its `calls`-th asking on."""
    asked = iter(range(1, 10**6))
    return lambda: next(asked) >= calls


@pytest.mark.parametrize(("family", "method"), sampled(["gpt2", "llama", "phi3"], ["full", "lora"]))
def test_it_learns_eight_rows_by_heart(family: str, method: str) -> None:
    model = tiny_model(family)
    if method == "lora":
        # The head too: random frozen weights behind the last norm cannot be made certain of anything.
        model = add_lora(model, rank=16, alpha=32, targets=[*resolve_targets(model, "all-linear"), "lm_head"])
    training = Training(model, steps=30, batch_size=8, micro_batch_tokens=200, lr=3e-2)
    _, outcome = training.run()
    losses = training.of("train", "loss")
    assert outcome == "finished"
    assert losses[0] > 4
    assert losses[-1] < 0.05


def test_what_is_logged_and_shown() -> None:
    training = Training(lora_model(), steps=3, schedule="linear", warmup=1)
    state, outcome = training.run()
    assert (outcome, state.step) == ("finished", 3)
    table = training.plan.table
    assert [sorted(record) for record in repeatable(training.records)] == [
        ["epoch", "gradient_norm", "kind", "loss", "lr", "step", "steps", "targets", "tokens"]
    ] * 3
    assert training.of("train", "step") == [1, 2, 3]
    assert training.of("train", "epoch") == [0.5, 1.0, 1.5]
    assert training.of("train", "lr") == pytest.approx([1e-2, 1e-2, 5e-3])
    assert sum(training.of("train", "targets")[:2]) == sum(table.targets)
    assert sum(training.of("train", "tokens")[:2]) == table.tokens
    assert (state.targets, state.tokens) == (sum(training.of("train", "targets")), sum(training.of("train", "tokens")))
    assert all(norm > 0 for norm in training.of("train", "gradient_norm"))
    assert training.of("train", "steps") == [3, 3, 3]
    assert [shown[:3] for shown in training.shown] == [("training", n, 3) for n in (0, 1, 2, 3)]
    for record, (*_, detail) in zip(training.records, training.shown[1:], strict=True):
        assert detail == shown(record) and detail.startswith(f"loss {record['loss']:.3f}  ")
    assert state.seconds > 0


def test_a_step_s_record_says_how_fast_it_goes_and_how_long_it_still_takes() -> None:
    training = Training(lora_model(), steps=4)
    training.run()
    first, *_, last = training.records
    assert first["tokens_per_second"] == pytest.approx(first["tokens"] / first["seconds"])
    seconds, tokens = (sum(training.of("train", name)) for name in ("seconds", "tokens"))
    assert last["tokens_per_second"] == pytest.approx(tokens / seconds), "a mean over the last steps"
    assert first["seconds_left"] >= 3 * first["seconds"] and last["seconds_left"] == 0
    assert last["peak_resident_bytes"] >= first["peak_resident_bytes"] > 10**7 and "peak_gpu_bytes" not in first


def test_the_logged_loss_is_the_mean_over_the_step_s_targets() -> None:
    training = Training(tiny_model("llama"), steps=1, batch_size=8)
    from tunelab.training.loss import table_loss

    total, targets = table_loss(
        TargetLoss(training.model),
        training.plan.table,
        micro_batch_tokens=64,
        loss_on="completion",
        device=torch.device("cpu"),
    )
    training.run()
    assert training.of("train", "loss")[0] == pytest.approx(
        total / targets, rel=1e-5
    )  # float32, summed in another order


def test_gradients_are_clipped_and_the_norm_before_that_is_logged() -> None:
    runs = [Training(tiny_model("llama"), steps=1, max_grad_norm=clip) for clip in (None, 1e-3)]
    seen: list[Tensor] = []
    for training in runs:
        step = training.optimizer.step

        def spy(*args: Any, training: Training = training, step: Any = step, **more: Any) -> Any:
            seen.append(torch.stack([p.grad.norm() for p in training.model.parameters()]).norm())
            return step(*args, **more)

        training.optimizer.step = spy  # type: ignore[method-assign]
        training.run()
    norms = [training.of("train", "gradient_norm")[0] for training in runs]
    assert norms[0] == norms[1] == pytest.approx(float(seen[0]), rel=1e-5)
    assert float(seen[1]) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("stop_after", "checkpointing"), sampled([1, 3, 5], [False, True]))
def test_interrupted_and_resumed_is_uninterrupted_bit_for_bit(
    stop_after: int, checkpointing: bool, tmp_path: Path
) -> None:
    def build(**more: Any) -> Training:
        base = tiny_model("gpt2", attn_pdrop=0.1, resid_pdrop=0.1, embd_pdrop=0.1)
        if checkpointing:
            base.activation_checkpointing_enable({"use_reentrant": False})
        return Training(add_lora(base, rank=4, alpha=8, dropout=0.2), noise_alpha=5.0, **more)

    whole = build()
    whole.run()
    store = CheckpointStore(tmp_path)
    first = build(checkpoints=store, should_stop=after(stop_after))
    state, outcome = first.run()
    assert (outcome, state.step) == ("interrupted", stop_after)
    assert store.newest_step() == stop_after
    torch.manual_seed(99)  # whatever happened in between
    second = build(checkpoints=store)
    state, outcome = second.run()
    assert (outcome, state.step, store.newest_step()) == ("finished", 6, 6)
    assert repeatable(first.records + second.records) == repeatable(whole.records)
    assert second.hash == whole.hash
    assert state.targets == sum(whole.of("train", "targets"))


def test_dropout_is_at_work_and_follows_from_seed_and_step() -> None:
    runs = []
    for dropout, seed in ((0.0, 0), (0.3, 0), (0.3, 0), (0.3, 1)):
        training = Training(lora_model(dropout), seed=seed)
        training.loop.settings = LoopSettings(lr=1e-2, seed=seed)
        training.run()
        runs.append(training.hash)
    assert runs[1] == runs[2]
    assert len(set(runs)) == 3


def test_seeds_of_steps_are_all_different() -> None:
    seen = set()
    for seed in (0, 1, 2**31):
        for step in (0, 1, 2, 10**9):
            for rank in (0, 1, 7):
                seed_step(seed, step, rank)
                seen.add(torch.initial_seed())
    assert len(seen) == 36


def test_checkpoints_are_written_when_due_and_at_the_end(tmp_path: Path) -> None:
    saved: list[int] = []

    class Store(CheckpointStore):
        def save(self, state: LoopState, *args: Any) -> Path:
            saved.append(state.step)
            return super().save(state, *args)

    Training(lora_model(), steps=5, save_every=2, checkpoints=Store(tmp_path)).run()
    assert saved == [2, 4, 5]


def test_evaluations_come_when_due_and_at_the_end_and_the_best_is_kept(tmp_path: Path) -> None:
    losses = iter([3.0, 2.0, 2.5])
    hashes: list[str] = []
    store = CheckpointStore(tmp_path)

    def evaluate() -> float:
        hashes.append(training.hash)
        return next(losses)

    training = Training(lora_model(), steps=5, eval_every=2, checkpoints=store, evaluate=evaluate)
    state, outcome = training.run()
    assert outcome == "finished"
    assert training.of("validation", "step") == [2, 4, 5]
    assert training.of("validation", "loss") == [3.0, 2.0, 2.5]
    assert training.of("validation", "best") == [True, True, False]
    assert (state.best_loss, state.best_step, state.evaluations_without_gain) == (2.0, 4, 1)
    assert training.hash == hashes[2]
    store.load_best(training.model)
    assert training.hash == hashes[1]


def test_without_a_rhythm_nothing_is_evaluated() -> None:
    training = Training(lora_model(), evaluate=lambda: pytest.fail("not asked for"))
    training.run()
    assert not training.of("validation", "loss")


def early_stopping(store: CheckpointStore | None = None) -> Training:
    losses = {1: 3.0, 2: 2.0, 3: 2.0, 4: 2.5}

    def evaluate() -> float:
        return losses[training.of("train", "step")[-1]]

    training = Training(lora_model(), eval_every=1, early_stopping_patience=2, checkpoints=store, evaluate=evaluate)
    return training


def test_patience_stops_early() -> None:
    training = early_stopping()
    state, outcome = training.run()
    assert (outcome, state.step, state.best_step) == ("stopped early", 4, 2)


def test_a_run_killed_after_stopping_early_does_not_go_on_when_resumed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    first = early_stopping(store)
    first.run()
    second = early_stopping(store)
    state, outcome = second.run()
    assert (outcome, state.step) == ("stopped early", 4)
    assert not second.records
    assert second.hash == first.hash


def test_a_step_without_targets_is_refused() -> None:
    table = random_table([6, 6])
    table.answer_mask[:] = False
    with pytest.raises(TrainingError, match=r"step 1 has no target tokens") as caught:
        Training(lora_model(), table).run()
    assert "tunelab inspect" in caught.value.hint


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_with_the_last_checkpoint_whole(value: float, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    training = Training(lora_model(), save_every=1, checkpoints=store)
    good = Training(lora_model(), steps=6)
    good.loop.should_stop = after(2)
    good.run()
    forward = training.loop.module.forward
    calls = iter(range(1, 100))

    def breaks(*arguments: Any) -> Tensor:
        loss: Tensor = forward(*arguments)
        return loss * value if next(calls) == 3 else loss

    training.loop.module.forward = breaks
    with pytest.raises(TrainingError, match=rf"step 3: the loss is {value}; the previous step's weights are intact"):
        training.run()
    assert store.newest_step() == 2
    assert training.of("train", "step") == [1, 2]
    assert training.hash == good.hash, "the weights are those after step 2"
    again = lora_model()
    store.restore(again, adamw(again.parameters(), lr=0.0, weight_decay=0.0, betas=(0.9, 0.99), eps=1e-8))
    assert weights_hash(trainable_weights(again)) == good.hash


def test_a_gradient_that_is_no_number_stops() -> None:
    model = lora_model()
    parameter = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    parameter.register_hook(lambda gradient: gradient * math.nan)
    training = Training(model)
    with pytest.raises(TrainingError, match="step 1: the gradient norm is nan; the previous step's weights are"):
        training.run()
    assert training.hash == weights_hash(trainable_weights(lora_model()))


def with_scaler(**scaler: Any) -> Accelerator:
    """Accelerate as it is with fp16 on a GPU, as far as loss scaling goes, but on the CPU and in float32."""
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", **scaler)
    accelerator.native_amp = False
    accelerator.unscale_gradients = lambda optimizer: accelerator.scaler.unscale_(optimizer.optimizer)
    return accelerator


def test_the_loss_scale_is_resumed_as_it_was(tmp_path: Path) -> None:
    def build(**more: Any) -> Training:
        return Training(lora_model(), accelerator=with_scaler(init_scale=8.0, growth_interval=4), **more)

    whole = build()
    whole.run()
    store = CheckpointStore(tmp_path)
    build(checkpoints=store, should_stop=after(3)).run()
    second = build(checkpoints=store)
    second.run()
    assert whole.loop.accelerator.scaler.get_scale() == 16.0, "it grew once, after four steps"
    assert second.loop.accelerator.scaler.state_dict() == whole.loop.accelerator.scaler.state_dict()
    assert second.hash == whole.hash


def test_a_step_whose_scaled_gradients_overflow_is_skipped_and_said_so() -> None:
    model = lora_model()
    parameter = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    factors = iter([math.inf, 1.0, 1.0])
    parameter.register_hook(lambda gradient: gradient * next(factors))
    training = Training(model, steps=3, accelerator=with_scaler(init_scale=8.0))
    hashes: list[str] = []
    training.loop.progress = lambda *args: hashes.append(training.hash)
    training.run()
    norms = training.of("train", "gradient_norm")
    assert norms[0] is None, "infinity and NaN are no JSON"
    assert all(norm > 0 for norm in norms[1:])
    assert hashes[0] == hashes[1] != hashes[2] != hashes[3]
    assert training.loop.accelerator.scaler.get_scale() == 4.0


def test_gradients_that_overflow_without_any_scale_stop() -> None:
    model = lora_model()
    parameter = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    parameter.register_hook(lambda gradient: gradient * math.inf)
    training = Training(model, steps=10, accelerator=with_scaler(init_scale=4.0))
    with pytest.raises(TrainingError, match=r"step 3: the gradient norm is (nan|inf) even with a loss scale of 1"):
        training.run()
