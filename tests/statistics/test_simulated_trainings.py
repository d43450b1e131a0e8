"""Simulated studies of several trainings: false claims and coverage over items and trainings.

10,000 studies each in `make test-slow`, 500 in `make test`; benchmarks/simulate_trainings.py draws them and tabulates.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest


def _simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "simulate_trainings.py"
    spec = importlib.util.spec_from_file_location("simulate_trainings", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SIMULATION = _simulation()


@pytest.fixture(params=[500, pytest.param(10_000, marks=pytest.mark.slow)])
def studies(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("kind", SIMULATION.DRAWS)
def test_at_most_six_percent_of_claims_are_false_and_intervals_hold_the_truth(kind: str, studies: int) -> None:
    few = studies < 10_000
    chance = 3.5 * math.sqrt(0.05 * 0.95 / studies) if few else 0.0
    cases = [(2, 1.0), (3, 5.0)] if few else [(s, v) for s in (2, 3, 5) for v in SIMULATION.SPREADS.values()]
    for trainings, spread in cases:
        found = SIMULATION.rates(SIMULATION.DRAWS[kind], studies, trainings, spread)
        assert found["missed"] <= 0.06 + chance, (trainings, spread)
        assert found["family"] <= 0.06 / SIMULATION.FAMILY + chance, (trainings, spread)
        assert found["as good"] <= 0.06 + chance, (trainings, spread)
        if gain := SIMULATION.GAIN.get(kind):
            kept = SIMULATION.share_rate(SIMULATION.DRAWS[kind], studies, trainings, spread, gain)
            assert kept <= 0.06 + chance, (trainings, spread)
        if kind in SIMULATION.OTHER_TRUTH:
            other = SIMULATION.rates(
                SIMULATION.DRAWS[kind], studies, trainings, spread, SIMULATION.OTHER_TRUTH[kind], 1
            )
            assert other["missed"] <= 0.06 + chance, (trainings, spread)


def test_satterthwaites_interval_would_claim_too_much() -> None:
    found = SIMULATION.rates(SIMULATION.DRAWS["means (skewed)"], 2000, 2, 5.0)
    assert found["satterthwaite"] > 0.08 > 0.06 > found["missed"] > 0.02
