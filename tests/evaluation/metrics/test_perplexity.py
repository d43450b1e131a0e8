"""Perplexity and bits per byte against numbers computed by hand and against repeated sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Score
from tunelab.evaluation.held_out import LikelihoodRecord
from tunelab.evaluation.metrics.perplexity import perplexity_scores, predicted_bytes


def record(item: int, nll: float, tokens: int, size: int) -> LikelihoodRecord:
    """A row whose text is twice its answer, each token of it twice as hard."""
    return LikelihoodRecord(str(item), "", nll, tokens, size, 4 * nll, 2 * tokens, 2 * size)


def by_name(records: Sequence[LikelihoodRecord]) -> dict[str, Score]:
    return {score.name: score for score in perplexity_scores(records)}


def test_by_hand() -> None:
    # nats 2 + 4 over 1 + 3 tokens: 1.5 a token; residuals 0.5 and -0.5, error sqrt(2 * 0.5 / 16) = 0.25
    scores = by_name([record(0, 2.0, 1, 4), record(1, 4.0, 3, 8)])
    response = scores["completion_perplexity"]
    assert response.value == pytest.approx(math.exp(1.5))
    assert response.error == pytest.approx(0.25 * math.exp(1.5))
    assert scores["sequence_perplexity"].value == pytest.approx(math.exp(3.0))
    assert scores["sequence_perplexity"].error == pytest.approx(0.5 * math.exp(3.0))
    # 6 nats over 12 bytes: both rows have the same 0.5 nats a byte
    assert scores["completion_bits_per_byte"].value == pytest.approx(0.5 / math.log(2))
    assert scores["completion_bits_per_byte"].error == pytest.approx(0, abs=1e-12)
    assert scores["sequence_bits_per_byte"].value == pytest.approx(1.0 / math.log(2))
    assert not any(score.higher_is_better for score in scores.values())
    assert (response.n, response.unit, response.protocol["tokens"]) == (2, "per token", 4)
    assert scores["sequence_bits_per_byte"].protocol["bytes"] == 24
    assert "UTF-8" in scores["sequence_bits_per_byte"].protocol["which_bytes"]


def test_it_is_weighted_by_tokens_not_by_rows() -> None:
    scores = by_name([record(0, 10.0, 1, 1), *(record(i, 99.0, 99, 99) for i in range(1, 4))])
    assert scores["completion_perplexity"].value == pytest.approx(math.exp((10 + 3 * 99) / (1 + 3 * 99)))


def test_the_error_is_the_spread_of_repeated_measurements() -> None:
    generator = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(600):
        tokens = generator.integers(5, 60, 100)
        nats = tokens * generator.normal(1.5, 0.4, 100)
        rows = [record(i, float(y), int(x), int(4 * x)) for i, (y, x) in enumerate(zip(nats, tokens, strict=True))]
        score = by_name(rows)["completion_perplexity"]
        values.append(score.value)
        errors.append(score.error)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.1)


def test_one_row_has_no_known_error() -> None:
    assert {score.error for score in perplexity_scores([record(0, 2.0, 1, 4)])} == {None}


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match="completion: 0 rows have no tokens"):
        perplexity_scores([])
    with pytest.raises(DataError, match="completion: 1 rows have no tokens to divide by"):
        perplexity_scores([LikelihoodRecord("0", "", 0.0, 0, 0, 1.0, 2, 3)])
    with pytest.raises(DataError, match="completion: 1 rows have no bytes"):
        perplexity_scores([LikelihoodRecord("0", "", 0.0, 1, 0, 1.0, 2, 3)])
    with pytest.raises(DataError, match="completion: 800 nats per token have no finite perplexity"):
        perplexity_scores([record(0, 800.0, 1, 1)])


def test_bytes_are_those_that_a_stretch_adds() -> None:
    words = ["<s>", "Was", " ist", " größer", "?", " Zwölf", ".", "</s>"]

    def decode(ids: Sequence[int]) -> str:
        """Drops special tokens, and the space that the decoded text would begin with, as sentencepiece does."""
        return "".join(words[i] for i in ids if not words[i].startswith("<")).removeprefix(" ")

    ids = list(range(8))
    mask = [False] * 5 + [True] * 3
    text = "Was ist größer? Zwölf."
    assert predicted_bytes(decode, ids, mask) == (len(" Zwölf.".encode()), len(text.encode()))
    # without a first special token, the first word is predicted from nothing and not counted
    assert predicted_bytes(decode, ids[1:], mask[1:]) == (len(" Zwölf.".encode()), len(text.encode()) - 3)
    # two stretches, and an answer that begins with the first token
    assert predicted_bytes(decode, ids[1:], [True, False, True, True, False, True, False]) == (
        len(" größer?".encode()) + len(b"."),
        len(text.encode()) - 3,
    )
    assert predicted_bytes(decode, [1], [True]) == (0, 0)


def test_bytes_of_a_real_tokenizer_sum_to_the_text(shared_data: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "models" / "tinystories656k")

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    text = "Lily went to the park and saw a dog."
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    for border in range(1, len(ids)):
        answer, total = predicted_bytes(decode, ids, [place >= border for place in range(len(ids))])
        prompt, _ = predicted_bytes(decode, ids, [place < border for place in range(len(ids))])
        assert total == len(decode(ids).encode())
        assert answer + prompt == total
