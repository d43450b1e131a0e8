"""Tokens of a micro-batch: a recipe's, and what stands for `auto` until it is decided."""

from __future__ import annotations

from tunelab.config.recipe import TrainSettings

#: The default of `train.micro_batch_tokens`; also taken for `auto` where the memory cannot be predicted.
DEFAULT_TOKENS: int = TrainSettings.model_fields["micro_batch_tokens"].default


def micro_batch_tokens(train: TrainSettings) -> int:
    """`train.micro_batch_tokens` as a number: DEFAULT_TOKENS for `auto`, which a training has replaced before."""
    return DEFAULT_TOKENS if train.micro_batch_tokens == "auto" else train.micro_batch_tokens
