"""Which attention runs on a GPU: FlashAttention wherever it can, and row by row what it refuses, never an error."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import Any

import pytest
import torch
from pretend_gpu import flash_attention as kernel
from pretend_gpu.child import on_pretend_gpu
from pretend_gpu.device import SEEN
from tiny import random_table, tiny_model
from torch import Tensor

from tunelab.data.loader import packed_batch
from tunelab.models.adapters import add_lora
from tunelab.models.flash_attention import RowBorders, flash_attention
from tunelab.models.forward import packed_sequence_attention
from tunelab.models.row_attention import row_attention
from tunelab.models.shared_prefix import prefix_attention, read_after_prefix, read_prefix
from tunelab.training.loss import TargetLoss

LENGTHS = (3, 17, 1, 40, 9)


def states(heads: int, size: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(heads)
    return torch.randn(1, heads, sum(LENGTHS), size, generator=generator).to(dtype)


def kernels_of_a_step(family: str, method: str, dtype: torch.dtype) -> dict[str, int]:
    """Calls of FlashAttention in forward and backward of a packed batch under autocast, as training runs it."""
    model = tiny_model(family)
    model = model.requires_grad_(True) if method == "full" else add_lora(model.to(dtype), rank=4, alpha=8)
    module = TargetLoss(model.to("cuda"), layout="packed").train()
    batch = packed_batch(random_table((3, 17, 2, 40, 9)), range(5)).to("cuda")
    kernel.CALLS.clear()
    with module.attention(), torch.autocast("cuda", dtype):
        loss = module.of_batch(batch)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert {call.dtype for call in kernel.CALLS} <= {dtype}
    return dict(Counter(call.way for call in kernel.CALLS))


@pytest.mark.parametrize("family", ["llama", pytest.param("phi3", marks=pytest.mark.slow),
                                    pytest.param("gpt2", marks=pytest.mark.slow)])  # fmt: skip
@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_training_under_autocast_reaches_flash_attention(family: str, method: str) -> None:
    """Rotary embeddings leave queries and keys in float32 where values are in 16 bits."""
    for dtype in (torch.bfloat16, torch.float16) if family == "llama" else (torch.bfloat16,):
        assert on_pretend_gpu(kernels_of_a_step, family, method, dtype) == {"forward": 2, "backward": 2}


def operations_of_a_step(rows: int) -> int:
    """Operations of a forward and backward pass of full fine-tuning in bf16 over so many rows."""
    module = TargetLoss(tiny_model("llama").requires_grad_(True).to("cuda"), layout="packed").train()
    batch = packed_batch(random_table([8] * rows), range(rows)).to("cuda")
    SEEN.clear()
    with module.attention(), torch.autocast("cuda", torch.bfloat16):
        loss = module.of_batch(batch)
    loss.backward()
    return SEEN.operations


@pytest.mark.slow
def test_more_rows_are_not_more_operations() -> None:
    """Row by row, 16 rows took several times as many."""
    assert on_pretend_gpu(operations_of_a_step, 16) == on_pretend_gpu(operations_of_a_step, 3)


#: (head size, dtype, heads, options of packed attention, capability) and whether FlashAttention takes it.
CASES = [
    ((16, torch.bfloat16, (4, 2), {}, (8, 0)), True),
    ((16, torch.float16, (4, 2), {"sliding_window": 8}, (9, 0)), True),
    ((16, torch.float32, (4, 2), {}, (8, 0)), False),
    ((16, torch.float16, (4, 2), {}, (7, 5)), False),
    ((20, torch.bfloat16, (4, 4), {}, (8, 0)), False),
    ((512, torch.bfloat16, (2, 1), {}, (9, 0)), False),
    ((256, torch.bfloat16, (2, 1), {}, (8, 6)), False),
    ((256, torch.bfloat16, (2, 1), {}, (9, 0)), True),
    ((16, torch.bfloat16, (4, 2), {"dropout": 1e-9}, (8, 0)), False),
    ((16, torch.bfloat16, (4, 2), {"softcap": 5.0}, (8, 0)), False),
]


def attention(size: int, dtype: torch.dtype, heads: tuple[int, int], options: dict[str, Any]) -> tuple[Tensor, int]:
    """What packed attention gives on the GPU, and how often FlashAttention ran; gradients are finite."""
    own = [states(count, size, dtype).cuda().requires_grad_() for count in (heads[0], heads[1], heads[1])]
    kernel.CALLS.clear()
    scaled = torch.nn.functional.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, value: Tensor, **named: Any) -> Tensor:
        assert query.shape[1] == key.shape[1] and not named.get("enable_gqa"), "grouped queries fall into math"
        return scaled(query, key, value, **named)

    torch.nn.functional.scaled_dot_product_attention = watched
    found = packed_sequence_attention(torch.nn.Identity(), *own, RowBorders([0, *accumulate(LENGTHS)]), **options)
    found.float().square().sum().backward()
    assert all(bool(torch.isfinite(one.grad).all()) for one in own)  # type: ignore[arg-type]
    return found.detach().cpu(), len(kernel.CALLS)


def check_case(case: int) -> None:
    (size, dtype, heads, options, capability), takes = CASES[case]
    found, calls = on_pretend_gpu(attention, size, dtype, heads, options, capability=capability)
    assert bool(calls) == takes
    own = [states(count, size, dtype)[0].float() for count in (heads[0], heads[1], heads[1])]
    expected = row_attention(
        *own, [0, *accumulate(LENGTHS)], scale=size**-0.5, window=options.get("sliding_window"),
        softcap=options.get("softcap"),
    )  # fmt: skip
    assert found.shape == expected[None].shape
    assert float((found.float() - expected).abs().max()) < (1e-5 if dtype == torch.float32 else 4e-2)


@pytest.mark.parametrize("case", [0, 3, 5])
def test_what_flash_attention_refuses_runs_row_by_row(case: int) -> None:
    check_case(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(set(range(len(CASES))) - {0, 3, 5}))
def test_every_reason_to_refuse(case: int) -> None:
    check_case(case)


def after_a_prefix(dtype: torch.dtype, changes: dict[str, Any]) -> tuple[Tensor, int]:
    model = tiny_model("llama", **changes).to("cuda", dtype)
    kernel.CALLS.clear()
    with torch.no_grad(), prefix_attention(model):
        prefix = read_prefix(model, list(range(3, 12)))
        found = read_after_prefix(model, prefix, [[1, 2, 3], [5], [7, 8]])
    return found.float().cpu(), len(kernel.CALLS)


@pytest.mark.parametrize(
    ("changes", "capability", "calls"),
    [
        ({}, (8, 0), 4),
        pytest.param({}, (7, 5), 0, marks=pytest.mark.slow),
        pytest.param({"head_dim": 12}, (8, 0), 0, marks=pytest.mark.slow),
        pytest.param({"head_dim": 512}, (8, 0), 0, marks=pytest.mark.slow),
    ],
)
def test_rows_behind_a_prefix_choose_alike(changes: dict[str, Any], capability: tuple[int, int], calls: int) -> None:
    found, ran = on_pretend_gpu(after_a_prefix, torch.bfloat16, changes, capability=capability)
    assert ran == calls, "one for each layer, over the prefix and behind it"
    model = tiny_model("llama", **changes)
    with torch.no_grad(), prefix_attention(model):
        expected = read_after_prefix(model, read_prefix(model, list(range(3, 12))), [[1, 2, 3], [5], [7, 8]])
    assert float((found - expected).abs().max() / expected.abs().max()) < 6e-2


def test_the_reference_kernel_gives_row_attention_s_gradients() -> None:
    library = kernel.register()
    try:
        rows = RowBorders([0, *accumulate(LENGTHS)])
        ours, theirs = ([states(heads, 16, torch.bfloat16)[0].requires_grad_() for heads in (4, 2, 2)] for _ in "ab")
        found = flash_attention(*ours, rows, rows, window=8, scale=0.3)
        expected = row_attention(*theirs, rows.starts, scale=0.3, window=8)
        upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        found.backward(upstream)
        expected.backward(upstream)
        assert float((found - expected).detach().abs().max()) < 2e-2
        for mine, other in zip(ours, theirs, strict=True):
            assert float((mine.grad.float() - other.grad.float()).abs().max()) < 4e-2  # type: ignore[union-attr]
    finally:
        library._destroy()
