"""Long work is followed on a terminal, where no figure is cut, and in a log, which has a bounded number of lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tunelab.cli._progress import BARS, Bars, bar_line
from tunelab.log_lines import LINES, Lines, Stage

STEP = "loss 2.314  12,345 tokens/s  lr 0.0002  gradient norm 0.821  epoch 0.31  peak 812.0 MiB"


class Log:
    """The lines of a log, and a clock that goes as it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.progress = Lines(self.lines.append, clock=lambda: self.now)

    def work(self, stage: str, total: int, seconds: float, detail: str = "") -> None:
        """A stage of `total` units, each of which takes as many seconds."""
        self.progress(stage, 0, total)
        for done in range(1, total + 1):
            self.now += seconds
            self.progress(stage, done, total, detail)


def test_a_training_gives_its_first_step_and_a_bounded_number_of_lines() -> None:
    log = Log()
    log.work("lora: training", 1000, 0.1, STEP)
    assert LINES <= len(log.lines) <= LINES + 4
    assert log.lines[0] == f"lora: training: 1/1,000  0:01:40 left  {STEP}"
    assert log.lines[-1] == f"lora: training: 1,000/1,000  in 0:01:40  {STEP}"
    assert [line.split()[2] for line in log.lines[1:3]] == ["50/1,000", "100/1,000"]


@pytest.mark.parametrize("steps", [1, 2, 20, 21, 39, 40, 41, 999])
def test_no_number_of_steps_gives_many_lines(steps: int) -> None:
    log = Log()
    log.work("training", steps, 0.001, STEP)
    assert min(steps, 10) <= len(log.lines) <= LINES + 2
    assert "1/" in log.lines[0] and f"{steps}/{steps}" in log.lines[-1]


def test_slow_steps_give_a_line_each() -> None:
    log = Log()
    log.work("training", 4, 45.0, STEP)
    assert [line.split("  ")[:2] for line in log.lines] == [
        ["training: 1/4", "0:02:15 left"],
        ["training: 2/4", "0:01:30 left"],
        ["training: 3/4", "0:00:45 left"],
        ["training: 4/4", "in 0:03:00"],
    ]


def test_half_a_minute_is_never_silent_whatever_the_work_is() -> None:
    log = Log()
    log.work("answering", 600, 1.0)
    assert len(log.lines) == 20 and log.lines[0] == "answering: 30/600  0:09:30 left  1.0/s"


def test_a_short_stage_without_a_result_is_not_mentioned() -> None:
    log = Log()
    log.work("tokenizing", 900, 0.01)
    assert log.lines == []
    log.work("held-out loss", 3, 0.01, "loss 2.31")
    log.progress("held-out loss", 3, 3, "loss 2.31")
    assert log.lines == ["held-out loss: 3/3  in 0:00:00  loss 2.31  100.0/s"]
    log.work("scoring", 2, 6.0)
    assert log.lines[1:] == ["scoring: 2/2  in 0:00:12  0.2/s"]


def test_a_stage_that_comes_again_is_told_again() -> None:
    log = Log()
    for loss in ("loss 2.31", "loss 2.11"):
        log.work("held-out loss", 3, 0.01, loss)
    assert [line.split("  ")[2] for line in log.lines] == ["loss 2.31", "loss 2.11"]


def test_what_waits_for_others_says_so_when_something_changes() -> None:
    log = Log()
    for detail in ("2 pending", "2 pending", "1 running"):
        log.now += 40
        log.progress("3 jobs on Slurm", 1, 3, detail)
    assert log.lines == ["3 jobs on Slurm: 1/3  0:00:00  2 pending", "3 jobs on Slurm: 1/3  0:01:20  1 running"]


def stage(name: str, done: int = 123, total: int | None = 300, detail: str = STEP) -> Stage:
    return Stage(name, 0.0, 0, 4920.0, done, total, detail)


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize(
    "name", ["training", "2/9: lora, seed 0: training", "12/36: lora-attention-only, seed 0: reading"]
)
def test_figures_are_whole_at_every_width(name: str, width: int) -> None:
    line = bar_line(stage(name), 4920.0, width).plain
    assert len(line) <= width
    for figure in ("123/300", "1:58:00 left", "loss 2.314", "12,345 tokens/s"):
        assert figure in line, line
    figures = line.partition("123/300")[2].split("  ")[1:]
    assert figures == ["1:58:00 left", *STEP.split("  ")][: len(figures)], "what does not fit is left out as a whole"


def test_a_long_name_is_shortened_in_its_middle() -> None:
    line = bar_line(stage("12/36: lora-attention-only, seed 0: held-out: tuned: scoring held-out rows"), 4920.0, 80)
    assert line.plain.startswith("12/36: lora-at…") and "…" in line.plain and "rows  123/300" in line.plain
    plain = bar_line(stage("名" * 60), 4920.0, 80, plain=True)
    assert "~" in plain.plain and plain.cell_len <= 80


def test_a_wide_terminal_has_a_bar_and_every_figure() -> None:
    line = bar_line(stage("training"), 4920.0, 150)
    assert "━" * 10 in line.plain and line.plain.endswith("peak 812.0 MiB") and line.cell_len <= 150
    narrow = bar_line(stage("training"), 4920.0, 30).plain
    assert len(narrow) <= 30 and "123/300" in narrow, "even there no figure is cut"


def test_bars_begin_in_one_column_where_there_is_room() -> None:
    lines = [bar_line(stage(name), 4920.0, 100, align=13).plain for name in ("held-out loss", "training")]
    assert {line.index("━") for line in lines} == {15} and all(len(line) <= 100 for line in lines)
    assert len(bar_line(stage("training"), 4920.0, 80, align=60).plain) <= 80


def test_time_left_goes_on_within_a_long_step() -> None:
    assert "1:57:00 left" in bar_line(stage("training"), 4980.0, 80).plain
    assert "0:00:00 left" in bar_line(stage("training"), 10**6, 80).plain


def test_a_study_s_bars_fit_on_the_screen() -> None:
    screen = io.StringIO()
    bars = Bars(Console(file=screen, width=100, height=40, force_terminal=True))
    with bars:
        for job in range(30):
            bars(f"{job}/30: training", 3, 3, STEP)
        bars("30/30: training", 1, 3, STEP)
    shown = screen.getvalue().split("\x1b[2K")[-1]
    assert len(bars._stages.known) == BARS and "30/30: training" in shown and "29/30: training" in shown


def test_a_stage_that_has_had_a_line_says_how_it_ended() -> None:
    log = Log()
    log.progress("lora: scoring", 0, 2)
    log.now = 40.0
    log.progress("lora: scoring", 1, 2)
    log.now = 40.5
    log.progress("lora: scoring", 2, 2)
    assert [line.split("  ")[0] for line in log.lines] == ["lora: scoring: 1/2", "lora: scoring: 2/2"]
    log = Log()
    log.work("tuned: scoring", 10, 0.01)
    log.now += 100.0
    log.progress("tuned: answering", 0, 2)  # the first line, since there was none for long
    log.progress("tuned: answering", 2, 2)
    assert [line.split("  ")[0] for line in log.lines] == ["tuned: answering: 0/2", "tuned: answering: 2/2"]
