"""Row likelihoods against transformers' own logits of each row alone, for any batch size and order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from sampled import sampled
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)
from varied_models import FAMILIES, VOCABULARY, tiny_model

from tunelab.errors import DataError, ModelError
from tunelab.evaluation import likelihood
from tunelab.evaluation.likelihood import Row, RowLikelihood, row_likelihoods
from tunelab.models.structure import check_own_logits

LENGTHS = (2, 17, 40, 3, 64, 9, 30, 5)


def rows_of(lengths: Sequence[int]) -> list[Row]:
    """Random rows whose answer is a stretch in the middle and the last token."""
    generator = torch.Generator().manual_seed(3)
    rows: list[Row] = []
    for length in lengths:
        ids = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        rows.append((ids, [length // 3 <= place < length // 2 or place == length - 1 for place in range(length)]))
    return rows


def reference(model: Any, rows: Sequence[Row]) -> list[tuple[float, int, float, int]]:
    """Each row alone through the model's ordinary forward pass, full logits, log-softmax."""
    result = []
    for ids, mask in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        nll = -torch.log_softmax(logits.double(), dim=-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        answer = torch.tensor(mask[1:])
        result.append((float(nll[answer].sum()), int(answer.sum()), float(nll.sum()), len(ids) - 1))
    return result


def assert_equal(made: RowLikelihood, expected: tuple[float, int, float, int]) -> None:
    assert (made.completion_tokens, made.sequence_tokens) == (expected[1], expected[3])
    assert made.completion_nll == pytest.approx(expected[0], rel=1e-5)
    assert made.sequence_nll == pytest.approx(expected[2], rel=1e-5)


@pytest.mark.parametrize(("family", "micro_batch_tokens"), sampled(FAMILIES, [1, 50, 100, 10_000]))
def test_rows_have_the_likelihood_that_they_have_alone(
    family: str, micro_batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "CHUNK", 16)
    model, rows = tiny_model(family), rows_of(LENGTHS)
    expected = reference(model, rows)
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    for indices in (list(range(len(rows))), order):
        made = list(row_likelihoods(model, [rows[i] for i in indices], micro_batch_tokens=micro_batch_tokens))
        assert [one.index for one in made] == list(range(len(rows)))
        for one, index in zip(made, indices, strict=True):
            assert_equal(one, expected[index])


def test_logits_never_exist_for_more_than_a_chunk_of_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "CHUNK", 16)
    model = tiny_model("llama")
    seen: list[int] = []
    check_own_logits(model)
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-2]))
    list(row_likelihoods(model, rows_of(LENGTHS), micro_batch_tokens=10_000))
    assert sum(seen) == sum(LENGTHS) - 1
    assert max(seen) == 16


def test_skipped_rows_change_no_bit_of_the_others() -> None:
    model, rows = tiny_model("gpt2"), rows_of(LENGTHS)
    whole = list(row_likelihoods(model, rows, micro_batch_tokens=70))
    runs: list[int] = []
    model.transformer.register_forward_pre_hook(lambda module, inputs: runs.append(1))
    for done in range(len(rows) + 1):
        runs.clear()
        assert list(row_likelihoods(model, rows, micro_batch_tokens=70, skip=set(range(done)))) == whole[done:]
    assert not runs, "nothing is left to run when all rows are skipped"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # from within peft
def test_peft_models_are_scored_with_the_adapter_and_without_it() -> None:
    rows = rows_of(LENGTHS)
    plain = reference(tiny_model("llama"), rows)
    tuned = get_peft_model(tiny_model("llama"), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    for one, expected in zip(
        row_likelihoods(tuned, rows, micro_batch_tokens=70), reference(tuned.eval(), rows), strict=True
    ):
        assert_equal(one, expected)
        assert one.sequence_nll != pytest.approx(plain[one.index][2], rel=1e-3)
    with tuned.disable_adapter():
        for one, expected in zip(row_likelihoods(tuned, rows, micro_batch_tokens=70), plain, strict=True):
            assert_equal(one, expected)


def test_progress_counts_rows_and_the_model_is_left_as_it_was() -> None:
    model = tiny_model("gpt2").train()
    model.transformer.h[0].eval()
    before = (model.config._attn_implementation, [module.training for module in model.modules()])
    calls: list[tuple[str, int, int | None]] = []

    def record(stage: str, done: int, total: int | None, detail: str = "") -> None:
        calls.append((stage, done, total))

    made = list(row_likelihoods(model, rows_of(LENGTHS), micro_batch_tokens=70, progress=record))
    assert calls[-1] == ("scoring held-out rows", 8, 8)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert before == (model.config._attn_implementation, [module.training for module in model.modules()])
    for one, expected in zip(made, reference(model.eval(), rows_of(LENGTHS)), strict=True):  # dropout was off
        assert_equal(one, expected)


def test_a_first_token_is_never_predicted_even_where_it_is_an_answer() -> None:
    model = tiny_model("llama")
    (one,) = row_likelihoods(model, [([5, 6, 7], [True, True, True])], micro_batch_tokens=100)
    assert (
        (one.completion_tokens, one.completion_nll) == (one.sequence_tokens, one.sequence_nll) == (2, one.sequence_nll)
    )
    (none,) = row_likelihoods(model, [([5, 6, 7], [True, False, False])], micro_batch_tokens=100)
    assert (none.completion_tokens, none.completion_nll) == (0, 0.0)


def test_rows_that_cannot_be_scored_are_refused() -> None:
    model = tiny_model("llama")
    good: Row = ([5, 6], [False, True])
    with pytest.raises(DataError, match="row 1 has 1 tokens: at least 2 are needed"):
        list(row_likelihoods(model, [good, ([5], [True])], micro_batch_tokens=10))
    with pytest.raises(DataError, match="row 1 has 3 tokens but an answer mask of 2"):
        list(row_likelihoods(model, [good, ([5, 6, 7], [True, True])], micro_batch_tokens=10))
    with pytest.raises(ModelError, match="row 1 has 65 tokens, more than the model's context of 64"):
        list(row_likelihoods(model, [good, ([5] * 65, [True] * 65)], micro_batch_tokens=10))
    with torch.no_grad():
        model.get_input_embeddings().weight[5] = float("nan")  # one token among many
    with pytest.raises(ModelError, match="row 0: its negative log-likelihood is nan, expected a finite number"):
        list(row_likelihoods(model, [good], micro_batch_tokens=10))


def test_a_real_model_gives_its_own_likelihoods(shared_data: Path) -> None:
    folder = shared_data / "models" / "tinystories656k"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lines = (shared_data / "text" / "wikitext2_valid.txt").read_text(encoding="utf-8").splitlines()
    texts = [line for line in lines if len(line.split()) > 20][:12]
    rows: list[Row] = []
    for text in texts:
        ids = tokenizer(text)["input_ids"][:400]
        rows.append((ids, [place > 10 for place in range(len(ids))]))
    expected = reference(model, rows)
    for micro_batch_tokens in (1, 700, 100_000):
        for one, row in zip(row_likelihoods(model, rows, micro_batch_tokens=micro_batch_tokens), expected, strict=True):
            assert_equal(one, row)
