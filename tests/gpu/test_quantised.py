"""Bases in few bits on a CUDA GPU: the same codes, the dense layer's gradients, little memory while loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, tiny_model

from tunelab.models.adapters import add_lora
from tunelab.models.digest import digest
from tunelab.models.load import load_model
from tunelab.models.precision import weight_format
from tunelab.models.quantized_linear import QuantizedLinear, quantized_layers

pytestmark = pytest.mark.gpu

FORMATS = ("nf4", "fp4", "int8", "mxfp4")


@pytest.mark.parametrize("name", FORMATS)
def test_codes_and_weights_are_those_of_the_cpu(name: str) -> None:
    form = weight_format(name, {"double_quantization": False} if name in ("nf4", "fp4") else {})
    weight = torch.randn((256, 512), generator=torch.Generator().manual_seed(1)).bfloat16()
    here, there = form.quantize(weight), form.quantize(weight.cuda())
    for key, tensor in here.items():
        if name == "mxfp4":  # comparisons and powers of two: exact everywhere
            assert torch.equal(tensor, there[key].cpu())
        elif tensor.is_floating_point():
            torch.testing.assert_close(there[key].cpu(), tensor, rtol=1e-6, atol=0)
        else:  # kernels divide in their own ways: a weight in the middle of two levels may fall to either
            assert float((tensor != there[key].cpu()).float().mean()) < 2e-3
    for dtype in (torch.float32, torch.bfloat16):
        of_cpu = form.dequantize(here, (256, 512), dtype)
        of_gpu = form.dequantize({key: tensor.cuda() for key, tensor in here.items()}, (256, 512), dtype).cpu()
        assert torch.allclose(of_gpu, of_cpu, rtol=8e-3, atol=1e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_gradients_are_those_of_the_dequantised_layer(name: str) -> None:
    form, shape = weight_format(name), (256, 512)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16().cuda()
    layer = QuantizedLinear(form, form.quantize(weight), shape)
    dense = layer.weight
    got = torch.randn(64, 512, device="cuda", dtype=torch.bfloat16).requires_grad_()
    expected = got.detach().clone().requires_grad_()
    layer(got).sum().backward()
    (expected @ dense.T).sum().backward()
    assert got.grad is not None and torch.equal(got.grad, expected.grad)  # type: ignore[arg-type]
    with torch.no_grad():  # the product for few rows, where there is a kernel for it
        few = layer(got[:3]).float()
        assert float((few - got[:3].float() @ dense.float().T).abs().max()) < 2e-2 * float(few.abs().max())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_trains_over_it(family: str, name: str, tmp_path: Path) -> None:
    tiny_model(family, **({} if family == "gpt2" else {"hidden_size": 64, "intermediate_size": 128})).save_pretrained(
        tmp_path
    )
    base = load_model(str(tmp_path), dtype=torch.bfloat16, device="cuda", form=weight_format(name))
    model = add_lora(base, rank=4, alpha=8)
    assert all(tensor.is_cuda for tensor in [*model.parameters(), *model.buffers()])
    ids = torch.arange(32, device="cuda")[None]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", FORMATS)
def test_loading_needs_little_more_than_the_quantised_model(name: str, tmp_path: Path) -> None:
    shape = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 8, "vocab_size": 8000}
    dense = tiny_model("llama", **shape).bfloat16()
    largest = max(parameter.nbytes for parameter in dense.parameters())
    size = sum(parameter.nbytes for parameter in dense.parameters())
    dense.save_pretrained(tmp_path)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model = load_model(str(tmp_path), dtype=torch.bfloat16, device="cuda", form=weight_format(name))
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= digest(model).bytes + largest + 64 * 2**20 < size
    assert len(quantized_layers(model)) == 8 * 7


def test_8_bit_adamw_is_paged_and_resumes(tmp_path: Path) -> None:
    from tunelab.training.checkpoint import load_optimizer_state, optimizer_state
    from tunelab.training.optimizer import adamw

    weights = []
    for stop in (None, 3):
        model = torch.nn.Linear(512, 256, device="cuda")  # bitsandbytes pages from 100,000 numbers on
        with torch.no_grad():
            model.weight.fill_(0.1)
            model.bias.zero_()
        settings = {"lr": 1e-2, "weight_decay": 0.0, "betas": (0.9, 0.999), "eps": 1e-8, "in_8_bits": True}
        optimizer = adamw(model.parameters(), **settings)  # type: ignore[arg-type]
        assert type(optimizer).__name__ == "PagedAdamW8bit"
        for step in range(6):
            if step == stop:
                stored = {name: value.cpu().clone() for name, value in optimizer_state(model, optimizer).items()}
                optimizer = adamw(model.parameters(), **settings)  # type: ignore[arg-type]
                load_optimizer_state(model, optimizer, stored)
            model.weight.grad = torch.randn(256, 512, generator=torch.Generator().manual_seed(step)).cuda()
            optimizer.step()
            states = optimizer.state[model.weight]
            assert all(states[name].is_paged for name in ("state1", "state2")), f"after step {step}"
        weights.append(model.weight.detach().clone())
    assert torch.equal(*weights)
