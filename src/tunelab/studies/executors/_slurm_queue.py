"""What Slurm knows of jobs: which are in the queue (squeue), and how those that are not have ended (sacct)."""

from __future__ import annotations

import subprocess
from collections.abc import Collection

#: Seconds after which a controller that does not answer is asked again later.
ANSWER_S = 60


def in_queue(jobs: Collection[str]) -> dict[str, str] | None:
    """State of those jobs ("101_0", "102") that wait or run, by id; None where squeue gave no answer (it is busy)."""
    if not jobs:
        return {}
    arrays = ",".join(array_ids(jobs))
    try:
        asked = _ask("squeue", f"--jobs={arrays}", "--array", "--noheader", "--format=%i %T")
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode != 0:
        # A single job that the controller has forgotten, which it does some minutes after the end (MinJobAge).
        return {} if "Invalid job id" in asked.stderr else None
    found = dict(line.split()[:2] for line in asked.stdout.splitlines() if len(line.split()) > 1)
    return {job: state for job, state in found.items() if job in jobs}


def how_ended(job: str) -> str:
    """The state in which a job ended ("OUT_OF_MEMORY"), or why it is not known (a cluster without accounting)."""
    try:
        asked = _ask("sacct", f"--jobs={job}", "--allocations", "--noheader", "--parsable2", "--format=State")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"state not known ({error})"
    state = asked.stdout.strip().splitlines()
    return state[-1] if state else f"state not known ({asked.stderr.strip() or 'sacct has no record of it'})"


def array_ids(jobs: Collection[str]) -> list[str]:
    """Ids of the arrays that jobs belong to, each once, as `scancel` takes them."""
    return sorted({job.partition("_")[0] for job in jobs}, key=int)


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
