"""Logits by the model's own way from hidden states: whatever stands behind the backbone is the architecture's business.

Scales, soft caps, biases, tied weights, adapters on the head: nothing of it is known here. The model's own forward pass
runs over a stand-in for its backbone, which returns the hidden states that are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from tunelab.models.forward import backbone, underlying


class _BackboneOutput:
    """What a backbone returns, reduced to its hidden states: every other part (cache, router logits) is None."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, place: Any) -> Any:
        return ((self.last_hidden_state,))[place] if isinstance(place, int | slice) else getattr(self, place)

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def output_head(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The function hidden states [n, hidden] -> logits [n, vocabulary] of a causal language model, differentiable.

    Hidden states are those that the backbone gives (tunelab.models.forward.hidden_states).
    """
    base = underlying(model)
    # What the model's forward pass calls: the backbone, or the whole around it in a multimodal model.
    called = {backbone(model), base.base_model} - {base}

    def logits(hidden: Tensor) -> Tensor:
        unused = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
        with ExitStack() as giving:
            for part in called:
                giving.enter_context(_giving(part, hidden[None]))
            return cast(Tensor, base(input_ids=unused, use_cache=False).logits[0])

    return logits


@contextmanager
def _giving(backbone: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Within the block the backbone returns these hidden states, whatever it is given."""
    own = vars(backbone).get("forward")
    backbone.forward = lambda *inputs, **named: _BackboneOutput(hidden)
    try:
        yield
    finally:
        if own is None:
            del backbone.forward  # the class's own again
        else:
            backbone.forward = own


def trained_behind(head: Callable[[Tensor], Tensor], hidden: Tensor) -> list[nn.Parameter]:
    """The parameters with gradients that logits depend on, besides the hidden states [n, hidden]: found by autograd."""
    devices = [hidden.device] if hidden.is_cuda else []
    with torch.enable_grad(), torch.random.fork_rng(devices):  # dropout before the head draws for the step alone
        logits = head(hidden[:1].detach())
    found: dict[nn.Parameter, None] = {}
    seen, waiting = set(), [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(parameter := getattr(node, "variable", None), nn.Parameter):
            found[parameter] = None
        waiting += [before for before, _ in node.next_functions]
    return list(found)
