"""A script: runs a searched study with budgets in forked children: once whole here, once killed in both of its waves.

    python search_kill_driver.py FOLDER EXECUTOR KILLS SEED

Half of the kills hit while rates are tried, half during the final trainings and evaluations, each after a random time
there, or as soon as no further job of them waits. With an executor whose jobs are processes of their own (ray, slurm),
every other kill hits a job, the others the process that runs the study; here, they are one. Slurm's commands are on
PATH. Prints one JSON object: both reports without what they cost, both choices.json, and what was killed where.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
from forked import forked
from study_files import searched_study, write_study_files
from study_kill_driver import found

from tunelab.config.study import Study
from tunelab.records.cells import CHOICES_FILE, STUDY_FILE, read_study
from tunelab.studies.executors import _slurm_job, slurm
from tunelab.studies.run_study import run_study

#: Seconds after the beginning of a job until a kill, at most; a process of its own first imports torch.
LONGEST = {"here": 0.4, "ray": 6.0, "slurm": 6.0}
#: Of an attempt: what a machine that does other work may need.
SECONDS = 600.0
OPTIONS = {"here": {}, "ray": {"address": "local", "max_retries": "9"}, "slurm": {"gpus_per_node": "0"}}


def budget_search(files: Path) -> Study:
    """Three tries of LoRA's rate, shared by NF4; two budgets of both, compared at the largest and at equal tokens."""
    recipe = searched_study(files).recipe
    del recipe["train"]["steps"]
    question = {"ask": "As good?", "is_as_good": "nf4", "as": "lora", "on": "held-out", "within": 0.5}
    questions = [question, {**question, "ask": "At equal tokens?", "match": "tokens"}]
    arms = {"lora": {}, "nf4": {"recipe": {"precision": "nf4"}}}
    return searched_study(files, recipe=recipe, arms=arms, budgets={"train.steps": [2, 4]}, questions=questions)


def jobs_left(folder: Path, in_tries: bool) -> int | None:
    """How many jobs of a wave are not done; None where the other wave's turn is, or nothing was planned yet."""
    if not (folder / STUDY_FILE).exists():
        return None
    left = [cell for cell in read_study(folder)[1] if cell.status != "done"]
    tries = sum(cell.lr is not None for cell in left)
    return (tries or None) if in_tries else (None if tries else len(left))


def working(executor: str, child: int) -> list[int]:
    """Processes that run a job now: the study's own while it has a run open, or those of its executor."""
    if executor == "here":
        return [child] if any("/runs/" in one or "/evaluations/" in one for one in open_files(child)) else []
    if executor == "ray":
        return ray_tasks(child)
    return [int(one.name) for one in Path("/proc").glob("[0-9]*") if is_job(one)]


def ray_tasks(child: int) -> list[int]:
    """Workers of the study's own local cluster that run a job, whose name Ray makes their title.

    Ray's own agents have titles of one word, and take the cluster with them.
    """
    with suppress(psutil.NoSuchProcess):
        titles = {one.pid: " ".join(one.cmdline()) for one in psutil.Process(child).children(recursive=True)}
        return [number for number, title in titles.items() if title.startswith("ray::") and ": " in title]
    return []


def open_files(process: int) -> list[str]:
    try:
        return [os.readlink(one) for one in Path(f"/proc/{process}/fd").iterdir()]
    except OSError:  # it has ended
        return []


def is_job(process: Path) -> bool:
    """Whether a process is a job of this script's study, which alone has its cache."""
    try:
        command = (process / "cmdline").read_bytes()
        if b"submitit.core._submit" not in command:
            return False
        return f"TUNELAB_CACHE={os.environ['TUNELAB_CACHE']}".encode() in (process / "environ").read_bytes()
    except OSError:  # it has ended, or is another user's
        return False


def killed_in(executor: str, child: int, folder: Path, in_tries: bool, kills_job: bool, delay: float) -> str:
    """Kill a job or the study's process a while after a job of the wave has begun; "" where the study was done before.

    The end of the wave's last jobs is not waited for: it could be the study's. A study whose job was killed goes on.
    """
    since, deadline = None, time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if is_over(child):
            return ""
        jobs, left = working(executor, child), jobs_left(folder, in_tries)
        if since is None and jobs and left:
            since = time.monotonic()
        is_last = left is not None and left <= max(1, len(jobs))
        late = since is not None and (time.monotonic() - since >= delay or is_last)
        if late and left and (jobs or not kills_job):
            os.kill(jobs[0] if kills_job else child, signal.SIGKILL)
            if not kills_job:
                os.waitpid(child, 0)
            return f"{'job' if kills_job else 'study'} in {'tries' if in_tries else 'final trainings'}"
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    raise AssertionError(f"no job of the wave began in {SECONDS:.0f} seconds")


def is_over(child: int) -> bool:
    """Whether a study's process has ended, and without an error."""
    ended, status = os.waitpid(child, os.WNOHANG)
    assert not status, "the study ended in an error"
    return bool(ended)


def outcome(study: Study, folder: Path) -> dict[str, Any]:
    report = found(study, folder)
    report["report"]["rates_said"] = report["report"]["rates_said"][1:]  # the first says how long the tries took
    for point in report["report"]["budgets"]["points"]:
        del point["seconds"]
    return {**report, "choices": json.loads((folder / CHOICES_FILE).read_text("utf-8"))}


def main(folder: Path, executor: str, kills: int, seed: int) -> dict[str, Any]:
    draw, hits = random.Random(seed), []
    study = budget_search(write_study_files(folder))
    for name, seconds in (("LOOK_S", 0.1), ("ASK_S", 0.2), ("RECORD_S", 2.0)):
        setattr(slurm, name, seconds)
    _slurm_job.RECORD_S = 2.0
    _, status = os.waitpid(forked(lambda: run_study(study, folder / "whole")), 0)
    assert status == 0, "the whole study failed"

    def attempt() -> int:
        options = OPTIONS[executor]
        return forked(lambda: run_study(study, folder / "killed", executor=executor, options=options))

    child = attempt()
    for number in range(kills):
        kills_job = executor != "here" and number % 2 == 0
        delay = draw.uniform(0, LONGEST[executor])
        hit = killed_in(executor, child, folder / "killed", number < kills // 2, kills_job, delay)
        hits.append(hit)
        child = child if hit.startswith("job") else attempt()
    os.waitpid(child, 0)
    _, status = os.waitpid(attempt(), 0)
    assert status == 0, "the killed study did not resume"
    return {"whole": outcome(study, folder / "whole"), "killed": outcome(study, folder / "killed"), "hits": hits}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
