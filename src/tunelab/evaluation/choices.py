"""How likely a model holds each of several continuations of a prompt, the part that prompts share computed once.

Questions that follow each other and begin alike (the few-shot examples of a subject) are grouped; the tokens that a
group has in common are run once and only what is a question's own runs after them. Choices of one token cost nothing
beyond the question: their log-probabilities all come from its last position. Logits exist for these positions alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from tunelab.errors import DataError, ModelError
from tunelab.inference.engine import context_length, evaluation_mode, longrope_border
from tunelab.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tunelab.models.shared_prefix import SharedPrefix

#: Positions whose logits exist at one time.
CHUNK = 512

#: A shorter prefix is not worth a pass of its own.
LEAST_SHARED = 16


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A prompt and its continuations, in tokens.

    Attributes:
        prompt_ids: what all choices have in common; at least one token.
        continuations: the tokens of each choice behind it; none is empty.
        truncated: tokens that were cut off the beginning of the prompt.
    """

    prompt_ids: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class ChoiceLikelihood:
    """log p of each choice of question `index`, in nats, summed over its tokens."""

    index: int
    log_probabilities: tuple[float, ...]


def choice_question(
    prompt_ids: Sequence[int], wholes: Sequence[Sequence[int]], *, context: int | None
) -> ChoiceQuestion:
    """A question from texts that were encoded whole, so that each choice is tokenised in its context.

    Continuations begin behind as many tokens as the prompt alone has (as in lm-evaluation-harness), or earlier where
    the wholes differ earlier: where a choice changes how the prompt's end is tokenised, the token that spans the join
    belongs to the continuation. All choices begin at the same place and are charged for the same characters.

    Args:
        prompt_ids: the prompt alone.
        wholes: prompt and choice, encoded as one text, for each choice.
        context: positions that the model has; the prompt loses its beginning where all would be longer (as in
            lm-evaluation-harness). None = no limit.

    Raises:
        DataError: there are no choices, one adds nothing to the prompt, or the prompt has no tokens.
        ModelError: a choice alone is as long as the context.
    """
    if not wholes:
        raise DataError("a question without choices has nothing to score")
    for number, whole in enumerate(wholes):
        if list(whole) == list(prompt_ids[: len(whole)]):
            raise DataError(f"choice {number} adds no token to the prompt: an empty text cannot be scored")
    shortest = min(wholes, key=len)
    join = min(len(prompt_ids), len(shortest) - 1, *(_common(shortest, whole) for whole in wholes))
    if not join:
        raise DataError(
            "the prompt has no token before its choices: nothing predicts them",
            "use a tokenizer with a beginning-of-sequence token, or a prompt with text",
        )
    continuations = tuple(tuple(whole[join:]) for whole in wholes)
    prompt = tuple(shortest[:join])
    cut = 0
    if context is not None:
        room = context - max(map(len, continuations)) + 1
        if room < 1:
            raise ModelError(
                f"a choice has {max(map(len, continuations))} tokens, and the model's context is {context}",
                "leave the item out",
            )
        cut = max(0, len(prompt) - room)
    return ChoiceQuestion(prompt[cut:], continuations, cut)


def choice_likelihoods(
    model: nn.Module,
    questions: Sequence[ChoiceQuestion],
    *,
    micro_batch_tokens: int,
    skip: Collection[int] = (),
    share_prefixes: bool = True,
    progress: Progress = silent,
) -> Iterator[ChoiceLikelihood]:
    """The log-probabilities of each question's choices, group by group.

    Groups and batches depend on all questions and on micro_batch_tokens, never on `skip`: what was stopped and goes on
    with what is missing computes the very same floats in the same order as an uninterrupted run.

    Args:
        model: a causal language model of transformers, or PEFT's wrapper of one; in evaluation mode meanwhile.
        questions: in an order in which those that begin alike stand together.
        micro_batch_tokens: own tokens of questions that are run at once; a longer question is run alone.
        skip: indices that are not wanted; a batch is not run when all of it is skipped.
        share_prefixes: False runs every question whole, to compare with.

    Raises:
        ModelError: a question is longer than the model's context, or a log-probability is not finite; or the
            architecture cannot be run on packed sequences.
    """
    from tunelab.models.structure import check_packed_forward

    check_packed_forward(model)
    _check_lengths(questions, context_length(model))
    done = 0
    for group in _groups(questions, longrope_border(model), share_prefixes):
        prefix: SharedPrefix | None = None
        for batch in _batches(questions, group, micro_batch_tokens):
            if any(index not in skip for index in batch):
                if prefix is None:
                    prefix = _read_prefix(model, questions[group.indices[0]].prompt_ids[: group.shared])
                for likelihood in _score(model, questions, batch, prefix, alone=group.alone):
                    if likelihood.index not in skip:
                        yield likelihood
            done += len(batch)
            progress("scoring choices", done, len(questions))


def plain_likelihoods(
    model: nn.Module, questions: Sequence[ChoiceQuestion], attention: str | None = None
) -> Iterator[ChoiceLikelihood]:
    """The same log-probabilities by the model's own forward pass, each choice's text whole and by itself.

    Args:
        attention: an implementation that transformers knows ("eager", "sdpa"); None = the one that the model has.
    """
    import torch

    from tunelab.models.forward import attention_set_to, underlying

    base = underlying(model)
    device = base.get_input_embeddings().weight.device
    for index, question in enumerate(questions):
        found: dict[tuple[int, ...], Tensor] = {}  # what is run -> [tokens, vocabulary], log p of each next token
        likelihoods = []
        with evaluation_mode(model), attention_set_to(model, attention or base.config._attn_implementation):
            for continuation in question.continuations:
                ids = (*question.prompt_ids, *continuation[:-1])
                if ids not in found:
                    with torch.no_grad():
                        logits = base(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0].float()
                    found[ids] = logits[len(question.prompt_ids) - 1 :].log_softmax(dim=-1)
                tokens = torch.tensor(continuation, device=device)[:, None]
                likelihoods.append(float(found[ids].gather(1, tokens).double().sum()))
        yield ChoiceLikelihood(index, tuple(likelihoods))


@dataclass(frozen=True, slots=True)
class _Group:
    """Questions that are run behind the same `shared` tokens; `alone` = one at a time."""

    indices: list[int]
    shared: int
    alone: bool = False


@dataclass(slots=True)
class _Row:
    """What is run for one or several choices: behind the prefix, and which tokens' probabilities are wanted of it."""

    question: int
    tokens: list[int]
    first: int  # the place, among `tokens`, that predicts the choices' first token
    choices: list[int] = field(default_factory=list)


def _groups(questions: Sequence[ChoiceQuestion], alone_above: int | None, share: bool) -> Iterator[_Group]:
    """Groups with a prefix in the questions' order; then all that share nothing, together; then those run alone."""
    apart: list[int] = []
    alone: list[int] = []
    short: list[int] = []
    for index, question in enumerate(questions):
        is_long = alone_above is not None and _length(question) > alone_above
        (alone if is_long else short).append(index)
    for indices, shared in _runs(questions, short) if share else [([index], 0) for index in short]:
        if len(indices) > 1 and shared >= LEAST_SHARED:
            yield _Group(indices, shared)
        else:
            apart.extend(indices)
    if apart:
        yield _Group(apart, 0)
    for index in alone:
        yield _Group([index], 0, alone=True)


def _runs(questions: Sequence[ChoiceQuestion], indices: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """Neighbours that begin alike, with how many tokens they share; at least one token of each prompt is its own.

    A run ends where two neighbours share less than half of what the one before or the one behind shares with its own
    neighbour: between two subjects the header's first words are the same, and must not join them.
    """
    common = [0]
    for a, b in pairwise(indices):
        first, second = questions[a].prompt_ids, questions[b].prompt_ids
        common.append(min(_common(first, second), len(first) - 1, len(second) - 1))
    common.append(0)  # common[i] = what indices[i - 1] and indices[i] share
    begin = 0
    for place in range(1, len(indices) + 1):
        if place == len(indices) or 2 * common[place] < max(common[place - 1], common[place + 1]):
            yield list(indices[begin:place]), min(common[begin + 1 : place], default=0)
            begin = place


def _batches(questions: Sequence[ChoiceQuestion], group: _Group, micro_batch_tokens: int) -> Iterator[list[int]]:
    """Indices of a group, longest first, so that rows of one batch are about as long as each other."""
    own = {
        index: sum(len(row.tokens) for row in _rows(index, questions[index], group.shared)) for index in group.indices
    }
    batch: list[int] = []
    tokens = 0
    for index in sorted(group.indices, key=lambda index: -own[index]):
        if batch and (group.alone or tokens + own[index] > micro_batch_tokens):
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += own[index]
    if batch:
        yield batch


def _rows(index: int, question: ChoiceQuestion, shared: int) -> list[_Row]:
    """One row for each way in which choices begin: choices of one token need only the prompt, all of them one row."""
    rows: dict[tuple[int, ...], _Row] = {}
    prompt = question.prompt_ids[shared:]
    for number, continuation in enumerate(question.continuations):
        read = continuation[:-1]
        if read not in rows:
            rows[read] = _Row(index, [*prompt, *read], len(prompt) - 1)
        rows[read].choices.append(number)
    return list(rows.values())


def _read_prefix(model: nn.Module, tokens: Sequence[int]) -> SharedPrefix:
    import torch

    from tunelab.models.shared_prefix import prefix_attention, read_prefix

    with evaluation_mode(model), torch.no_grad(), prefix_attention(model) if tokens else nullcontext():
        return read_prefix(model, tokens)


def _score(
    model: nn.Module,
    questions: Sequence[ChoiceQuestion],
    batch: Sequence[int],
    prefix: SharedPrefix,
    *,
    alone: bool = False,
) -> Iterator[ChoiceLikelihood]:
    rows = [row for index in batch for row in _rows(index, questions[index], prefix.length)]
    found: dict[int, dict[int, float]] = {index: {} for index in batch}
    for together in [[row] for row in rows] if alone else [rows]:
        values = iter(_token_log_probabilities(model, questions, together, prefix))
        for row in together:
            for choice in row.choices:
                count = len(questions[row.question].continuations[choice])
                found[row.question][choice] = math.fsum(next(values) for _ in range(count))
    for index in batch:
        likelihoods = tuple(found[index][choice] for choice in range(len(found[index])))
        if not all(map(math.isfinite, likelihoods)):
            raise ModelError(
                f"question {index}: its choices' log-probabilities are {likelihoods}, expected finite numbers",
                "the model's weights are broken or its dtype overflows; try bf16 or fp32",
            )
        yield ChoiceLikelihood(index, likelihoods)


def _token_log_probabilities(
    model: nn.Module, questions: Sequence[ChoiceQuestion], rows: Sequence[_Row], prefix: SharedPrefix
) -> list[float]:
    """log p of every token of every choice of these rows, which are run in one pass."""
    import torch

    from tunelab.models.shared_prefix import prefix_attention, read_after_prefix

    places: list[int] = []  # one for each wanted token, in the packed sequence
    wanted: list[int] = []
    start = 0
    for row in rows:
        for choice in row.choices:
            continuation = questions[row.question].continuations[choice]
            places += range(start + row.first, start + row.first + len(continuation))
            wanted += continuation
        start += len(row.tokens)
    with evaluation_mode(model), torch.no_grad():
        with prefix_attention(model):
            hidden = read_after_prefix(model, prefix, [row.tokens for row in rows])
        return _log_probabilities(model, hidden, places, wanted)


def _log_probabilities(model: nn.Module, hidden: Tensor, places: Sequence[int], wanted: Sequence[int]) -> list[float]:
    """log p(wanted[i] | hidden[places[i]]) in nats. Logits are formed once for places that several tokens ask for."""
    import torch

    from tunelab.models.forward import output_head

    head = output_head(model)
    distinct = sorted(set(places))
    where = {place: number for number, place in enumerate(distinct)}
    asked = [where[place] for place in places]
    values: list[float] = [0.0] * len(places)
    by_place = sorted(range(len(places)), key=lambda i: asked[i])
    begin = 0
    for first in range(0, len(distinct), CHUNK):
        chunk = torch.tensor(distinct[first : first + CHUNK], device=hidden.device)
        logits = head(hidden[chunk]).float()  # [chunk, vocabulary]
        normalizer = torch.logsumexp(logits, dim=-1)
        end = begin
        while end < len(by_place) and asked[by_place[end]] < first + len(chunk):
            end += 1
        part = by_place[begin:end]
        rows = torch.tensor([asked[i] - first for i in part], device=hidden.device)
        tokens = torch.tensor([wanted[i] for i in part], device=hidden.device)
        for i, value in zip(part, (logits[rows, tokens] - normalizer[rows]).double().tolist(), strict=True):
            values[i] = value
        begin = end
    return values


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that both begin with."""
    shorter = min(len(a), len(b))
    if list(a[:shorter]) == list(b[:shorter]):
        return shorter
    low, high = 0, shorter  # a[:low] == b[:low], a[:high] != b[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if list(a[low:middle]) == list(b[low:middle]):
            low = middle
        else:
            high = middle
    return low


def _length(question: ChoiceQuestion) -> int:
    return len(question.prompt_ids) + max(map(len, question.continuations)) - 1


def _check_lengths(questions: Sequence[ChoiceQuestion], context: int | None) -> None:
    for index, question in enumerate(questions):
        if context is not None and _length(question) > context:
            raise ModelError(
                f"question {index} has {_length(question)} tokens, more than the model's context of {context}",
                "give the context to choice_question(), which cuts the prompt's beginning",
            )
