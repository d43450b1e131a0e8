"""Query Slurm about jobs: which are in the queue (squeue), and how the others ended (sacct)."""

from __future__ import annotations

import subprocess
from collections.abc import Collection

#: Timeout in seconds of a query; the caller tries again later.
ANSWER_S = 60


def in_queue(jobs: Collection[str]) -> dict[str, str] | None:
    """State of the jobs ("101_0", "102") that are pending or running, by id; None if squeue did not answer (busy)."""
    if not jobs:
        return {}
    arrays = ",".join(array_ids(jobs))
    try:
        asked = _ask("squeue", f"--jobs={arrays}", "--array", "--noheader", "--format=%i %T")
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode != 0:
        # A single job that the controller no longer knows, some minutes after its end (MinJobAge).
        return {} if "Invalid job id" in asked.stderr else None
    found = dict(line.split()[:2] for line in asked.stdout.splitlines() if len(line.split()) > 1)
    return {job: state for job, state in found.items() if job in jobs}


def how_ended(job: str) -> str:
    """The final state of a job ("OUT_OF_MEMORY"), or why it is unknown (a cluster without accounting)."""
    try:
        asked = _ask("sacct", f"--jobs={job}", "--allocations", "--noheader", "--parsable2", "--format=State")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"state unknown ({error})"
    state = asked.stdout.strip().splitlines()
    return state[-1] if state else f"state unknown ({asked.stderr.strip() or 'sacct has no record of it'})"


def array_ids(jobs: Collection[str]) -> list[str]:
    """Unique ids of the arrays that the jobs belong to, for `scancel`."""
    return sorted({job.partition("_")[0] for job in jobs}, key=int)


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
