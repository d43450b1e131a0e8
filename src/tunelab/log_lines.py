"""Progress of long work as a bounded number of lines of a log: the command line's without a terminal, a job's own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from tunelab.progress import SEPARATOR, TRAINING
from tunelab.units import format_number

#: Seconds without a line after which the next call gives one.
QUIET_S = 30.0
#: A stage shorter than this is not mentioned in a log, unless it has a result.
SHORT_S = 10.0
#: Lines of one training in a log, besides those for QUIET_S.
LINES = 20


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


class Stages:
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
    has a result, took longer than SHORT_S or has had a line. Any stage gives one if there was none for QUIET_S.

    Args:
        write: prints a line.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._stages = Stages(clock)
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
        return stage.is_finished and bool(written or stage.detail or now - stage.began >= SHORT_S)


def _clock(seconds: float) -> str:
    """Seconds as "0:03:12", or "2 days, 3:04:05"."""
    return str(timedelta(seconds=round(seconds)))
