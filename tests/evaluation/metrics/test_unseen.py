"""Texts that BLEU and ROUGE cannot see are told by name, and chrF and exact match do see them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from held_out_files import texts, write_held_out
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF

from tunelab.cli.main import main
from tunelab.comparison.compare_runs import compare_runs
from tunelab.comparison.evaluated import evaluated_in
from tunelab.errors import DataError, RunError
from tunelab.evaluation.benchmark import Score
from tunelab.evaluation.metrics.bleu import bleu_score
from tunelab.evaluation.metrics.chrf import chrf_counts, chrf_of_counts, chrf_score
from tunelab.evaluation.metrics.exact_match import exact_match_score
from tunelab.evaluation.metrics.rouge import rouge_scores
from tunelab.evaluation.metrics.unseen import not_seen
from tunelab.report.table import BLIND, score_rows, score_text, score_texts

CHINESE = ["水在零度结冰。", "巴黎是法国的首都。", "他昨天去了图书馆借书。"]
THAI = ["น้ำแข็งละลายที่ศูนย์องศา", "ปารีสเป็นเมืองหลวงของฝรั่งเศส"]
HINDI = ["पानी शून्य डिग्री पर जम जाता है", "पेरिस फ्रांस की राजधानी है और बहुत सुंदर है"]
SHORT = ["Paris", "forty two", "the blue whale"]
LONG = ["The capital of France is Paris, a large city.", "Water freezes at zero degrees and boils at a hundred."]


@pytest.mark.parametrize(
    ("references", "blind"),
    [
        (CHINESE, {"bleu", "rouge1", "rouge2", "rougeL"}),
        (THAI, {"bleu", "rouge1", "rouge2", "rougeL"}),
        (HINDI, {"rouge1", "rouge2", "rougeL"}),
        (SHORT, {"bleu"}),
        (LONG, set()),
        ([*LONG, SHORT[0]], set()),
    ],
)
def test_each_metric_that_is_blind_is_named(references: list[str], blind: set[str]) -> None:
    right = [bleu_score(references, references), *rouge_scores(references, references)]
    assert {score.name for score in right if score.is_blind} == blind
    said = " ".join(not_seen(right))
    assert all(name in said for name in blind) and ("use chrf or exact_match" in said) == bool(blind)
    for metric in (chrf_score, exact_match_score):
        values = [metric(answers, references).value for answers in (references, ["?"] * len(references))]
        assert values[0] == metric(references, references).value > values[1] == 0.0, "right and wrong differ"


def test_reasons_and_counts() -> None:
    assert not_seen([bleu_score(CHINESE, CHINESE)]) == [
        "bleu cannot see 3 of 3 references (in a script without spaces between words): right and wrong answers score"
        " alike; use chrf or exact_match"
    ]
    mixed = [*LONG, *LONG, SHORT[0]]
    assert not_seen([bleu_score(mixed, mixed)]) == ["bleu cannot see 1 of 5 references (under 4 words)"]
    assert not_seen([bleu_score(LONG * 10 + SHORT[:1], LONG * 10 + SHORT[:1])]) == [], "a tenth is not worth a word"
    both = [*CHINESE[:1], *SHORT]
    assert "(under 4 words or in a script without spaces between words)" in not_seen([bleu_score(both, both)])[0]
    (rouge,) = not_seen(rouge_scores(THAI, THAI))
    assert rouge.startswith("rouge1, rouge2, rougeL cannot see 2 of 2 references (mostly of letters other than a-z")


LINES = st.lists(
    st.tuples(st.text("ab 水น", max_size=12), st.text("ab水 ", min_size=1, max_size=12)), min_size=1, max_size=6
)


@given(LINES)
def test_chrf_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    responses, references = zip(*((one, f"x{other}") for one, other in pairs), strict=True)
    expected = CHRF().corpus_score(list(responses), [list(references)]).score
    assert chrf_of_counts(chrf_counts(responses, references).sum(axis=0)) == pytest.approx(expected)


def test_chrf_has_sacrebleus_signature_and_a_bootstrap_error() -> None:
    answers, references = texts(40, 3)
    score = chrf_score(answers, references)
    assert score.protocol["signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no")
    interval = CHRF().corpus_score(answers, [references], n_bootstrap=1000)
    assert score.error == pytest.approx(interval._ci / 1.96, rel=0.15)
    assert chrf_score(answers, references, counts=chrf_counts(answers, references)) == score
    assert chrf_score(["a"], ["a"]).error is None
    with pytest.raises(DataError, match=r"counts of chrF have the shape \[3, 8\]: expected 18 columns"):
        chrf_of_counts(np.zeros((3, 8)))
    with pytest.raises(DataError, match="chrf: the reference of item 0 is empty"):
        chrf_counts(["a"], [" "])


def test_exact_match_looks_past_white_space() -> None:
    score = exact_match_score([" forty  two\n", "Paris."], ["forty two", "Paris"])
    assert (score.value, score.n, score.unit) == (0.5, 2, "0-1") and score.error == pytest.approx(0.5)
    with pytest.raises(DataError, match="exact_match: the reference of item 1 is empty"):
        exact_match_score(["a", "b"], ["a", ""])


def test_scores_without_an_error_have_the_same_decimals_too() -> None:
    base, tuned = (Score("bits", value, None, 1, "bits/byte", higher_is_better=False) for value in (7.11, 7.0892))
    assert score_texts([base, None, tuned]) == ["7.110 ± ?", "–", "7.089 ± ?"]


def test_nought_is_never_bare() -> None:
    nothing = Score("accuracy", 0.0, 0.0, 25, "0-1", higher_is_better=True)
    assert score_text(nothing) == "0 (0 to 0.13)"
    assert score_text(Score("rougeL", 100.0, 0.0, 25, "0-100", higher_is_better=True)) == "100 (87 to 100)"
    assert score_text(Score("accuracy", 0.5, 0.0, 25, "0-1", higher_is_better=True)) == "0.5 (0.43 to 0.57)"
    assert score_text(Score("perplexity", 3.0, 0.0, 25, "per token", higher_is_better=False)) == "3 ± 0"
    assert score_text(Score("accuracy", 0.5, 0.1, 25, "0-1", higher_is_better=True)) == "0.50 ± 0.10"
    _, rows = score_rows({"base": [bleu_score(CHINESE, CHINESE)]})
    assert rows[0][:2] == ["bleu", BLIND]


def chinese(folder: Path, answers: list[str]) -> Path:
    references = (CHINESE * 9)[:25]
    return write_held_out(folder, answers, references, [2.0 + n / 50 for n in range(25)], [4] * 25)


def test_a_comparison_says_which_metric_cannot_see_and_uses_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = chinese(tmp_path / "right", (CHINESE * 9)[:25])
    wrong = chinese(tmp_path / "wrong", ["不知道。"] * 25)
    found = {one.metric: one for one in compare_runs(wrong, right)}
    assert list(found) == ["completion_loss", "chrf", "exact_match"]
    assert found["chrf"].shown and found["chrf"].b_value == 100.0
    assert found["exact_match"].gained is not None and len(found["exact_match"].gained) == 25
    with pytest.raises(
        RunError, match=r"held-out: bleu cannot see 25 of 25 references \(in a script without"
    ) as raised:
        evaluated_in(right)[0].metric("bleu")
    assert "chrf, exact_match" in raised.value.hint
    assert main(["compare", str(wrong), str(right), "--out", str(tmp_path / "report")]) == 0
    out, said = capsys.readouterr()
    assert "bleu" not in out and "rougeL" not in out and "chrf" in out
    assert "held-out: bleu cannot see 25 of 25 references" in said and "rougeL cannot see 25 of 25" in said
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "held-out: bleu cannot see 25 of 25 references" in page and ">n/a<" in page
    assert ">0 ± 0<" not in page and ">1 (0.87 to 1)<" in page


def test_the_usual_texts_are_compared_as_before(tmp_path: Path) -> None:
    for name, every in (("a", 3), ("b", 5)):
        answers, references = texts(25, every)
        write_held_out(tmp_path / name, answers, references, [2.0 + n / 50 for n in range(25)], [4] * 25)
    assert [one.metric for one in compare_runs(tmp_path / "a", tmp_path / "b")] == ["completion_loss", "bleu", "rougeL"]
