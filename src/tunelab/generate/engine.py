"""Greedy answers to tokenised prompts, in batches formed by tokens, the same for any batch size.

A model's own `generation_config` (temperature, maximum length, forced tokens, ...) plays no part: what is asked for
here is all that decides. The answers of a row do not depend on the rows beside it, up to the rounding of the dtype:
prompts are padded on the left and padding is masked, and each row ends at its own stop token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tunelab.errors import ModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

StopReason = Literal["stop", "length", "context"]


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one prompt.

    Attributes:
        index: the prompt's place in the sequence that was given.
        token_ids: the answer, without the stop token that ended it.
        text: the answer decoded, special tokens left out.
        stop_reason: "stop" = a stop token came; "length" = max_new_tokens were made; "context" = the model's context
            was full before either, so that the answer is shorter than was asked for.
        prompt_tokens: length of the prompt.
    """

    index: int
    token_ids: tuple[int, ...]
    text: str
    stop_reason: StopReason
    prompt_tokens: int


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_token_ids: Collection[int],
    batch_tokens: int,
    skip: Collection[int] = (),
) -> Iterator[Generation]:
    """The most likely continuation of each prompt, token by token; longest prompts first, each with its index.

    The order and the batches depend on all prompts and on batch_tokens, never on `skip`: a run that was stopped and
    goes on with what is missing computes its answers in the very batches of an uninterrupted run.

    Args:
        model: a causal language model of transformers, or PEFT's wrapper of one; put into evaluation mode meanwhile.
        tokenizer: decodes the answers; its padding settings are not used.
        prompts: token ids of each prompt, at least one token each.
        max_new_tokens: tokens that an answer has at most.
        stop_token_ids: an answer ends before the first of these; none = every answer runs to its full length.
        batch_tokens: a batch has at most this many tokens, rows times the longest (prompt and room for the answer); a
            prompt that alone needs more is a batch of its own.
        skip: indices that are not wanted; a batch is not run when all of it is skipped.

    Raises:
        ModelError: a prompt is empty, or fills the model's context and leaves no room for an answer.
    """
    context = context_length(model)
    room = _room(prompts, max_new_tokens, context)
    lengths = [len(prompt) for prompt in prompts]
    for batch in _batches(lengths, room, batch_tokens, alone_above=longrope_border(model)):
        wanted = [index for index in batch if index not in skip]
        if not wanted:
            continue
        answers = _generate_batch(model, [prompts[index] for index in batch], room[batch[0]], stop_token_ids)
        for index, answer in zip(batch, answers, strict=True):
            if index not in skip:
                yield _generation(index, answer, len(prompts[index]), tokenizer, stop_token_ids, room, max_new_tokens)


def _generation(
    index: int,
    answer: list[int],
    prompt_tokens: int,
    tokenizer: PreTrainedTokenizerBase,
    stop_token_ids: Collection[int],
    room: Sequence[int],
    max_new_tokens: int,
) -> Generation:
    end = next((place for place, token in enumerate(answer) if token in stop_token_ids), None)
    reason: StopReason = "stop" if end is not None else "length" if room[index] == max_new_tokens else "context"
    token_ids = tuple(answer[:end])
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Generation(index, token_ids, str(text), reason, prompt_tokens)


def context_length(model: nn.Module) -> int | None:
    """Positions that the model knows; None where its config does not say (then nothing is cut)."""
    from tunelab.models.forward import underlying

    length = getattr(underlying(model).config.get_text_config(), "max_position_embeddings", None)
    return length if isinstance(length, int) and length > 0 else None


def _room(prompts: Sequence[Sequence[int]], max_new_tokens: int, context: int | None) -> list[int]:
    """New tokens that each row may have: max_new_tokens, or what the context leaves after its prompt."""
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens is {max_new_tokens}: expected at least 1")
    room = []
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise ModelError(f"prompt {index} is empty: a model needs at least one token to continue")
        if context is not None and len(prompt) >= context:
            raise ModelError(
                f"prompt {index} has {len(prompt)} tokens and the model's context {context}: no room for an answer",
                "leave the item out, or shorten its prompt",
            )
        room.append(max_new_tokens if context is None else min(max_new_tokens, context - len(prompt)))
    return room


def longrope_border(model: nn.Module) -> int | None:
    """Length above which LongRoPE (Phi-3 128k) changes its frequencies, for every row of a batch at once; else None.

    Rows that reach beyond it must be run alone, or their neighbours' answers depend on them.
    """
    from tunelab.models.forward import underlying

    config = underlying(model).config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    for values in (parameters, *(value for value in parameters.values() if isinstance(value, dict))):
        if values.get("rope_type") == "longrope":
            border = values.get("original_max_position_embeddings")
            return int(border or config.original_max_position_embeddings)
    return None


def _batches(
    lengths: Sequence[int], room: Sequence[int], batch_tokens: int, alone_above: int | None
) -> Iterator[list[int]]:
    """Indices in batches, longest first (a batch too large for the memory shows at once), ties in the given order.

    All rows of a batch have the same room, so that none is run past the model's context; a row that may grow longer
    than `alone_above` is a batch of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch:
            widest = lengths[batch[0]] + room[batch[0]]
            alone = alone_above is not None and widest > alone_above
            if alone or room[index] != room[batch[0]] or (len(batch) + 1) * widest > batch_tokens:
                yield batch
                batch = []
        batch.append(index)
    if batch:
        yield batch


def _generate_batch(
    model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_token_ids: Collection[int]
) -> list[list[int]]:
    """What transformers' greedy search gives for each prompt: its new tokens, padded after the first stop token."""
    import torch
    from transformers import GenerationConfig

    from tunelab.models.forward import underlying

    base: Any = underlying(model)
    device = base.get_input_embeddings().weight.device
    stop = sorted(stop_token_ids)
    width = max(len(prompt) for prompt in prompts)
    # After a row's end, transformers goes on with the padding token; it is cut away with the stop token before it.
    padding = stop[0] if stop else 0
    input_ids = torch.full((len(prompts), width), padding, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        attention_mask[row, width - len(prompt) :] = 1
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, use_cache=True, pad_token_id=padding
    )
    settings.eos_token_id = stop or None
    with evaluation_mode(model), _without_own_settings(base), torch.no_grad():
        output = base.generate(
            input_ids=input_ids.to(device), attention_mask=attention_mask.to(device), generation_config=settings
        )
    new: list[list[int]] = output[:, width:].tolist()  # [rows, up to max_new_tokens]
    return new


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No dropout while the block runs; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _without_own_settings(base: PreTrainedModel) -> Iterator[None]:
    """Hides the model's generation_config: transformers takes from it whatever the caller's leaves unset."""
    from transformers import GenerationConfig

    own = base.generation_config
    base.generation_config = GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = own
