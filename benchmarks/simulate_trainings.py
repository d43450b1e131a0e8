"""How verdicts over items and trainings do: false claims and coverage with 2, 3 and 5 trainings of each arm.

Usage: python benchmarks/simulate_trainings.py [--studies 10000]  (minutes; writes results/DATE-simulated-trainings.md)

Each study draws items and trainings of two equally good arms, and compares them as a study's report does: an item's
contribution, averaged over trainings, gives the error of the choice of items; the arms' figures per training that of
the choice of trainings (statistics/crossed.py). What a report adds (at least as careful as the test over items alone)
is left out, so that its rates are at most these. The truth is that the two arms' expectations do not differ, so a false
claim is an interval that misses 0, and coverage is the rest; a second truth, other than 0, is drawn for shares.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from tunelab.evaluation.metrics.bleu import bleu_of_counts
from tunelab.statistics.crossed import half_width

RESULTS = Path(__file__).parent / "results"

Array = NDArray[np.float64]

#: Contributions [studies, arms, trainings, items] of arms with these truths and spreads between trainings.
Draw = Callable[[np.random.Generator, int, int, Array, Array], Array]

#: Standard deviation between trainings, in units of what the choice of items does to the mean of one training.
SPREADS = {"none": 0.0, "as items": 1.0, "5 times items": 5.0}
TRAININGS = (2, 3, 5)
ITEMS = 120

#: Family of questions whose strictest level is looked at too.
FAMILY = 6

_AT_ONCE = 250  # studies


def of_means(random: np.random.Generator, studies: int, trainings: int, truths: Array, spreads: Array) -> Array:
    """A skewed value per item (ROUGE, a loss per row), items and trainings crossed, with a rest of its own."""
    shape = studies, len(truths), trainings, ITEMS
    of_items = random.gamma(2.0, 1.0, size=(studies, 1, 1, ITEMS)) + random.normal(size=(*shape[:2], 1, ITEMS))
    of_trainings = spreads * math.sqrt(2 / ITEMS) * random.normal(size=(*shape[:3], 1))
    return np.asarray(of_items + of_trainings + random.normal(0, 0.7, size=shape) + truths)


def of_answers(random: np.random.Generator, studies: int, trainings: int, truths: Array, spreads: Array) -> Array:
    """Right and wrong answers: an arm and a training shift every item's probability, and one fifth is drawn anew."""
    shape = studies, len(truths), trainings, ITEMS
    ease = random.uniform(0.25, 0.45, size=(studies, 1, 1, ITEMS))
    of_arms = random.uniform(-0.1, 0.1, size=(*shape[:2], 1, ITEMS))
    widths = np.minimum(0.15, spreads * math.sqrt(0.2 / ITEMS) * math.sqrt(3))  # uniform: no share leaves 0 to 1
    of_trainings = widths * random.uniform(-1, 1, size=(*shape[:3], 1))
    luck = np.where(random.random(shape) < 0.2, random.random(shape), random.random((studies, 1, 1, ITEMS)))
    return (luck < ease + of_arms + of_trainings + truths).astype(np.float64)


def of_ratios(random: np.random.Generator, studies: int, trainings: int, truths: Array, spreads: Array) -> Array:
    """A loss per token over rows of unlike lengths, each row's contribution linearized."""
    shape = studies, len(truths), trainings, ITEMS
    tokens = random.integers(5, 200, size=(studies, 1, 1, ITEMS)).astype(np.float64)
    of_rows = random.normal(2.0, 0.4, size=(studies, 1, 1, ITEMS)) + random.normal(0, 0.1, size=(*shape[:2], 1, ITEMS))
    of_trainings = spreads * 0.16 / math.sqrt(ITEMS) * random.normal(size=(*shape[:3], 1))
    nats = tokens * (of_rows + of_trainings + random.normal(0, 0.05, size=shape) + truths)
    ratio = nats.sum(axis=-1, keepdims=True) / tokens.sum(axis=-1, keepdims=True)
    return np.asarray(ratio + (nats - ratio * tokens) / tokens.mean(axis=-1, keepdims=True))


def of_corpus(random: np.random.Generator, studies: int, trainings: int, truths: Array, spreads: Array) -> Array:
    """BLEU of counts summed over rows, with each row's jackknife contribution."""
    shape = studies, len(truths), trainings, ITEMS
    words = np.broadcast_to(random.integers(6, 40, size=(studies, 1, 1, ITEMS)), shape)
    ease = random.beta(8, 6, size=(studies, 1, 1, ITEMS)) + random.normal(0, 0.08, size=(*shape[:2], 1, ITEMS))
    of_trainings = spreads * 0.17 / math.sqrt(ITEMS) * random.normal(size=(*shape[:3], 1))
    chance = np.clip(ease + of_trainings + truths, 0.02, 0.98)
    totals = [words - order for order in range(4)]
    matches = [random.binomial(total, chance ** (0.6 * order + 1)) for order, total in enumerate(totals)]
    counts = np.stack([words, words, *matches, *totals], axis=-1).astype(np.float64)
    total = counts.sum(axis=-2, keepdims=True)
    without = bleu_of_counts(total - counts)
    return np.asarray(bleu_of_counts(total) + (ITEMS - 1) * (without.mean(axis=-1, keepdims=True) - without))


DRAWS: dict[str, Draw] = {
    "right or wrong": of_answers,
    "means (skewed)": of_means,
    "ratios (loss per token)": of_ratios,
    "corpus figures (BLEU)": of_corpus,
}

#: A truth other than 0 where coverage may depend on it.
OTHER_TRUTH = {"right or wrong": 0.08, "means (skewed)": 0.5, "ratios (loss per token)": 0.1}


#: What an arm gains over its untuned model where a share of it is asked for; no share of a corpus figure is known.
GAIN = {"right or wrong": 0.25, "means (skewed)": 1.5, "ratios (loss per token)": 0.5}
SHARE = 0.9


def rates(
    draw: Draw, studies: int, trainings: int, spread: float, truth: float = 0.0, seed: int = 0
) -> dict[str, float]:
    """Shares of studies: whose 95 % interval misses the truth; whose interval of a family does; whose one-sided bound
    does, so that "as good within this margin" is claimed at the margin; and whose interval with Satterthwaite's degrees
    of freedom misses it."""
    random = np.random.default_rng(seed)
    missed = np.zeros(4)
    for start in range(0, studies, _AT_ONCE):
        each = draw(random, min(_AT_ONCE, studies - start), trainings, _of_arms([0.0, truth]), _of_arms([spread] * 2))
        paired = each[:, 1] - each[:, 0]  # [studies, trainings, items]
        errors, degrees = _parts(paired, paired.mean(axis=2))
        off = paired.mean(axis=(1, 2)) - truth
        missed += [
            (np.abs(off) > half_width(errors, degrees, 0.025)).sum(),
            (np.abs(off) > half_width(errors, degrees, 0.025 / FAMILY)).sum(),
            (off > half_width(errors, degrees, 0.05)).sum(),
            _misses_by_satterthwaite(np.abs(off), errors, degrees),
        ]
    return dict(zip(("missed", "family", "as good", "satterthwaite"), (missed / studies).tolist(), strict=True))


def share_rate(draw: Draw, studies: int, trainings: int, spread: float, gain: float, seed: int = 0) -> float:
    """Share of studies that claim "keeps at least 90 % of the gain" of an arm that keeps just that."""
    random, claims = np.random.default_rng(seed), 0
    truths, spreads = _of_arms([SHARE * gain, gain, 0.0]), _of_arms([spread, spread, 0.0])
    for start in range(0, studies, _AT_ONCE):
        each = draw(random, min(_AT_ONCE, studies - start), trainings, truths, spreads)
        kept = each[:, 0] - SHARE * each[:, 1]
        base = (1 - SHARE) * each[:, 2, :1]  # one evaluation of a model that is not tuned
        errors, degrees = _parts(kept - base, kept.mean(axis=2))
        claims += int(((kept - base).mean(axis=(1, 2)) > half_width(errors, degrees, 0.05)).sum())
    return claims / studies


def _of_arms(values: list[float]) -> Array:
    """One value for each arm, broadcast over [studies, arms, trainings, items]."""
    return np.array(values)[:, None, None]


def _parts(values: Array, figures: Array) -> tuple[list[Array], list[float]]:
    """Errors of the choice of items and of trainings, from values [studies, trainings, items] and figures [studies,
    trainings], and their degrees of freedom."""
    trainings = figures.shape[1]
    of_items = values.mean(axis=1).std(axis=-1, ddof=1) / math.sqrt(ITEMS)
    return [of_items, figures.std(axis=1, ddof=1) / math.sqrt(trainings)], [ITEMS - 1.0, trainings - 1.0]


def _misses_by_satterthwaite(off: Array, errors: list[Array], degrees: list[float]) -> int:
    shares = [one**2 for one in errors]
    total = sum(shares)
    of_freedom = total**2 / sum(share**2 / one for share, one in zip(shares, degrees, strict=True))
    return int((2 * stdtr(of_freedom, -off / np.sqrt(total)) < 0.05).sum())


def table(studies: int) -> list[str]:
    """One row per kind of figure, number of trainings and spread between them, in percent of the studies."""
    rows = []
    for kind, draw in DRAWS.items():
        for trainings in TRAININGS:
            for name, spread in SPREADS.items():
                found = rates(draw, studies, trainings, spread)
                cells = [f"{100 * found['missed']:.1f}", f"{100 * (1 - found['missed']):.1f}"]
                other = OTHER_TRUTH.get(kind)
                covered = None if other is None else 1 - rates(draw, studies, trainings, spread, other, 1)["missed"]
                cells.append("–" if covered is None else f"{100 * covered:.1f}")
                kept = GAIN.get(kind) and share_rate(draw, studies, trainings, spread, GAIN[kind])
                cells += [f"{100 * found['family']:.2f}", f"{100 * found['as good']:.1f}"]
                cells += ["–" if kept is None else f"{100 * kept:.1f}", f"{100 * found['satterthwaite']:.1f}"]
                rows.append(f"| {kind} | {trainings} | {name} | {' | '.join(cells)} |")
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=10_000)
    studies = parser.parse_args().studies
    lines = [
        "# Simulated verdicts over items and trainings",
        "",
        f"{date.today()}, `python benchmarks/simulate_trainings.py --studies {studies}`: percent of the studies "
        f"({studies:,} each, ± {100 * math.sqrt(0.05 * 0.95 / studies):.1f} SE at 5 %), {ITEMS} items. False claims: "
        "a difference is shown where there is none; at most 6 are allowed. Coverage: of the 95 % interval, where the "
        "truth is 0 and where it is not; at least 94. Holm: false claims at the strictest level of "
        f"{FAMILY} questions; 0.83 are allowed. As good, 90 % kept: of arms that are just at the margin, or keep just "
        "90 % of a gain, those that are called as good; at most 6. Satterthwaite: false claims of the usual interval, "
        "which is not used.",
        "",
        "| figure | trainings | spread between them | false claims | coverage | coverage, other truth | "
        "Holm | as good | 90 % kept | Satterthwaite |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
        *table(studies),
        "",
    ]
    path = RESULTS / f"{date.today()}-simulated-trainings.md"
    path.write_text("\n".join(lines), encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
