"""A question of several choices as token ids: prompt and choices tokenized together, and where they are scored from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunelab.errors import DataError, ModelError


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A prompt and its continuations, as token ids.

    Attributes:
        prompt_ids: what all choices share; at least one token.
        continuations: the tokens of each choice after the prompt; none is empty.
        truncated: number of tokens truncated from the beginning of the prompt.
        unscored: number of first tokens of each continuation that are read but not scored; () = none.
    """

    prompt_ids: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    truncated: int = 0
    unscored: tuple[int, ...] = ()

    @property
    def scored(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of each continuation that are scored."""
        skipped = self.unscored or (0,) * len(self.continuations)
        return tuple(ids[count:] for ids, count in zip(self.continuations, skipped, strict=True))


def choice_question(
    prompt_ids: Sequence[int], wholes: Sequence[Sequence[int]], *, context: int | None
) -> ChoiceQuestion:
    """A question from prompt and choice tokenized together, so that each choice is tokenized in context.

    Continuations are scored from the token after the prompt's own tokens (as in lm-evaluation-harness), or earlier if
    the texts differ earlier: if a choice changes how the prompt's end is tokenized, the token across the boundary
    belongs to the continuation. All choices start at the same token, so the same characters are scored.

    Args:
        prompt_ids: the prompt alone.
        wholes: prompt and choice, tokenized as one text, for each choice.
        context: the model's context length; if any choice does not fit, the prompt is truncated on the left (as in
            lm-evaluation-harness). None = no limit.

    Raises:
        DataError: there are no choices, a choice adds no token to the prompt, or the prompt has no tokens.
        ModelError: a choice alone is as long as the context.
    """
    if not wholes:
        raise DataError("the question has no choices to score")
    for number, whole in enumerate(wholes):
        if list(whole) == list(prompt_ids[: len(whole)]):
            raise DataError(f"choice {number} adds no token to the prompt: an empty text cannot be scored")
    shortest = min(wholes, key=len)
    join = min(len(prompt_ids), len(shortest) - 1, *(common_prefix(shortest, whole) for whole in wholes))
    if not join:
        raise DataError(
            "the prompt has no token before its choices, so nothing predicts them",
            "use a tokenizer with a beginning-of-sequence token, or a prompt with text",
        )
    return _fitted(wholes, join, context)


def ending_question(
    prompts: Sequence[Sequence[int]], wholes: Sequence[Sequence[int]], *, context: int | None
) -> ChoiceQuestion:
    """A question whose choices are part of its prompt, and whose ending after each of them is scored.

    Args:
        prompts: prompt and choice as one text, for each choice.
        wholes: prompt, choice and ending as one text, for each choice. Scored from the token after the prompt's own
            tokens, or earlier as in choice_question().
        context: as in choice_question().

    Raises:
        DataError: there are no choices, the ending adds no token, or a prompt has no tokens.
        ModelError: choice and ending alone are as long as the context.
    """
    if not wholes:
        raise DataError("the question has no choices to score")
    joins = []
    for number, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True)):
        if list(whole) == list(prompt[: len(whole)]):
            raise DataError(f"the ending adds no token to choice {number}: an empty text cannot be scored")
        joins.append(min(len(prompt), len(whole) - 1, common_prefix(prompt, whole)))
    if not min(joins):
        raise DataError(
            "a choice has no token before the ending, so nothing predicts it",
            "use a tokenizer with a beginning-of-sequence token",
        )
    shared = min(*joins, *(common_prefix(wholes[0], whole) for whole in wholes))
    return _fitted(wholes, shared, context, tuple(join - shared for join in joins))


def _fitted(
    wholes: Sequence[Sequence[int]], join: int, context: int | None, unscored: tuple[int, ...] = ()
) -> ChoiceQuestion:
    """The question whose prompt is the first `join` tokens, truncated on the left to fit the context."""
    continuations = tuple(tuple(whole[join:]) for whole in wholes)
    prompt = tuple(wholes[0][:join])
    cut = 0
    if context is not None:
        room = context - max(map(len, continuations)) + 1
        if room < 1:
            raise ModelError(
                f"a choice has {max(map(len, continuations))} tokens, but the model's context is {context}",
                "omit the item",
            )
        cut = max(0, len(prompt) - room)
    return ChoiceQuestion(prompt[cut:], continuations, cut, unscored)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
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
