"""Plots: figures that show what the report says, as SVG that takes the page's colours and needs nothing else."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
from functools import cache
from xml.etree import ElementTree

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.lines import Line2D
from study_reports import example_report

from tunelab.report.content import Arm, ArmScore, Curve, Question, StudyReport
from tunelab.report.drawing import COLOURS, PAPER, Plot, plot_style
from tunelab.report.labels import possible
from tunelab.report.pareto import COSTS, pareto_front, pareto_plot
from tunelab.report.plots import all_plots, figures, svg_files
from tunelab.report.svg import svg_element, svg_file

REPORT = example_report()


@cache
def example_plots() -> dict[str, Plot]:
    """The report's plots by name; made by the first test that needs them."""
    return {plot.name: plot for plot in all_plots(REPORT)}


@cache
def example_files() -> dict[str, str]:
    """The report's plots as SVG files; drawn by the first test that needs them."""
    return svg_files(REPORT)


def test_there_is_a_plot_for_each_thing() -> None:
    names = ["mmlu", "ifeval", "gsm8k", "held-out"]
    assert list(example_plots()) == [
        "differences",
        *(f"scores-{name}" for name in names),
        "training-loss",
        *(f"{name}-against-peak-memory" for name in names),
        *(f"{name}-against-training-time" for name in names),
    ]


SVG = "{http://www.w3.org/2000/svg}"


def test_files_are_whole_svg_without_references_to_anything_else() -> None:
    files = example_files()
    assert set(files) == set(example_plots())
    ids: list[str] = []
    for text in files.values():
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert root.get("role") == "img" and root.get("aria-label")
        own = [node.get("id", "") for node in root.iter() if node.get("id")]
        assert set(re.findall(r'href="([^"]*)"|url\(([^)]*)\)', text)) <= {(f"#{name}", "") for name in own} | {
            ("", f"#{name}") for name in own
        }
        assert "@import" not in text and len(re.findall("https?://", text)) == 1
        ids += own
    assert len(ids) == len(set(ids)), "plots of one page share no id"


def test_drawings_take_the_colours_and_the_font_of_the_page() -> None:
    for plot in example_plots().values():
        svg = svg_element(plot)
        used = re.findall(r"var\(--([\w-]+), (#\w{6})\)", svg)
        assert all(COLOURS[name][0] == light for name, light in used)
        assert {"paper", "muted", "line", "strong-line"} <= {name for name, _ in used}
        assert not re.search("#[0-9a-f]{6}", re.sub(r"var\([^)]*\)", "", re.sub('(?:id|href)="[^"]*"', "", svg)))
        assert "font-family" not in svg and "http" not in svg
    file = svg_file(example_plots()["scores-mmlu"])
    assert "--series-1: #6cb0ea" in file and "prefers-color-scheme: dark" in file and "font-family: system-ui" in file


def test_the_same_report_gives_the_same_drawings_whatever_the_machine_prefers() -> None:
    plain = example_files()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": True, "lines.linewidth": 9}):
        assert svg_files(example_report()) == plain
        assert matplotlib.rcParams["font.size"] == 30, "what the user set is kept"


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = (
        "import sys; from tunelab.report.html_page import html_page; from tunelab.report.content import StudyReport\n"
        "html_page(StudyReport('t', 'c')); sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_figures_can_be_restyled() -> None:
    drawn = figures(REPORT)
    assert list(drawn) == list(example_plots())
    axes = drawn["scores-mmlu"].axes[0]
    axes.set_xlim(0, 1)
    axes.set_title("of my own")
    file = io.BytesIO()
    drawn["scores-mmlu"].savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")
    changed = svg_element(dataclasses.replace(example_plots()["scores-mmlu"], figure=drawn["scores-mmlu"]))
    assert "of my own" in changed and "of my own" not in svg_element(example_plots()["scores-mmlu"])


def axes_of(plot: Plot) -> Axes:
    (axes,) = plot.figure.axes
    return axes


def tooltips(plot: Plot) -> dict[str, Line2D]:
    """Marks and lines by what is shown where a pointer rests on them."""
    lines = {str(line.get_gid()): line for axes in plot.figure.axes for line in axes.lines}
    return {gid.removeprefix("title: "): line for gid, line in lines.items() if gid.startswith("title: ")}


def drawn_texts(plot: Plot) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg_element(plot)).iter("text")]


def test_scores_name_arms_values_axis_and_published_values() -> None:
    plot = example_plots()["scores-mmlu"]
    words = drawn_texts(plot)
    assert {"lora r128 bf16", "0.4194 ± 0.0042", "accuracy (0-1), higher is better"} <= set(words)
    for value in ("0.4127", "0.45"):
        assert tooltips(plot)[f"published: {value}"].get_xdata()[0] == float(value)
    titles = [node.text for node in ElementTree.fromstring(svg_element(plot)).iter("title")]
    assert titles.count("published: 0.4127") == 1 and "lora r128 bf16: 0.4194 ± 0.0042" in titles
    assert "No score: full bf16" in plot.caption
    assert "Diamonds" not in example_plots()["scores-gsm8k"].caption


def test_intervals_are_as_long_as_the_errors() -> None:
    first = axes_of(example_plots()["scores-ifeval"]).containers[0]
    assert isinstance(first, ErrorbarContainer)
    ((left, _), (right, _)) = first.lines[2][0].get_segments()[0]
    score = REPORT.main_score("base bf16", "ifeval")
    assert score is not None and score.error is not None
    assert right - left == pytest.approx(2 * 1.96 * score.error)
    assert (left + right) / 2 == pytest.approx(score.value)


def test_axes_show_no_more_than_a_unit_allows() -> None:
    scores = tuple(dataclasses.replace(one, value=0.995, error=0.01) for one in REPORT.scores if one.is_main)
    low, high = axes_of(all_plots(dataclasses.replace(REPORT, scores=scores, published=()))[1]).get_xlim()
    assert 0.9 < low < 0.98 and high == 1.0
    perplexity = axes_of(example_plots()["scores-held-out"]).get_xlim()
    assert perplexity[0] < 2.4 - 1.96 * 0.071 and perplexity[1] > 4.05 + 1.96 * 0.071


def test_one_arm_does_not_dwarf_the_others() -> None:
    of_rows = [one for one in REPORT.scores if one.is_main and one.benchmark == "held-out"]
    base = dataclasses.replace(of_rows[0], value=60.0)
    plot = all_plots(dataclasses.replace(REPORT, scores=(base, *of_rows[1:]), published=()))[1]
    assert axes_of(plot).get_xscale() == "log" and plot.caption.count("The axis is logarithmic.") == 1
    assert axes_of(example_plots()["scores-held-out"]).get_xscale() == "linear"
    assert {"2", "5", "10", "20", "50"} <= set(drawn_texts(plot))


def test_every_seed_has_its_point() -> None:
    score = dataclasses.replace(REPORT.scores[2], by_seed=(0.41, 0.43))
    plot = all_plots(dataclasses.replace(REPORT, scores=(*REPORT.scores[:2], score)))[1]
    (seeds,) = [line for line in axes_of(plot).lines if tuple(line.get_xdata()) == (0.41, 0.43)]
    assert seeds.get_marker() == "o" and "Small circles are the seeds." in plot.caption
    assert "seeds" not in example_plots()["scores-mmlu"].caption


def test_a_score_of_nought_has_a_bound() -> None:
    score = dataclasses.replace(REPORT.scores[0], value=0.0, error=0.0, n=25)
    plot = all_plots(dataclasses.replace(REPORT, scores=(score,), published=(), comparisons=(), curves=()))[0]
    ((left, _), (right, _)) = axes_of(plot).containers[0].lines[2][0].get_segments()[0]
    assert left == 0.0 and right == pytest.approx(0.133, abs=1e-3)
    assert "0 (0 to 0.13)" in drawn_texts(plot)


def test_an_unknown_error_draws_no_interval_and_is_told() -> None:
    scores = tuple(dataclasses.replace(score, error=None) for score in REPORT.scores if score.benchmark == "gsm8k")
    plot = all_plots(dataclasses.replace(REPORT, scores=scores))[1]
    assert axes_of(example_plots()["scores-gsm8k"]).collections and not axes_of(plot).collections
    assert "Unknown for base bf16, base nf4, lora r128 bf16, qlora r128 nf4." in plot.caption


def test_an_arm_has_one_colour_everywhere() -> None:
    lora, qlora = COLOURS["series-3"][0], COLOURS["series-4"][0]
    for name in ("scores-mmlu", "mmlu-against-peak-memory"):
        colours = {words.partition(":")[0]: line.get_color() for words, line in tooltips(example_plots()[name]).items()}
        assert colours["lora r128 bf16"] == lora and colours["qlora r128 nf4"] == qlora
    lines = tooltips(example_plots()["training-loss"])
    assert {words: line.get_color() for words, line in lines.items() if "held-out" not in words} == {
        **{f"lora r128 bf16, seed {seed}": lora for seed in (0, 1)},
        **{f"qlora r128 nf4, seed {seed}": qlora for seed in (0, 1)},
    }


def test_each_arm_has_a_panel_of_losses_with_the_others_behind_it() -> None:
    first, second = example_plots()["training-loss"].figure.axes
    assert [axes.get_title("left") for axes in (first, second)] == ["lora r128 bf16", "qlora r128 nf4"]
    assert first.get_ylim() == second.get_ylim() and first.get_xlim() == second.get_xlim()
    grey = COLOURS["strong-line"][0]
    for axes, curve in ((first, REPORT.curves[0]), (second, REPORT.curves[2])):
        behind, faint, line, diamonds, *_ = axes.lines
        assert behind.get_color() == grey and behind.get_zorder() < faint.get_zorder() < line.get_zorder()
        assert (faint.get_alpha(), len(faint.get_xdata()), len(line.get_xdata())) == (0.25, 200, 40)
        assert tuple(zip(diamonds.get_xdata(), diamonds.get_ydata(), strict=True)) == curve.held_out
    assert "Gray: the other arms. Diamonds: loss on held-out rows." in example_plots()["training-loss"].caption


def test_differences_are_drawn_as_the_comparisons_say() -> None:
    plot = example_plots()["differences"]
    titles = [axes.get_title("left") for axes in plot.figure.axes]
    assert titles == [
        "ifeval: prompt strict, points, right is better",
        "mmlu: accuracy, points, right is better",
        "held-out: completion loss, nats per token, left is better",
    ]
    bars = [one for axes in plot.figure.axes for one in axes.containers if isinstance(one, ErrorbarContainer)]
    for bar, one in zip(bars, REPORT.comparisons, strict=True):
        scale = 1 if one.metric == "completion_loss" else 100
        ((left, _), (right, _)) = bar.lines[2][0].get_segments()[0]
        assert (left, right) == pytest.approx((scale * one.low, scale * one.high))
    colours = [bar.lines[0].get_color() for bar in bars]
    assert colours == [COLOURS["good"][0], *[COLOURS["muted"][0]] * 3]
    assert all(axes.get_xlim()[0] <= 0 <= axes.get_xlim()[1] for axes in plot.figure.axes), "no difference is in sight"
    assert {"base bf16 → lora r128 bf16", "+7.4 (+4.1 to +10.7)", "−0.32 (−1.04 to +0.40)"} <= set(drawn_texts(plot))


def test_a_difference_has_a_point_for_every_seed() -> None:
    loss = dataclasses.replace(REPORT.comparisons[3], by_seed=(0.01, 0.03))
    plot = all_plots(dataclasses.replace(REPORT, comparisons=(*REPORT.comparisons[:3], loss)))[0]
    accuracy, below = plot.figure.axes[1:]
    (seeds,) = [line for line in below.lines if tuple(line.get_xdata()) == (0.01, 0.03)]
    assert (seeds.get_marker(), seeds.get_markerfacecolor()) == ("o", PAPER) and seeds.get_ydata()[0] > 0
    assert "Small circles are the seeds." in plot.caption
    percent = dataclasses.replace(REPORT.comparisons[2], by_seed=(-0.004, -0.0024))
    plot = all_plots(dataclasses.replace(REPORT, comparisons=(percent,)))[0]
    assert any(tuple(line.get_xdata()) == pytest.approx((-0.4, -0.24)) for line in axes_of(plot).lines), "in points"
    assert "seeds" not in example_plots()["differences"].caption and accuracy.lines


def test_the_differences_that_answer_questions_come_first() -> None:
    one = REPORT.comparisons[2]
    asked = Question("Is it?", "No.", "no difference shown", (one.a, one.b, one.benchmark, one.metric))
    first, second, *_ = all_plots(dataclasses.replace(REPORT, questions=(asked,)))
    assert (first.name, second.name) == ("differences-asked", "differences")
    assert len(first.figure.axes) == 1 and len(second.figure.axes) == 3
    only = all_plots(dataclasses.replace(REPORT, questions=(asked,), comparisons=(one,)))
    assert [plot.name for plot in only if plot.name.startswith("differences")] == ["differences-asked"]


def test_long_curves_are_thinned_and_say_so() -> None:
    arm = Arm("a", "m", "none", "lora", "d")
    points = tuple((step, 2.0) for step in range(1000))
    (plot,) = all_plots(StudyReport("t", "c", arms=(arm,), curves=(Curve("a", 0, points), Curve("a", 1, ()))))
    faint, line = axes_of(plot).lines
    assert (len(faint.get_xdata()), len(line.get_xdata())) == (200, 40)
    assert line.get_xdata()[0] == 12.0, "the mean of steps 0 to 24"
    assert "mean of up to 5 logged steps. Lines are means of up to 25 steps" in plot.caption
    (short,) = all_plots(StudyReport("t", "c", arms=(arm,), curves=(Curve("a", 0, points[:1]),)))
    assert short.caption == "Every logged step."


def test_the_front_is_marked() -> None:
    plot = example_plots()["held-out-against-peak-memory"]
    hollow = {
        words.partition(":")[0]
        for words, mark in tooltips(plot).items()
        if mark.get_markerfacecolor() == COLOURS["paper"][0]
    }
    assert hollow == set()
    assert "front (qlora r128 nf4, lora r128 bf16)" in plot.caption
    dear = [dataclasses.replace(arm, peak_memory_bytes=2.0**36) if "qlora" in arm.name else arm for arm in REPORT.arms]
    beaten = {plot.name: plot for plot in all_plots(dataclasses.replace(REPORT, arms=tuple(dear)))}[plot.name]
    marks = tooltips(beaten)["qlora r128 nf4: 2.420 ± 0.071"], tooltips(beaten)["lora r128 bf16: 2.400 ± 0.071"]
    assert [mark.get_markerfacecolor() == COLOURS["paper"][0] for mark in marks] == [True, False]
    assert "Not shown (score or cost unknown): full bf16." in plot.caption


def test_a_base_that_costs_no_training_is_a_line_and_not_on_the_front() -> None:
    for name in ("mmlu-against-peak-memory", "mmlu-against-training-time"):
        plot = example_plots()[name]
        levels = [line.get_ydata()[0] for line in axes_of(plot).lines if set(line.get_xdata()) == {0, 1}]
        assert levels == [0.4127, 0.4021]
        assert "Dotted lines: not tuned (base bf16, base nf4)." in plot.caption
        assert {"base bf16", "base nf4"} <= set(drawn_texts(plot))
    arms = tuple(dataclasses.replace(arm, training_seconds=0.0) for arm in REPORT.arms)
    names = [plot.name for plot in all_plots(dataclasses.replace(REPORT, arms=arms))]
    assert not any("against" in name for name in names)


def test_the_memory_plot_says_what_else_it_counts() -> None:
    assert axes_of(example_plots()["mmlu-against-peak-memory"]).get_xlabel() == "peak memory (GiB), lower is better"
    assert (
        "Peak memory is of the accelerator; on a CPU, of the process"
        in example_plots()["mmlu-against-peak-memory"].caption
    )
    arms = tuple(dataclasses.replace(arm, start_memory_bytes=1.5 * 2**30) for arm in REPORT.arms)
    plots = {plot.name: plot for plot in all_plots(dataclasses.replace(REPORT, arms=arms))}
    plot = plots["mmlu-against-peak-memory"]
    assert axes_of(plot).get_xlabel() == "peak memory (GiB), lower is better"
    assert "includes about 1.50 GiB of Python and libraries." in plot.caption


def crowded(count: int) -> StudyReport:
    """Arms with long names, all at one point."""
    names = [f"an arm with a rather long name {place}" for place in range(1, count + 1)]
    arms = tuple(Arm(name, "m", "none", "none", "", peak_memory_bytes=2.0**30) for name in names)
    scores = tuple(ArmScore(arm.name, "b", "accuracy", 0.5, None, None, 9, 1, "0-1", True, True) for arm in arms)
    curves = tuple(Curve(arm.name, 0, ((1, 2.0), (2, 1.0))) for arm in arms)
    return StudyReport("t", "c", arms=arms, scores=scores, curves=curves)


def test_names_that_do_not_fit_become_numbers_with_a_key() -> None:
    _, curves, plot = all_plots(crowded(20))
    assert plot.name == "b-against-peak-memory"
    words = drawn_texts(plot)
    assert {str(number) for number in range(1, 21)} <= set(words)
    assert sum(word.startswith("20 an arm with a") for word in words) == 1
    assert "No room" not in plot.caption
    assert [axes.get_title("left")[:12] for axes in curves.figure.axes] == ["an arm with "] * 20


def test_a_key_stays_inside_its_figure() -> None:
    for plot in all_plots(crowded(20))[2:]:
        canvas = FigureCanvasAgg(plot.figure)
        canvas.draw()
        (key,) = plot.figure.legends
        box, figure = key.get_window_extent(), plot.figure.bbox
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.x1
        title = axes_of(plot).yaxis.label.get_window_extent()
        assert axes_of(plot).bbox.y1 < title.y0 and title.y1 <= figure.y1
        assert box.y1 < axes_of(plot).xaxis.label.get_window_extent().y0


def test_labels_without_room_are_told() -> None:
    with plot_style():
        plot = pareto_plot(crowded(200), "b", COSTS[0])
    assert plot is not None and "No room for the labels of an arm with" in plot.caption


def test_names_are_shown_as_they_are() -> None:
    names = ("$\\alpha$ of 5", "<b>&", "two\nlines", "漢字", "\x00\ud800")
    arms = tuple(Arm(name, "m", "none", "none", "", peak_memory_bytes=2.0**30) for name in names)
    scores = tuple(ArmScore(name, "b", "accuracy", 0.5, None, None, 9, 1, "0-1", True, True) for name in names)
    first, *_ = all_plots(StudyReport("t", "c", arms=arms, scores=scores))
    svg = ElementTree.fromstring(svg_element(first))
    titles = [node.text for node in svg.iter("title")]
    assert titles == [f"{possible(name)}: 0.5 ± ?".replace("\n", " ") for name in names]
    assert "<b>& 0.5 ± ?; two\nlines 0.5" in svg.get("aria-label", "")
    assert drawn_texts(first)[-10::2] == ["$\\alpha$ of 5", "<b>&", "two lines", "漢字", "\ufffd\ufffd"]


def test_plots_of_names_that_differ_in_signs_alone_are_kept_apart() -> None:
    scores = [dataclasses.replace(one, benchmark=name) for one in REPORT.scores[:1] for name in ("a.b", "a b", "a-b")]
    report = StudyReport("t", "c", arms=REPORT.arms, scores=tuple(scores))
    assert list(svg_files(report)) == ["scores-a-b", "scores-a-b-2", "scores-a-b-3"]


def test_pareto_fronts() -> None:
    points = [(1.0, 0.2), (2.0, 0.5), (3.0, 0.4), (2.0, 0.5), (4.0, 0.9)]
    assert pareto_front(points, higher_is_better=True) == [0, 1, 3, 4]
    assert pareto_front(points, higher_is_better=False) == [0]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_what_is_not_on_the_front_is_beaten_by_it(points: list[tuple[int, int]]) -> None:
    front = pareto_front(points, higher_is_better=True)
    assert front
    for place, (cost, quality) in enumerate(points):
        beaten = any(
            points[other] != (cost, quality) and points[other][0] <= cost and points[other][1] >= quality
            for other in front
        )
        assert beaten == (place not in front)
