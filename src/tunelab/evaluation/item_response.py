"""Item response theory: estimate a benchmark of thousands of items from 100 anchors (estimators irt, p-IRT, gp-IRT).

A two-parameter logistic model with a D-dimensional ability: item i is answered correctly with probability
p_i = sigmoid(a_i · theta - b_i). The parameters a, b were fitted to many models' answers; only the new model's
ability theta is fitted here, by maximum likelihood, from its answers to the anchors.

Standard errors: the estimate of theta changes with the answers y as d theta = I^-1 sum a_i (y_i - p_i), where
I = sum p_i (1 - p_i) a_i a_i^T is the Fisher information. So each estimator changes as sum g_i (y_i - p_i), and
error² = sum g_i² p_i (1 - p_i) (delta method). This covers only the randomness of the anchors' answers: item
parameters and the choice of anchors are taken as exact. For their errors see the paper's tests on other models.

Source: Maia Polo et al. 2024, tinyBenchmarks: evaluating LLMs with fewer examples (arXiv 2402.14992), section 4;
repository felipemaiapolo/tinyBenchmarks, tinyBenchmarks/__init__.py, whose conventions are kept (balanced weights of
subjects; the share n / N of observed items in p-IRT).
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tunelab.errors import DataError
from tunelab.statistics.standard_errors import Estimate

Floats = NDArray[np.float64]

#: Below this smallest eigenvalue of the information, an ability counts as not determined (its error is above 1,000).
INFORMATION_FLOOR = 1e-6

#: Maximum number of Newton steps; abilities that diverge (all answers right) stop where the gradient is below 1e-10.
STEPS = 100


@dataclass(frozen=True, eq=False)
class AnchorParameters:
    """Parameters of one benchmark of N items with n anchors.

    Attributes:
        discrimination: a, [D, N].
        difficulty: b summed over the dimensions, [N].
        anchors: indices of the anchors among the N items, [n].
        anchor_weights: share of the benchmark that each anchor represents, [n], in the anchors' order.
        balance: item weights that give every subject the same weight, mean 1, [N].
        mixing: lambda of gp-IRT, 0 to 1: the weight of the irt estimate.
    """

    discrimination: Floats
    difficulty: Floats
    anchors: NDArray[np.int64]
    anchor_weights: Floats
    balance: Floats
    mixing: float


@dataclass(frozen=True, eq=False)
class Ability:
    """A fitted ability.

    Attributes:
        theta: [D].
        covariance: inverse of the Fisher information, [D, D]; None if the answers do not determine theta.
    """

    theta: Floats
    covariance: Floats | None


@dataclass(frozen=True, eq=False)
class AccuracyEstimates:
    """Accuracy on all N items, estimated from the anchors in three ways; errors are None if theta is not determined.

    Attributes:
        irt: the anchors' answers, weighted by how many items each represents.
        p_irt: the anchors' answers combined with the model's predictions for all other items.
        gp_irt: lambda * irt + (1 - lambda) * p_irt.
        ability: used for the predictions.
    """

    irt: Estimate
    p_irt: Estimate
    gp_irt: Estimate
    ability: Ability


def fit_ability(correct: Floats, discrimination: Floats, difficulty: Floats) -> Ability:
    """Maximum-likelihood ability, by Newton steps that are halved until the likelihood increases.

    The likelihood is concave, so the maximum is unique; if it is at infinity, theta is finite but far out
    and its covariance None.

    Args:
        correct: 1.0 or 0.0 per item, [n] (values in between are shares).
        discrimination: [D, n].
        difficulty: [n].

    Raises:
        DataError: the shapes do not match.
    """
    if correct.ndim != 1 or discrimination.ndim != 2 or not len(correct) == discrimination.shape[1] == len(difficulty):
        raise DataError(
            f"{correct.shape} answers, {discrimination.shape} discriminations and {difficulty.shape} difficulties:"
            " expected [n], [D, n] and [n]"
        )
    theta = np.zeros(discrimination.shape[0])
    for _ in range(STEPS):
        p = _probability(theta, discrimination, difficulty)
        gradient = discrimination @ (correct - p)
        if float(np.abs(gradient).max()) < 1e-10:
            break
        step = np.linalg.lstsq(_information(p, discrimination), gradient, rcond=None)[0]
        here = _log_likelihood(theta, correct, discrimination, difficulty)
        while _log_likelihood(theta + step, correct, discrimination, difficulty) < here:
            step = step / 2
        if not float(np.abs(step).max()) > 1e-12:
            break
        theta = theta + step
    information = _information(_probability(theta, discrimination, difficulty), discrimination)
    determined = float(np.linalg.eigvalsh(information).min()) > INFORMATION_FLOOR
    return Ability(theta, np.asarray(np.linalg.inv(information), dtype=np.float64) if determined else None)


def estimate_accuracy(correct: Floats, parameters: AnchorParameters) -> AccuracyEstimates:
    """Accuracy on all items, estimated from the answers to the anchors.

    Args:
        correct: 1.0 or 0.0 for each anchor, [n], in the order of parameters.anchors.
        parameters: of the benchmark.

    Raises:
        DataError: the number of answers is not the number of anchors.
    """
    anchors, weights = parameters.anchors, parameters.anchor_weights
    n, total = len(anchors), len(parameters.difficulty)
    if correct.shape != (n,):
        raise DataError(f"answers of shape {correct.shape}: expected one for each of the {n} anchors")
    a = parameters.discrimination[:, anchors]
    ability = fit_ability(correct, a, parameters.difficulty[anchors])
    p = _probability(ability.theta, parameters.discrimination, parameters.difficulty)
    unseen = np.ones(total, dtype=bool)
    unseen[anchors] = False
    observed, balance = n / total, parameters.balance
    predicted = float((balance * p)[unseen].mean()) if unseen.any() else 0.0
    seen_weights = observed * balance[anchors] / n

    irt = float(weights @ correct)
    p_irt = float(seen_weights @ correct) + (1 - observed) * predicted
    mixing = parameters.mixing
    pull: Floats | None = None
    if ability.covariance is not None:
        slope = parameters.discrimination * (balance * p * (1 - p) * unseen)
        # [D] -> [n]: effect of each anchor's answer on the predictions, through theta.
        pull = (1 - observed) * slope.sum(axis=1) / max(int(unseen.sum()), 1) @ ability.covariance @ a
    spread = p[anchors] * (1 - p[anchors])
    known = pull is not None
    shifts = seen_weights + (pull if pull is not None else 0.0)
    mixed = mixing * weights + (1 - mixing) * shifts
    return AccuracyEstimates(
        Estimate(irt, _error(weights, spread) if known else None, n),
        Estimate(p_irt, _error(shifts, spread) if known else None, n),
        Estimate(mixing * irt + (1 - mixing) * p_irt, _error(mixed, spread) if known else None, n),
        ability,
    )


def balanced_weights(groups: NDArray[Any]) -> Floats:
    """Item weights, [N], that give every group the same weight, with mean 1: N / (groups * group's size)."""
    _, membership, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights: Floats = len(groups) / (len(sizes) * sizes[membership].astype(np.float64))
    return weights


def load_parameters(path: str | Path, benchmark: str) -> AnchorParameters:
    """Anchor parameters of a benchmark ("mmlu") from the authors' tinyBenchmarks.pkl, or from an .npz.

    The unpickler accepts only numpy arrays of numbers, dicts, lists and plain values. An .npz
    contains A and B ([D, N]), seen_examples and examples_weights ([n]), optimal_lambda (a number) and subscenario
    (the subject's number for each item, [N]).

    Raises:
        DataError: the file is missing, asks for anything else, lacks a table, or its tables do not match.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file",
            "download tinyBenchmarks/tinyBenchmarks.pkl from the repository felipemaiapolo/tinyBenchmarks",
        )
    tables = _from_npz(path) if path.suffix == ".npz" else _from_pickle(path, benchmark)
    return _checked(path, tables)


def read_arrays_pickle(path: Path) -> Any:
    """The object in a pickle that contains only arrays of numbers, dicts, lists, tuples and plain values.

    Raises:
        DataError: it asks for anything else (named), or is not a pickle.
    """
    try:
        return _with_arrays(_ArrayUnpickler(path).load())
    except DataError:
        raise
    # A damaged pickle can raise almost any exception, according to the standard library's documentation.
    except Exception as error:
        raise DataError(f"{path}: cannot be read as a pickle: {error}", "download the file again") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Replaces the functions with which numpy rebuilds arrays, under their old and new names, with safe ones.

    numpy's own trust a pickle's types and sizes; these build arrays only from bytes of numbers.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.BytesIO(path.read_bytes()))
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a name in a pickle. Raises DataError for everything that is not an array of numbers."""
        admitted: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): None,
            ("numpy", "dtype"): lambda kind, *_: _NumberType(self._path, kind),
            ("_codecs", "encode"): _latin1_bytes,
        }
        for core in ("numpy.core", "numpy._core"):
            admitted[f"{core}.multiarray", "_reconstruct"] = lambda *_: _StoredArray()
            admitted[f"{core}.multiarray", "scalar"] = lambda kind, data: _array(data, kind, (1,), "C")[0]
            admitted[f"{core}.numeric", "_frombuffer"] = _array
        if (module, name) not in admitted:
            raise DataError(
                f"{self._path}: the pickle asks for {module}.{name}: refused, because a pickle can run any code",
                "only numpy arrays of numbers, dicts, lists, numbers and text are read; use the authors' own file",
            )
        return admitted[module, name]


class _NumberType:
    """A numeric type, which a pickle describes in two steps."""

    def __init__(self, path: Path, kind: Any) -> None:
        self.dtype: np.dtype[Any] = np.dtype(kind)
        if self.dtype.kind not in "biuf":
            raise DataError(f"{path}: the pickle has an array of {self.dtype}: expected numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _StoredArray:
    """An array that receives its numbers in a second step."""

    value: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_column, data = state
        self.value = _array(data, kind, shape, "F" if by_column else "C")


def _array(data: bytes, kind: _NumberType, shape: tuple[int, ...], order: Literal["C", "F"]) -> NDArray[Any]:
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order)


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 store bytes. Raises ValueError for another encoding."""
    if encoding != "latin1":
        raise ValueError(f"bytes in {encoding}, expected latin1")
    return text.encode("latin1")


def _with_arrays(value: Any) -> Any:
    """The same structure with stored arrays replaced by numpy arrays."""
    if isinstance(value, dict):
        return {key: _with_arrays(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_arrays(inner) for inner in value)
    return value.value if isinstance(value, _StoredArray) else value


def _from_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as an .npz: {error}", "only arrays of numbers are read") from error


def _from_pickle(path: Path, benchmark: str) -> dict[str, Any]:
    """The same tables as in an .npz, from the authors' nested structure."""
    content = read_arrays_pickle(path)
    subjects = _inside(path, content, benchmark, "subscenarios_position", benchmark)
    try:
        numbers = {int(place): number for number, key in enumerate(subjects) for place in subjects[key]}
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise DataError(f"{path}: {benchmark} > subscenarios_position has no lists of indices by subject") from error
    return {
        "A": _inside(path, content, benchmark, "irt_parameters", "A"),
        "B": _inside(path, content, benchmark, "irt_parameters", "B"),
        "seen_examples": _inside(path, content, benchmark, "seen_examples"),
        "examples_weights": _inside(path, content, benchmark, "examples_weights", benchmark),
        "optimal_lambda": _inside(path, content, benchmark, "optimal_lambdas", benchmark),
        "subscenario": [numbers.get(place, -1) for place in range(max(numbers, default=-1) + 1)],
    }


def _inside(path: Path, content: Any, *keys: str) -> Any:
    for depth, key in enumerate(keys):
        if not isinstance(content, Mapping) or key not in content:
            where = " > ".join(keys[: depth + 1])
            raise DataError(f"{path}: has no {where}", "use the authors' published tinyBenchmarks.pkl")
        content = content[key]
    return content


def _checked(path: Path, tables: Mapping[str, Any]) -> AnchorParameters:
    """Validated tables. Raises DataError if they do not match."""
    names = ("A", "B", "seen_examples", "examples_weights", "optimal_lambda", "subscenario")
    if missing := [name for name in names if name not in tables]:
        raise DataError(f"{path}: lacks {', '.join(missing)}", f"expected the tables {', '.join(names)}")
    try:
        arrays = {name: np.asarray(tables[name], dtype=np.float64) for name in names}
        a, b = (arrays[name].reshape(arrays[name].shape[-2:]) for name in ("A", "B"))
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {error}: expected tables of numbers, A and B of shape [D, N]") from error
    if unknown := [name for name in names if not np.isfinite(arrays[name]).all()]:
        raise DataError(f"{path}: {', '.join(unknown)} has non-finite numbers", "download the file again")
    total, places = np.atleast_1d(a).shape[-1], arrays["seen_examples"]
    anchors, mixing, groups = places.astype(np.int64), arrays["optimal_lambda"], arrays["subscenario"]
    fits = {
        "A and B are of one shape [D, N]": a.ndim == 2 and a.shape == b.shape,
        "seen_examples names distinct items": places.ndim == 1
        and 0 < len(set(places.tolist()) & set(range(total))) == len(places),
        "examples_weights has one number per anchor": arrays["examples_weights"].shape == places.shape,
        "subscenario assigns every item to a subject": groups.shape == (total,) and bool((groups >= 0).all()),
        "optimal_lambda is a number from 0 to 1": mixing.size == 1 and 0 <= float(mixing.ravel()[0]) <= 1,
    }
    if broken := [rule for rule, holds in fits.items() if not holds]:
        raise DataError(
            f"{path}: its tables do not match; expected that {'; that '.join(broken)}",
            "use the authors' published tinyBenchmarks.pkl",
        )
    return AnchorParameters(
        discrimination=a,
        difficulty=b.sum(axis=0),
        anchors=anchors,
        anchor_weights=arrays["examples_weights"],
        balance=balanced_weights(arrays["subscenario"]),
        mixing=float(mixing.ravel()[0]),
    )


def _probability(theta: Floats, discrimination: Floats, difficulty: Floats) -> Floats:
    """p of each item, [n]. Beyond 30 either way p differs from 0 or 1 by less than 1e-13."""
    p: Floats = 1 / (1 + np.exp(-np.clip(theta @ discrimination - difficulty, -30, 30)))
    return p


def _information(p: Floats, discrimination: Floats) -> Floats:
    """Fisher information of theta, [D, D]."""
    information: Floats = (discrimination * (p * (1 - p))) @ discrimination.T
    return information


def _log_likelihood(theta: Floats, correct: Floats, discrimination: Floats, difficulty: Floats) -> float:
    z = theta @ discrimination - difficulty
    return float((correct * z - np.logaddexp(0, z)).sum())


def _error(shifts: Floats, spread: Floats) -> float:
    return float(np.sqrt((shifts**2 * spread).sum()))
