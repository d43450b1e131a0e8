"""Choosing tokens: the distribution is transformers' own, and a draw is its row's alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tunelab.errors import UsageError
from tunelab.inference.sampling import Decoding, narrowed_probabilities, next_tokens, row_randomness


def logits_of(rows: int = 6, vocabulary: int = 50) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(5)) * 3


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.3, "top_p": 0.8},
        {"temperature": 1.0, "top_p": 1e-6},
        {"temperature": 1.0, "min_p": 0.1},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    ],
)
def test_the_distribution_is_that_of_transformers(options: dict[str, Any]) -> None:
    decoding = Decoding(**options)
    # In float64, as ours: where a sum meets top_p exactly, float32 would decide by its rounding.
    scores = TemperatureLogitsWarper(decoding.temperature)(None, logits_of().double())
    if decoding.top_k:
        scores = TopKLogitsWarper(decoding.top_k)(None, scores)
    if decoding.top_p < 1:
        scores = TopPLogitsWarper(decoding.top_p)(None, scores)
    if decoding.min_p:
        scores = MinPLogitsWarper(decoding.min_p)(None, scores)
    ours = narrowed_probabilities(logits_of(), decoding)
    torch.testing.assert_close(ours / ours.sum(1, keepdim=True), torch.softmax(scores, dim=1))
    assert (ours > 0).any(dim=1).all()


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    ids = torch.tensor([[3, 7, 7, 49], [0, 1, 2, 3]])
    logits = logits_of(2)
    logits[0, 7], logits[1, 2] = 20.0, 20.0  # the likeliest, but for the penalty
    expected = RepetitionPenaltyLogitsProcessor(9.0)(ids, logits.clone()).argmax(1).tolist()
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids, True)
    assert next_tokens(logits, Decoding(repetition_penalty=9.0), [], seen) == expected
    assert expected != logits.argmax(1).tolist()


def test_draws_follow_the_probabilities() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.0, 0.3, 0.2]]))
    numbers = row_randomness(0, 0, 4000)
    drawn = torch.tensor(next_tokens(logits.expand(4000, 4), Decoding(temperature=1.0), numbers))
    shares = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.0, 0.3, 0.2]), atol=0.03, rtol=0)
    for number, token in ((0.0, 0), (0.4999, 0), (0.5001, 2), (0.9999999, 3)):
        assert next_tokens(logits, Decoding(temperature=1.0), [number]) == [token]


def test_a_row_s_randomness_is_its_own() -> None:
    assert row_randomness(1, 2, 5) == row_randomness(1, 2, 9)[:5]
    assert len({tuple(row_randomness(seed, row, 3)) for seed in range(4) for row in range(4)}) == 16
    assert all(0 <= number < 1 for number in row_randomness(0, 0, 100))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_new_tokens", 0, "max_new_tokens is 0, expected at least 1"),
        ("temperature", -0.1, "temperature is -0.1, expected 0 .greedy. or more"),
        ("temperature", float("nan"), "temperature is nan"),
        ("top_p", 0.0, "top_p is 0.0, expected above 0, at most 1"),
        ("top_p", 1.5, "top_p is 1.5"),
        ("top_k", -1, "top_k is -1, expected 0 .all tokens. or more"),
        ("min_p", 1.1, "min_p is 1.1, expected from 0"),
        ("repetition_penalty", 0.0, "repetition_penalty is 0.0, expected above 0; 1 is no penalty"),
        ("seed", -1, "seed is -1, expected 0 or more"),
        ("stop_strings", ("",), "stop_strings is .*expected non-empty texts"),
    ],
)
def test_a_value_outside_its_range_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        Decoding(**{name: value})
