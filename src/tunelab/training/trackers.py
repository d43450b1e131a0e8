"""W&B, Trackio and TensorBoard behind one interface: started with the run's location known, and always ended."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from tunelab.config import Recipe
from tunelab.errors import RunError, UsageError
from tunelab.records.runs import Run
from tunelab.training.tracked_run import TrackedRun, training_run

if TYPE_CHECKING:
    from accelerate import Accelerator


#: W&B's own records of where it runs: user, host, paths and command line, the repository, and what is printed.
WITHOUT_MACHINE: dict[str, Any] = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "x_disable_meta": True,
    "host": "not recorded",
}


@dataclass(frozen=True)
class Shown:
    """A report in the forms that trackers take.

    Args:
        page_name: the page's file in the study's directory.
        page: the whole report as HTML.
        markdown: the same without its plots.
        tables: columns and rows, by the table's title.
        plots: SVG files, by the plot's name.
    """

    page_name: str
    page: str
    markdown: str
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]]
    plots: Mapping[str, str]


class Tracker(Protocol):
    """A run that was started at a tracker; records without a step come after all those that it has."""

    name: str

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None: ...
    def show(self, report: Shown) -> None: ...
    def finish(self, failed: bool) -> None: ...


@contextmanager
def tracked(run: Run, recipe: Recipe, accelerator: Accelerator) -> Iterator[None]:
    """Within the block, accelerator.log() reaches the recipe's trackers.

    W&B and TensorBoard write to the run's `trackers` folder, or the study's; Trackio keeps one database for all runs,
    in $TRACKIO_DIR or the hub's cache folder. What a tracker prints to stdout goes to stderr: stdout is for data.

    Raises:
        UsageError: a tracker is not installed.
        RunError: a tracker could not be started.
    """
    if not recipe.train.trackers or not accelerator.is_main_process:
        yield
        return
    begins_at = max((int(record["step"]) for record in run.metrics()), default=0) + 1
    with started(recipe.train.trackers, training_run(run, recipe), begins_at) as trackers:
        accelerator.trackers = cast("list[Any]", trackers)
        try:
            yield
        finally:
            accelerator.trackers = []


@contextmanager
def started(names: Sequence[str], about: TrackedRun, begins_at: int = 0) -> Iterator[list[Tracker]]:
    """The trackers with these names, each with a new or resumed run; all are ended with the block.

    Args:
        begins_at: the first step that will be logged; what an earlier session logged from there on is stale.

    Raises:
        UsageError: one is not installed.
        RunError: one could not be started (no login, no network).
    """
    check_installed(names)
    about.folder.mkdir(parents=True, exist_ok=True)
    trackers: list[Tracker] = []
    with ExitStack() as stack:
        for name in dict.fromkeys(names):
            tracker = _start(name, about, begins_at)
            trackers.append(tracker)
            stack.push(partial(_finish, tracker))
        yield trackers


def check_installed(names: Sequence[str]) -> None:
    """Raises UsageError if one of these trackers is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"train.trackers: {name} is not installed", 'install it: pip install "tunelab[trackers]"')


def _start(name: str, about: TrackedRun, begins_at: int) -> Tracker:
    try:
        with redirect_stdout(sys.stderr):
            if name == "wandb":
                return WandbRun(about)
            return TrackioRun(about) if name == "trackio" else TensorBoardRun(about, begins_at)
    except Exception as error:
        raise RunError(
            f"train.trackers: {name} could not be started: {type(error).__name__}: {error}",
            "log in to it (W&B also works with WANDB_MODE=offline), or remove it from train.trackers",
        ) from error


def _finish(tracker: Tracker, failure: type[BaseException] | None, *_: object) -> None:
    with redirect_stdout(sys.stderr):
        tracker.finish(failed=failure is not None)


class WandbRun:
    """A run at W&B, resumed by its id."""

    name = "wandb"

    def __init__(self, about: TrackedRun) -> None:
        import wandb

        self._run = wandb.init(
            project=about.project,
            name=about.name,
            group=about.group,
            job_type=about.job_type,
            dir=str(about.folder),
            id=about.id or None,
            resume="allow" if about.id else None,
            config=dict(about.config),
            allow_val_change=True,
            settings=wandb.Settings(**WITHOUT_MACHINE),
        )

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Metrics of a step; W&B ignores steps that it already has."""
        self._run.log(dict(values), step=step)

    def show(self, report: Shown) -> None:
        """Tables as tables, page and plots as HTML."""
        import wandb

        tables = {f"tables/{name}": wandb.Table(list(columns), rows) for name, (columns, rows) in report.tables.items()}
        drawn = {"report": report.page, **{f"plots/{name}": svg for name, svg in report.plots.items()}}
        pages = {name: wandb.Html(text, inject=False, data_is_not_path=True) for name, text in drawn.items()}
        self._run.log({**pages, **tables})

    def finish(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class TrackioRun:
    """A run at Trackio, resumed by its name, as Trackio 0.43 takes no id."""

    name = "trackio"

    def __init__(self, about: TrackedRun) -> None:
        import trackio

        self._run: Any = trackio.init(
            project=about.project,
            name=about.unique_name,
            group=about.group,
            config=dict(about.config),
            resume="allow" if about.id else "never",
        )

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Metrics of a step; one that was logged before a run was killed appears twice."""
        self._run.log(dict(values), step=step)

    def show(self, report: Shown) -> None:
        """Tables as tables, the report as Markdown, page and plots as HTML."""
        import trackio

        shown: dict[str, Any] = {"report": trackio.Markdown(report.markdown), "page": trackio.Html(report.page)}
        shown |= {f"plots/{name}": trackio.Html(svg) for name, svg in report.plots.items()}
        for name, (columns, rows) in report.tables.items():
            shown[f"tables/{name}"] = trackio.Table(columns=list(columns), data=[list(row) for row in rows])
        self._run.log(shown)

    def finish(self, failed: bool) -> None:
        import trackio

        # The run's own finish() would end it alone, and Trackio would end it again, with output, when Python exits.
        trackio.finish()  # type: ignore[no-untyped-call, unused-ignore]


class TensorBoardRun:
    """A folder of event files; a resumed session removes the steps that it is about to run again."""

    name = "tensorboard"

    def __init__(self, about: TrackedRun, begins_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(about.events), purge_step=begins_at)
        for name, value in about.config.items():
            self._text(name, f"```\n{value}\n```")

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Metrics of a step; non-numbers are skipped, since TensorBoard plots only numbers."""
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, global_step=step)
        self._writer.flush()

    def show(self, report: Shown) -> None:
        """The report as Markdown, and the name of the page with its plots: TensorBoard shows no vector graphics."""
        where = f"The page with its plots: `{report.page_name}` in the study's directory"
        self._text("report", f"{where}\n\n{report.markdown}")

    def finish(self, failed: bool) -> None:
        self._writer.close()

    def _text(self, name: str, markdown: str) -> None:
        self._writer.add_text(name, markdown, global_step=0)
