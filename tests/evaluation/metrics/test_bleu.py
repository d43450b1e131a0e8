"""BLEU is sacrebleu's, its error the one that sacrebleu's own bootstrap finds."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from tunelab.errors import DataError
from tunelab.evaluation.metrics import bleu
from tunelab.evaluation.metrics.bleu import bleu_counts, bleu_of_counts, bleu_score

WORDS = ["the", "a", "dog", "cat", "ball", "sat", "ran", "saw", "on", "under", "with", "big", "small", "red", "."]


def pairs(count: int) -> tuple[list[str], list[str]]:
    """References of random words, and responses in which about a quarter of the words are others."""
    generator = random.Random(4)
    references = [" ".join(generator.choices(WORDS, k=generator.randint(4, 30))) for _ in range(count)]
    responses = [
        " ".join(generator.choice(WORDS) if generator.random() < 0.25 else word for word in reference.split())
        for reference in references
    ]
    return responses, references


def test_value_and_signature_are_sacrebleus() -> None:
    responses, references = pairs(60)
    metric = BLEU()
    score = bleu_score(responses, references)
    assert score.value == metric.corpus_score(responses, [references]).score
    assert 20 < score.value < 80
    assert score.protocol["signature"] == str(metric.get_signature())
    assert str(score.protocol["signature"]).startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert (score.n, score.unit, score.higher_is_better) == (60, "0-100", True)


def test_the_error_is_that_of_sacrebleus_bootstrap() -> None:
    responses, references = pairs(150)
    interval = BLEU(force=True).corpus_score(responses, [references], n_bootstrap=1000)
    assert bleu_score(responses, references).error == pytest.approx(interval._ci / 1.96, rel=0.12)


def test_the_error_is_seeded() -> None:
    responses, references = pairs(40)
    assert bleu_score(responses, references) == bleu_score(responses, references)
    other = bleu_score(responses, references, seed=1)
    assert other.value == bleu_score(responses, references).value
    assert other.error != bleu_score(responses, references).error
    assert other.protocol["error"] == "bootstrap over items, 1000 resamples, seed 1"


def test_the_error_is_that_of_one_resample_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are drawn at once: figures of before stay as they were, to the last bit."""
    counts = bleu_counts(*pairs(40))
    generator = np.random.default_rng(bleu.SEED)
    one_by_one = [counts[generator.integers(0, 40, 40)].sum(axis=0) for _ in range(bleu.RESAMPLES)]
    expected = float(np.std(bleu_of_counts(np.array(one_by_one)), ddof=1))
    for at_once in (2**18, 1234, 1):
        monkeypatch.setattr(bleu, "_AT_ONCE", at_once)
        assert bleu.bootstrap_error(counts, bleu_of_counts) == expected


def test_extremes_are_numbers() -> None:
    _, references = pairs(20)
    same = bleu_score(references, references)
    assert (same.value, same.error) == (pytest.approx(100), pytest.approx(0, abs=1e-9))
    silent = bleu_score([""] * 20, references)
    assert (silent.value, silent.error) == (0.0, 0.0)
    half = bleu_score(["", *references[1:]], references)
    assert 0 < half.value < 100
    assert bleu_score(["a dog sat on the ball ."], ["a dog sat on the ball ."]).error is None


def test_an_empty_reference_is_refused() -> None:
    with pytest.raises(DataError, match="bleu: the reference of item 1 is empty"):
        bleu_score(["a", "b"], ["a", ""])


def test_bleu_of_summed_counts_is_sacrebleus() -> None:
    responses, references = pairs(60)
    counts = bleu_counts([*responses[:-1], ""], references)
    assert counts.shape == (60, 10)
    for some in (slice(None), slice(3), slice(-1, None), slice(10, 12)):
        expected = BLEU(force=True).corpus_score([*responses[:-1], ""][some], [references[some]]).score
        assert bleu_of_counts(counts[some].sum(axis=0)) == pytest.approx(expected, rel=1e-12)
    # Many samples at once give what each gives alone.
    many = np.stack([counts[:5].sum(axis=0), counts.sum(axis=0)])
    assert bleu_of_counts(many).tolist() == [float(bleu_of_counts(one)) for one in many]
    assert bleu_score(responses, references, counts=bleu_counts(responses, references)) == bleu_score(
        responses, references
    )


@given(st.integers(0, 60), st.lists(st.integers(0, 12), min_size=4, max_size=4), st.integers(0, 40), st.integers(1, 50))
def test_smoothing_and_penalty_are_sacrebleus(most: int, missed: list[int], length: int, reference: int) -> None:
    totals = [max(0, length - order) for order in range(4)]
    matches = [max(0, min(total, most - one)) for total, one in zip(totals, missed, strict=True)]
    expected = BLEU.compute_bleu(matches, totals, length, reference, smooth_method="exp", max_ngram_order=4).score
    found = bleu_of_counts(np.array([length, reference, *matches, *totals]))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_by_hand() -> None:
    # 3 of 5 words, 1 of 4 pairs, then nothing of 3 and of 2: these count as 1/2 and 1/4. Half as long as it should be.
    precisions = 3 / 5 * 1 / 4 * (0.5 / 3) * (0.25 / 2)
    expected = 100 * np.exp(1 - 10 / 5) * precisions**0.25
    assert bleu_of_counts(np.array([5, 10, 3, 1, 0, 0, 5, 4, 3, 2])) == pytest.approx(expected)


def test_counts_need_no_sacrebleu_to_be_read() -> None:
    code = (
        "import sys; from tunelab.evaluation.metrics.bleu import bleu_of_counts; "
        "bleu_of_counts([5, 10, 3, 1, 0, 0, 5, 4, 3, 2]); "
        "assert not {'sacrebleu', 'torch', 'rouge_score'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_counts_of_another_shape_are_refused() -> None:
    with pytest.raises(DataError, match=r"counts of BLEU have the shape \[3, 8\]: expected 10 columns"):
        bleu_of_counts(np.zeros((3, 8)))
    with pytest.raises(DataError, match=r"counts of BLEU have the shape \[\]: expected 10 columns"):
        bleu_of_counts(np.zeros(()))


def test_column_by_column_gives_the_same_bits() -> None:
    generator = np.random.default_rng(0)
    for most in (2, 6, 900):
        counts = generator.integers(0, most, (300, 3, 10)).astype(np.float64)
        length, reference, matches, totals = counts[..., 0], counts[..., 1], counts[..., 2:6], counts[..., 6:]
        without = matches == 0
        smoothed = np.where(without, np.ldexp(1.0, -np.cumsum(without, axis=-1)), matches)
        means = np.log(smoothed / np.where(totals > 0, totals, 1.0)).mean(axis=-1)
        penalty = np.exp(np.minimum(0.0, 1 - reference / np.where(length > 0, length, 1.0)))
        is_number = (totals > 0).all(axis=-1) & (matches > 0).any(axis=-1)
        expected = np.where(is_number, 100 * penalty * np.exp(means), 0.0)
        assert (bleu_of_counts(counts) == expected).all() and (expected > 0).any()
