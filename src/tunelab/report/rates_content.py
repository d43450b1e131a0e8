"""What a report stores of a study's search of learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SearchedRate:
    """The learning rate of an arm, and the trials that chose it.

    Attributes:
        own: the arm's rate without the search.
        chosen: None = no rate was chosen: a trial failed, or has not run.
        source: the arm whose trials chose it, another one if the two differ in precision alone.
        tried: (rate, validation loss in nats per token; None = training diverged), by rate.
        edge: "lowest" or "highest" if the chosen rate is at an end of those tried.
    """

    arm: str
    own: float
    chosen: float | None
    source: str
    tried: tuple[tuple[float, float | None], ...]
    edge: Literal["", "lowest", "highest"] = ""
