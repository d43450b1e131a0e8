"""What only a GPU shows of generation: the cache on the device, half precision, FlashAttention for prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from varied_models import FAMILIES, VOCABULARY, tiny_model

from tunelab.inference.engine import generate
from tunelab.inference.row import Generation
from tunelab.inference.sampling import Decoding

pytestmark = pytest.mark.gpu

LENGTHS = (3, 17, 1, 9, 17, 30, 2, 12)


class Numbers:
    def decode(self, ids: list[int], **named: bool) -> str:
        return " ".join(str(token) for token in ids)


def answers(model: Any, micro_batch_tokens: int, **options: Any) -> list[Generation]:
    generator = torch.Generator().manual_seed(11)
    prompts = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]
    made = generate(
        model,
        Numbers(),  # type: ignore[arg-type]
        prompts,
        Decoding(max_new_tokens=12, **options),
        stop_token_ids=(),
        micro_batch_tokens=micro_batch_tokens,
    )
    return sorted(made, key=lambda one: one.index)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.2}])
def test_float32_on_the_gpu_gives_the_processor_s_answers(family: str, options: dict[str, Any]) -> None:
    expected = answers(tiny_model(family), 10_000, **options)
    for micro_batch_tokens in (1, 300, 10_000):
        assert answers(tiny_model(family).to("cuda"), micro_batch_tokens, **options) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_answers_begin_as_float32_does(family: str, dtype: torch.dtype) -> None:
    expected = answers(tiny_model(family), 10_000)
    made = answers(tiny_model(family).to("cuda", dtype), 10_000)
    assert [len(one.token_ids) for one in made] == [len(one.token_ids) for one in expected]
    same = sum(a.token_ids[:2] == b.token_ids[:2] for a, b in zip(made, expected, strict=True))
    assert same >= len(LENGTHS) - 2, "rounding may turn a near tie, not more"
