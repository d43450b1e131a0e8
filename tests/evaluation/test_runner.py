"""Answers first, scores second: stored records resume to the same bytes, and need no model to be scored."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tunelab.errors import DataError, RunError
from tunelab.evaluation.held_out import AnswerScore, HeldOutAnswer, HeldOutPrompt, HeldOutRow, LikelihoodRecord
from tunelab.evaluation.metrics.bleu import bleu_of_counts
from tunelab.evaluation.metrics.perplexity import predicted_bytes
from tunelab.evaluation.runner import (
    answer_scores,
    held_out_likelihoods,
    held_out_responses,
    read_held_out,
    score_held_out,
)
from tunelab.records.responses import read_responses

HEADER = {"model": "tiny", "adapter": None}
VOCABULARY = 61


class NumbersTokenizer:
    def decode(self, ids: Sequence[int], **options: bool) -> str:
        return "".join(f" {token}" for token in ids)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(7)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=48, bos_token_id=1, eos_token_id=2,
        initializer_range=0.3,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def items_and_rows() -> tuple[list[HeldOutPrompt], list[HeldOutRow]]:
    generator = torch.Generator().manual_seed(5)
    items, rows = [], []
    for number, length in enumerate((4, 19, 7, 42, 2, 11)):
        ids = tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())
        items.append(HeldOutPrompt(f"item {number}", ids, f"{number} 17 4"))
        rows.append(HeldOutRow(f"item {number}", ids, tuple(i > 0 for i in range(length)), 3 * length, 4 * length))
    return items, rows


def respond(
    model: Any, items: Sequence[HeldOutPrompt], path: Path, header: Any = None, **options: Any
) -> list[HeldOutAnswer]:
    settings = {"max_new_tokens": 8, "stop_token_ids": [9, 5], "micro_batch_tokens": 60, **options}
    return held_out_responses(model, NumbersTokenizer(), items, path, header or HEADER, **settings)  # type: ignore[arg-type]


def test_responses_are_complete_and_in_the_items_order(model: Any, tmp_path: Path) -> None:
    items, _ = items_and_rows()
    path = tmp_path / "responses.jsonl"
    calls: list[tuple[str, int, int | None]] = []

    def record(stage: str, done: int, total: int | None, detail: str = "") -> None:
        calls.append((stage, done, total))

    made = respond(model, items, path, progress=record)
    assert [(one.item, one.reference, one.prompt_tokens) for one in made] == [
        (item.id, item.reference, len(item.prompt_ids)) for item in items
    ]
    assert calls == [("answering", done, 6) for done in range(1, 7)]
    header, records = read_responses(path)
    decoding = {"method": "greedy", "max_new_tokens": 8, "stop_token_ids": [5, 9]}
    assert header == {**HEADER, "decoding": decoding}
    assert sorted(record["item"] for record in records) == [item.id for item in items]
    stored, nothing = read_held_out(path)
    assert sorted(stored, key=lambda one: one.item) == made
    assert nothing == []
    assert made[3].stop_reason == "context"


def test_likelihoods_are_stored_to_the_bit(model: Any, tmp_path: Path) -> None:
    _, rows = items_and_rows()
    path = tmp_path / "likelihoods.jsonl"
    made = held_out_likelihoods(model, rows, path, HEADER, micro_batch_tokens=30)
    assert read_held_out(likelihoods=path) == ([], made)
    assert [(one.item, one.completion_bytes, one.sequence_bytes) for one in made] == [
        (row.id, row.completion_bytes, row.sequence_bytes) for row in rows
    ]
    assert all(one.completion_nll == one.sequence_nll > 0 for one in made)  # every token but the first is an answer
    assert [one.sequence_tokens for one in made] == [len(row.input_ids) - 1 for row in rows]
    for micro_batch_tokens in (1, 10_000):
        other = held_out_likelihoods(
            model, rows, tmp_path / f"{micro_batch_tokens}.jsonl", HEADER, micro_batch_tokens=micro_batch_tokens
        )
        for one, two in zip(made, other, strict=True):
            assert one.completion_nll == pytest.approx(two.completion_nll, rel=1e-5)


@pytest.mark.parametrize("kind", ["responses", "likelihoods"])
def test_killed_anywhere_and_resumed_gives_the_same_file(model: Any, tmp_path: Path, kind: str) -> None:
    items, rows = items_and_rows()

    def evaluate(path: Path) -> Any:
        if kind == "responses":
            return respond(model, items, path)
        return held_out_likelihoods(model, rows, path, HEADER, micro_batch_tokens=30)

    made = evaluate(tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    path = tmp_path / "killed.jsonl"
    for complete in (0, 1, len(lines) // 2, len(lines)):
        for torn in (0, 25):
            path.write_bytes(b"".join(lines[:complete]) + b"".join(lines[complete : complete + 1])[:torn])
            assert evaluate(path) == made
            assert path.read_bytes() == whole


def test_nothing_runs_when_all_is_stored(model: Any, tmp_path: Path) -> None:
    items, rows = items_and_rows()
    answers = respond(model, items, tmp_path / "responses.jsonl")
    records = held_out_likelihoods(model, rows, tmp_path / "likelihoods.jsonl", HEADER, micro_batch_tokens=30)
    runs: list[int] = []
    handle = model.transformer.register_forward_pre_hook(lambda module, inputs: runs.append(1))
    assert respond(model, items, tmp_path / "responses.jsonl") == answers
    assert held_out_likelihoods(model, rows, tmp_path / "likelihoods.jsonl", HEADER, micro_batch_tokens=30) == records
    handle.remove()
    assert not runs


def test_answers_of_another_model_decoding_or_data_are_never_reused(model: Any, tmp_path: Path) -> None:
    items, rows = items_and_rows()
    path, likelihoods = tmp_path / "responses.jsonl", tmp_path / "likelihoods.jsonl"
    respond(model, items, path)
    held_out_likelihoods(model, rows, likelihoods, HEADER, micro_batch_tokens=30)
    with pytest.raises(RunError, match=r'adapter: null in the file, "f00" now'):
        respond(model, items, path, {**HEADER, "adapter": "f00"})
    with pytest.raises(RunError, match=r"decoding.max_new_tokens: 8 in the file, 9 now"):
        respond(model, items, path, max_new_tokens=9)
    with pytest.raises(RunError, match=r"decoding: .* in the file, absent now"):
        held_out_likelihoods(model, rows, path, HEADER, micro_batch_tokens=30)
    changed = [dataclasses.replace(items[0], prompt_ids=(3, 4)), *items[1:]]
    with pytest.raises(RunError, match="item 'item 0' was answered for a different prompt"):
        respond(model, changed, path)
    changed = [dataclasses.replace(items[0], reference="other"), *items[1:]]
    with pytest.raises(RunError, match="item 'item 0' has reference '0 17 4' in the file, 'other' now"):
        respond(model, changed, path)
    mask = (False, False, True, True)
    with pytest.raises(RunError, match="item 'item 0' was answered for a different prompt"):
        other = [dataclasses.replace(rows[0], answer_mask=mask), *rows[1:]]
        held_out_likelihoods(model, other, likelihoods, HEADER, micro_batch_tokens=30)
    with pytest.raises(RunError, match="item 'item 0' has sequence_bytes 16 in the file, 17 now"):
        other = [dataclasses.replace(rows[0], sequence_bytes=17), *rows[1:]]
        held_out_likelihoods(model, other, likelihoods, HEADER, micro_batch_tokens=30)


def test_ids_are_unique(model: Any, tmp_path: Path) -> None:
    items, rows = items_and_rows()
    with pytest.raises(DataError, match="1 ids occur more than once, first 'item 0': item ids must be unique"):
        respond(model, [*items, items[0]], tmp_path / "responses.jsonl")
    with pytest.raises(DataError, match="1 ids occur more than once"):
        held_out_likelihoods(model, [*rows, rows[0]], tmp_path / "likelihoods.jsonl", HEADER, micro_batch_tokens=30)
    assert not list(tmp_path.iterdir())


def test_scores_of_records() -> None:
    likelihoods = [LikelihoodRecord(str(i), "", 2.0 + i, 4, 9, 8.0, 9, 20) for i in range(3)]
    responses = [
        HeldOutAnswer("0", "", "the cat sat on the mat", (1,), "stop", 3, "the cat sat on the mat"),
        HeldOutAnswer("1", "", "", (), "context", 3, "a dog ran under the big tree"),
        HeldOutAnswer("2", "", "a dog ran", (1,), "stop", 3, "a cat ran"),
    ]
    scores = score_held_out(responses, likelihoods, {"template": "alpaca"})
    assert [score.name for score in scores] == [
        "completion_perplexity",
        "completion_bits_per_byte",
        "sequence_perplexity",
        "sequence_bits_per_byte",
        "bleu",
        "rouge1",
        "rouge2",
        "rougeL",
        "chrf",
        "exact_match",
    ]
    assert all(score.n == 3 and score.error is not None and score.error >= 0 for score in scores)
    assert all(score.protocol["template"] == "alpaca" for score in scores)
    assert scores[4].protocol["stop_reasons"] == {"context": 1, "stop": 2}
    assert score_held_out(responses[::-1], likelihoods, {"template": "alpaca"}) == scores
    assert [score.name for score in score_held_out([], likelihoods)] == [score.name for score in scores[:4]]
    assert [score.name for score in score_held_out(responses, [])] == [score.name for score in scores[4:]]
    with pytest.raises(DataError, match="there are neither responses nor likelihoods to score"):
        score_held_out([], [])
    by_answer = answer_scores(responses[::-1])
    assert [one.item for one in by_answer] == ["0", "1", "2"]
    assert score_held_out(responses, [], by_answer=by_answer) == score_held_out(responses, [])
    assert sum(one.rougeL for one in by_answer) / 3 == pytest.approx(scores[7].value)
    summed = np.array([one.bleu_counts for one in by_answer]).sum(axis=0)
    assert bleu_of_counts(summed) == pytest.approx(scores[4].value)
    assert [AnswerScore.from_json(json.loads(json.dumps(one.to_json()))) for one in by_answer] == by_answer
    assert answer_scores([]) == []
    with pytest.raises(DataError, match="2 answer scores do not match the 3 responses"):
        score_held_out(responses, [], by_answer=by_answer[:2])


def test_scoring_imports_no_torch(model: Any, tmp_path: Path) -> None:
    items, rows = items_and_rows()
    answers, likelihoods = tmp_path / "responses.jsonl", tmp_path / "likelihoods.jsonl"
    respond(model, items, answers)
    held_out_likelihoods(model, rows, likelihoods, HEADER, micro_batch_tokens=30)
    code = (
        "import json, sys; from pathlib import Path; "
        "from tunelab.evaluation.runner import read_held_out, score_held_out; "
        "scores = score_held_out(*read_held_out(Path(sys.argv[1]), Path(sys.argv[2]))); "
        "assert not {'torch', 'transformers'} & set(sys.modules); "
        "print(json.dumps([score.to_json() for score in scores]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(answers), str(likelihoods)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    here = score_held_out(*read_held_out(answers, likelihoods))
    assert json.loads(run.stdout) == [score.to_json() for score in here]


def test_a_real_model_finds_its_own_kind_of_text_easier(shared_data: Path, tmp_path: Path) -> None:
    """TinyStories-656K is published with 0.96 bits/byte on stories like this; encyclopedic text must be far harder."""
    folder = shared_data / "models" / "tinystories656k"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    story = "Once upon a time, there was a little girl named Lily. She loved to play with her red ball in the park."
    lines = (shared_data / "text" / "wikitext2_valid.txt").read_text(encoding="utf-8").splitlines()
    texts = [story, *[line for line in lines if len(line.split()) > 30][:5]]
    rows = []
    for number, text in enumerate(texts):
        ids = tuple(tokenizer(text)["input_ids"][:512])
        mask = tuple(place > 5 for place in range(len(ids)))
        sizes = predicted_bytes(lambda part: str(tokenizer.decode(list(part), skip_special_tokens=True)), ids, mask)
        rows.append(HeldOutRow(str(number), ids, mask, *sizes))
    records = held_out_likelihoods(
        model, rows, tmp_path / "likelihoods.jsonl", {"model": "656k"}, micro_batch_tokens=1024
    )
    easy, hard = ({s.name: s for s in score_held_out([], part)} for part in (records[:1], records[1:]))
    assert easy["sequence_bits_per_byte"].value < 1.2
    assert 3.5 < hard["sequence_bits_per_byte"].value < 5
