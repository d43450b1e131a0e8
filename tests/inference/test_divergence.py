"""A divergence is never below zero, and one that is not a number stays none."""

from __future__ import annotations

import math

import torch

from tunelab.inference.divergence import AnswerDistributions, divergence


def _distributions(shift: float) -> AnswerDistributions:
    logits = torch.randn(200, 50, generator=torch.Generator().manual_seed(0)) + shift
    return AnswerDistributions(torch.log_softmax(logits, dim=-1), torch.zeros(200, dtype=torch.long))


def test_rounding_alone_is_no_negative_divergence() -> None:
    plain = _distributions(0.0)
    found = [divergence(3.0, plain, _distributions(shift)).kl for shift in (0.0, 7.0, 100.0, -333.0)]
    raw = [
        float(
            (plain.log_probabilities.exp() * (plain.log_probabilities - _distributions(shift).log_probabilities)).sum()
        )
        for shift in (7.0, 100.0, -333.0)
    ]
    assert min(raw) < 0 <= min(found)


def test_what_is_not_a_number_stays_so() -> None:
    broken = AnswerDistributions(torch.full((3, 4), math.nan), torch.zeros(3, dtype=torch.long))
    assert math.isnan(divergence(3.0, broken, broken).kl)
