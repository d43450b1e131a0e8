"""Log-likelihoods of several continuations of a prompt; prefixes shared by prompts are computed once.

Consecutive questions with the same beginning (the few-shot examples of a subject) are grouped. The shared tokens of a
group run once, and only a question's own tokens run after them. Single-token choices cost nothing beyond the
question: all their log-probabilities come from its last position. Logits are computed for these positions only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from tunelab.errors import ModelError
from tunelab.evaluation.choice_question import ChoiceQuestion, common_prefix
from tunelab.inference.engine import context_length
from tunelab.models.modes import evaluation_mode
from tunelab.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tunelab.models.shared_prefix import SharedPrefix

#: Number of positions whose logits are in memory at a time.
CHUNK = 512

#: Shorter prefixes do not justify a separate pass.
LEAST_SHARED = 16


@dataclass(frozen=True, slots=True)
class ChoiceLikelihood:
    """log p of each choice of question `index`, in nats, summed over its tokens."""

    index: int
    log_probabilities: tuple[float, ...]


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

    Groups and batches depend on all questions and on micro_batch_tokens, never on `skip`: a resumed evaluation
    computes exactly the same floats in the same order as an uninterrupted one.

    Args:
        model: a transformers causal language model, optionally wrapped by PEFT; switched to evaluation mode meanwhile.
        questions: ordered so that those with the same beginning are consecutive.
        micro_batch_tokens: maximum number of questions' own tokens per batch; a longer question runs alone.
        skip: indices to leave out; a batch does not run if all of it is skipped.
        share_prefixes: False computes every prompt in full, for comparison; so it is where the architecture does not
            allow it.

    Raises:
        ModelError: a question is longer than the model's context, or a log-probability is not finite.
    """
    from tunelab.models.forward import longrope_border, underlying
    from tunelab.models.structure import check_own_logits, structure_of

    _check_lengths(questions, context_length(model))
    check_own_logits(model)
    done = 0
    shares = share_prefixes and not structure_of(underlying(model)).prefix
    for group in _groups(questions, longrope_border(model), shares):
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
    model: nn.Module, questions: Sequence[ChoiceQuestion], attention: str | None = None, *, rounds_anew: bool = False
) -> Iterator[ChoiceLikelihood]:
    """The same log-probabilities from the model's own forward pass, with each choice's text run in full and alone.

    Args:
        attention: a transformers attention implementation ("eager", "sdpa"); None = the model's own.
        rounds_anew: round the result of each module up or down at random (rounded_anew()).
    """
    import torch

    from tunelab.models.forward import attention_name, attention_set_to, underlying

    base = underlying(model)
    device = base.device
    for index, question in enumerate(questions):
        found: dict[tuple[int, ...], Tensor] = {}  # input -> [tokens, vocabulary], log p of each next token
        likelihoods = []
        anew = rounded_anew(base, index) if rounds_anew else nullcontext()
        with evaluation_mode(model), attention_set_to(model, attention or attention_name(model)), anew:
            for continuation, scored in zip(question.continuations, question.scored, strict=True):
                ids = (*question.prompt_ids, *continuation[:-1])
                if ids not in found:
                    with torch.no_grad():
                        logits = base(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0].float()
                    found[ids] = logits.log_softmax(dim=-1)
                tokens = torch.tensor(scored, device=device)[:, None]
                likelihoods.append(float(found[ids][len(ids) - len(scored) :].gather(1, tokens).double().sum()))
        yield ChoiceLikelihood(index, tuple(likelihoods))


@contextmanager
def rounded_anew(model: nn.Module, seed: int) -> Iterator[None]:
    """Within the block the 16-bit result of each innermost module is changed at random by at most its rounding error:
    another result that is as correct. Source: Parker, Monte Carlo Arithmetic (1997), random rounding."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def change(module: nn.Module, inputs: object, result: object) -> object:
        if not isinstance(result, torch.Tensor) or result.dtype not in (torch.bfloat16, torch.float16):
            return result
        share = torch.rand(result.shape, generator=generator).to(result.device) - 0.5
        changed: Tensor = (result.float() * (1 + share * torch.finfo(result.dtype).eps)).to(result.dtype)
        return changed

    hooks = [one.register_forward_hook(change) for one in model.modules() if next(one.children(), None) is None]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, slots=True)
class _Group:
    """Questions with the same `shared` prefix; `alone` = run one at a time."""

    indices: list[int]
    shared: int
    alone: bool = False


@dataclass(slots=True)
class _Row:
    """Input for one or several choices: the tokens after the prefix, and which tokens' probabilities are needed."""

    question: int
    tokens: list[int]
    choices: list[int] = field(default_factory=list)


def _groups(questions: Sequence[ChoiceQuestion], alone_above: int | None, share: bool) -> Iterator[_Group]:
    """Groups with a shared prefix in the questions' order; then all without one, together; then those run alone."""
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
    """Consecutive questions with the same beginning, and the number of shared tokens; each keeps at least one token.

    A run ends between two questions that share less than half of what either of them shares with its other
    neighbor: the headers of two subjects start with the same words, which must not join them.
    """
    common = [0]
    for a, b in pairwise(indices):
        first, second = questions[a].prompt_ids, questions[b].prompt_ids
        common.append(max(0, min(common_prefix(first, second), len(first) - 1, len(second) - 1)))
    common.append(0)  # common[i] = what indices[i - 1] and indices[i] share
    begin = 0
    for place in range(1, len(indices) + 1):
        if place == len(indices) or 2 * common[place] < max(common[place - 1], common[place + 1]):
            yield list(indices[begin:place]), min(common[begin + 1 : place], default=0)
            begin = place


def _batches(questions: Sequence[ChoiceQuestion], group: _Group, micro_batch_tokens: int) -> Iterator[list[int]]:
    """Indices of a group in batches, longest first, so that rows of one batch have similar lengths."""
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
    """One row for each way in which choices start: single-token choices need only the prompt and share one row."""
    rows: dict[tuple[int, ...], _Row] = {}
    prompt = question.prompt_ids[shared:]
    for number, continuation in enumerate(question.continuations):
        read = continuation[:-1]
        if read not in rows:
            rows[read] = _Row(index, [*prompt, *read])
        rows[read].choices.append(number)
    return list(rows.values())


def _read_prefix(model: nn.Module, tokens: Sequence[int]) -> SharedPrefix:
    import torch

    from tunelab.models.shared_prefix import SharedPrefix, prefix_attention, read_prefix

    if not tokens:
        return SharedPrefix(0)
    with evaluation_mode(model), torch.no_grad(), prefix_attention(model):
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
                count = len(questions[row.question].scored[choice])
                found[row.question][choice] = math.fsum(next(values) for _ in range(count))
    for index in batch:
        likelihoods = tuple(found[index][choice] for choice in range(len(found[index])))
        if not all(map(math.isfinite, likelihoods)):
            raise ModelError(
                f"question {index}: log-probabilities of its choices are {likelihoods}, expected finite numbers",
                "the model's weights are broken or its dtype overflows; try bf16 or fp32",
            )
        yield ChoiceLikelihood(index, likelihoods)


def _token_log_probabilities(
    model: nn.Module, questions: Sequence[ChoiceQuestion], rows: Sequence[_Row], prefix: SharedPrefix
) -> list[float]:
    """log p of every token of every choice of these rows, computed in one pass."""
    import torch

    places: list[int] = []  # one for each needed token, in the packed sequence
    wanted: list[int] = []
    start = 0
    for row in rows:
        for choice in row.choices:
            scored = questions[row.question].scored[choice]
            last = start + len(row.tokens)  # the row ends with the token that predicts the choice's last one
            places += range(last - len(scored), last)
            wanted += scored
        start += len(row.tokens)
    with evaluation_mode(model), torch.no_grad():
        hidden = _hidden_states(model, prefix, [row.tokens for row in rows])
        return _log_probabilities(model, hidden, places, wanted)


def _hidden_states(model: nn.Module, prefix: SharedPrefix, rows: Sequence[Sequence[int]]) -> Tensor:
    """Last hidden states of rows that follow the prefix, end to end: [tokens of all rows, hidden]."""
    import torch

    from tunelab.models.forward import attention_of, hidden_states, underlying
    from tunelab.models.shared_prefix import prefix_attention, read_after_prefix
    from tunelab.models.structure import row_layout

    if prefix.length:
        with prefix_attention(model):
            return read_after_prefix(model, prefix, rows)
    device, layout = underlying(model).device, row_layout(model)
    ids = torch.tensor([token for row in rows for token in row], device=device)
    starts = torch.tensor([0, *(len(row) for row in rows)], device=device).cumsum(0)
    with attention_of(model, layout):
        return hidden_states(model, ids, starts, layout)


def _log_probabilities(model: nn.Module, hidden: Tensor, places: Sequence[int], wanted: Sequence[int]) -> list[float]:
    """log p(wanted[i] | hidden[places[i]]) in nats. Logits are computed once for places that several tokens share."""
    import torch

    from tunelab.models.head import output_head

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


def _length(question: ChoiceQuestion) -> int:
    return len(question.prompt_ids) + max(map(len, question.continuations)) - 1


def _check_lengths(questions: Sequence[ChoiceQuestion], context: int | None) -> None:
    for index, question in enumerate(questions):
        if context is not None and _length(question) > context:
            raise ModelError(
                f"question {index} has {_length(question)} tokens, more than the model's context of {context}",
                "give the context to choice_question(), which cuts the prompt's beginning",
            )
