"""Held-out rows of two runs side by side: completion loss, BLEU and ROUGE-L, from stored files alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from held_out_files import texts, write_held_out

from tunelab.comparison.compare_runs import compare_runs
from tunelab.comparison.evaluated import evaluated_in
from tunelab.comparison.paired_evaluations import Side, compare_sides
from tunelab.comparison.verdict import verdict
from tunelab.errors import DataError, RunError, UsageError
from tunelab.evaluation.metrics.bleu import bleu_score
from tunelab.evaluation.metrics.rouge import rouge_by_item
from tunelab.statistics.standard_errors import paired_ratio_difference

ROWS = 40
TOKENS = [4 + 3 * (row % 7) for row in range(ROWS)]


def nats(a_token: float, seed: int = 0) -> list[float]:
    """So many nats a token, and noise."""
    noise = np.random.default_rng(seed).normal(0, 0.3, size=ROWS)
    return [count * a_token + float(one) for count, one in zip(TOKENS, noise, strict=True)]


def evaluation(folder: Path, wrong_every: int, loss: Sequence[float], **header: Any) -> Path:
    answers, references = texts(ROWS, wrong_every)
    return write_held_out(folder, answers, references, loss, TOKENS, **header)


def test_three_figures_corrected_together(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", 3, nats(2.0))
    b = evaluation(tmp_path / "b", 6, nats(1.5, seed=1))
    loss, bleu, rouge = compare_runs(a, b)
    assert [(one.benchmark, one.metric, one.unit) for one in (loss, bleu, rouge)] == [
        ("held-out", "completion_loss", "nats per token"),
        ("held-out", "bleu", "0-100"),
        ("held-out", "rougeL", "0-100"),
    ]
    assert all(one.family == 3 and one.n == ROWS and one.shown for one in (loss, bleu, rouge))
    sides = [texts(ROWS, wrong_every) for wrong_every in (3, 6)]
    assert [bleu.a_value, bleu.b_value] == pytest.approx([bleu_score(*side).value for side in sides])
    means = [np.mean(rouge_by_item(*side)["rougeL"]) for side in sides]
    assert [rouge.a_value, rouge.b_value] == pytest.approx(means)
    known = paired_ratio_difference(nats(1.5, seed=1), TOKENS, nats(2.0), TOKENS)
    assert (loss.difference, loss.error) == pytest.approx((known.value, known.error))
    assert loss.a_value == pytest.approx(sum(nats(2.0)) / sum(TOKENS))
    assert "b is better than" in verdict(loss) and "b is better than" in verdict(bleu)
    assert verdict(bleu).split(" by ")[1].split("(")[0].endswith("points ")


def test_rows_of_unlike_lengths_make_no_spread(tmp_path: Path) -> None:
    # Every token is likelier by exactly half a nat: nothing is uncertain about the difference.
    loss = nats(2.0)
    a = evaluation(tmp_path / "a", 3, loss)
    b = evaluation(tmp_path / "b", 3, [one - 0.5 * count for one, count in zip(loss, TOKENS, strict=True)])
    found = compare_runs(a, b)[0]
    assert found.difference == pytest.approx(-0.5)
    assert found.error < 1e-9 and found.high - found.low < 1e-9 and found.p < 0.001


def test_a_run_alone_and_beside_benchmarks(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: x\n", encoding="utf-8")
    evaluation(tmp_path / "evaluations" / "base-1", 3, nats(2.0))
    evaluation(tmp_path / "evaluations" / "tuned-1", 4, nats(1.9), arm="tuned")
    stopped = tmp_path / "evaluations" / "tuned-2"  # likelihoods, and no scores yet
    stopped.mkdir()
    (stopped / "likelihoods.jsonl").write_text("{}\n", encoding="utf-8")
    found = compare_runs(tmp_path)
    assert {(one.a_name, one.b_name) for one in found} == {("base", "tuned")} and len(found) == 3
    assert len(compare_runs(tmp_path, benchmarks=["held-out"])) == 3
    with pytest.raises(RunError, match="have no scores of mmlu in common"):
        compare_runs(tmp_path, benchmarks=["mmlu"])
    evaluation(tmp_path / "evaluations" / "tuned-3", 4, nats(1.9), arm="tuned")
    with pytest.raises(UsageError, match=r"\(tuned\) has several evaluations of held-out: tuned-1, tuned-3") as raised:
        compare_runs(tmp_path)
    assert "--benchmarks" in raised.value.hint


def test_unlike_rows_are_refused_by_name(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", 3, nats(2.0))
    b = evaluation(tmp_path / "b", 3, nats(2.0), data="sha256:2")
    with pytest.raises(DataError, match=r'data: "sha256:1" in .*, "sha256:2" in .*') as raised:
        compare_runs(a, b)
    assert "the same held-out rows: the same sources" in raised.value.message
    assert len(compare_runs(a, b, allow_diff=["data"])) == 3
    answers, references = texts(ROWS, 3)
    c = write_held_out(tmp_path / "c", answers, references, nats(2.0), [5] * ROWS)
    with pytest.raises(DataError, match=r'have different prompts: .*"5 completion tokens, 20 bytes"'):
        compare_runs(a, c)
    other = write_held_out(tmp_path / "d", answers, references[::-1], nats(2.0), TOKENS)
    with pytest.raises(DataError, match="have different prompts"):
        compare_sides(Side("a", evaluated_in(a)), Side("d", evaluated_in(other)), "bleu")


def test_common_rows_only(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", 3, nats(2.0))
    answers, references = texts(ROWS, 5)
    b = write_held_out(tmp_path / "b", answers[:12], references[:12], nats(1.5)[:12], TOKENS[:12])
    with pytest.raises(DataError, match=r"items: 28 of .* are not in"):
        compare_runs(a, b)
    loss, bleu, _ = compare_runs(a, b, common_items_only=True)
    assert loss.n == 12 and loss.left_out == 28
    assert loss.a_value == pytest.approx(sum(nats(2.0)[:12]) / sum(TOKENS[:12]))
    first = texts(ROWS, 3)
    assert bleu.a_value == pytest.approx(bleu_score(first[0][:12], first[1][:12]).value)


def test_rows_beyond_those_that_were_scored_are_left_out(tmp_path: Path) -> None:
    """An evaluation with a lower limit than the one before it: its files have more rows than its scores."""

    def of_first(folder: Path, wrong_every: int, loss: Sequence[float]) -> Path:
        answers, references = (one[:10] for one in texts(ROWS, wrong_every))
        return write_held_out(folder, answers, references, loss[:10], TOKENS[:10])

    few = [of_first(tmp_path / "few" / name, *how) for name, how in (("a", (3, nats(2.0))), ("b", (6, nats(1.5))))]
    whole = evaluation(tmp_path / "a", 3, nats(2.0))
    for name in ("scores.json", "answer_scores.jsonl"):
        (whole / name).write_bytes((few[0] / name).read_bytes())
    found = [compare_runs(one, few[1]) for one in (whole, few[0])]
    assert [one.n for one in found[0]] == [10, 10, 10]
    values = [[(one.metric, one.a_value, one.difference, one.p) for one in each] for each in found]
    assert values[0] == values[1]


def test_seeds_are_averaged_and_must_be_of_the_same_rows(tmp_path: Path) -> None:
    base = Side("base", evaluated_in(evaluation(tmp_path / "a", 3, nats(2.0))))
    one, two = (evaluation(tmp_path / f"b{every}", every, nats(1.5, every)) for every in (4, 7))
    tuned = Side("tuned", [*evaluated_in(one), *evaluated_in(two)])
    for metric in ("completion_loss", "bleu", "rougeL"):
        singles = [compare_sides(base, Side("x", evaluated_in(folder)), metric).b_value for folder in (one, two)]
        found = compare_sides(base, tuned, metric)
        assert found.b_value == pytest.approx(sum(singles) / 2) and not found.parts
        # If both are trainings of one arm, the difference between them counts too; the untuned model has none.
        trained = compare_sides(base, Side("tuned", tuned.seeds, is_tuned=True), metric)
        assert (trained.a_trainings, trained.b_trainings, trained.seeds) == (0, 2, 2)
        assert trained.seed_error == pytest.approx(abs(singles[1] - singles[0]) / 2)
        assert [error for error, _ in trained.parts] == pytest.approx([found.error, trained.seed_error])
        assert [degrees for _, degrees in trained.parts] == [ROWS - 1, 1]
        assert trained.low <= found.low < found.high <= trained.high and trained.p >= found.p
        once = compare_sides(Side("once", tuned.seeds[:1], is_tuned=True), Side("tuned", tuned.seeds, True), metric)
        assert not once.parts and (once.a_trainings, once.b_trainings) == (1, 2)
    strange = evaluation(tmp_path / "c", 4, nats(1.5), data="sha256:9")
    mixed = Side("tuned", [*evaluated_in(one), *evaluated_in(strange)])
    with pytest.raises(DataError, match="tuned, evaluation 1 of 2 and tuned, evaluation 2 of 2 cannot be comp"):
        compare_sides(base, mixed, "bleu")


def test_only_what_both_have_is_compared(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", 3, nats(2.0))
    b = evaluation(tmp_path / "b", 4, nats(1.9))
    content = json.loads((b / "scores.json").read_text(encoding="utf-8"))
    content["scores"] = [one for one in content["scores"] if one["name"] != "bleu"]
    (b / "scores.json").write_text(json.dumps(content), encoding="utf-8")
    assert [one.metric for one in compare_runs(a, b)] == ["completion_loss", "rougeL"]
    with pytest.raises(RunError, match="held-out was not scored by bleu, but by: completion_loss, rougeL"):
        compare_sides(Side("a", evaluated_in(a)), Side("b", evaluated_in(b)), "bleu")


def test_evaluations_that_lack_what_each_answer_scored(tmp_path: Path) -> None:
    a, b = (evaluation(tmp_path / name, 3, nats(2.0)) for name in "ab")
    (a / "answer_scores.jsonl").write_text("{\n{}\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"answer_scores\.jsonl: line 1 is not JSON"):
        compare_runs(a, b)
    (a / "answer_scores.jsonl").write_text("null\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"answer_scores\.jsonl: not scores of answers: TypeError"):
        compare_runs(a, b)
    first = json.loads((b / "answer_scores.jsonl").read_text(encoding="utf-8").splitlines()[0])
    (a / "answer_scores.jsonl").write_text(json.dumps({**first, "bleu_counts": {"": None}}) + "\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"answer_scores\.jsonl: not scores of answers: .*invalid literal"):
        compare_runs(a, b)
    (a / "answer_scores.jsonl").unlink()
    with pytest.raises(RunError, match="no such file: an earlier version did not store scores per answer"):
        compare_runs(a, b)


def test_needs_neither_torch_nor_the_libraries_of_the_metrics(tmp_path: Path) -> None:
    folders = [str(evaluation(tmp_path / name, every, nats(2.0))) for name, every in (("a", 3), ("b", 4))]
    code = (
        "import sys; from tunelab.comparison.compare_runs import compare_runs; "
        "assert len(compare_runs(*sys.argv[1:])) == 3; "
        "assert not {'torch', 'transformers', 'sacrebleu', 'rouge_score', 'nltk'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
