"""A script: trains in forked children, kills them with SIGKILL at random moments, resumes, and reports what came of it.

    python kill_driver.py FOLDER KILLS SEED

The heavy imports happen once, so that an attempt costs little more than its own work. Half of the kills come at a
random time, the others within milliseconds of a stage: loading, a step, the writing of a checkpoint or the result.
Prints one JSON object: the run that nobody killed, and every other one.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from forked import forked
from repeatable import repeatable
from tiny import model_folder, recipe, rows_file

from tunelab.records.runs import Run
from tunelab.training import finetune as story
from tunelab.training.checkpoint import CheckpointStore

STAGES = ("loading", "step", "checkpoint", "best", "result")
STEPS = 6


class Stage:
    """Where a child is, in memory that parent and child share."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 1)

    def set(self, name: str) -> None:
        self.memory[0] = STAGES.index(name)

    @property
    def name(self) -> str:
        return STAGES[self.memory[0]]

    def around(self, owner: Any, function: str, name: str) -> None:
        """Let a function set the stage while it runs."""
        original = getattr(owner, function)

        def wrapped(*arguments: Any, **more: Any) -> Any:
            before = self.name
            self.set(name)
            try:
                return original(*arguments, **more)
            finally:
                self.set(before)

        setattr(owner, function, wrapped)


def attempt(settings: dict[str, Any], stage: Stage) -> None:
    """Start the run, or go on with it, as a user would after a crash."""

    def progress(what: str, done: int, total: int | None, detail: str = "") -> None:
        if what == "training":
            stage.set("step")

    stage.set("loading")
    path = Path(settings["out"])
    if (path / "recipe.yaml").exists():
        story.resume(path, progress=progress)
    else:
        story.finetune(settings, progress=progress)


def kill_somewhere(child: int, stage: Stage, draw: random.Random, seconds: float, wanted: str | None) -> str | None:
    """Kill the child; gives the stage it was in, None where it was done before."""
    deadline = time.monotonic() + (200 if wanted else draw.uniform(0, 0.8 * seconds))
    while time.monotonic() < deadline and (wanted is None or stage.name != wanted):
        if os.waitpid(child, os.WNOHANG)[0]:
            return None
        time.sleep(0.0002)
    if wanted:
        time.sleep(draw.uniform(0, 0.003))
    hit = stage.name
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return hit if os.WIFSIGNALED(status) else None


def outcome(path: Path) -> dict[str, Any]:
    run = Run(path)
    manifest = run.manifest
    names = ("status", "weights_before", "weights_after", "held_out_loss_before", "held_out_loss_after")
    trained = {name: manifest["trained"][name] for name in ("steps", "targets", "tokens", "best_step", "best_loss")}
    leftovers = [path.name for path in run.checkpoints.iterdir() if path.name.startswith(".")]
    return {
        **{name: manifest[name] for name in names},
        "trained": trained,
        "metrics": repeatable(run.metrics()),
        "sessions": len(manifest["sessions"]),
        "leftovers": leftovers,
        "checkpoints": sorted(path.name for path in run.checkpoints.iterdir()),
    }


def main(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    draw, stage = random.Random(seed), Stage()
    stage.around(CheckpointStore, "save", "checkpoint")
    stage.around(CheckpointStore, "save_best", "best")
    stage.around(story, "save_result", "result")
    model = model_folder(folder / "model", "gpt2", attn_pdrop=0.1, resid_pdrop=0.1, embd_pdrop=0.1)
    rows = rows_file(folder / "rows.jsonl")

    def settings(name: str) -> dict[str, Any]:
        return recipe(
            model, rows, folder / name,
            adapter__dropout=0.1, data__held_out=4, data__validation=4, train__steps=STEPS, train__eval_every=2,
            train__save_every=1,
            train__load_best_at_end=True, train__keep_checkpoints=1,
        )  # fmt: skip

    for name in ("warm-up", "whole"):
        started = time.monotonic()
        _, status = os.waitpid(forked(lambda name=name: attempt(settings(name), stage)), 0)
        assert status == 0
        seconds = time.monotonic() - started
    hits: list[str] = []
    killed: dict[str, Any] = {}
    number = 0
    while len(hits) < kills:
        number += 1
        made = settings(f"killed-{number}")
        for turn in range(5):
            wanted = draw.choice(STAGES) if turn % 2 else None
            hit = kill_somewhere(forked(lambda made=made: attempt(made, stage)), stage, draw, seconds, wanted)
            hits += [hit] if hit else []
            if Run(Path(made["out"])).is_done:
                break
        if not Run(Path(made["out"])).is_done:
            _, status = os.waitpid(forked(lambda made=made: attempt(made, stage)), 0)
            assert status == 0, f"{made['out']}: the last resume failed"
        killed[made["out"]] = outcome(Path(made["out"]))
    return {"whole": outcome(folder / "whole"), "killed": killed, "hits": hits, "seconds": seconds}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
