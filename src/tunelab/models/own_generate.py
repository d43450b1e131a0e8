"""transformers' own `generate`, with the choice of each next token left to the caller.

It knows the caches of every architecture: recurrent states, latent attention, learned positions. Nothing of the model's
generation_config takes effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tunelab.models.forward import underlying

#: The next token of each row from their logits [rows, vocabulary]; None = all rows have ended.
Choose = Callable[[Tensor], Sequence[int] | None]


class _Chosen(LogitsProcessor):  # type: ignore[misc]
    """Leaves one possible token to each row: the one that is chosen."""

    def __init__(self, choose: Choose) -> None:
        self.choose = choose
        self.is_done = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chosen = None if self.is_done else self.choose(scores)
        self.is_done = chosen is None
        tokens = torch.tensor([0] * len(scores) if chosen is None else list(chosen), device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


class _Done(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, chosen: _Chosen) -> None:
        self.chosen = chosen

    def __call__(self, input_ids: Tensor, scores: Any, **named: Any) -> Tensor:
        return torch.full((len(input_ids),), self.chosen.is_done, dtype=torch.bool, device=input_ids.device)


def own_generate(model: nn.Module, prompts: Sequence[Sequence[int]], choose: Choose, most: int) -> None:
    """Let the model's own `generate` continue prompts, padded at their beginnings, without gradients.

    Args:
        model: a transformers causal language model, or PEFT's wrapper of one, in evaluation mode.
        prompts: token ids of each prompt, at least one each.
        choose: called with the logits [rows, vocabulary] of each step.
        most: steps at most.
    """
    base: Any = underlying(model)
    device = base.device
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    config = GenerationConfig(max_new_tokens=most, do_sample=False, num_beams=1, use_cache=True, pad_token_id=0)
    chosen = _Chosen(choose)
    own, base.generation_config = base.generation_config, GenerationConfig()
    try:
        with torch.no_grad():
            base.generate(
                ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([chosen]),
                stopping_criteria=StoppingCriteriaList([_Done(chosen)]),
            )
    finally:
        base.generation_config = own


def left_padded_logits(model: nn.Module, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor:
    """Logits of each token of answers of one length, and of the token after: [rows, answer + 1, vocabulary]."""
    found: list[Tensor] = []

    def choose(logits: Tensor) -> list[int] | None:
        found.append(logits.clone())
        step = len(found) - 1
        return None if step == len(answers[0]) else [answer[step] for answer in answers]

    own_generate(model, prompts, choose, len(answers[0]) + 1)
    return torch.stack(found, dim=1)
