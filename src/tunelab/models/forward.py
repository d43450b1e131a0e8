"""Running the backbone of a causal language model on several rows at once, in one of three layouts.

A batch has `tokens` ids and `row_starts`, the `rows + 1` offsets where rows begin (the last is `tokens`).

- packed: rows end to end in one sequence, without padding; positions restart with each row, and our own attention is
  confined to each row.
- padded: rows of similar length next to each other, padded at their ends, with the model's own attention. No token sees
  what follows it, so no token sees padding.
- alone: one row at a time, with the model's own attention.

Which layouts give a model's own logits says models/structure.py. The functions return hidden states before the output
head, so that logits are computed only where they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from tunelab.errors import ModelError
from tunelab.models.flash_attention import RowBorders, flash_attention, masked_attention, takes_flash
from tunelab.models.page_locked import copied
from tunelab.models.plain_attention import as_scores, plain_attention
from tunelab.models.row_attention import row_attention

PACKED_ATTENTION = "tunelab_packed"

RowLayout = Literal["packed", "padded", "alone"]

#: Called before each pass of the backbone with the length of each token's row, [rows, tokens] as its ids.
BeforePass = Callable[[Tensor], None]

#: Rows are padded together if the shortest has at least this share of the longest's tokens.
LEAST_FILLED = 3 / 4

#: On the CPU, packed sequences are padded at the end to a multiple of this many tokens; no row sees the padding.
TOKENS_STEP = 64

#: Arguments with which an architecture asks its attention for something that packed attention does not support.
UNSUPPORTED_ATTENTION = ("position_bias",)


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
    found: nn.Module | None = base.get_decoder()  # OPT's is a part of its base_model
    if found is base:  # its base_model_prefix names no attribute (Llama 4's text model)
        found = next(inner, None)
    if found is None:
        raise ModelError(
            f"{type(base).__name__} has no backbone apart from its output head", "use another architecture"
        )
    return found


def packed_attention(model: nn.Module) -> AbstractContextManager[None]:
    """Within the block, the model uses packed attention; on exit its own is restored."""
    return attention_set_to(model, PACKED_ATTENTION)


def attention_name(model: nn.Module) -> str:
    """The attention that the backbone uses ("sdpa", "eager", ...); other parts of a multimodal model may differ."""
    return str(cast(PreTrainedModel, backbone(model)).config._attn_implementation)


def can_set_attention(model: nn.Module) -> bool:
    """Whether the backbone's attention can be replaced: some architectures compute it themselves."""
    return bool(cast(PreTrainedModel, backbone(model))._can_set_attn_implementation())


@contextmanager
def attention_set_to(model: nn.Module, implementation: str) -> Iterator[None]:
    """Within the block, the model's backbone uses this registered attention; on exit its own is restored."""
    before = attention_name(model)
    if implementation == before:
        yield
        return
    if not can_set_attention(model):
        raise ModelError(f"{type(underlying(model)).__name__} has an attention of its own, which cannot be replaced")
    part = cast(PreTrainedModel, backbone(model))
    part.set_attn_implementation(implementation)
    try:
        yield
    finally:
        part.set_attn_implementation(before)


def packed_positions(row_starts: Tensor, tokens: int) -> Tensor:
    """Position of each token in its own row: [tokens], int64, from row_starts [rows + 1]."""
    lengths = row_starts[1:] - row_starts[:-1]
    starts = torch.repeat_interleave(row_starts[:-1], lengths, output_size=tokens)
    return torch.arange(tokens, device=row_starts.device) - starts


def packed_hidden_states(
    model: nn.Module, input_ids: Tensor, row_starts: Tensor, before_pass: BeforePass | None = None
) -> Tensor:
    """Last hidden states [tokens, hidden] of a packed sequence; call it inside `with packed_attention(model)`.

    Args:
        model: a transformers causal language model, or PEFT's wrapper of one.
        input_ids: [tokens], int64, the rows end to end.
        row_starts: [rows + 1], int64, the offset of each row, and `tokens` at the end; on the host, or it is waited
            for.
    """
    tokens, device = len(input_ids), input_ids.device
    row_starts = row_starts.cpu()
    padding = padded_tokens(tokens, device) - tokens
    positions = functional.pad(packed_positions(row_starts, tokens), (0, padding))[None]
    if before_pass is not None:
        lengths = torch.repeat_interleave(row_starts.diff(), row_starts.diff(), output_size=tokens)
        before_pass(copied(functional.pad(lengths, (0, padding), value=1)[None], device))
    output = backbone(model)(
        input_ids=functional.pad(input_ids, (0, padding))[None],  # [1, tokens + padding]
        position_ids=copied(positions, device),
        use_cache=False,
        row_starts=RowBorders(row_starts.tolist()),
    )
    return cast(Tensor, output.last_hidden_state[0, :tokens])


def padded_tokens(tokens: int, device: torch.device) -> int:
    """Length that a packed sequence of `tokens` tokens is padded to.

    On the CPU oneDNN compiles a kernel for every shape, so the number of different lengths is kept small.
    """
    return -(-tokens // TOKENS_STEP) * TOKENS_STEP if device.type == "cpu" and tokens > TOKENS_STEP else tokens


def attention_of(model: nn.Module, layout: RowLayout) -> AbstractContextManager[None]:
    """Within the block, the model uses the attention that a layout needs; on exit its own is restored."""
    return packed_attention(model) if layout == "packed" else nullcontext()


def hidden_states(
    model: nn.Module,
    input_ids: Tensor,
    row_starts: Tensor,
    layout: RowLayout,
    before_pass: BeforePass | None = None,
) -> Tensor:
    """Last hidden states [tokens, hidden] of rows, end to end; call it inside `with attention_of(model, layout)`.

    Args:
        model: a transformers causal language model, or PEFT's wrapper of one.
        input_ids: [tokens], int64, the rows end to end.
        row_starts: [rows + 1], int64, the offset of each row, and `tokens` at the end; on the host, see above.
        layout: as tunelab.models.structure.row_layout() says.
    """
    row_starts = row_starts.cpu()
    border, lengths = longrope_border(model), row_starts.diff()
    if border is None or not 0 < int((lengths > border).sum()) < len(lengths):
        return _hidden_states(model, input_ids, row_starts, layout, before_pass)
    of_long = torch.repeat_interleave(lengths > border, lengths)
    result: Tensor | None = None
    for rows, tokens in ((lengths <= border, ~of_long), (lengths > border, of_long)):
        starts = functional.pad(lengths[rows].cumsum(0), (1, 0))
        places = copied(tokens.nonzero()[:, 0], input_ids.device)
        found = _hidden_states(model, input_ids[places], starts, layout, before_pass)
        whole = found.new_zeros(len(input_ids), found.shape[1]) if result is None else result
        result = whole.index_copy(0, places, found)
    assert result is not None
    return result


def longrope_border(model: nn.Module) -> int | None:
    """Length above which LongRoPE (Phi-3 128k) changes its frequencies, for every row of a batch at once; else None.

    Rows that exceed it must not run with shorter ones, or these depend on them.
    """
    config = underlying(model).config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    for values in (parameters, *(value for value in parameters.values() if isinstance(value, dict))):
        if values.get("rope_type") == "longrope":
            border = values.get("original_max_position_embeddings")
            return int(border or config.original_max_position_embeddings)
    return None


def _hidden_states(
    model: nn.Module, input_ids: Tensor, row_starts: Tensor, layout: RowLayout, before_pass: BeforePass | None
) -> Tensor:
    if layout == "packed":
        return packed_hidden_states(model, input_ids, row_starts, before_pass)
    return _padded_hidden_states(model, input_ids, row_starts, before_pass, at_once=layout == "padded")


def _padded_hidden_states(
    model: nn.Module, input_ids: Tensor, row_starts: Tensor, before_pass: BeforePass | None, *, at_once: bool
) -> Tensor:
    """hidden_states() by the model's own attention, rows of similar length at once, or each row alone."""
    device, starts = input_ids.device, row_starts.tolist()
    lengths = [end - start for start, end in pairwise(starts)]
    found, places = [], []
    for rows in _of_similar_length(lengths) if at_once else [[row] for row in range(len(lengths))]:
        steps = torch.arange(lengths[rows[0]])
        own = torch.tensor([lengths[row] for row in rows])[:, None]
        is_token = steps[None] < own  # [rows, longest]
        place = row_starts[rows][:, None] + steps
        ids = input_ids[copied(place.clamp_max(len(input_ids) - 1), device)]
        ids = torch.where(copied(is_token, device), ids, 0)
        if before_pass is not None:
            before_pass(copied(own.expand(ids.shape).contiguous(), device))
        states = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state  # [rows, longest, hidden]
        found.append(states.flatten(0, 1).index_select(0, copied(is_token.flatten().nonzero()[:, 0], device)))
        places.append(place[is_token])
    return torch.cat(found).index_select(0, copied(torch.cat(places).argsort(), device))


def _of_similar_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of rows that are padded to the first one's length, longest first."""
    group: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if group and lengths[row] < LEAST_FILLED * lengths[group[0]]:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    row_starts: RowBorders | None = None,
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
    rows: RowBorders,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """Causal attention within each row, by the kernel that suits the device: [1, tokens, heads, value head].

    Args:
        softcap, s_aux: the soft cap of scores and the sinks [heads], see plain_attention().

    Raises:
        ModelError: the architecture asks for something that none of these kernels supports.
    """
    for name in UNSUPPORTED_ATTENTION:
        if kwargs.get(name) is not None:
            raise ModelError(f"{type(module).__name__} needs attention with {name}, which packed attention lacks")
    window = sliding_window if sliding_window is not None and sliding_window < rows.longest else None
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if not query.is_cuda:
        states = (query[0], key[0], value[0])
        return row_attention(
            *states, rows.starts, scale=scale, window=window, dropout=dropout, softcap=softcap, sinks=s_aux
        )[None]
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast, rotary embeddings give float32
    if takes_flash(query, key, value, len(rows.starts) - 1, dropout=dropout, softcap=softcap, sinks=s_aux):
        return flash_attention(query[0], key[0], value[0], rows, rows, window=window, scale=scale)[None]
    if softcap is not None or s_aux is not None:
        return _plain_row_by_row(query, key, value, rows.starts, window, scale, dropout, softcap, s_aux)
    return _attention_row_by_row(query, key, value, rows.starts, window, scale, dropout)


def _attention_row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_starts: list[int],
    window: int | None,
    scale: float,
    dropout: float,
) -> Tensor:
    """For what FlashAttention does not take on a GPU (float32, dropout, large heads): a call per row."""
    outputs = []
    for start, end in pairwise(row_starts):
        mask = _band(end - start, window, query.device) if window is not None and end - start > window else None
        keys = (key[:, :, start:end], value[:, :, start:end])
        outputs.append(masked_attention(query[:, :, start:end], keys, mask, dropout_p=dropout, scale=scale))
    return torch.cat(outputs, dim=2).transpose(1, 2)  # [1, tokens, heads, head]


def _plain_row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row_starts: list[int],
    window: int | None,
    scale: float,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """The same for soft caps and sinks, which torch's attention lacks."""
    outputs = []
    for start, end in pairwise(row_starts):
        visible = _band(end - start, window or end - start, query.device)
        outputs.append(
            plain_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                as_scores(visible, query.dtype),
                scale=scale,
                softcap=softcap,
                sinks=sinks,
                dropout=dropout,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2)  # [1, tokens, heads, head]


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Causal mask of a sliding window, [length, length] bool: a token sees itself and the window - 1 before it."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < window)


AttentionInterface.register(PACKED_ATTENTION, _packed_attention_forward)
