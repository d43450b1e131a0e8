"""What others published of arms, with what was measured of the same, known or not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tunelab.config.published import PUBLISHED_COSTS
from tunelab.config.study import Study, parse_study
from tunelab.report.content import Arm, ArmScore, Published, Question, StudyReport
from tunelab.report.study_tables import arms_table, published_table
from tunelab.studies.published import Costs, published_figures, with_published


def study(*published: tuple[str, dict[str, float]]) -> Study:
    return parse_study(
        {
            "title": "t",
            "recipe": {"model": "gpt2", "data": {"sources": ["alpaca"]}},
            "arms": {"base": {"tuned": False}, "lora": {}, "qlora": {"recipe": {"precision": "nf4"}}},
            "benchmarks": {"held-out": {}, "mmlu": {}},
            "published": [{"what": what, "values": values, "source": "a paper"} for what, values in published],
        }
    )


def score(arm: str, benchmark: str, name: str, value: float, **others: Any) -> ArmScore:
    error, unit = others.pop("error", 0.01), others.pop("unit", "0-1")
    return ArmScore(arm, benchmark, name, value, error, None, 100, 1, unit, True, **{"is_main": False, **others})


SCORES = (
    score("base", "held-out", "completion_perplexity", 3.9, unit="per token", is_main=True),
    score("base", "held-out", "bleu", 12.0, unit="0-100", in_table=True, error=None),
    score("lora", "held-out", "completion_perplexity", 2.4, unit="per token", is_main=True, error=0.07),
    score("lora", "held-out", "bleu", 14.2, unit="0-100", in_table=True, error=0.6),
    score("lora", "mmlu", "accuracy", 0.44, is_main=True),
)


def test_a_benchmark_is_its_figure_to_quote() -> None:
    found = published_figures(study(("held-out", {"lora": 2.42, "base": 4.0})), SCORES)
    assert found == (
        Published("lora", "held-out", 2.42, "a paper", "per token", "completion_perplexity", 2.4, 0.07),
        Published("base", "held-out", 4.0, "a paper", "per token", "completion_perplexity", 3.9, 0.01),
    )


def test_a_score_by_its_name() -> None:
    found = published_figures(study(("held-out bleu", {"lora": 14.7, "base": 11.0})), SCORES)
    assert found == (
        Published("lora", "held-out", 14.7, "a paper", "0-100", "bleu", 14.2, 0.6),
        Published("base", "held-out", 11.0, "a paper", "0-100", "bleu", 12.0, None),
    )


def test_an_arm_without_a_score_has_the_others_unit_and_nothing_measured() -> None:
    wanted = study(("mmlu", {"qlora": 0.45}), ("mmlu macro", {"lora": 0.43}), ("held-out bleu", {"qlora": 14.0}))
    assert published_figures(wanted, SCORES) == (
        Published("qlora", "mmlu", 0.45, "a paper", "0-1", "accuracy"),
        Published("lora", "mmlu", 0.43, "a paper", "", "macro"),
        Published("qlora", "held-out", 14.0, "a paper", "0-100", "bleu"),
    )
    assert published_figures(wanted, ())[0] == Published("qlora", "mmlu", 0.45, "a paper")


def test_costs_are_measured_in_the_published_unit() -> None:
    costs = {"lora": Costs(peak_bytes=18.5e9, training_seconds=9720.0, epochs=3.0, final_training_loss=0.91)}
    wanted = study(*((what, {"lora": 2.0, "qlora": 1.0}) for what in PUBLISHED_COSTS))
    found = published_figures(wanted, SCORES, costs)
    assert [one.metric for one in found] == [""] * 8
    assert [(one.benchmark, one.unit, one.measured) for one in found if one.arm == "lora"] == [
        ("peak memory", "GB", 18.5),
        ("training time per epoch", "min", 54.0),
        ("training time", "h", 2.7),
        ("final training loss", "nats per token", 0.91),
    ]
    assert [one.measured for one in found if one.arm == "qlora"] == [None] * 4


@pytest.mark.parametrize("costs", [Costs(training_seconds=60.0), Costs(epochs=2.0), Costs(60.0, 60.0, 0.0)])
def test_an_epochs_time_needs_both_time_and_epochs(costs: Costs) -> None:
    (one,) = published_figures(study(("minutes per epoch", {"lora": 10})), (), {"lora": costs})
    assert one.measured is None


def test_the_value_of_each_training_is_shown_and_another_model_is_named() -> None:
    wanted = study(("mmlu", {"lora": 0.43}), ("held-out bleu", {"lora": 14.7}))
    several, other = wanted.published
    several = several.model_copy(update={"by_training": {"lora": (0.42, 0.43, 0.44)}})
    other = other.model_copy(update={"model": "owner/large"})
    figures = published_figures(wanted.model_copy(update={"published": (several, other)}), SCORES)
    assert [(one.value, one.by_training, one.model) for one in figures] == [
        (0.43, (0.42, 0.43, 0.44), ""),
        (14.7, (), "owner/large"),
    ]
    arms = tuple(Arm(name, "gpt2", "none", "none", "") for name in wanted.arms)
    report = StudyReport("t", "c", arms=arms, scores=SCORES, published=figures)
    rows = published_table(report).rows
    assert [rows[0][2].notes, rows[1][2].notes] == [("mean of 0.42, 0.43, 0.44",), ("of owner/large",)]
    shown = arms_table(report, "Quality").rows[1]
    assert not any("14.7" in note for cell in shown for note in cell.notes), "only the table names its model"


def asked(metric: str | None, on: str = "held-out", model: str | None = None) -> str:
    """The answer to one question with what was published beside it."""
    values = {"qlora": 2.42, "lora": 2.4}
    tree = study().model_dump(mode="json") | {
        "published": [{"what": on, "values": values, "source": "a paper", "model": model}],
        "questions": [{"ask": "?", "is_better": "qlora", "than": "lora", "on": on, "metric": metric}],
    }
    (found,) = with_published([Question("?", "No.", "no difference shown")], parse_study(tree), SCORES)
    return found.answer


def test_an_answer_is_followed_by_what_was_published_of_its_arms() -> None:
    assert asked(None, "mmlu") == "No. Published: 2.42 (qlora), 2.4 (lora)."
    assert asked(None, "mmlu", "owner/large") == "No. Published for owner/large: 2.42 (qlora), 2.4 (lora)."
    assert asked(None) == "No. Published: perplexity 2.42 (qlora), 2.4 (lora)."
    assert asked("bleu") == "No.", "of another metric"
    assert asked("accuracy", "mmlu") == "No. Published: 2.42 (qlora), 2.4 (lora).", "the headline metric, named"


def test_a_report_shows_them() -> None:
    wanted = study(("held-out bleu", {"lora": 14.7}), ("peak memory in GB", {"lora": 11.09}))
    figures = published_figures(wanted, SCORES, {"lora": Costs(peak_bytes=11_908_000_000)})
    arms = tuple(Arm(name, "gpt2", "none", "none", "") for name in wanted.arms)
    report = StudyReport("t", "c", arms=arms, scores=SCORES, published=figures)
    rows = [[cell.text for cell in cells] for cells in published_table(report).rows]
    assert rows == [
        ["lora", "held-out", "14.7", "14.20 ± 0.60", "0-100", "a paper"],
        ["lora", "peak memory", "11.09", "11.91", "GB", "a paper"],
    ]
    assert [cell.notes for cell in arms_table(report, "Quality").rows[1][1:]] == [(), ("published 14.7",), ()]


def test_no_torch_is_needed() -> None:
    code = "import sys, tunelab.studies.published; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
