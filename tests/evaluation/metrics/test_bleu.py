"""BLEU is sacrebleu's, its error the one that sacrebleu's own bootstrap finds."""

from __future__ import annotations

import random

import pytest
from sacrebleu.metrics.bleu import BLEU

from tunelab.errors import DataError
from tunelab.evaluation.metrics.bleu import bleu_score

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
