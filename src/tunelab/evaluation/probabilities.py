"""What the log-probabilities of choices say beyond right or wrong: how likely the right choice is, and whether the
model's confidence can be trusted.

    log_probability    log p of the right choice as the response holds it, in nats. It moves before an answer flips, so
                       that fewer items show a difference (Heineman et al. 2025, arXiv:2508.13144).
    brier              sum over choices of (p - 1 if right else p)^2, from 0 to 2; p is a choice's share of the choices'
                       total probability (Brier 1950; lm-evaluation-harness's brier_score).
    calibration_error  expected calibration error: items in ten bins of equal width by the p of the chosen choice, and
                       the bins' mean gap between that p and the share of right answers, weighted by their items (Guo et
                       al. 2017, arXiv:1706.04599). With few items chance alone gives a gap, so that it is too large.

Items whose log-probabilities are not all finite have none of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelab.evaluation.benchmark import Graded, Score
from tunelab.evaluation.metrics.bleu import bootstrap_error
from tunelab.statistics.standard_errors import mean_with_error

BINS = 10
RESAMPLES, SEED = 1000, 0

LOG_PROBABILITY, BRIER, CALIBRATION_ERROR = "log_probability", "brier", "calibration_error"

#: Value of an item that the calibration error is computed from, with whether it was right.
CONFIDENCE = "confidence"

_SHARES = "softmax of the choices' summed log-probabilities"


def probability_values(log_probabilities: Sequence[float], right: int) -> dict[str, float]:
    """log_probability, brier and confidence (the largest share) of an item; {} if a value is not finite.

    Args:
        log_probabilities: of each choice, in nats.
        right: index of the right one.
    """
    if not all(map(math.isfinite, log_probabilities)):
        return {}
    shares = choice_shares(log_probabilities)
    brier = math.fsum((share - (place == right)) ** 2 for place, share in enumerate(shares))
    return {LOG_PROBABILITY: log_probabilities[right], BRIER: brier, CONFIDENCE: max(shares)}


def choice_shares(log_probabilities: Sequence[float]) -> list[float]:
    """Each choice's share of the choices' total probability."""
    largest = max(log_probabilities)
    masses = [math.exp(value - largest) for value in log_probabilities]
    total = math.fsum(masses)
    return [mass / total for mass in masses]


def probability_scores(
    graded: Sequence[Graded], protocol: Mapping[str, Any], accuracy: str = "accuracy"
) -> list[Score]:
    """The three scores over the items that have their values; [] if none has.

    Args:
        accuracy: the value that says whether an item's answer is right.
    """
    values = [one.values for one in graded if CONFIDENCE in one.values]
    if not values:
        return []
    found = []
    for name, unit, higher in ((LOG_PROBABILITY, "nats", True), (BRIER, "0-2", False)):
        mean = mean_with_error([float(one[name]) for one in values])
        of = {"error": "items independent", **({"shares": _SHARES} if name == BRIER else {})}
        found.append(Score(name, mean.value, mean.error, mean.n, unit, higher, {**protocol, **of}))
    counts = np.array([calibration_counts(one[CONFIDENCE], one[accuracy]) for one in values])
    error = bootstrap_error(counts, calibration_error_of_counts, RESAMPLES, SEED) if len(values) > 1 else None
    how = {"bins": BINS, "shares": _SHARES, "error": f"bootstrap over items, {RESAMPLES} resamples, seed {SEED}"}
    value = float(calibration_error_of_counts(counts.sum(axis=0)))
    found.append(Score(CALIBRATION_ERROR, value, error, len(values), "0-1", False, {**protocol, **how}))
    return found


def calibration_counts(confidence: float, right: float) -> tuple[float, ...]:
    """An item's contribution to the calibration error, [BINS + 1]: confidence minus right in its bin, and 1 item."""
    gaps = [0.0] * BINS
    gaps[min(BINS - 1, int(confidence * BINS))] = confidence - right
    return (*gaps, 1.0)


def calibration_error_of_counts(counts: NDArray[Any]) -> NDArray[np.float64]:
    """The expected calibration error of summed calibration_counts(), [..., BINS + 1] -> [...]."""
    summed = np.asarray(counts, dtype=np.float64)
    return np.asarray(np.abs(summed[..., :BINS]).sum(axis=-1) / summed[..., BINS], dtype=np.float64)
