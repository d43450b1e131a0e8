"""The rows that are checked: what a model is trained and evaluated on, as texts and as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from tunelab.data.loader import TokenTable
from tunelab.data.messages import Conversation, Example
from tunelab.data.templates import Template

#: Names of the splits; the first is trained on.
TRAINING = "training"


@dataclass(frozen=True)
class TokenizedWith:
    """What turned the texts into tokens.

    Args:
        stop_token_ids: ids that end an answer.
        own_template: the chat template that came with the model's tokenizer; None if it has none.
        splits_tokens_on_purpose: the recipe says that control tokens may be split, or adds them.
    """

    tokenizer: Any
    template: Template
    stop_token_ids: Sequence[int]
    loss_on: Literal["completion", "all"]
    own_template: str | None = None
    splits_tokens_on_purpose: bool = False


@dataclass(frozen=True, eq=False)
class LintedRows:
    """Rows of all splits, one split after the other.

    Args:
        splits: name -> its rows.
        origins: [rows], "FILE row N".
        examples: [rows].
        table: [rows] as tokens; None if only the texts are known.
        tokenized_with: None likewise.
        bad: "ORIGIN: reason" of rows that cannot be used and are in no split.
    """

    splits: Mapping[str, range]
    origins: Sequence[str]
    examples: Sequence[Example]
    table: TokenTable | None = None
    tokenized_with: TokenizedWith | None = None
    bad: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.origins)

    @cached_property
    def prompts(self) -> list[str]:
        """[rows] the text of each row that is no answer in the loss, without the template's."""
        return [_text(one, answers=False) or self._decoded(row, False) for row, one in enumerate(self.examples)]

    @cached_property
    def answers(self) -> list[str]:
        """[rows] the text of each row's answers in the loss."""
        return [_text(one, answers=True) or self._decoded(row, True) for row, one in enumerate(self.examples)]

    @cached_property
    def last_exchanges(self) -> list[tuple[str, str]]:
        """[rows] last_exchange() of each."""
        return [self.last_exchange(row) for row in range(len(self))]

    def last_exchange(self, row: int) -> tuple[str, str]:
        """The last turn that is no answer, and the answer to it."""
        example = self.examples[row]
        if not isinstance(example, Conversation):
            return self.prompts[row], self.answers[row]
        before = [one.text for one in example.messages if one.role != "assistant"]
        return before[-1] if before else "", example.messages[-1].text

    def split_of(self, row: int) -> str:
        return next(name for name, places in self.splits.items() if row in places)

    def _decoded(self, row: int, answer: bool) -> str:
        """Of a row that was given as tokens."""
        if self.table is None or self.tokenized_with is None or isinstance(self.examples[row], Conversation):
            return ""
        ids, mask = self.table.row(row)
        return str(self.tokenized_with.tokenizer.decode(ids[mask == answer].tolist(), skip_special_tokens=True))


def _text(example: Example, *, answers: bool) -> str:
    if not isinstance(example, Conversation):
        return ""
    return "\n".join(
        one.text for one in example.messages if (one.role == "assistant" and one.in_loss) == answers and one.text
    )


def together(tables: Sequence[TokenTable]) -> TokenTable:
    """The rows of several tables in one."""
    lengths = np.concatenate([np.diff(table.row_starts) for table in tables])
    return TokenTable(
        input_ids=np.concatenate([table.input_ids for table in tables]),
        answer_mask=np.concatenate([table.answer_mask for table in tables]),
        row_starts=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)]),
        prompt_lengths=np.concatenate([table.prompt_lengths for table in tables]),
    )
