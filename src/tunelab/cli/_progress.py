"""Progress of long work on a terminal: bars on stderr. Elsewhere (Slurm, CI, nohup) there are log_lines.Lines.

A bar's figures are never cut: what does not fit is left out as a whole, the least important first, and the name of a
stage is shortened in its middle.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from tunelab.log_lines import Stage, Stages
from tunelab.progress import SEPARATOR

#: Bars on the screen at a time; the oldest finished ones go first.
BARS = 10
BAR_WIDTHS = (10, 30)
#: Figures that go before the bar itself: the count, the time, and two of the detail.
ESSENTIAL = 4
#: Columns that are left to a stage's name before an essential figure is left out.
NAME_WIDTH = 12


class Bars:
    """tunelab.progress.Progress as one bar for each stage, while it is entered as a context."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._stages = Stages(clock)
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
