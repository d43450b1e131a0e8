"""A script: runs a searched study in forked children, once whole, and once killed in both of its waves.

    python search_kill_driver.py FOLDER KILLS SEED

Half of the kills hit tries, half the final trainings and evaluations, each after a random time there. Prints one JSON
object: both reports without what they cost, both choices.json, and where the kills hit.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from forked import forked
from study_files import searched_study, write_study_files
from study_kill_driver import Stage, found

from tunelab.config.study import Study
from tunelab.records.cells import CHOICES_FILE
from tunelab.studies.run_study import run_study

#: Seconds in a wave after which a child is killed, at most.
LONGEST = 0.5


def killed_in(child: int, stage: Stage, in_tries: bool, delay: float) -> bool:
    """Kill the child a while after it has begun a job of the wave; False where it was done before."""
    since = None
    while True:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        if since is None and stage.name and (": try" in stage.name) == in_tries:
            since = time.monotonic()
        if since is not None and time.monotonic() - since >= delay:
            os.kill(child, signal.SIGKILL)
            return os.WIFSIGNALED(os.waitpid(child, 0)[1])
        time.sleep(0.001)


def outcome(study: Study, folder: Path) -> dict[str, Any]:
    report = found(study, folder)
    report["report"]["rates_said"] = report["report"]["rates_said"][1:]  # the first says how long the tries took
    return {**report, "choices": json.loads((folder / CHOICES_FILE).read_text("utf-8"))}


def main(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    draw, stage, hits = random.Random(seed), Stage(), []
    study = searched_study(write_study_files(folder), seeds=[0, 1])
    _, status = os.waitpid(forked(lambda: run_study(study, folder / "whole", progress=stage)), 0)
    assert status == 0, "the whole study failed"
    for number in range(kills):
        stage.memory[:] = b" " * 200
        child = forked(lambda: run_study(study, folder / "killed", progress=stage))
        if killed_in(child, stage, number < kills // 2, draw.uniform(0, LONGEST)):
            hits.append(stage.name)
    _, status = os.waitpid(forked(lambda: run_study(study, folder / "killed", progress=stage)), 0)
    assert status == 0, "the killed study did not resume"
    return {"whole": outcome(study, folder / "whole"), "killed": outcome(study, folder / "killed"), "hits": hits}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
