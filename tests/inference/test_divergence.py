"""A divergence is never below zero, and one that is not a number stays none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tunelab.inference import divergence as measured
from tunelab.inference.divergence import AnswerDistributions, answer_distributions, divergence
from tunelab.models import forward
from tunelab.models.load import load_model


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


def test_rows_run_at_once_and_give_what_each_gives_alone(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(models["llama"]), dtype=torch.float32, device="cpu")
    rows = [([5 + n % 9, 6, 7, 8, 9][: 3 + n % 3], [False, True, True, True, True][: 3 + n % 3]) for n in range(12)]
    rows.insert(3, ([5, 6, 7], [True, False, False]))  # without an answer
    passes: list[int] = []
    real = forward.hidden_states

    def counted(model: Any, ids: Any, starts: Any, layout: Any) -> Any:
        passes.append(len(starts) - 1)
        return real(model, ids, starts, layout)

    monkeypatch.setattr(forward, "hidden_states", counted)
    together = answer_distributions(model, rows)
    assert passes == [12]
    monkeypatch.setattr(measured, "PACKED_TOKENS", 1)
    alone = answer_distributions(model, rows)
    assert passes == [12, *[1] * 12] and torch.equal(together.targets, alone.targets)
    torch.testing.assert_close(together.log_probabilities, alone.log_probabilities)
    monkeypatch.setattr(measured, "MOST_TOKENS", 5)
    few = answer_distributions(model, rows)
    assert torch.equal(few.targets, alone.targets[:5]), "the first five tokens of answers, and no more rows than needed"
    assert len(passes) == 15
