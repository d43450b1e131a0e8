"""The pretend GPU refuses what CUDA refuses, computes the host's numbers, and sees waits and memory never written."""

from __future__ import annotations

import torch
from pretend_gpu import flash_attention
from pretend_gpu.child import on_pretend_gpu
from pretend_gpu.device import MEMORY, SEEN
from torch import Tensor, nn


def refused(work: object) -> str:
    """The message of the RuntimeError that `work` raises."""
    try:
        work()  # type: ignore[operator]
    except RuntimeError as error:
        return str(error)
    return ""


def operations() -> None:
    there = torch.arange(6.0, device="cuda").view(2, 3)
    assert there.is_cuda and str(there.device) == "cuda:0"
    assert (there @ there.T).cpu().tolist() == [[5.0, 14.0], [14.0, 50.0]]
    assert "same device" in refused(lambda: there + torch.ones(3))
    assert (there + torch.tensor(1.0)).tolist()[0] == [1.0, 2.0, 3.0], "a number of the host may be among them"
    assert "same dtype" in refused(lambda: there.bfloat16() @ there.T)
    with torch.autocast("cuda", torch.bfloat16):
        assert (there @ there.T).dtype == torch.bfloat16
    unwritten = torch.empty(4, device="cuda")
    assert bool(unwritten.isnan().all()) and bool(torch.empty_like(there).isnan().all())


def waits() -> dict[str, int]:
    there, found = torch.arange(4.0, device="cuda"), {}
    for name, work in {
        "none": lambda: there.sum() + there[torch.tensor([0, 1]).pin_memory().to("cuda", non_blocking=True)],
        "a number": lambda: float(there.sum()),
        "to the GPU": lambda: torch.ones(3).to("cuda", non_blocking=True),  # not from page-locked memory
        "a list": lambda: torch.tensor([1, 2], device="cuda"),
        "to the host": lambda: there.cpu(),
        "a boolean index": lambda: there[there > 1],
        "an index of the host": lambda: there[torch.tensor([0, 1])],
    }.items():
        SEEN.waits.clear()
        work()
        found[name] = SEEN.waits.total()
    return found


def training() -> tuple[list[Tensor], int]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)).to("cuda")
    model(torch.ones(4, 3, device="cuda")).square().sum().backward()
    assert all(parameter.grad.is_cuda for parameter in model.parameters())  # type: ignore[union-attr]
    before = MEMORY.now
    gradients = [parameter.grad.cpu().clone() for parameter in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    return gradients, before - MEMORY.now


def test_operations() -> None:
    on_pretend_gpu(operations)


def test_where_the_host_waits() -> None:
    found = on_pretend_gpu(waits)
    assert found.pop("none") == 0
    assert set(found.values()) == {1}


def test_a_backward_pass_gives_the_numbers_of_the_host() -> None:
    there, freed = on_pretend_gpu(training)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2))
    model(torch.ones(4, 3)).square().sum().backward()
    for mine, parameter in zip(there, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)
    assert freed == 4 * sum(parameter.numel() for parameter in model.parameters()), "bytes of the gradients"
    assert not torch.cuda.is_available(), "the test's own process has none"


def test_the_reference_kernel_refuses_what_flash_attention_refuses() -> None:
    def said(size: int = 16, dtype: torch.dtype = torch.bfloat16, capability: tuple[int, int] = (8, 0),
             heads: tuple[int, int] = (4, 2), borders: torch.dtype = torch.int32, longest: int = 7) -> str:  # fmt: skip
        query, key = (torch.zeros(12, count, size, dtype=dtype) for count in heads)
        rows = torch.tensor([0, 5, 12], dtype=borders)
        return refused(lambda: flash_attention.check(capability, query, key, key, (rows, rows), (longest, longest)))

    assert said() == ""
    assert "Ampere" in said(capability=(7, 5))
    assert "fp16 and bf16" in said(dtype=torch.float32)
    assert "at most 256" in said(size=512)
    assert "multiple of 8" in said(size=12)
    assert "must divide" in said(heads=(4, 3))
    assert "int32" in said(borders=torch.int64)
    assert "longer than" in said(longest=6)
