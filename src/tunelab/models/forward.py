"""Running a causal language model on packed sequences: rows end to end, with attention confined to each row.

A packed batch has `tokens` ids and `row_starts`, the `rows + 1` offsets where rows begin (the last is `tokens`). There
is no padding: positions restart with each row, and a token attends only to earlier tokens of its own row. The functions
return the hidden states before the output head, so that logits are computed only where they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunelab.errors import ModelError
from tunelab.models.quantized_linear import QuantizedLinear
from tunelab.models.row_attention import row_attention

PACKED_ATTENTION = "tunelab_packed"

#: On the CPU, packed sequences are padded at the end to a multiple of this many tokens; no row sees the padding.
TOKENS_STEP = 64

#: Arguments with which an architecture asks its attention for something that packed attention does not support.
UNSUPPORTED_ATTENTION = ("softcap", "s_aux", "position_bias")


def underlying(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, unwrapped from PEFT where necessary."""
    get_base_model = getattr(model, "get_base_model", None)
    base = get_base_model() if get_base_model is not None else model
    if not isinstance(base, PreTrainedModel):
        raise ModelError(f"{type(base).__name__} is not a transformers model", "load it with tunelab's load_model")
    return base


def backbone(model: nn.Module) -> nn.Module:
    """The part of a causal language model that gives hidden states: all but the output head.

    Raises:
        ModelError: the architecture has no such part.
    """
    base = underlying(model)
    inner = (child for child in base.children() if isinstance(child, PreTrainedModel))
    found: nn.Module | None = base.base_model
    if found is base:  # its base_model_prefix names no attribute (Llama 4's text model)
        found = next(inner, None)
    if found is None:
        raise ModelError(
            f"{type(base).__name__} has no backbone apart from its output head", "use another architecture"
        )
    return found


def linear_names(model: PreTrainedModel) -> list[str]:
    """Dotted names of all linear layers (GPT-2's Conv1D included) except the output head and routers of experts."""
    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if _is_linear(module) and module is not head]


def stacked_weights(model: PreTrainedModel) -> dict[str, int]:
    """Numbers of weights, by name, in the stacked tensors [experts, out, in] of mixtures: they are no linear layers."""
    return {
        f"{name}.{last}" if name else last: parameter.numel()
        for name, module in model.named_modules()
        if not isinstance(module, nn.modules.conv._ConvNd)
        for last, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3 and min(parameter.shape) > 1
    }


def _is_linear(module: nn.Module) -> bool:
    """Whether a module gives x W^T + b: a router that derives from nn.Linear gives a tuple of scores and choices."""
    if not isinstance(module, nn.Linear) or type(module).forward in (nn.Linear.forward, QuantizedLinear.forward):
        return isinstance(module, nn.Linear | Conv1D)
    probe = torch.zeros(1, module.in_features, device=module.weight.device, dtype=module.weight.dtype)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = module(probe)
    except Exception:  # code of any architecture, which expects another shape
        return False
    return isinstance(found, Tensor) and found.shape == (1, module.out_features)


def packed_attention(model: nn.Module) -> AbstractContextManager[None]:
    """Within the block, the model uses packed attention; on exit its own is restored."""
    return attention_set_to(model, PACKED_ATTENTION)


@contextmanager
def attention_set_to(model: nn.Module, implementation: str) -> Iterator[None]:
    """Within the block, the model uses this registered attention; on exit its own is restored."""
    base = underlying(model)
    before = base.config._attn_implementation
    base.set_attn_implementation(implementation)
    try:
        yield
    finally:
        base.set_attn_implementation(before)


def packed_positions(row_starts: Tensor, tokens: int) -> Tensor:
    """Position of each token in its own row: [tokens], int64, from row_starts [rows + 1]."""
    lengths = row_starts[1:] - row_starts[:-1]
    starts = torch.repeat_interleave(row_starts[:-1], lengths, output_size=tokens)
    return torch.arange(tokens, device=row_starts.device) - starts


def packed_hidden_states(model: nn.Module, input_ids: Tensor, row_starts: Tensor) -> Tensor:
    """Last hidden states [tokens, hidden] of a packed sequence; call it inside `with packed_attention(model)`.

    Args:
        model: a transformers causal language model, or PEFT's wrapper of one.
        input_ids: [tokens], int64, the rows end to end.
        row_starts: [rows + 1], int64, the offset of each row, and `tokens` at the end.
    """
    tokens = len(input_ids)
    positions = packed_positions(row_starts, tokens)
    padding = padded_tokens(tokens, input_ids.device) - tokens
    output = backbone(model)(
        input_ids=functional.pad(input_ids, (0, padding))[None],  # [1, tokens + padding]
        position_ids=functional.pad(positions, (0, padding))[None],
        use_cache=False,
        row_starts=row_starts.tolist(),
    )
    return cast(Tensor, output.last_hidden_state[0, :tokens])


def padded_tokens(tokens: int, device: torch.device) -> int:
    """Length that a packed sequence of `tokens` tokens is padded to.

    On the CPU oneDNN compiles a kernel for every shape, so the number of different lengths is kept small.
    """
    return -(-tokens // TOKENS_STEP) * TOKENS_STEP if device.type == "cpu" and tokens > TOKENS_STEP else tokens


def output_head(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The function hidden states [n, hidden] -> logits [n, vocabulary], including the soft cap of models with one."""
    base = underlying(model)
    head = base.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(base).__name__} has no output head", "only causal language models can be used")
    cap = getattr(base.config, "final_logit_softcapping", None)  # Gemma 2
    if cap is None:
        return cast(Callable[[Tensor], Tensor], head)

    def capped(hidden: Tensor) -> Tensor:
        return cast(Tensor, torch.tanh(head(hidden) / cap) * cap)

    return capped


def _packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    row_starts: list[int] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row. query [1, heads, tokens, head], key and value [1, key heads, tokens, head]."""
    if row_starts is None:
        raise ModelError(
            f"{type(module).__name__} does not pass row boundaries to its attention",
            "this architecture cannot run packed sequences; tunelab supports attention-only decoders",
        )
    states = (query, key, value, row_starts)
    return packed_sequence_attention(
        module, *states, dropout=dropout, scaling=scaling, sliding_window=sliding_window, **kwargs
    ), None


def packed_sequence_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_starts: list[int],
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """Causal attention within each row, by the kernel that suits the device: [1, tokens, heads, head].

    Raises:
        ModelError: the architecture asks for something that none of these kernels supports.
    """
    for name in UNSUPPORTED_ATTENTION:
        if kwargs.get(name) is not None:
            raise ModelError(f"{type(module).__name__} needs attention with {name}, which packed attention lacks")
    longest = max(end - start for start, end in pairwise(row_starts))
    window = sliding_window if sliding_window is not None and sliding_window < longest else None
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout:
        return _varlen_attention(query, key, value, row_starts, longest, window, scaling)
    if not query.is_cuda:
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        states = (query[0], key[0], value[0])
        return row_attention(*states, row_starts, scale=scale, window=window, dropout=dropout)[None]
    return _attention_row_by_row(query, key, value, row_starts, window, scaling, dropout)


def _attention_row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_starts: list[int],
    window: int | None,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """For what FlashAttention does not support on a GPU (float32, dropout): torch's attention, one call per row."""
    outputs = []
    for start, end in pairwise(row_starts):
        banded = window is not None and end - start > window
        outputs.append(
            functional.scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                attn_mask=_band(end - start, window or 0, query.device) if banded else None,
                dropout_p=dropout,
                is_causal=not banded,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2)  # [1, tokens, heads, head]


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Causal mask of a sliding window, [length, length] bool: a token sees itself and the window - 1 before it."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < window)


def _varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_starts: list[int],
    longest: int,
    window: int | None,
    scaling: float | None,
) -> Tensor:
    """FlashAttention over rows of different lengths, as torch ships it for CUDA; returns [1, tokens, heads, head]."""
    from torch.nn.attention.varlen import varlen_attn

    borders = torch.tensor(row_starts, dtype=torch.int32, device=query.device)
    queries, keys, values = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    attended = varlen_attn(
        queries,  # [tokens, heads, head]
        keys,
        values,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return cast(Tensor, attended)[None]


AttentionInterface.register(PACKED_ATTENTION, _packed_attention_forward)
