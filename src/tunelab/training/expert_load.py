"""How a training spreads its tokens over the experts of a mixture: counted on the device, read at checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tunelab.models.complete import LAYER
from tunelab.models.expert_stack import base_name
from tunelab.models.linear_layers import ROUTERS, experts


class ExpertLoad:
    """Choices of each expert since the last reading, by layer; padding between rows is counted with them.

    Args:
        model: in training mode while it is counted. Without experts nothing is.
    """

    def __init__(self, model: nn.Module) -> None:
        #: False in passes without rows: they add 0, so that every process has the same layers.
        self.counts = True
        self._chosen: dict[str, Tensor] = {}
        modules = dict(model.named_modules())
        for name, module in experts(model):
            plain = base_name(name)
            found = LAYER.search(plain)
            self._count(found.group(1) if found else plain, modules, plain, module)

    def _count(self, layer: str, modules: dict[str, nn.Module], name: str, module: nn.Module) -> None:
        """Count in forward passes of the experts, or of a router that gives scores (Llama 4)."""
        block = modules.get(name.rpartition(".")[0])
        router = next((getattr(block, one) for one in ROUTERS if hasattr(block, one)), None)

        def before(experts: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            for one in (*given, *named.values()):
                if isinstance(one, Tensor) and not one.is_floating_point() and experts.training:
                    self._add(layer, _counts(one.flatten(), experts.num_experts))

        def after(router: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            if router.training:
                self._add(layer, (output[0] > 0).sum(dim=0))

        if hasattr(module, "is_transposed"):
            module.register_forward_pre_hook(before, with_kwargs=True)
        elif router is not None:
            router.register_forward_hook(after)

    def _add(self, layer: str, counts: Tensor) -> None:
        counts, known = counts * self.counts, self._chosen.get(layer)
        self._chosen[layer] = counts if known is None else known + counts

    def read(self, total: Callable[[Tensor], Tensor] = lambda counts: counts) -> dict[str, Any] | None:
        """The shares since the last reading; None if no token has passed an expert.

        Args:
            total: sums over processes.

        Returns:
            `load`: the share of each expert, by layer; `largest_share` of any of them; `unused`: experts of all layers
            without a token.
        """
        if not self._chosen:
            return None
        load = {layer: _shares(total(counts)) for layer, counts in self._chosen.items()}
        self._chosen = {}
        shares = [share for layer in load.values() for share in layer]
        return {"load": load, "largest_share": max(shares), "unused": sum(share == 0 for share in shares)}


def _counts(chosen: Tensor, experts: Any) -> Tensor:
    """How often each expert is chosen: [experts]; unlike bincount it does not wait for the device."""
    counts = torch.zeros(experts, dtype=torch.int64, device=chosen.device)
    return counts.scatter_add_(0, chosen.long(), torch.ones_like(chosen, dtype=torch.int64))


def _shares(counts: Tensor) -> list[float]:
    total = float(counts.sum())
    return [round(count / total, 6) for count in counts.tolist()]
