"""A Slurm cluster: each cell is a task of a job array, submitted by submitit, evaluations after their trainings.

The study's directory must be on a disk shared by the nodes; cells write their records there, and this process polls
them.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunelab.allowed_code import allowed_code
from tunelab.errors import Interrupted, RunError, UsageError
from tunelab.files import read_json, write_json_atomically
from tunelab.progress import Progress
from tunelab.records.cells import Cell, keep_cell, read_cell
from tunelab.studies.executors._executor import count_option, lost
from tunelab.studies.executors._slurm_job import RECORD_S, CellJob
from tunelab.studies.executors._slurm_queue import array_ids, how_ended, in_queue

OPTIONS = {
    "partition": "partition to submit to; default: the cluster's",
    "time": "time limit per job, minutes or H:MM:SS (default 4:00:00); a job that needs more is requeued and resumes",
    "gpus_per_node": "GPUs per job (default 1); 0 = CPU only",
    "cpus_per_task": "CPU cores per job; default: the cluster's",
    "mem_gb": "memory per job in GB; default: the cluster's",
    "account": "account to charge",
    "qos": "quality of service",
    "constraint": "required node features, for example a100",
    "array_parallelism": "maximum parallel jobs of an array; default: the cluster's limit",
    "setup": "shell command to run before Python, for example 'module load cuda'",
}

FOLDER, JOBS_FILE = "slurm", "jobs.json"

DEFAULT_MINUTES = 240
#: How often a cell that reaches its time limit is requeued; preemptions are not counted (submitit).
MOST_TIMEOUTS = 20
#: Seconds before the time limit at which a job is warned, so that a training can save; less for short limits.
WARNING_S = 180
#: Seconds between two reads of the records, and between two queries to Slurm, which is shared.
LOOK_S, ASK_S = 5.0, 30.0


def run_cells(folder: Path, cells: Sequence[Cell], options: Mapping[str, str], progress: Progress) -> None:
    """Submit the cells that are not in the queue yet, and wait until every cell has a record.

    A job that ends without a record (out of memory, node failure, cancelled) is recorded as failed, with Slurm's state
    and the path of its log. `slurm/jobs.json` maps cells to jobs; submitit's files and logs are next to it.

    Raises:
        UsageError: an option is invalid, submitit or Slurm's commands are missing, or sbatch refuses.
        RunError: earlier jobs may still run, and Slurm does not answer.
        Interrupted: Ctrl-C; it ends the waiting, and the jobs keep running.
    """
    parameters = sbatch_parameters(options)
    _check_installed()
    folder = folder.resolve()  # a job may start in another directory
    jobs = _still_in_queue(folder, cells)
    try:
        _submit(folder, cells, parameters, jobs)
        _wait(folder, cells, jobs, progress)
    except KeyboardInterrupt:
        if not jobs:
            raise
        arrays = array_ids([jobs[cell.key] for cell in cells if cell.key in jobs and not _recorded(folder, cell)])
        raise Interrupted(
            f"stopped waiting; the jobs keep running: {', '.join(arrays)}",
            f"`scancel {' '.join(arrays)}` stops them; the same command waits for them again; "
            f"`tunelab report {shlex.quote(str(folder))}` shows what is done",
        ) from None


def sbatch_parameters(options: Mapping[str, str]) -> dict[str, Any]:
    """The executor's options as parameters of submitit's SlurmExecutor.

    Raises:
        UsageError: an option's value is invalid.
    """
    minutes = _minutes(options.get("time", str(DEFAULT_MINUTES)))
    parameters: dict[str, Any] = {
        "job_name": "tunelab",
        "time": minutes,
        "signal_delay_s": min(WARNING_S, minutes * 15),
        "stderr_to_stdout": True,
        # Also on clusters that do not requeue jobs by default.
        "additional_parameters": {"requeue": True},
    }
    for name in ("partition", "account", "qos", "constraint", "setup"):
        if name in options:
            if not options[name].strip():
                raise UsageError(f"option {name}= is empty", f"{name}: {OPTIONS[name]}; omit it for the default")
            parameters[name] = [options[name]] if name == "setup" else options[name]
    for name in ("cpus_per_task", "array_parallelism"):
        if name in options:
            parameters[name] = count_option(options, name, 8)
    if options.get("gpus_per_node") != "0":
        parameters["gpus_per_node"] = count_option(options, "gpus_per_node", 1)
    if "mem_gb" in options:
        parameters["mem"] = f"{_megabytes(options['mem_gb'])}MB"
    return parameters


def _minutes(value: str) -> int:
    """A time limit in minutes, rounded up."""
    if value.isdecimal() and int(value) > 0:
        return int(value)
    found = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", value)
    seconds = 0
    if found:
        hours, minutes, rest = map(int, found.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if not seconds:
        raise UsageError(f"option time={value}: expected minutes or H:MM:SS", "for example time=90 or time=1:30:00")
    return math.ceil(seconds / 60)


def _megabytes(value: str) -> int:
    if not re.fullmatch(r"\d+(\.\d+)?", value) or not (megabytes := round(1024 * float(value))):
        raise UsageError(f"option mem_gb={value}: expected a number of GB above 0", "for example mem_gb=32")
    return megabytes


def _check_installed() -> None:
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            "the Slurm executor needs submitit, which is not installed", 'pip install "tunelab[slurm]"'
        ) from error
    if absent := [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]:
        raise UsageError(
            f"this machine has no {absent[0]}: it is not a login node of a Slurm cluster",
            "run the command on one, or omit --executor slurm to run the jobs here",
        )


def _still_in_queue(folder: Path, cells: Sequence[Cell]) -> dict[str, str]:
    """Pending or running jobs of an earlier call: cell key -> job id."""
    keys = {cell.key for cell in cells}
    earlier = {key: job for key, job in _known_jobs(folder).items() if key in keys}
    queue = in_queue(set(earlier.values()))
    if queue is None:
        raise RunError(
            f"squeue does not say whether earlier jobs of this study still run: {', '.join(sorted(earlier.values()))}",
            "try again when Slurm answers: a job must not run twice in parallel",
        )
    return {key: job for key, job in earlier.items() if job in queue}


def _known_jobs(folder: Path) -> dict[str, str]:
    path = folder / FOLDER / JOBS_FILE
    return read_json(path) if path.exists() else {}


def _submit(folder: Path, cells: Sequence[Cell], parameters: Mapping[str, Any], jobs: dict[str, str]) -> None:
    """Submit the cells without a job in two arrays, and add to `jobs`: those that can start, then those that wait."""
    trainings = {cell.key for cell in cells if not cell.benchmark}
    new = [cell for cell in cells if cell.key not in jobs]
    at_once = [cell for cell in new if cell.needs not in trainings]
    _submit_array(folder, sorted(at_once, key=lambda cell: bool(cell.benchmark)), parameters, jobs)
    later = [cell for cell in new if cell.needs in trainings]
    # afterany: the evaluation also runs after a failed training, and run_cell records why there is nothing to evaluate.
    after = dict.fromkeys(jobs[cell.needs] for cell in later)
    _submit_array(folder, later, {**parameters, "dependency": ":".join(["afterany", *after])}, jobs)


def _submit_array(folder: Path, cells: Sequence[Cell], parameters: Mapping[str, Any], jobs: dict[str, str]) -> None:
    if not cells:
        return
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = submitit.SlurmExecutor(folder / FOLDER, max_num_timeout=MOST_TIMEOUTS)
    executor.update_parameters(**parameters)
    for cell in cells:
        keep_cell(folder, replace(cell, status="waiting", error=""))  # from now on, only the job changes the record
    try:
        submitted = executor.submit_array(
            [CellJob(str(folder), cell.key, cell.needs, allowed_code()) for cell in cells]
        )
    except (FailedJobError, FailedSubmissionError) as error:
        for cell in cells:
            keep_cell(folder, cell)
        raise UsageError(
            f"sbatch refused the jobs: {error}", "`sinfo` lists partitions and their limits; see --option"
        ) from error
    jobs |= {cell.key: job.job_id for cell, job in zip(cells, submitted, strict=True)}
    write_json_atomically(folder / FOLDER / JOBS_FILE, _known_jobs(folder) | jobs)


def _wait(folder: Path, cells: Sequence[Cell], jobs: Mapping[str, str], progress: Progress) -> None:
    """Wait until every cell has a record, its own or that of a job that ended without one."""
    asked, detail = -math.inf, ""
    gone: dict[str, float] = {}  # cell key -> when its job was first missing from the queue
    while True:
        waiting = [cell for cell in cells if not _recorded(folder, cell)]
        if waiting and time.monotonic() - asked >= ASK_S:
            asked = time.monotonic()
            queue = in_queue({jobs[cell.key] for cell in waiting})
            if queue is not None:
                detail = _counted(queue.values())
                gone = {cell.key: gone.get(cell.key, asked) for cell in waiting if jobs[cell.key] not in queue}
        progress(f"{len(cells)} jobs on Slurm", len(cells) - len(waiting), len(cells), detail if waiting else "")
        if not waiting:
            return
        for cell in waiting:
            overdue = cell.key in gone and time.monotonic() - gone[cell.key] >= RECORD_S
            if overdue and not _recorded(folder, cell):
                _record_lost(folder, cell, jobs[cell.key])
        time.sleep(LOOK_S)


def _record_lost(folder: Path, cell: Cell, job: str) -> None:
    from submitit.core.utils import JobPaths

    log = JobPaths(folder / FOLDER, job).stdout
    lost(folder, cell, f"its job {job} ended without a record; Slurm says {how_ended(job)}; its log: {log}")


def _recorded(folder: Path, cell: Cell) -> bool:
    record = read_cell(folder, cell.key)
    return record is not None and record.status != "waiting"


def _counted(states: Collection[str]) -> str:
    """States with their counts: "2 running, 1 pending"."""
    names = sorted(set(states), reverse=True)
    return ", ".join(f"{list(states).count(name)} {name.lower()}" for name in names)
