"""What tuning changed on general texts, as plain data: a part of a report (content.py).

Bits per byte; a change is tuned minus untuned, so that positive is forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

#: A value with the ends of its 95 % interval.
Interval = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ForgettingOfArm:
    """An arm's change on all texts, and what it learned.

    Attributes:
        base: the untuned arm that it is compared with.
        before: bits per byte of `base`.
        lost: the change of bits per byte, with its interval.
        learned: the change of the metric that shows learning, with its interval; None = not measured.
    """

    arm: str
    base: str
    before: float
    lost: Interval
    learned: Interval | None


@dataclass(frozen=True, slots=True)
class ForgettingOfDomain:
    """An arm's change on the texts of one domain.

    Attributes:
        texts: number of texts.
        before: bits per byte of the untuned arm, mean over the texts.
        change: its mean change.
    """

    arm: str
    domain: str
    texts: int
    before: float
    change: float


@dataclass(frozen=True, slots=True)
class Forgetting:
    """All arms, against the untuned ones.

    Attributes:
        learned_on: the benchmark that shows learning ("held-out"); "" = none.
        learned_metric, learned_unit, learned_higher_is_better: of its metric.
    """

    arms: tuple[ForgettingOfArm, ...]
    domains: tuple[ForgettingOfDomain, ...]
    learned_on: str
    learned_metric: str
    learned_unit: str
    learned_higher_is_better: bool
