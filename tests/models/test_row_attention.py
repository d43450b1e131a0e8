"""Attention over packed sequences on the CPU: torch's own, row by row; dropout with one mask; rows apart to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampled import sampled
from torch import Tensor
from torch.nn import functional

from tunelab.models.row_attention import QUERY_BLOCK, row_attention

HEAD = 4
SCALE = 0.4

lengths = st.lists(
    st.one_of(st.integers(1, 70), st.sampled_from((1, QUERY_BLOCK, QUERY_BLOCK + 1, 2 * QUERY_BLOCK + 9)))
)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def states(heads: int, key_heads: int, tokens: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Random query, key and value that want gradients."""
    generator = torch.Generator().manual_seed(heads * 1000 + tokens)
    shapes = ((heads, tokens, HEAD), (key_heads, tokens, HEAD), (key_heads, tokens, HEAD))
    return tuple(torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes)


def reference(query: Tensor, key: Tensor, value: Tensor, row_starts: list[int], window: int | None) -> Tensor:
    """torch's scaled_dot_product_attention, a call a row and a mask written out; zeros behind the last row."""
    group = query.shape[0] // key.shape[0]
    outputs = []
    for start, end in pairwise(row_starts):
        distance = torch.arange(end - start)[:, None] - torch.arange(end - start)
        seen = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
        own = [part[None, :, start:end] for part in (query, *(x.repeat_interleave(group, 0) for x in (key, value)))]
        outputs.append(functional.scaled_dot_product_attention(*own, attn_mask=seen, scale=SCALE)[0].transpose(0, 1))
    rows = torch.cat(outputs)  # [tokens of rows, heads, head]
    return functional.pad(rows, (0, 0, 0, 0, 0, query.shape[1] - len(rows)))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=lengths.filter(lambda rows: 0 < len(rows) <= 6 and sum(rows) < 900),
    heads=st.sampled_from(((1, 1), (2, 1), (4, 2))),
    window=st.sampled_from((None, 1, 2, 17, QUERY_BLOCK + 5)),
    padding=st.integers(0, 70),
    dtype=st.sampled_from((torch.float64, torch.float32)),
)
def test_it_is_torchs_attention_row_by_row(
    lengths: list[int], heads: tuple[int, int], window: int | None, padding: int, dtype: torch.dtype
) -> None:
    row_starts = [0, *accumulate(lengths)]
    ours = states(*heads, row_starts[-1] + padding, dtype)
    theirs = [part.detach().clone().requires_grad_() for part in ours]
    output = row_attention(*ours, row_starts, scale=SCALE, window=window)
    expected = reference(*theirs, row_starts, window)
    assert output.shape == expected.shape and output.dtype == dtype
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert not output[row_starts[-1] :].any(), "padding gives zeros"
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    output.backward(upstream)
    expected.backward(upstream)
    for name, mine, other in zip(("query", "key", "value"), ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
        assert not mine.grad[:, row_starts[-1] :].any(), "padding gets no gradient"


@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_rows_do_not_see_each_other(changed: int) -> None:
    row_starts = [0, 5, 5 + QUERY_BLOCK + 30, 5 + QUERY_BLOCK + 31]
    tokens = row_starts[-1] + 20
    borders = [*row_starts, tokens]  # row 3 is the padding
    before = states(4, 2, tokens, torch.float32)
    after = [part.detach().clone() for part in before]
    for part in after:
        part[:, borders[changed] : borders[changed + 1]] = 1000.0
    outputs = [row_attention(*parts, row_starts, scale=SCALE) for parts in (before, after)]
    for row, (start, end) in enumerate(pairwise(borders)):
        assert torch.equal(outputs[0][start:end], outputs[1][start:end]) is (row != changed or row == 3)


def test_bfloat16_is_close_to_float32_given_so_or_by_autocast() -> None:
    row_starts = [0, 40, 40 + 2 * QUERY_BLOCK + 7]
    exact = states(4, 2, row_starts[-1], torch.float32)
    rounded = [part.detach().to(torch.bfloat16).requires_grad_() for part in exact]
    cast = [part.detach().clone().requires_grad_() for part in exact]
    expected = row_attention(*exact, row_starts, scale=SCALE)
    given_so = row_attention(*rounded, row_starts, scale=SCALE)
    with torch.autocast("cpu", torch.bfloat16):
        by_autocast = row_attention(*cast, row_starts, scale=SCALE)
    assert given_so.dtype == by_autocast.dtype == torch.bfloat16 and torch.equal(given_so, by_autocast)
    torch.testing.assert_close(given_so.float(), expected, rtol=0.02, atol=0.02)
    upstream = torch.randn(expected.shape)
    expected.backward(upstream)
    given_so.backward(upstream.bfloat16())
    by_autocast.backward(upstream.bfloat16())
    for one, two, three in zip(exact, rounded, cast, strict=True):
        assert (two.grad.dtype, three.grad.dtype) == (torch.bfloat16, torch.float32)
        for found in (two.grad.float(), three.grad):
            assert (found - one.grad).norm() < 0.02 * one.grad.norm()


def test_dropout_gives_the_plain_output_on_average() -> None:
    parts = [part.detach() for part in states(2, 1, 12, torch.float32)]
    plain = row_attention(*parts, [0, 3, 12], scale=SCALE)
    several = torch.stack([row_attention(*parts, [0, 3, 12], scale=SCALE, dropout=0.3) for _ in range(1500)])
    assert several.std(dim=0).max() > 0.1, "each call drops other weights"
    error = several.std(dim=0) / len(several) ** 0.5
    assert ((several.mean(dim=0) - plain).abs() <= 5 * error + 1e-6).all()
    torch.manual_seed(8)
    first = row_attention(*parts, [0, 3, 12], scale=SCALE, dropout=0.3)
    torch.manual_seed(8)
    assert torch.equal(row_attention(*parts, [0, 3, 12], scale=SCALE, dropout=0.3), first)


@pytest.mark.parametrize(("dropout", "window"), sampled([0.0, 0.3], [None, 3]))
def test_gradients_by_finite_differences(dropout: float, window: int | None) -> None:
    def attention(*parts: Tensor) -> Tensor:
        torch.manual_seed(4)
        return row_attention(*parts, [0, 1, 4, 9], scale=SCALE, window=window, dropout=dropout)

    assert torch.autograd.gradcheck(attention, states(2, 1, 11), eps=1e-6, atol=1e-6)


def test_the_backward_pass_drops_what_the_forward_pass_dropped() -> None:
    """With the identity for values the output is the matrix of weights, and its transpose the values' gradient."""
    tokens = QUERY_BLOCK + 40
    query, key = (torch.randn(1, tokens, tokens, dtype=torch.float64) for _ in range(2))
    value = torch.eye(tokens, dtype=torch.float64)[None].requires_grad_()
    weights = row_attention(query, key, value, [0, 30, tokens], scale=0.01, dropout=0.5)[:, 0]
    seen = torch.tril(torch.ones(tokens, tokens, dtype=torch.bool))
    seen[30:, :30] = False
    assert 0.45 < (weights[seen] == 0).double().mean() < 0.55
    weights.backward(torch.eye(tokens, dtype=torch.float64))
    assert value.grad is not None
    torch.testing.assert_close(value.grad[0], weights.detach().T)


def test_over_a_long_row_small_gradients_are_not_lost_beside_a_large_one() -> None:
    """Many blocks add to the first value's gradient; in bfloat16 each of these sums would swallow what is added."""
    tokens = 16 * QUERY_BLOCK
    query, key, value = (torch.zeros(1, tokens, HEAD, dtype=torch.bfloat16) for _ in range(3))
    value.requires_grad_()
    upstream = torch.full((tokens, 1, HEAD), 1.4)
    upstream[0] = 256.0
    row_attention(query, key, value, [0, tokens], scale=1.0).backward(upstream.bfloat16())
    assert value.grad is not None
    expected = 256.0 + 1.4 * sum(1 / (place + 1) for place in range(1, tokens))
    assert (value.grad[0, 0].float() - expected).abs().max() < 2.4, "bfloat16's steps are 2 wide here"
