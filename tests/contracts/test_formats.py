"""What every weight format keeps: bound, size, refusals, gradients. A new file in models/formats/ is tested at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tunelab import plugins
from tunelab.errors import ModelError, UsageError
from tunelab.models.formats._format import WeightFormat, check_layout, packed_bytes
from tunelab.models.precision import FOLDER, weight_format
from tunelab.models.quantized_linear import QuantizedLinear

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "nf4": [{}, {"double_quantization": False}],
    "fp4": [{}, {"double_quantization": False}],
    "mxfp4": [{"scale_rule": rule} for rule in ("even", "floor", "mse")],
}
FORMATS = [weight_format(name, options) for name in plugins.names(FOLDER) for options in OPTIONS.get(name, [{}])]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

every_format = pytest.mark.parametrize("form", FORMATS, ids=str)


def random_weight(shape: tuple[int, int], dtype: torch.dtype = torch.float32, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def largest_of_block(form: WeightFormat, weight: Tensor) -> Tensor:
    """For each weight the largest absolute value of its block."""
    magnitude = weight.float().abs()
    if form.block == 0:
        return magnitude.amax(dim=1, keepdim=True).expand_as(weight)
    along_rows = form.name == "mxfp4"
    flat = magnitude if along_rows else magnitude.reshape(1, -1)
    padded = torch.nn.functional.pad(flat, (0, -flat.shape[1] % form.block))
    blocks = padded.unflatten(1, (-1, form.block))
    each = blocks.amax(dim=-1, keepdim=True).expand_as(blocks).flatten(1)[:, : flat.shape[1]]
    return each.reshape(weight.shape)


def round_trip(form: WeightFormat, weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = (weight.shape[0], weight.shape[1])
    return form.dequantize(form.quantize(weight), shape, dtype)


def test_there_are_formats() -> None:
    assert {form.name for form in FORMATS} >= {"nf4", "fp4", "int8", "mxfp4"}


@every_format
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(64, 128), (7, 100), (1, 33), (129, 32)], ids=str)
def test_no_weight_is_further_off_than_the_format_says(
    form: WeightFormat, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    weight = random_weight(shape, dtype)
    error = (round_trip(form, weight) - weight.float()).abs()
    assert bool((error <= form.error_bound * largest_of_block(form, weight) + 1e-7).all())
    assert float(error.max()) > 0  # it is a format in few bits


@every_format
def test_it_takes_the_bits_it_says(form: WeightFormat) -> None:
    shape = (2048, 2048)
    declared = form.bits_per_weight * 2048 * 2048 / 8
    assert packed_bytes(form, shape) == pytest.approx(declared, rel=3e-3)
    weight = random_weight((64, 96))
    packed = form.quantize(weight)
    assert sum(tensor.nbytes for tensor in packed.values()) == packed_bytes(form, (64, 96))
    check_layout(form, packed, (64, 96))


@every_format
def test_zeros_stay_zeros(form: WeightFormat) -> None:
    weight = random_weight((8, 128))
    weight[:4] = 0
    back = round_trip(form, weight)
    if getattr(form, "double_quantization", False):
        # A scale of 0 is stored as near to 0 as 8 bits have it.
        assert float(back[:4].abs().max()) < 0.05 * float(weight.abs().max())
    else:
        assert not back[:4].any()
    assert not round_trip(form, torch.zeros(4, 64)).any()


@every_format
def test_subnormal_and_huge_weights_stay_finite(form: WeightFormat) -> None:
    for size in (1e-40, 1e-30, 1e30):
        weight = random_weight((4, 64)) * size
        back = round_trip(form, weight)
        assert bool(torch.isfinite(back).all())
        assert float((back - weight).abs().max()) <= max(form.error_bound * float(weight.abs().max()) * 1.01, 2**-126)


@every_format
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_infinities_and_nan_are_refused(form: WeightFormat, bad: float) -> None:
    weight = random_weight((4, 64))
    weight[2, 5] = bad
    with pytest.raises(ModelError, match="a weight is infinite or NaN, and cannot be quantized"):
        form.quantize(weight)


@every_format
def test_a_weight_that_is_not_contiguous_gives_the_same_codes(form: WeightFormat) -> None:
    weight = random_weight((96, 64))
    for other in (weight.T, weight[::2]):
        assert not other.is_contiguous()
        apart = form.quantize(other.contiguous())
        assert all(torch.equal(tensor, apart[name]) for name, tensor in form.quantize(other).items())


@every_format
def test_parts_are_quantised_as_the_whole(form: WeightFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_weight((40, 96))
    whole = form.quantize(weight)
    for module in ("_four_bits", "int8", "mxfp4"):
        monkeypatch.setattr(f"tunelab.models.formats.{module}.WEIGHTS_AT_ONCE", 3 * 64 * 4)
    parts = form.quantize(weight)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


@every_format
def test_dequantising_to_sixteen_bits_rounds_once(form: WeightFormat) -> None:
    weight = random_weight((32, 96))
    packed = form.quantize(weight)
    exact = form.dequantize(packed, (32, 96), torch.float32)
    for dtype, spacing in ((torch.bfloat16, 2**-7), (torch.float16, 2**-10)):
        rounded = form.dequantize(packed, (32, 96), dtype)
        assert rounded.dtype == dtype and rounded.shape == (32, 96)
        assert bool(((rounded.float() - exact).abs() <= exact.abs() * spacing * 1.01 + 1e-7).all())


@every_format
def test_a_checkpoint_gives_back_what_it_was_given(form: WeightFormat) -> None:
    packed = form.quantize(random_weight((32, 64)))
    stored = form.to_checkpoint(packed, (32, 64), torch.bfloat16)
    back = form.from_checkpoint(stored, (32, 64))
    assert set(back) == set(packed) and all(torch.equal(back[name], packed[name]) for name in packed)
    with pytest.raises(ModelError, match=r"(no quantization state|no scales|no weight_packed)"):
        form.from_checkpoint({"weight": torch.zeros(32, 64)}, (32, 64))
    with pytest.raises(ModelError, match=rf"a weight( \(64, 32\))? in {form.name}: .* expected"):
        form.from_checkpoint(stored, (64, 32))


@every_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_those_of_the_dequantised_layer(form: WeightFormat, dtype: torch.dtype) -> None:
    shape = (48, 96)
    bias = torch.linspace(-1, 1, 48).to(dtype)
    layer = QuantizedLinear(form, form.quantize(random_weight(shape)), shape, bias=bias, dtype=dtype)
    dense = layer.weight.clone()
    got, expected = (random_weight((5, 96), dtype, seed=9).requires_grad_() for _ in range(2))
    upstream = random_weight((5, 48), dtype, seed=11)
    # The same two products on the same shapes, so to the bit: x W^T + b, and the upstream gradient times W.
    outputs = layer(got), torch.addmm(bias, expected, dense.T)
    for output in outputs:
        output.backward(upstream)
    assert torch.equal(*outputs) and got.grad is not None
    assert torch.equal(got.grad, expected.grad)  # type: ignore[arg-type]
    assert not any(parameter.requires_grad for parameter in layer.parameters())


@every_format
def test_an_evaluation_between_steps_changes_no_gradient(form: WeightFormat) -> None:
    """bitsandbytes' own Linear4bit on the CPU repacks its weight in an evaluation forward, and fails this."""
    shape = (64, 64)
    layer = QuantizedLinear(form, form.quantize(random_weight(shape)), shape, dtype=torch.float32)

    def gradient() -> Tensor:
        x = random_weight((5, 64), seed=9).requires_grad_()
        layer(x).square().sum().backward()
        assert x.grad is not None
        return x.grad

    before = gradient()
    layer.eval()
    with torch.no_grad():
        layer(random_weight((3, 64)))
        layer(random_weight((1, 64)))
    assert torch.equal(gradient(), before)
    layer.train()
    assert torch.equal(gradient(), before)


def test_what_is_asked_for_wrongly_is_refused() -> None:
    with pytest.raises(UsageError, match="no format named 'nf5'; did you mean 'nf4'"):
        weight_format("nf5")
    with pytest.raises(UsageError, match="nf4 has no option 'scale_rule'"):
        weight_format("nf4", {"scale_rule": "even"})
    with pytest.raises(UsageError, match=r"scale_rule is 'round', expected floor, even, mse|expected even, floor, mse"):
        weight_format("mxfp4", {"scale_rule": "round"})
    with pytest.raises(UsageError, match="double_quantization is 'no', expected true or false"):
        weight_format("nf4", {"double_quantization": "no"})
