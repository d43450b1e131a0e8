"""What a run needs before its first step: what cannot be is refused before anything is started."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from bf16_products import with_bf16_products
from tiny import recipe, tiny_model
from transformers import LlamaConfig

from tunelab.config import parse_recipe
from tunelab.errors import UsageError
from tunelab.planning.estimate import Plan
from tunelab.planning.shape import shape_of
from tunelab.preparation.model import compute_device, compute_dtype, with_dtype
from tunelab.training import setup
from tunelab.training.finetune import finetune
from tunelab.training.setup import loop_settings, make_accelerator, release, training_plan


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def of(**changes: object) -> object:
    return parse_recipe(recipe(Path("model"), Path("rows.jsonl"), Path("out"), **changes))


@pytest.mark.parametrize(
    ("gpu", "bf16", "dtype"), [(False, False, "fp32"), (True, True, "bf16"), (True, False, "fp32")]
)
def test_auto_takes_what_is_there(gpu: bool, bf16: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)
    made = of(train__device="auto", train__dtype="auto")
    assert compute_device(made).type == ("cuda" if gpu else "cpu")
    assert compute_dtype(made) == dtype
    assert compute_device(of(train__device="cpu")).type == "cpu"


@pytest.mark.parametrize(
    ("stored", "products", "dtype"),
    [("fp32", True, "fp32"), ("bf16", True, "bf16"), ("fp16", True, "bf16"), ("bf16", False, "fp32")],
)
def test_auto_on_a_cpu_follows_the_checkpoint_where_there_are_bf16_products(
    stored: str, products: bool, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_bf16_products(monkeypatch, products)
    LlamaConfig(dtype={"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[stored]).save_pretrained(tmp_path)
    made = parse_recipe(recipe(tmp_path, Path("rows.jsonl"), Path("out"), train__dtype="auto"))
    assert compute_dtype(made) == dtype
    assert with_dtype(made).train.dtype == dtype
    shape = shape_of(json.loads((tmp_path / "config.json").read_text()), "model")
    assert Plan(shape, made, on_gpu=False).compute_bytes == {"fp32": 4, "bf16": 2}[dtype], "as the plan predicts"
    for named in ("fp32", "bf16"):
        assert compute_dtype(of(train__dtype=named)) == named


def test_a_training_says_which_dtype_it_took_and_the_checkpoint_has(
    models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_bf16_products(monkeypatch, True)
    base = tmp_path / "base"
    shutil.copytree(models["llama"], base)
    tiny_model("llama").to(torch.bfloat16).save_pretrained(base)
    said: list[str] = []
    run = finetune(recipe(base, rows, tmp_path / "run", train__dtype="auto", train__steps=1), notify=said.append)
    assert said[0].startswith("cpu, bf16 (checkpoint in bf16), 1 thread; ")
    resolved = run.manifest["resolved"]
    assert (resolved["train.dtype"], resolved["checkpoint.dtype"], run.recipe.train.dtype) == ("bf16", "bf16", "bf16")
    assert run.manifest["compute"]["precision"] == "bf16"


def test_a_gpu_that_is_not_there(
    models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"train.device=cuda: no CUDA GPU is available"):
        finetune(recipe(models["llama"], rows, tmp_path / "run", train__device="cuda"))
    with pytest.raises(UsageError, match=r"train.dtype=fp16 needs a GPU, and none is used"):
        finetune(recipe(models["llama"], rows, tmp_path / "run", train__device="auto", train__dtype="fp16"))
    assert not (tmp_path / "run").exists()


def test_processes_exchange_gradients_alone_and_wait_for_the_main_one() -> None:
    """A quantized base's codes are buffers; NCCL gives up after 10 minutes, which a large model's writing can take."""
    accelerator = make_accelerator(of())
    assert accelerator.ddp_handler is not None and accelerator.ddp_handler.broadcast_buffers is False
    assert accelerator.init_handler is not None and accelerator.init_handler.timeout >= timedelta(hours=1)
    release(accelerator)


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_wrappers_that_are_not_supported(kind: DistributedType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: kind))
    with pytest.raises(UsageError, match=f"training under {kind.value} is not supported") as caught:
        make_accelerator(of())
    assert "torchrun" in caught.value.hint
    assert not AcceleratorState._shared_state, "nothing of it is left for the next run"


def test_nothing_of_a_run_is_left_behind_for_the_next_one_in_the_process() -> None:
    first = make_accelerator(of(train__dtype="bf16"))
    assert first.mixed_precision == "bf16"
    release(first)
    assert not AcceleratorState._shared_state
    assert not PartialState._shared_state, "the device too: a run on the CPU must not hold the next one there"
    second = make_accelerator(of())
    assert second.mixed_precision == "no"


@pytest.mark.parametrize("new_name", [True, False])
def test_activation_checkpointing_under_either_of_its_names(new_name: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    calls: list[str] = []
    kind = type(model)
    monkeypatch.setattr(
        kind,
        "activation_checkpointing_enable",
        (lambda self, options: calls.append(f"new {options}")) if new_name else None,
    )
    monkeypatch.setattr(
        kind,
        "gradient_checkpointing_enable",
        lambda self, gradient_checkpointing_kwargs: calls.append(f"old {gradient_checkpointing_kwargs}"),
    )
    setup.enable_activation_checkpointing(model)
    assert calls == [f"{'new' if new_name else 'old'} {{'use_reentrant': False}}"]


def test_steps_that_are_all_warmup() -> None:
    from tiny import random_table

    table = random_table([8] * 30)
    assert training_plan(of(train__epochs=1, train__steps=None, train__warmup=7), table).total_steps == 8
    with pytest.raises(UsageError, match=r"train.warmup=8, and the rows make 8 steps: .* never reach train.lr"):
        training_plan(of(train__epochs=1, train__steps=None, train__warmup=8), table)


def test_a_checkpoint_is_written_ten_times_unless_told() -> None:
    from tiny import random_table

    for steps, told, every in ((100, None, 10), (5, None, 1), (100, 7, 7)):
        made = of(train__steps=steps, train__save_every=told)
        plan = training_plan(made, random_table([8] * 30))
        settings = loop_settings(made, plan)
        assert (plan.total_steps, settings.save_every) == (steps, every)
        assert (settings.lr, settings.max_grad_norm, settings.schedule) == (1e-2, 1.0, "cosine")
        assert (plan.batch_size, plan.batch_tokens, plan.micro_batch_tokens) == (4, None, 160)
