"""Progress of long work on stderr: bars on a terminal; elsewhere (Slurm, CI, nohup) a bounded number of log lines.

A bar's figures are never cut: what does not fit is left out as a whole, the least important first, and the name of a
stage is shortened in its middle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tunelab.progress import SEPARATOR, TRAINING
from tunelab.units import format_number

#: Seconds without a line after which the next call gives one.
QUIET_S = 30.0
#: A stage shorter than this is not mentioned in a log, unless it has a result.
SHORT_S = 10.0
#: Lines of one training in a log, besides those for QUIET_S.
LINES = 20

#: Bars on the screen at a time; the oldest finished ones go first.
BARS = 10
BAR_WIDTHS = (10, 30)
#: Figures that go before the bar itself: the count, the time, and two of the detail.
ESSENTIAL = 4
#: Columns that are left to a stage's name before an essential figure is left out.
NAME_WIDTH = 12


@dataclass
class Stage:
    """One stage of the work, with times in seconds of a monotonic clock.

    Args:
        first: units that were done when it began.
        updated: when `done` became what it is.
    """

    name: str
    began: float
    first: int
    updated: float
    done: int
    total: int | None
    detail: str = ""

    @property
    def is_finished(self) -> bool:
        return self.total is not None and self.done >= self.total

    def figures(self, now: float) -> list[str]:
        """What there is to say about it, the most important first."""
        units = self.done - self.first
        took = self.updated - self.began
        figures = [f"{self.done:,}/{'?' if self.total is None else f'{self.total:,}'}"]
        if self.is_finished:
            figures.append(f"in {_clock(took)}")
        elif self.total is not None and units > 0:
            left = (self.total - self.done) * took / units - (now - self.updated)
            figures.append(f"{_clock(max(left, 0.0))} left")
        else:
            figures.append(_clock(now - self.began))
        if self.detail:
            figures += self.detail.split(SEPARATOR)
        if units > 0 and took > 0 and "/s" not in self.detail and units / took >= 0.1:
            figures.append(f"{format_number(units / took, 1)}/s")
        return figures


class _Stages:
    """The stages so far, by name; one that starts again is a new one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.known: dict[str, Stage] = {}

    def update(self, name: str, done: int, total: int | None, detail: str) -> Stage:
        now = self.clock()
        stage = self.known.get(name)
        if stage is None or done < stage.done:
            self.known.pop(name, None)
            stage = self.known[name] = Stage(name, now, done, now, done, total)
        if done != stage.done:
            stage.updated = now
        stage.done, stage.total, stage.detail = done, total, detail
        return stage


class Lines:
    """tunelab.progress.Progress as lines of a log.

    A training gives a line after its first step, then up to LINES more; another stage gives one when it ends, if it
    has a result or took longer than SHORT_S. Any stage gives one if there was none for QUIET_S.

    Args:
        write: prints a line.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._stages = _Stages(clock)
        self._last = clock()
        self._written: dict[str, tuple[int, str]] = {}  # stage -> units done and detail of its last line

    def __call__(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        known = self._stages.update(stage, done, total, detail)
        if stage in self._written and done < self._written[stage][0]:
            del self._written[stage]
        if self._is_due(known):
            now = self._stages.clock()
            self._last, self._written[stage] = now, (done, detail)
            self._write(f"{stage}: {SEPARATOR.join(known.figures(now))}")

    def _is_due(self, stage: Stage) -> bool:
        written, now = self._written.get(stage.name), self._stages.clock()
        if written == (stage.done, stage.detail):
            return False
        if now - self._last >= QUIET_S:
            return True
        if stage.name.endswith(TRAINING) and stage.total is not None:
            every = math.ceil(stage.total / LINES)
            if written is None:
                return stage.done > stage.first
            return stage.is_finished or stage.done // every > written[0] // every
        return stage.is_finished and bool(stage.detail or now - stage.began >= SHORT_S)


class Bars:
    """tunelab.progress.Progress as one bar for each stage, while it is entered as a context."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._stages = _Stages(clock)
        self._live = Live(
            get_renderable=self._drawn,
            console=console,
            refresh_per_second=4,
            redirect_stdout=False,  # stdout is data: a bar must never touch it
        )

    def __enter__(self) -> Bars:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        self._stages.update(stage, done, total, detail)
        known = self._stages.known
        most = max(1, min(BARS, self._console.height - 1))
        for old in [other for other in known.values() if other.is_finished and other.name != stage]:
            if len(known) > most:
                del known[old.name]

    def _drawn(self) -> Group:
        now, width = self._stages.clock(), self._console.width
        plain = self._console.options.ascii_only
        stages = list(self._stages.known.values())
        align = max((cell_len(stage.name) for stage in stages), default=0)
        return Group(*(bar_line(stage, now, width, align=align, plain=plain) for stage in stages))


def bar_line(stage: Stage, now: float, width: int, *, align: int = 0, plain: bool = False) -> Text:
    """A stage in at most `width` columns: its name, a bar if there is room for one, its figures.

    Args:
        align: columns of the longest name in view; bars begin behind it where there is room.
        plain: only characters of ASCII.
    """
    figures = stage.figures(now)
    chosen, more = figures[:ESSENTIAL], figures[ESSENTIAL:]
    while len(chosen) > 1 and width - _columns(chosen) < NAME_WIDTH:
        chosen.pop()
        more.clear()
    name = _shortened(stage.name, width - _columns(chosen), "~" if plain else "…")
    room = width - _columns(chosen) - cell_len(name)
    smallest, widest = BAR_WIDTHS
    has_bar = room >= smallest + len(SEPARATOR)
    room -= smallest + len(SEPARATOR) if has_bar else 0
    if has_bar:
        padding = max(0, min(align - cell_len(name), room))
        name, room = name + " " * padding, room - padding
    while more and _columns(more[:1]) <= room:
        room -= _columns(more[:1])
        chosen.append(more.pop(0))
    line = Text(name, no_wrap=True, overflow="crop")
    if has_bar:
        line.append(SEPARATOR)
        line.append_text(_bar(stage, min(widest, smallest + room), "-" if plain else "━"))
    return line.append(SEPARATOR + SEPARATOR.join(chosen))


def _columns(figures: list[str]) -> int:
    """Columns of these figures, each with a separator before it."""
    return sum(len(SEPARATOR) + cell_len(figure) for figure in figures)


def _bar(stage: Stage, width: int, character: str) -> Text:
    share = stage.done / stage.total if stage.total else float(stage.total is not None)
    filled = round(width * min(share, 1.0))
    return Text.assemble((character * filled, "green"), (character * (width - filled), "bright_black"))


def _shortened(name: str, width: int, ellipsis: str) -> str:
    """The name in at most `width` columns: letters from its middle are left out."""
    letters = len(name)
    shown = name
    while cell_len(shown) > width and letters > 1:
        letters -= 1
        shown = name[: letters - letters // 2] + ellipsis + name[len(name) - letters // 2 :]
    return shown


def _clock(seconds: float) -> str:
    """Seconds as "0:03:12", or "2 days, 3:04:05"."""
    return str(timedelta(seconds=round(seconds)))
