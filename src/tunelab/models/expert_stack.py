"""Weights of a mixture's experts stored in a weight format, each expert apart, and the forward pass over them.

transformers keeps the weights of all experts of a layer in one tensor. Here an expert's weight is dequantized on the
fly where tokens reach it, in forward and again in backward, and its adapter is two small products next to it: neither
a dequantized nor an adapted copy of the whole tensor is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, cast

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn

from tunelab.errors import ModelError
from tunelab.models.formats._format import Packed, WeightFormat
from tunelab.models.lora_linear import _LoraLinear
from tunelab.models.quantized_linear import _Product


class ExpertStack(nn.Module):
    """Weights [experts, out, in] stored in a format.

    Args:
        form: the weight format.
        packed: the tensors that form.quantize() gives, of all experts: [experts, ...]; may be on the meta device.
        shape: (experts, out, in).
        dtype: of a dequantized weight.
        transposed: the model has them as [experts, in, out].
    """

    def __init__(
        self, form: WeightFormat, packed: Packed, shape: tuple[int, int, int], *, dtype: torch.dtype, transposed: bool
    ) -> None:
        super().__init__()
        self.form, self.sizes, self.dtype, self.transposed = form, shape, dtype, transposed
        for name in form.packed_layout(shape[1:]):
            self.register_buffer(name, packed[name])

    @property
    def shape(self) -> torch.Size:
        """As the model has them."""
        experts, outputs, inputs = self.sizes
        return torch.Size((experts, inputs, outputs) if self.transposed else self.sizes)

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device

    @property
    def packed(self) -> dict[str, Tensor]:
        """Codes and scales of all experts, by name."""
        return {name: self.get_buffer(name) for name in self.form.packed_layout(self.sizes[1:])}

    def numel(self) -> int:
        return self.sizes[0] * self.sizes[1] * self.sizes[2]

    def expert(self, index: int, dtype: torch.dtype) -> Tensor:
        """The dequantized weight of one expert: [out, in]."""
        return self.form.dequantize({name: part[index] for name, part in self.packed.items()}, self.sizes[1:], dtype)

    def as_layers(self, dtype: torch.dtype) -> Tensor:
        """All of them: [experts, out, in]."""
        return torch.stack([self.expert(index, dtype) for index in range(self.sizes[0])])

    def dense(self) -> Tensor:
        """All of them as the model has them."""
        weights = self.as_layers(self.dtype)
        return weights.mT.contiguous() if self.transposed else weights

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, {self.form}"


def quantized_stack(form: WeightFormat, weight: Tensor, *, dtype: torch.dtype, transposed: bool) -> ExpertStack:
    """A stack from full weights as the model has them.

    Raises:
        ModelError: a weight is infinite or NaN.
    """
    layers = weight.mT if transposed else weight
    parts = [form.quantize(layer.contiguous()) for layer in layers]
    packed = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    shape = (layers.shape[0], layers.shape[1], layers.shape[2])
    return ExpertStack(form, packed, shape, dtype=dtype, transposed=transposed)


def base_name(name: str) -> str:
    """A module's or weight's name in the base model: without PEFT's wrappers around layers."""
    return name.replace(".base_layer", "")


def quantized_stacks(model: nn.Module) -> dict[str, ExpertStack]:
    """Every quantized stack of a model, by its dotted name without PEFT's wrappers."""
    return {base_name(name): module for name, module in model.named_modules() if isinstance(module, ExpertStack)}


def can_be_stored(module: nn.Module) -> bool:
    """Whether experts say how they compute, as transformers' own do that it runs by several kernels."""
    return all(hasattr(module, name) for name in ("is_transposed", "has_gate", "has_bias", "_apply_gate"))


def set_stack(module: nn.Module, name: str, stack: ExpertStack) -> None:
    """Put a stack in the place of a parameter of experts."""
    use_own_forward(module)
    delattr(module, name)
    module.add_module(name, stack)


def set_dense(module: nn.Module, name: str) -> None:
    """Put the dequantized weights in the place of a stack; the adapter of an expert stays."""
    weights = cast(ExpertStack, getattr(module, name)).dense()
    delattr(module, name)
    module.register_parameter(name, nn.Parameter(weights, requires_grad=False))


def use_own_forward(module: nn.Module) -> None:
    """Give experts this module's forward pass; their class keeps its name."""
    if not isinstance(module, OwnExperts):
        module.__class__ = _own_class(cast(Any, type(module)))
        module.adapters = {}  # type: ignore[assignment]
        module.order = tuple(module._parameters)  # type: ignore[assignment]


@cache
def _own_class(known: Any) -> Any:
    names = {"__module__": known.__module__, "__qualname__": known.__qualname__}
    return type(known.__name__, (OwnExperts, known), names)


class OwnExperts(nn.Module):
    """Experts whose weights may be stored in a format or have an adapter.

    Attributes:
        adapters: each expert's A [rank, in] and B [out, rank], and the scaling, by the weight's name; set while an
            adapted forward pass runs.
        order: of the parameters, as the architecture has them: PEFT names matrices by it.
    """

    adapters: dict[str, tuple[Sequence[Tensor], Sequence[Tensor], float]]
    order: tuple[str, ...]

    def forward(self, *given: Any, **named: Any) -> Tensor:
        """As transformers' experts: states [tokens, hidden], chosen experts and their weights [tokens, k]."""
        if not self.adapters and not any(isinstance(part, ExpertStack) for part in self.children()):
            return cast(Tensor, super().forward(*given, **named))
        return _experts_forward(self, *given, **named)


def _experts_forward(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    chosen, order = torch.sort(top_k_index.reshape(-1), stable=True)
    k = top_k_index.shape[-1]
    states = hidden[order // k]
    counts = torch.bincount(chosen, minlength=experts.num_experts).tolist()
    found, start = [], 0
    for expert, count in enumerate(counts):
        if count:
            found.append(_one_expert(experts, states[start : start + count], expert))
            start += count
    weighted = torch.cat(found) * top_k_weights.reshape(-1)[order][:, None]
    restored = weighted[torch.argsort(order)]
    return restored.view(len(hidden), k, -1).sum(dim=1).to(hidden.dtype)


def _one_expert(experts: Any, states: Tensor, expert: int) -> Tensor:
    """What one expert makes of states [n, hidden]."""
    first = _linear(experts, "gate_up_proj" if experts.has_gate else "up_proj", states, expert)
    inner = experts._apply_gate(first) if experts.has_gate else experts.act_fn(first)
    made = _linear(experts, "down_proj", inner, expert)
    return cast(Tensor, experts.post_expert_norm(made)) if getattr(experts, "has_post_expert_norm", False) else made


def _linear(experts: Any, name: str, x: Tensor, expert: int) -> Tensor:
    stack = getattr(experts, name)
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    bias = getattr(experts, f"{name}_bias")[expert].to(dtype) if experts.has_bias else None
    if isinstance(stack, ExpertStack):
        weight = partial(stack.expert, expert)
    else:
        weight = (stack[expert].mT if experts.is_transposed else stack[expert]).to
    adapter = experts.adapters.get(name)
    if adapter is None:
        return cast(Tensor, _Product.apply(x.to(dtype), bias, weight))  # type: ignore[no-untyped-call]
    a, b, scaling = adapter
    return cast(
        Tensor,
        _LoraLinear.apply(x.to(dtype), weight, bias, a[expert], b[expert], scaling),  # type: ignore[no-untyped-call]
    )


class ExpertLora(ParamWrapper):  # type: ignore[misc]
    """PEFT's adapter on experts' weights, computed next to them; in all but the common case it is PEFT's own.

    The common case: one active adapter, not merged.
    """

    def forward(self, x: Tensor, *given: Any, **named: Any) -> Tensor:
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(active) != 1:
            return cast(Tensor, super().forward(x, *given, **named))
        experts, (name,) = self.get_base_layer(), active
        a = self.lora_A[name].weight.view(self.num_experts, -1, self.in_features)
        b = self.lora_B[name].weight.view(self.out_features, -1, self.num_experts).permute(2, 0, 1)
        # Apart at once: indexing would give each expert a gradient as large as that of all.
        adapter = (a.unbind(), b.unbind(), self.scaling[name])
        experts.adapters = {**experts.adapters, self.parameter_name: adapter}
        try:
            return cast(Tensor, self.base_layer(x, *given, **named))
        finally:
            experts.adapters = {key: one for key, one in experts.adapters.items() if key != self.parameter_name}

    def merge(self, *given: Any, **named: Any) -> None:
        """PEFT's merge, refused if the experts are quantized: the sum would have to be quantized again.

        Raises:
            ModelError: they are quantized.
        """
        if isinstance(stack := self.get_param(), ExpertStack):
            raise ModelError(
                f"an adapter cannot be merged into experts stored in {stack.form.name}",
                "`tunelab merge RUN` writes full weights",
            )
        super().merge(*given, **named)


def use_expert_lora(model: nn.Module) -> None:
    """Give PEFT's adapters on experts that say how they compute this module's forward; nothing else changes."""
    for module in cast(Iterable[Any], model.modules()):
        if type(module) is ParamWrapper and module.num_experts > 1 and can_be_stored(module.get_base_layer()):
            module.__class__ = ExpertLora
            use_own_forward(module.get_base_layer())


@contextmanager
def stacks_as_parameters(model: nn.Module) -> Iterator[None]:
    """Within the block quantized stacks are parameters without memory, so that PEFT finds them by name."""
    places = [
        (module, name, stack)
        for module in model.modules()
        for name, stack in module.named_children()
        if isinstance(stack, ExpertStack)
    ]
    for module, name, stack in places:
        empty = torch.zeros((), dtype=stack.dtype, device=stack.device).expand(stack.shape)
        delattr(module, name)
        module.register_parameter(name, nn.Parameter(empty, requires_grad=False))
        known = module._parameters
        module._parameters = {one: known[one] for one in cast(OwnExperts, module).order if one in known}
    try:
        yield
    finally:
        for module, name, stack in places:
            delattr(module, name)
            module.add_module(name, stack)
