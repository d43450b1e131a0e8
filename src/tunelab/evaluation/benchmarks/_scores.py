"""Means of one value per item, and common warnings; shared by several benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunelab.evaluation.benchmark import Graded, Response, Score
from tunelab.statistics.standard_errors import mean_with_error

# Above this share of answers cut off, a score depends on the limit as much as on the model.
CUT_SHARE = 0.05


def mean_score(
    name: str, values: Sequence[float], protocol: Mapping[str, Any], *, higher_is_better: bool = True
) -> Score:
    """Mean of one value (0 to 1) per item, with the standard error of the mean over items.

    Raises:
        DataError: there are no values, or one is not finite.
    """
    mean = mean_with_error(values)
    return Score(name, mean.value, mean.error, mean.n, "0-1", higher_is_better, protocol)


def is_cut(response: Response) -> bool:
    """Whether the answer ended at a limit (new tokens or context) and not by itself."""
    return response.stop_reason in ("length", "context")


def cut_warnings(graded: Sequence[Graded]) -> list[str]:
    """A warning if more than CUT_SHARE of the answers were cut off."""
    cut = sum(is_cut(one.response) for one in graded)
    if cut <= CUT_SHARE * len(graded):
        return []
    return [f"{cut} of {len(graded)} answers were cut off at the token limit: their endings are unknown"]


def truncated_warnings(graded: Sequence[Graded]) -> list[str]:
    """A warning if any prompt was truncated on the left."""
    truncated = sum(one.response.truncated_tokens > 0 for one in graded)
    if not truncated:
        return []
    return [f"{truncated} of {len(graded)} prompts exceed the model's context: their beginning was truncated"]
