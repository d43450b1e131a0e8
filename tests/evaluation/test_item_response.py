"""Abilities agree with scipy, estimates with hand-made sums and a second implementation, errors with simulation."""

from __future__ import annotations

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunelab.errors import DataError
from tunelab.evaluation.item_response import (
    AnchorParameters,
    balanced_weights,
    estimate_accuracy,
    fit_ability,
    load_parameters,
    read_arrays_pickle,
)

D, N, ANCHORS = 3, 400, 100


def synthetic(seed: int = 0) -> AnchorParameters:
    random = np.random.default_rng(seed)
    weights = random.random(ANCHORS)
    return AnchorParameters(
        discrimination=random.normal(0.6, 0.4, (D, N)),
        difficulty=random.normal(0, 1, N),
        anchors=random.permutation(N)[:ANCHORS],
        anchor_weights=weights / weights.sum(),
        balance=balanced_weights(np.sort(random.integers(0, 7, N))),
        mixing=0.3,
    )


def probability(theta: Any, parameters: AnchorParameters) -> Any:
    return 1 / (1 + np.exp(-(theta @ parameters.discrimination - parameters.difficulty)))


def sampled(parameters: AnchorParameters, theta: Any, seed: int) -> Any:
    p = probability(theta, parameters)[parameters.anchors]
    return (np.random.default_rng(seed).random(ANCHORS) < p).astype(float)


def test_the_ability_is_scipys() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    for seed in range(5):
        parameters = synthetic(seed)
        correct = sampled(parameters, np.array([0.5, -0.5, 1.0]), seed)
        a, b = parameters.discrimination[:, parameters.anchors], parameters.difficulty[parameters.anchors]

        def loss(theta: Any, a: Any = a, b: Any = b, correct: Any = correct) -> tuple[float, Any]:
            z = theta @ a - b
            return float(np.logaddexp(0, z).sum() - correct @ z), a @ (1 / (1 + np.exp(-z)) - correct)

        reference = optimize.minimize(loss, np.zeros(D), jac=True, method="BFGS", options={"gtol": 1e-9})
        ours = fit_ability(correct, a, b)
        assert np.abs(ours.theta - reference.x).max() < 1e-6
        assert ours.covariance is not None


def test_the_ability_of_equal_items_by_hand() -> None:
    # 3 of 4 right on items of a = 1, b = 0: p = 3/4, theta = log 3, information 4 * 3/16.
    ability = fit_ability(np.array([1.0, 1, 1, 0]), np.ones((1, 4)), np.zeros(4))
    assert ability.theta == pytest.approx([np.log(3)], abs=1e-9)
    assert ability.covariance == pytest.approx(np.array([[4 / 3]]))


def test_answers_that_are_all_right_determine_no_ability() -> None:
    parameters = synthetic()
    found = estimate_accuracy(np.ones(ANCHORS), parameters)
    assert found.ability.covariance is None
    assert np.isfinite(found.ability.theta).all()
    assert found.irt.value == pytest.approx(1.0)
    assert [found.irt.error, found.p_irt.error, found.gp_irt.error] == [None, None, None]
    assert found.p_irt.value > 0.9


def test_estimates_by_hand() -> None:
    # Four items of a = 1, b = 0, two anchors of them, one right: theta = 0, so every p is 1/2.
    parameters = AnchorParameters(
        discrimination=np.ones((1, 4)),
        difficulty=np.zeros(4),
        anchors=np.array([2, 0]),
        anchor_weights=np.array([0.7, 0.3]),
        balance=np.array([2.0, 0.5, 0.5, 1.0]),
        mixing=0.25,
    )
    found = estimate_accuracy(np.array([1.0, 0.0]), parameters)
    p_irt = 0.5 * (0.5 * 1 + 2.0 * 0) / 2 + 0.5 * (0.5 * 0.5 + 1.0 * 0.5) / 2
    assert found.irt.value == pytest.approx(0.7)
    assert found.p_irt.value == pytest.approx(p_irt)
    assert found.gp_irt.value == pytest.approx(0.25 * 0.7 + 0.75 * p_irt)
    # Information 2 * 1/4; predictions move by 0.5 * mean(0.5, 1) * 1/4 a unit of theta: 0.1875 for each answer.
    shifts = np.array([0.5 * 0.5 / 2 + 0.1875, 0.5 * 2.0 / 2 + 0.1875])
    assert found.irt.error == pytest.approx(np.sqrt((0.49 + 0.09) / 4))
    assert found.p_irt.error == pytest.approx(np.sqrt((shifts**2).sum() / 4))
    mixed = 0.25 * np.array([0.7, 0.3]) + 0.75 * shifts
    assert found.gp_irt.error == pytest.approx(np.sqrt((mixed**2).sum() / 4))


def test_estimates_are_those_of_a_second_implementation() -> None:
    """The definitions, item by item in plain loops, with an ability from scipy's BFGS as the authors fit it."""
    optimize = pytest.importorskip("scipy.optimize")
    parameters = synthetic(3)
    correct = sampled(parameters, np.array([0.2, 0.4, -0.3]), 3)
    given = dict(zip(parameters.anchors.tolist(), correct.tolist(), strict=True))

    def negative(theta: Any) -> float:
        p = probability(theta, parameters)
        return -float(sum(np.log(p[i] if y else 1 - p[i]) for i, y in given.items()))

    p = probability(optimize.minimize(negative, np.zeros(D), method="BFGS").x, parameters)
    seen = sum(parameters.balance[i] * y for i, y in given.items()) / ANCHORS
    unseen = [parameters.balance[i] * p[i] for i in range(N) if i not in given]
    p_irt = ANCHORS / N * seen + (1 - ANCHORS / N) * sum(unseen) / len(unseen)
    irt = sum(w * y for w, y in zip(parameters.anchor_weights, correct, strict=True))
    found = estimate_accuracy(correct, parameters)
    assert found.irt.value == pytest.approx(irt, abs=1e-12)
    assert found.p_irt.value == pytest.approx(p_irt, abs=1e-6)
    assert found.gp_irt.value == pytest.approx(0.3 * irt + 0.7 * p_irt, abs=1e-6)


def test_errors_are_the_spread_of_repeated_answers() -> None:
    parameters, theta = synthetic(1), np.array([0.3, 0.1, 0.6])
    found = [estimate_accuracy(sampled(parameters, theta, seed), parameters) for seed in range(400)]
    for name in ("irt", "p_irt", "gp_irt"):
        spread = np.std([getattr(one, name).value for one in found], ddof=1)
        told = np.mean([getattr(one, name).error for one in found])
        # 400 draws know a deviation to 3.5 %.
        assert told == pytest.approx(spread, rel=0.12)


def test_balanced_weights_give_every_group_the_same() -> None:
    assert balanced_weights(np.array([0, 0, 0, 1])) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(2,\) answers, \(1, 3\) discriminations and \(3,\) difficulties: expected"):
        fit_ability(np.zeros(2), np.ones((1, 3)), np.zeros(3))
    with pytest.raises(DataError, match=r"answers of shape \(7,\): expected one for each of the 100 anchors"):
        estimate_accuracy(np.zeros(7), synthetic())


def authors_tables() -> dict[str, Any]:
    """A parameter file as its authors nest it: six items of two subjects, two anchors."""
    a = np.arange(12, dtype=float).reshape(1, 2, 6)
    return {
        "mmlu": {
            "irt_parameters": {"A": a, "B": np.ones((1, 2, 6))},
            "seen_examples": [4, 1],
            "examples_weights": {"mmlu": np.array([0.75, 0.25])},
            "optimal_lambdas": {"mmlu": np.float64(0.5)},
            "scenarios_position": {"mmlu": [0, 1, 2, 3, 4, 5]},
            "subscenarios_position": {"mmlu": {"first": [0, 1, 2, 3], "second": [4, 5]}},
        }
    }


def stored(path: Path, tables: Any, protocol: int = 5) -> Path:
    path.write_bytes(pickle.dumps(tables, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_authors_file_is_read(tmp_path: Path, protocol: int) -> None:
    read = load_parameters(stored(tmp_path / "tinyBenchmarks.pkl", authors_tables(), protocol), "mmlu")
    assert read.discrimination.tolist() == np.arange(12.0).reshape(2, 6).tolist()
    assert read.difficulty.tolist() == [2.0] * 6
    assert read.anchors.tolist() == [4, 1]
    assert read.anchor_weights.tolist() == [0.75, 0.25]
    assert read.balance == pytest.approx([0.75] * 4 + [1.5] * 2)
    assert read.mixing == 0.5


def test_arrays_of_every_layout_are_read(tmp_path: Path) -> None:
    arrays = [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.array([True, False]),
        np.float32(0.5),
        np.arange(4)[::2],
    ]
    for protocol in (2, 3, 4, 5):
        read = read_arrays_pickle(stored(tmp_path / "a.pkl", {"list": arrays, "pair": (1, "two")}, protocol))
        assert read["pair"] == (1, "two")
        for one, other in zip(read["list"], arrays, strict=True):
            assert one.dtype == other.dtype
            assert one.tolist() == other.tolist()


def archive(path: Path, **changed: Any) -> Path:
    tables = {
        "A": np.ones((2, 6)),
        "B": np.ones((2, 6)),
        "seen_examples": np.array([4, 1]),
        "examples_weights": np.array([0.75, 0.25]),
        "optimal_lambda": np.array(0.5),
        "subscenario": np.array([0, 0, 0, 0, 1, 1]),
    } | changed
    np.savez(path, **{name: table for name, table in tables.items() if table is not None})
    return path


def test_an_npz_is_read_and_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    assert load_parameters(archive(path), "mmlu").balance == pytest.approx([0.75] * 4 + [1.5] * 2)
    for changed, message in (
        ({"A": None}, r"p\.npz: lacks A"),
        ({"A": np.array(["x"])}, "expected tables of numbers, A and B of shape"),
        ({"A": np.ones((2, 7))}, "A and B are of one shape"),
        ({"A": np.full((2, 6), np.nan)}, "A has non-finite numbers"),
        ({"seen_examples": np.array([4, 4])}, "seen_examples names distinct items"),
        ({"seen_examples": np.array([4, 6])}, "seen_examples names distinct items"),
        ({"examples_weights": np.array([1.0])}, "examples_weights has one number per anchor"),
        ({"subscenario": np.array([0, 0, 0, 0, 1, -1])}, "subscenario assigns every item to a subject"),
        ({"optimal_lambda": np.array(1.5)}, "optimal_lambda is a number from 0 to 1"),
        ({"A": np.array([object()])}, r"p\.npz: cannot be read as an \.npz: .*allow_pickle=False"),
    ):
        with pytest.raises(DataError, match=message):
            load_parameters(archive(path, **changed), "mmlu")
    with pytest.raises(DataError, match=r"none\.npz: no such file"):
        load_parameters(tmp_path / "none.npz", "mmlu")


def test_tables_that_are_missing_are_named(tmp_path: Path) -> None:
    tables = authors_tables()
    del tables["mmlu"]["irt_parameters"]["B"]
    with pytest.raises(DataError, match="has no mmlu > irt_parameters > B"):
        load_parameters(stored(tmp_path / "t.pkl", tables), "mmlu")
    with pytest.raises(DataError, match="has no helm"):
        load_parameters(stored(tmp_path / "t.pkl", tables), "helm")
    tables = authors_tables()
    tables["mmlu"]["subscenarios_position"]["mmlu"] = {"first": 3}
    with pytest.raises(DataError, match="mmlu > subscenarios_position has no lists of indices by subject"):
        load_parameters(stored(tmp_path / "t.pkl", tables), "mmlu")


class Runs:
    """Pickled as a call of a function with an argument."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_a_pickle_that_is_more_than_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.pkl"
    with pytest.raises(DataError, match=r"p\.pkl: the pickle asks for builtins\.print: refused"):
        read_arrays_pickle(stored(path, {"A": Runs(print, "ran")}))
    with pytest.raises(DataError, match=r"the pickle asks for pathlib.*Path: refused"):
        read_arrays_pickle(stored(path, Path("x")))
    with pytest.raises(DataError, match="the pickle has an array of object: expected numbers"):
        read_arrays_pickle(stored(path, np.array([Path("x")])))
    # numpy's array class over foreign memory is no data either.
    with pytest.raises(DataError, match="cannot be read as a pickle"):
        read_arrays_pickle(stored(path, Runs(np.ndarray, (1,))))
    with pytest.raises(DataError, match="cannot be read as a pickle: bytes in rot13, expected latin1"):
        read_arrays_pickle(stored(path, Runs(codecs.encode, "x", "rot13")))
    path.write_bytes(stored(path, authors_tables()).read_bytes()[:-20])
    with pytest.raises(DataError, match=r"p\.pkl: cannot be read as a pickle"):
        read_arrays_pickle(path)


def test_the_authors_tutorial_files_are_read(shared_data: Path) -> None:
    folder = shared_data / "tinybenchmarks"
    mixing = read_arrays_pickle(folder / "lambds.pickle")
    assert all(0 <= float(value) <= 1 for value in mixing.values())
    anchors = read_arrays_pickle(folder / "anchor.pickle")
    for points, weights in zip(anchors["anchor_points"].values(), anchors["anchor_weights"].values(), strict=True):
        assert points.shape == weights.shape == (100,)
        assert weights.sum() == pytest.approx(1)
