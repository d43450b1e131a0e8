"""Codes and scales are those of the libraries that made the formats, to the bit."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tunelab.errors import UsageError
from tunelab.models.formats._four_bits import load_kernels
from tunelab.models.formats.mxfp4 import BLOCK, ScaleRule, block_exponents, scaled
from tunelab.models.precision import weight_format

SHAPE = (64, 256)


def weights(dtype: torch.dtype) -> Tensor:
    """Of many sizes: blocks from 2^-20 to 2^20, a block of zeros, ties between levels, values that rules cut."""
    draw = torch.Generator().manual_seed(4)
    weight = torch.randn(SHAPE, generator=draw)
    weight *= torch.exp2(torch.randint(-20, 20, (SHAPE[0], 1), generator=draw).float())
    weight[0, :BLOCK] = 0
    halves = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]).repeat(4)
    weight[1, :BLOCK] = halves * torch.where(torch.arange(BLOCK) % 2 == 0, 1.0, -1.0)
    weight[2, :BLOCK] = torch.linspace(-7.9, 7.9, BLOCK)
    weight[3, :BLOCK] = torch.linspace(-6.99, 6.99, BLOCK)
    return weight.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_four_bits_are_those_of_bitsandbytes(name: str, double: bool, dtype: torch.dtype) -> None:
    form = weight_format(name, {"double_quantization": double})
    from bitsandbytes import functional

    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4)).to(dtype)
    packed = form.quantize(weight)
    codes, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=double, quant_type=name)
    assert torch.equal(packed["codes"], codes.view(-1))
    assert torch.equal(packed["scales"], state.absmax)
    if double:
        assert torch.equal(packed["scale_scales"], state.state2.absmax)
        assert torch.equal(packed["scale_offset"], state.offset)
    assert torch.equal(form.dequantize(packed, SHAPE, dtype), functional.dequantize_4bit(codes, state))


def test_rows_that_are_no_whole_blocks_are_dequantised_rightly() -> None:
    """bitsandbytes' kernel for the CPU begins a new block with each row; the codes' blocks run on."""
    form = weight_format("nf4", {"double_quantization": False})
    weight = torch.randn((128, 32), generator=torch.Generator().manual_seed(4))
    packed = form.quantize(weight)
    whole = form.dequantize(packed, (64, 64), torch.float32)
    assert torch.equal(form.dequantize(packed, (128, 32), torch.float32), whole.view(128, 32))


def test_without_bitsandbytes_the_four_bit_formats_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UsageError, match="the 4-bit formats need bitsandbytes"):
        load_kernels.__wrapped__()


def test_int8_is_that_of_bitsandbytes() -> None:
    form = weight_format("int8")
    from bitsandbytes import functional

    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4)).half()
    packed = form.quantize(weight)
    codes, scales, _ = functional.int8_vectorwise_quant(weight)
    assert torch.equal(packed["scales"], scales)
    # Both round code x 127 / scale, bitsandbytes in 16 bits where we have 32: a tie may fall to the other side.
    difference = (packed["codes"].int() - codes.int()).abs()
    assert int(difference.max()) <= 1 and float((difference > 0).float().mean()) < 2e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_mxfp4_even_is_that_of_compressed_tensors(dtype: torch.dtype) -> None:
    from compressed_tensors.compressors import MXFP4PackedCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    weight = weights(dtype)
    settings = weight_format("mxfp4").checkpoint_config([])["config_groups"]["group_0"]["weights"]
    arguments = QuantizationArgs(**settings)
    blocks = weight.view(SHAPE[0], -1, BLOCK)
    scale, zero_point = calculate_qparams(blocks.amin(-1), blocks.amax(-1), arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    theirs = MXFP4PackedCompressor.compress(
        {"weight": weight, "weight_scale": scale, "weight_zero_point": zero_point}, scheme
    )
    packed = weight_format("mxfp4").quantize(weight)
    assert torch.equal(packed["scales"], theirs["weight_scale"])
    assert torch.equal(packed["codes"], theirs["weight_packed"])
    back = MXFP4PackedCompressor.decompress(dict(theirs), scheme)["weight"]
    assert torch.equal(weight_format("mxfp4").dequantize(packed, SHAPE, back.dtype), back)


#: sha256 of scales and codes that torchao 0.18.0 gives weights(dtype), by dtype and rule.
OF_TORCHAO = {
    ("float32", "even"): "637845eba9a8b381748268f1f5df5aa2ce665ef097359c50b3a477d0f6138893",
    ("float32", "floor"): "99656bad1c39294c78611cb6378fba87afdc6dbf3aa3fa6c28deb46acac8d359",
    ("bfloat16", "even"): "4505d4acf4db2877480576aea209551c8886e8a81e8853f3edbdbd40496f5e19",
    ("bfloat16", "floor"): "a92649acc5c833091c01a4b0ea99334ea6cbb43ec91c4e840c8654c490a08046",
}


@pytest.mark.parametrize(("dtype", "rule"), OF_TORCHAO)
def test_mxfp4_gives_what_torchao_gave(dtype: str, rule: str) -> None:
    packed = weight_format("mxfp4", {"scale_rule": rule}).quantize(weights(getattr(torch, dtype)))
    both = [*packed["scales"].flatten().tolist(), *packed["codes"].flatten().tolist()]
    assert hashlib.sha256(bytes(both)).hexdigest() == OF_TORCHAO[dtype, rule]


TORCHAO = """
import sys, torch
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.mx_tensor import to_mx
weight = torch.load(sys.argv[1], weights_only=True)
found = {}
for mode in ("EVEN", "FLOOR"):
    scales, codes = to_mx(weight, torch.float4_e2m1fn_x2, 32, ScaleCalculationMode[mode])
    found[mode.lower()] = (scales.view(torch.uint8), codes.view(torch.uint8))
torch.save(found, sys.argv[2])
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_mxfp4_even_and_floor_are_those_of_torchao(dtype: torch.dtype, tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="needs torchao, to compare codes with it anew")
    weight = weights(dtype)
    torch.save(weight, tmp_path / "weight.pt")
    # In a process of its own: importing torchao warns of what it does not find.
    files = [str(tmp_path / "weight.pt"), str(tmp_path / "found.pt")]
    subprocess.run([sys.executable, "-c", TORCHAO, *files], check=True, capture_output=True)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    for rule in ("even", "floor"):
        packed = weight_format("mxfp4", {"scale_rule": rule}).quantize(weight)
        scales, codes = found[rule]
        assert torch.equal(packed["scales"], scales.view(packed["scales"].shape)), rule
        assert torch.equal(packed["codes"], codes.view(packed["codes"].shape)), rule


def test_mse_is_never_further_off_than_the_other_rules() -> None:
    weight = weights(torch.float32)
    blocks = weight.view(SHAPE[0], -1, BLOCK)

    def squared_errors(rule: ScaleRule) -> Tensor:
        form = weight_format("mxfp4", {"scale_rule": rule})
        back = form.dequantize(form.quantize(weight), SHAPE, torch.float32)
        return (back - weight).double().square().view(blocks.shape).sum(-1)

    mse, even, floor = squared_errors("mse"), squared_errors("even"), squared_errors("floor")
    assert bool((mse <= even).all()) and bool((mse <= floor).all())


def test_mse_takes_one_exponent_less_where_that_is_nearer() -> None:
    block = torch.full((1, 1, BLOCK), 0.75)  # between two levels, and a level once they lie twice as dense
    block[..., 0] = 4.0  # is cut to 3 then
    assert int(block_exponents(block, "floor")) == int(block_exponents(block, "even")) == 0
    assert int(block_exponents(block, "mse")) == -1


def test_even_cuts_nothing_above_seven_levels() -> None:
    block = torch.zeros(1, 1, BLOCK)
    for largest, even, floor in ((6.0, 0, 0), (6.99, 0, 0), (7.0, 1, 0), (7.99, 1, 0), (8.0, 1, 1)):
        block[..., 0] = largest
        assert int(block_exponents(block, "even")) == even, largest
        assert int(block_exponents(block, "floor")) == floor, largest
    assert float(scaled(block, torch.tensor([[1]])).max()) == 4.0
