"""How the tests behind every comparison do: level, coverage of intervals, power at the minimum detectable difference.

Usage: python benchmarks/simulate_tests.py [--studies 2000]     (5 minutes; writes results/DATE-simulated-tests.md)

Each study draws paired differences of a known mean and compares them as `tunelab compare` does. The level is the share
of studies without a true difference that show one (5 % is asked for), coverage that of 95 % intervals that hold the
truth, power the share that show a true difference as large as the minimum detectable one (80 % is asked for).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tunelab.comparison.align import Pairs
from tunelab.comparison.paired_comparison import Comparison, compare_values
from tunelab.statistics.power import detectable_accuracy_difference, detectable_effect

RESULTS = Path(__file__).parent / "results"

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]

#: Differences with a mean of 0 and a standard deviation of 1.
SHAPES: dict[str, Draw] = {
    "normal": lambda random, n: random.normal(size=n),
    "heavy tails (t, 3)": lambda random, n: random.standard_t(3, size=n) / math.sqrt(3),
    "skewed (exponential)": lambda random, n: random.exponential(size=n) - 1,
}
SIZES = (4, 6, 8, 12, 20, 50, 200)

#: Share of items that only one of two models answers right.
DISCORDANCE = 0.2


def compared(a: NDArray[np.float64], b: NDArray[np.float64], unit: str, seed: int) -> Comparison:
    items = [str(place) for place in range(len(a))]
    pairs = Pairs("a", "b", items, a.tolist(), b.tolist(), None, [], [], {})
    return compare_values(pairs, benchmark="simulated", metric="any", unit=unit, seed=seed)


def of_means(random: np.random.Generator, draw: Draw, n: int, studies: int) -> tuple[str, str, str]:
    """Level, coverage and power of a mean of n differences."""
    found = [compared(np.zeros(n), draw(random, n), "nats", study) for study in range(studies)]
    effect = detectable_effect(n)
    power = None
    if effect is not None:
        power = share([compared(np.zeros(n), draw(random, n) + effect, "nats", one).shown for one in range(studies)])
    return share([one.shown for one in found]), share([one.low <= 0 <= one.high for one in found]), power or "none"


def of_answers(random: np.random.Generator, n: int, studies: int) -> tuple[str, str, str]:
    """Level, coverage and power of right and wrong answers to n items; coverage where the difference is detectable."""
    detectable = detectable_accuracy_difference(n, DISCORDANCE)
    none = [compared(*answers(random, n, 0.0), "0-1", one) for one in range(studies)]
    if detectable is None:
        return share([one.shown for one in none]), share([one.low <= 0 <= one.high for one in none]), "none"
    found = [compared(*answers(random, n, detectable), "0-1", one) for one in range(studies)]
    covered = [one.low <= detectable <= one.high for one in found]
    return share([one.shown for one in none]), share(covered), share([one.shown for one in found])


def answers(random: np.random.Generator, n: int, difference: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    most = max(DISCORDANCE, difference)
    place = random.random(n)
    lost, gained = (most - difference) / 2, (most + difference) / 2
    a, b = (place < lost) | (place > 0.9), ((place >= lost) & (place < lost + gained)) | (place > 0.9)
    return a.astype(float), b.astype(float)


def share(of: list[bool]) -> str:
    """A share of studies with its standard error, in percent."""
    value = sum(of) / len(of)
    return f"{100 * value:.1f} ± {100 * math.sqrt(value * (1 - value) / len(of)):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    studies = parser.parse_args().studies
    random = np.random.default_rng(0)
    rows = [(name, n, *of_means(random, draw, n, studies)) for name, draw in SHAPES.items() for n in SIZES]
    rows += [("right or wrong", n, *of_answers(random, n, studies)) for n in (4, 6, 20, 100, 500, 2000)]
    lines = [
        "# Simulated tests",
        "",
        f"{date.today()}, `python benchmarks/simulate_tests.py --studies {studies}`: percent of the studies, ± SE. "
        "Level: a difference is shown where there is none. Coverage: of the 95 % interval. Power: at the minimum "
        "detectable difference, which assumes normal differences (none: no result could be significant). Right or "
        f"wrong: {100 * DISCORDANCE:.0f} % of items are discordant, or as many as the difference needs.",
        "",
        "| differences | items | level | coverage | power |",
        "|---|---:|---:|---:|---:|",
        *(f"| {' | '.join(map(str, row))} |" for row in rows),
        "",
    ]
    path = RESULTS / f"{date.today()}-simulated-tests.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
