"""Slurm's commands on one machine, as far as submitit and the executor use them; run as a script, never imported.

    python slurm_stand_in.py COMMAND ...      # sbatch, srun, squeue, sacct, scancel, scontrol

$SLURM_STAND_IN is a directory with a file for each thing known of a job ("101_0.state"). Jobs run one after another as
processes, arrays beside each other; with a file "hold" in the directory they stay pending. A job that was killed by
signal 9 ends as OUT_OF_MEMORY, as with Slurm's cgroups.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

PLACE = Path(os.environ["SLURM_STAND_IN"])
QUEUED = ("PENDING", "RUNNING")


def put(job: str, what: str, value: str) -> None:
    new = PLACE / f"{job}.{what}.new"
    new.write_text(value)
    new.replace(PLACE / f"{job}.{what}")


def get(job: str, what: str) -> str:
    path = PLACE / f"{job}.{what}"
    return path.read_text() if path.exists() else ""


def states() -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted(PLACE.glob("*.state"))}


def flags(script: str) -> dict[str, str]:
    """The #SBATCH lines of a script: name -> value."""
    words = [shlex.split(line)[1] for line in Path(script).read_text().splitlines() if line.startswith("#SBATCH ")]
    return {word[2:].partition("=")[0]: word.partition("=")[2] for word in words}


def sbatch(script: str) -> None:
    asked = flags(script)
    if asked.get("partition") == "none":
        sys.exit("sbatch: error: invalid partition specified: none")
    number = str(101 + len(list(PLACE.glob("*.script"))))
    last = asked["array"].partition("%")[0].partition("-")[2] if "array" in asked else ""
    jobs = [f"{number}_{task}" for task in range(int(last) + 1)] if last else [number]
    put(number, "script", Path(script).read_text())
    for job in jobs:
        put(job, "state", "PENDING")
    if not (PLACE / "hold").exists():
        command = [sys.executable, __file__, "controller", *jobs]
        with open(os.devnull, "r+") as nothing:
            subprocess.Popen(command, start_new_session=True, stdin=nothing, stdout=nothing, stderr=nothing)
    print(f"Submitted batch job {number}")


def controller(*jobs: str) -> None:
    script = str(PLACE / f"{jobs[0].partition('_')[0]}.script")
    for before in flags(script).get("dependency", "").split(":")[1:]:
        while get(before, "state") in QUEUED:
            time.sleep(0.05)
    for job in jobs:
        put(job, "requeue", "yes")
        while get(job, "requeue"):
            (PLACE / f"{job}.requeue").unlink()
            run_job(job, script)


def run_job(job: str, script: str) -> None:
    number, _, task = job.partition("_")
    more = {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0"}
    more |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task} if task else {}
    put(job, "state", "RUNNING")
    put(job, "runs", get(job, "runs") + "|")
    log = flags(script)["output"].replace("%A", number).replace("%a", task).replace("%j", number)
    with open(log, "a") as file:
        code = subprocess.run(["bash", script], env=os.environ | more, stdout=file, stderr=file).returncode
    ended = {0: "COMPLETED", -9: "OUT_OF_MEMORY"}.get(code, "FAILED")
    put(job, "state", "PENDING" if get(job, "requeue") else ended)


def srun(*words: str) -> None:
    number, task = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID", "")
    log = words[words.index("--output") + 1].replace("%A", number).replace("%a", task).replace("%j", number)
    file = os.open(log.replace("%t", "0"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    put(f"{number}_{task}" if task else number, "pid", str(os.getpid()))
    command = words[words.index("--output") + 2 :]
    os.execvpe(command[0], command, os.environ | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"})


def squeue(*words: str) -> None:
    (asked,) = (word.partition("=")[2].split(",") for word in words if word.startswith("--jobs="))
    found = {job: state for job, state in states().items() if job.partition("_")[0] in asked and state in QUEUED}
    if not found and len(asked) == 1:
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    for job, state in found.items():
        print(job, state)


def sacct(*words: str) -> None:
    (job,) = (word.partition("=")[2] for word in words if word.startswith("--jobs="))
    print(get(job, "state"))


def scancel(*numbers: str) -> None:
    for job in states():
        if job.partition("_")[0] in numbers:
            put(job, "state", "CANCELLED by 1000")


def scontrol(what: str, job: str) -> None:
    put(job, what, "yes")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
