"""Trackers by name, through accelerate: started with the run's directory known, ended whatever happens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, filter_trackers

from tunelab.config import Recipe, to_yaml
from tunelab.runs import Run


@contextmanager
def tracked(run: Run, recipe: Recipe, accelerator: Accelerator) -> Iterator[None]:
    """While the block runs, accelerator.log() reaches the recipe's trackers.

    W&B and TensorBoard write to the run's `trackers` folder; Trackio keeps one database for all runs, in $TRACKIO_DIR
    or the hub's cache folder. What a tracker says on stdout goes to stderr: stdout is for data.
    """
    names = list(recipe.train.trackers)
    if not names:
        yield
        return
    run.trackers.mkdir(exist_ok=True)
    # Accelerator takes trackers when it is made, which is before the run has a directory.
    accelerator.log_with = filter_trackers(names, str(run.trackers))
    accelerator.project_configuration.set_directories(str(run.trackers))
    options = {"wandb": {"name": run.path.name, "dir": str(run.trackers)}, "trackio": {"name": run.path.name}}
    chosen = {name: value for name, value in options.items() if name in names}
    try:
        with redirect_stdout(sys.stderr):
            accelerator.init_trackers(
                recipe.train.tracker_project, config={"recipe": to_yaml(recipe)}, init_kwargs=chosen
            )
        yield
    finally:
        # Not accelerator.end_training(): that ends the process group too, which later evaluations need.
        with redirect_stdout(sys.stderr):
            for tracker in accelerator.trackers:
                _finish(tracker, accelerator.is_main_process)


def _finish(tracker: GeneralTracker, is_main_process: bool) -> None:
    if tracker.name != "trackio":
        tracker.finish()
    elif is_main_process:
        import trackio

        # accelerate would end the run alone, and Trackio would end it once more, aloud, when Python exits.
        trackio.finish()  # type: ignore[no-untyped-call, unused-ignore]
