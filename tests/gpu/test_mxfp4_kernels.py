"""MXFP4's kernels compiled and run on the GPU: the interpreter's cases, and what only a GPU shows."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from models.formats.triton_driver import CASES, activations, check, packed, same_bits

from tunelab.models.formats import _mxfp4_triton as kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton, which is not installed here"),
]


@pytest.fixture(autouse=True)
def _needs_ampere() -> None:
    if torch.cuda.get_device_capability() < kernels.LEAST_CAPABILITY:
        pytest.skip("needs a GPU of compute capability 8.0 or more")


def test_available() -> None:
    assert kernels.is_available(torch.device("cuda"))


@pytest.mark.parametrize("case", CASES)
def test_compiled(case: str) -> None:
    check(case, "cuda")


@pytest.mark.parametrize("count", [1, 16])
def test_a_product_has_the_same_bits_every_time(count: int) -> None:
    codes, scales = packed((1024, 4096), "cuda")
    x = activations(count, 4096, torch.bfloat16, "cuda")
    first = kernels.multiply_few(x, codes, scales, (1024, 4096))
    for _ in range(20):
        same_bits(kernels.multiply_few(x, codes, scales, (1024, 4096)), first)


@pytest.mark.parametrize("count", [1, 8])
def test_a_product_is_captured_in_a_cuda_graph(count: int) -> None:
    codes, scales = packed((512, 2048), "cuda")
    x = activations(count, 2048, torch.bfloat16, "cuda").clone()
    kernels.multiply_few(x, codes, scales, (512, 2048))  # compiled before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = kernels.multiply_few(x, codes, scales, (512, 2048))
    x.mul_(-1)
    graph.replay()
    same_bits(captured, kernels.multiply_few(x, codes, scales, (512, 2048)))


def test_a_weight_of_more_than_two_to_the_31_elements() -> None:
    """Addresses are counted in 64 bits: codes of more than 2^31 bytes, too."""
    shape = (140_000, 32_768)
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    codes = torch.zeros((shape[0], shape[1] // 2), dtype=torch.uint8, device="cuda")
    scales = torch.full((shape[0], shape[1] // 32), 127, dtype=torch.uint8, device="cuda")
    codes[-1] = 0x72  # 1 and 6, in turn
    weight = kernels.dequantize(codes, scales, shape, torch.bfloat16)
    assert weight[-1].float().view(-1, 2).unique(dim=0).tolist() == [[1.0, 6.0]]
    assert int(weight[:-1].count_nonzero()) == 0
    del weight
    for count in (1, 2):
        product = kernels.multiply_few(torch.ones((count, shape[1]), device="cuda").half() / 64, codes, scales, shape)
        assert product[:, -1].tolist() == [3.5 * shape[1] / 64] * count
        assert int(product[:, :-1].count_nonzero()) == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_than_the_current_one() -> None:
    codes, scales = packed((33, 96), "cuda:1")
    with torch.cuda.device(0):
        for count in (1, 2):
            x = activations(count, 96, torch.bfloat16, "cuda:1")
            assert kernels.multiply_few(x, codes, scales, (33, 96)).device == torch.device("cuda", 1)
        assert kernels.dequantize(codes, scales, (33, 96), torch.bfloat16).device == torch.device("cuda", 1)
