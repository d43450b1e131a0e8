"""Whole texts: every token is predicted once, whatever the context; and what cannot be measured is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunelab.answering.benchmark_responses import evaluate_benchmarks
from tunelab.answering.generate import open_responder
from tunelab.answering.text_likelihoods import encoded_texts, text_likelihoods, windows
from tunelab.errors import DataError, ModelError, UsageError
from tunelab.evaluation.benchmark import Item


@given(st.integers(1, 40), st.integers(1, 3), st.none() | st.integers(4, 12))
def test_every_token_is_predicted_once_after_the_one_before_it(count: int, leading: int, context: int | None) -> None:
    ids = list(range(100, 100 + count))
    first = list(range(leading))
    rows = list(windows(first, ids, context))
    predicted = [(row[place - 1], row[place]) for row, mask in rows for place in range(len(row)) if mask[place]]
    assert predicted == list(zip([first[-1], *ids], ids, strict=False))
    assert all(len(row) == len(mask) and (context is None or len(row) <= context) for row, mask in rows)
    assert not any(mask[0] for _, mask in rows)


def test_a_context_without_room_is_refused() -> None:
    with pytest.raises(ModelError, match="the model's context of 2 tokens has no room for a text"):
        list(windows([1, 2], [3], 2))


def alone(model: Any, first: Sequence[int], ids: Sequence[int]) -> float:
    """log p of the text by transformers' own forward pass."""
    whole = torch.tensor([[*first, *ids]])
    with torch.no_grad():
        log_p = model(input_ids=whole).logits[0, :-1].double().log_softmax(-1)
    return float(log_p.gather(1, whole[0, 1:, None])[-len(ids) :].sum())


def test_the_likelihood_is_transformers_own(models: dict[str, Path]) -> None:
    responder = open_responder(model=str(models["llama"]), raw=True)
    items = [Item("a", "It rained.", 10), Item("b", "Nobody came, and nobody asked why.", 34)]
    texts = encoded_texts(responder, "own", items)
    found = dict(text_likelihoods(responder.model, texts, micro_batch_tokens=30))
    for index, text in enumerate(texts):
        ((ids, mask),) = text.rows
        first = mask.index(True)
        assert first >= 1 and text.tokens == sum(mask)
        assert responder.tokenizer.decode(ids[first:]) == items[index].question
        assert found[index] == pytest.approx(alone(responder.model, ids[:first], ids[first:]), abs=1e-4)
    assert dict(text_likelihoods(responder.model, texts, micro_batch_tokens=30, skip={0})) == {1: found[1]}


def test_a_long_text_is_the_sum_of_its_windows(models: dict[str, Path]) -> None:
    responder = open_responder(model=str(models["llama"]), raw=True)
    assert responder.context is not None
    (text,) = encoded_texts(responder, "own", [Item("a", "word " * responder.context, 1)])
    assert len(text.rows) > 1
    parts = []
    for ids, mask in text.rows:
        first = mask.index(True)
        parts.append(alone(responder.model, ids[:first], ids[first:]))
    ((_, value),) = text_likelihoods(responder.model, [text], micro_batch_tokens=4000)
    assert value == pytest.approx(sum(parts), rel=1e-5)


def test_what_cannot_be_measured_is_refused(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    responder = open_responder(model=str(models["llama"]), raw=True)
    with pytest.raises(DataError, match="own item 'a': the tokenizer makes no tokens of this text"):
        encoded_texts(responder, "own", [Item("a", "", 1)])
    monkeypatch.setattr(type(responder.tokenizer), "bos_token_id", None, raising=False)
    monkeypatch.setattr(type(responder.tokenizer), "eos_token_id", None, raising=False)
    monkeypatch.setattr("tunelab.answering.text_likelihoods.leading_special_ids", lambda tokenizer: [])
    with pytest.raises(ModelError, match="neither a BOS nor an EOS token"):
        encoded_texts(responder, "own", [Item("a", "x", 1)])


def test_eval_measures_the_texts_and_resumes(models: dict[str, Path], tmp_path: Path) -> None:
    settings = {"limit": 3, "out": tmp_path}
    (found,) = evaluate_benchmarks(str(models["llama"]), "forgetting", settings)
    (score,) = found.arms["base"].scored.scores
    assert (score.name, score.n, score.unit) == ("bits_per_byte", 3, "bits/byte") and score.value > 0
    file = found.responses["base"].path
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    (again,) = evaluate_benchmarks(str(models["llama"]), "forgetting", settings)
    assert file.read_bytes() == whole and again.arms["base"].scored.scores == [score]


def test_texts_are_never_put_into_a_template(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="forgetting: measures texts as they are, which no prompt template can hold"):
        evaluate_benchmarks(
            str(models["llama"]), "forgetting", {"limit": 1, "out": tmp_path, "template": "alpaca", "in_template": True}
        )
