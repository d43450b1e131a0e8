"""The page of a large report: its first arms and trainings, under its size, and where the others are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from study_reports import example_report, without_plots

from tunelab.report import html_page as html_page_module
from tunelab.report.content import Arm, ArmScore, Curve, PairedComparison, Question, SettingDifference, StudyReport
from tunelab.report.drawing import Plot
from tunelab.report.excerpt import excerpt
from tunelab.report.html_page import PAGE_BYTES, html_page
from tunelab.report.rates_content import SearchedRate
from tunelab.report.svg import Drawn, drawn

RECIPE = "\n".join(f"train.setting_{number}: {number}" for number in range(120))


def large_report(arms: int, seeds: int, *, points: int = 0) -> StudyReport:
    """A study of arms with a name each, scored by three metrics and compared with the first."""
    names = [f"arm {number}" for number in range(arms)]
    scores = [
        ArmScore(
            name, "held-out", metric, 0.5, 0.1, 0.01, 80, seeds, "0-100", True, metric == "rougeL", True, (0.5,) * seeds
        )
        for name in names
        for metric in ("rougeL", "bleu", "chrf")
    ]
    rest = (0.1, -0.1, 0.3, 0.4, 0.9, 80, None, None, 0.2, "No difference shown.")
    comparisons = [PairedComparison(names[0], name, "held-out", "rougeL", *rest) for name in names[1:]]
    curve = tuple((step, 2.0 + 1 / step) for step in range(1, points + 1))
    trainings = [(name, seed) for name in names for seed in range(seeds)]
    return StudyReport(
        "t",
        "2026-11-30T10:00:00+00:00",
        questions=(Question("Which?", "The last.", "better", (names[0], names[-1], "held-out", "rougeL")),),
        arms=tuple(Arm(name, "m", "none", "lora", "rows", "failed" if name == "arm 7" else "done") for name in names),
        scores=tuple(scores),
        comparisons=tuple(comparisons),
        curves=tuple(Curve(name, seed, curve) for name, seed in trainings) if points else (),
        differences=(SettingDifference("train.lr", dict.fromkeys(names, "1e-4")),),
        provenance={
            "machine and versions": {"python": "3.11"},
            **{f"{name}, 2 epochs, seed {seed}": {"recipe": RECIPE} for name, seed in trainings},
        },
    )


def test_a_report_that_is_small_is_shown_whole() -> None:
    report = example_report()
    assert excerpt(report, 100, 500) == (report, "")


def test_the_first_arms_are_shown_and_those_that_are_asked_about() -> None:
    report = large_report(10, 2, points=2)
    part, said = excerpt(report, 3, 5)
    assert [arm.name for arm in part.arms] == ["arm 0", "arm 1", "arm 9"]
    assert {one.arm for one in part.scores} == {"arm 0", "arm 1", "arm 9"} and len(part.scores) == 9
    assert [(one.a, one.b) for one in part.comparisons] == [("arm 0", "arm 1"), ("arm 0", "arm 9")]
    assert set(part.differences[0].values) == {"arm 0", "arm 1", "arm 9"}
    assert list(part.provenance) == [
        "machine and versions",
        *("arm 0, 2 epochs, seed 0", "arm 0, 2 epochs, seed 1", "arm 1, 2 epochs, seed 0"),
        *("arm 1, 2 epochs, seed 1", "arm 9, 2 epochs, seed 0"),
    ]
    assert [(one.arm, one.seed) for one in part.curves][-1] == ("arm 9", 0)
    assert said == (
        "To stay small, this page shows 3 of 10 arms, 6 of 21 recipes of trainings and 5 of 20 loss curves. 1 of the "
        "arms left out failed. report.json and report.md, next to it, have everything."
    )
    assert part.questions == report.questions


def test_an_arm_keeps_its_rate_though_the_arm_that_searched_for_it_is_left_out() -> None:
    tried = ((1e-4, 2.5), (1e-3, 2.0))
    rates = tuple(SearchedRate(f"arm {number}", 1e-4, 1e-3, "arm 7", tried) for number in range(10))
    part, _ = excerpt(replace(large_report(10, 1), rates=rates), 3, 5)
    assert [one.arm for one in part.rates] == ["arm 0", "arm 1", "arm 9"]
    assert "trials of arm 7" in html_page(part)


def test_flips_of_arms_left_out_are_counted() -> None:
    report = example_report(20)
    part, _ = excerpt(report, 1, 5)
    assert part.flips == () and part.flips_left_out == report.flips_left_out + 20


def test_very_many_seeds_are_not_drawn_one_by_one() -> None:
    part, said = excerpt(large_report(2, 51), 100, 500)
    assert all(one.by_seed == () for one in part.scores)
    assert said.startswith("To stay small, this page shows no points of single seeds where there are more than 50. ")
    assert all(one.by_seed for one in excerpt(large_report(2, 50), 100, 500)[0].scores)


def test_a_page_shows_as_many_as_fit_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_page_module, "SHARES", ((6, 60), (6, 6), (2, 2)))
    report = without_plots(large_report(8, 10))
    page = html_page(report, most_bytes=130_000)
    assert "this page shows 6 of 8 arms and 7 of 81 recipes of trainings." in page
    assert 30_000 < len(page.encode()) < 130_000
    assert "To stay small" not in html_page(without_plots(large_report(6, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "seeds"), [(1000, 1), (100, 10), (3, 333)])
def test_the_page_of_a_thousand_trainings_is_under_its_size(arms: int, seeds: int) -> None:
    page = html_page(large_report(arms, seeds, points=400))
    assert 100_000 < len(page.encode()) < PAGE_BYTES


def test_scores_beside_published_values_are_found_by_arm() -> None:
    report = example_report()
    assert [one.value for one in report.published_of("base bf16", "mmlu")] == [0.4127]
    assert report.published_of("base bf16", "ifeval") == []
    assert replace(report, published=()).published_of("base bf16", "mmlu") == []


def test_what_does_not_fit_is_not_drawn_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_page_module, "SHARES", ((6, 30), (1, 1)))
    names: list[str] = []

    def counted(plot: Plot) -> Drawn:
        names.append(plot.name)
        return drawn(plot)

    monkeypatch.setattr(html_page_module, "drawn", counted)
    report = large_report(6, 5)
    size, whole = len(html_page(report).encode()), len(names)
    assert "this page shows 1 of 6 arms" in html_page(report, most_bytes=size // 2)
    assert whole < len(names) < 2.5 * whole  # a plot or two of six arms, and all of one
    names.clear()
    assert html_page(report, most_bytes=size + 1) == html_page(report) and len(names) == 2 * whole
