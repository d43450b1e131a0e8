"""Choices behind a shared prefix on a CUDA GPU: the numbers of every choice alone, in float32 and in bfloat16."""

from __future__ import annotations

import pytest
import torch
from varied_models import FAMILIES, VOCABULARY, tiny_model

from tunelab.evaluation.choice_question import ChoiceQuestion
from tunelab.evaluation.choices import choice_likelihoods

pytestmark = pytest.mark.gpu


def questions() -> list[ChoiceQuestion]:
    generator = torch.Generator().manual_seed(3)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())

    prefix, letters = tokens(24), ((5,), (6,), (7,), (8,))
    made = [ChoiceQuestion(prefix + tokens(2 + n), letters) for n in range(5)]
    return [
        *made,
        ChoiceQuestion(prefix + tokens(3), (tokens(3), tokens(1), tokens(5))),
        ChoiceQuestion(tokens(9), letters),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_those_of_the_cpu(family: str, dtype: torch.dtype) -> None:
    asked = questions()
    model = tiny_model(family).to(dtype).float()  # the same rounded weights on both
    expected = {one.index: one for one in choice_likelihoods(model, asked, micro_batch_tokens=100)}
    on_gpu = model.to("cuda", dtype)
    tolerance = 1e-3 if dtype == torch.float32 else 0.5
    for share in (True, False):
        made = list(choice_likelihoods(on_gpu, asked, micro_batch_tokens=100, share_prefixes=share))
        assert len(made) == len(asked)
        for one in made:
            assert one.log_probabilities == pytest.approx(expected[one.index].log_probabilities, abs=tolerance)
