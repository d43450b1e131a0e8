"""Quantized bases, 8-bit AdamW, old GPUs and a model's way onto the device, on the pretend GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_gpu.child import on_pretend_gpu
from pretend_gpu.device import SEEN
from tiny import model_folder, recipe, rows_file
from torch import Tensor

from tunelab.config import parse_recipe
from tunelab.models.load import load_model
from tunelab.models.precision import weight_format
from tunelab.preparation.model import compute_dtype
from tunelab.training.checkpoint import load_optimizer_state, optimizer_state
from tunelab.training.optimizer import adamw

SETTINGS: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8, "in_8_bits": True}


def paged() -> tuple[Tensor, Tensor, list[bool]]:
    """Weights after steps without and with an interruption, and whether each moment was in paged memory before the
    interruption and after it. bitsandbytes pages from 100,000 numbers on."""
    weights, flags = [], []
    for stop in (None, 2):
        weight = torch.nn.Parameter(torch.full((400, 300), 0.1, device="cuda"))
        model = torch.nn.ParameterDict({"weight": weight})
        optimizer = adamw([weight], **SETTINGS)
        for step in range(4):
            if step == stop:
                stored = {name: value.cpu().clone() for name, value in optimizer_state(model, optimizer).items()}
                flags += [hasattr(optimizer.state[weight][name], "is_paged") for name in ("state1", "state2")]
                optimizer = adamw([weight], **SETTINGS)
                load_optimizer_state(model, optimizer, stored)
                flags += [hasattr(optimizer.state[weight][name], "is_paged") for name in ("state1", "state2")]
            weight.grad = torch.randn(400, 300, generator=torch.Generator().manual_seed(step)).cuda()
            optimizer.step()
        weights.append(weight.detach().cpu())
    return weights[0], weights[1], flags


def test_8_bit_adamw_is_paged_after_a_resume_too() -> None:
    whole, resumed, flags = on_pretend_gpu(paged)
    assert flags == [True] * 4
    assert torch.equal(whole, resumed)


def products(name: str, options: dict[str, Any]) -> tuple[float, int, bool]:
    """Of a product with few rows: its relative error, how many bytes of codes were copied; and none for many rows."""
    form, shape = weight_format(name, options), (96, 256)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16().cuda()
    packed = form.quantize(weight)
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(2)).bfloat16().cuda()
    found = form.multiply_few(x, packed, shape)
    assert found is not None and found.dtype == torch.bfloat16
    dense = form.dequantize(packed, shape, torch.bfloat16)
    error = float((found.float() - x.float() @ dense.float().T).abs().max() / found.abs().max())
    return error, 0, form.multiply_few(x.repeat(30, 1), packed, shape) is None


@pytest.mark.parametrize("options", [{}, {"double_quantization": False}], ids=["nested", "plain"])
def test_few_rows_times_four_bits_use_bitsandbytes_kernel(options: dict[str, Any]) -> None:
    error, _, none_for_many = on_pretend_gpu(products, "nf4", options)
    assert error < 1e-2
    assert none_for_many


def test_codes_are_not_copied_to_be_dequantized(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunelab.models.formats import _four_bits

    form, copies = weight_format("nf4", {}), []
    pad = _four_bits.functional.pad
    monkeypatch.setattr(_four_bits.functional, "pad", lambda *a: (copies.append(1), pad(*a))[1])
    for shape, padded in (((64, 128), 0), ((3, 100), 1)):
        copies.clear()
        form.dequantize(form.quantize(torch.randn(shape)), shape, torch.float32)
        assert len(copies) == padded


def loaded(folder: Path) -> set[str]:
    """Where a dense model's tensors were first made, but for what is read from the file."""
    SEEN.waits.clear()
    model = load_model(str(folder), dtype=torch.bfloat16, device="cuda")
    assert all(tensor.is_cuda for tensor in [*model.parameters(), *model.buffers()])
    return {place for what, place in SEEN.waits if what == "to the GPU"}


def test_a_dense_model_is_read_onto_the_device(tmp_path: Path) -> None:
    """Tensor by tensor inside the loader, not as a whole afterwards (`model.to` in load_model)."""
    where = on_pretend_gpu(loaded, model_folder(tmp_path))
    source = Path(load_model.__code__.co_filename).read_text(encoding="utf-8").splitlines()
    after = {f"models/load.py:{number}" for number, line in enumerate(source, 1) if "model.to(device)" in line}
    assert after and not where & after


def dtype_of(chosen: str) -> str:
    return compute_dtype(
        parse_recipe(recipe(Path("m"), Path("r"), Path("o"), train__device="cuda", train__dtype=chosen))
    )


def test_a_gpu_that_emulates_bf16_takes_fp32_unless_told_otherwise() -> None:
    for capability, dtype in (((7, 5), "fp32"), ((7, 0), "fp32"), ((8, 6), "bf16")):
        assert on_pretend_gpu(dtype_of, "auto", capability=capability) == dtype
    assert on_pretend_gpu(dtype_of, "fp16", capability=(7, 5)) == "fp16"


def old(folder: Path, dtype: str) -> tuple[float, float, list[str]]:
    """First and last loss of a training on a T4, and what was said of its dtype."""
    from tunelab.training.finetune import finetune

    said: list[str] = []
    made = recipe(model_folder(folder / "model"), rows_file(folder / "rows.jsonl"), folder / "run",
                  train__device="cuda", train__dtype=dtype, train__steps=4)  # fmt: skip
    run = finetune(made, notify=said.append)
    losses = [record["loss"] for record in run.metrics("train")]
    return losses[0], losses[-1], [sentence for sentence in said if "7.5" in sentence]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "sentence"),
    [("auto", "it has no bf16 of its own"), ("bf16", "it emulates bf16"), ("fp16", None)],
)
def test_training_on_an_old_gpu_runs_and_says_what_it_lacks(dtype: str, sentence: str | None, tmp_path: Path) -> None:
    first, last, said = on_pretend_gpu(old, tmp_path, dtype, capability=(7, 5))
    assert last < first
    assert [sentence in one for one in said] == [True] if sentence else not said
