"""Exact match: the share of answers that equal their reference, apart from white space."""

from __future__ import annotations

from collections.abc import Sequence

from tunelab.evaluation.benchmark import Score, check_pairs
from tunelab.statistics.standard_errors import mean_with_error


def matches(response: str, reference: str) -> bool:
    """Whether an answer equals its reference; runs of white space count as one space, those at the ends not at all."""
    return response.split() == reference.split()


def exact_match_score(responses: Sequence[str], references: Sequence[str]) -> Score:
    """Share of responses (0-1) that equal their reference, with the standard error of the mean over items.

    Raises:
        DataError: no responses, a different number of references, or an empty reference.
    """
    check_pairs("exact_match", responses, references)
    mean = mean_with_error(float(matches(*pair)) for pair in zip(responses, references, strict=True))
    protocol = {"compared": "texts, runs of white space as one space", "error": "standard error of the mean over items"}
    return Score("exact_match", mean.value, mean.error, mean.n, "0-1", higher_is_better=True, protocol=protocol)
