"""A script: runs studies that ship, at tiny scale on real data, in forked children: once whole, once killed at random.

    python study_kill_driver.py FOLDER DATA KILLS SEED

The heavy imports happen once, so that an attempt costs little more than its own work. Prints one JSON object: of each
study the report of the whole and of the killed one, without what times and memory they took, and where kills hit.
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
from tiny_studies import ON_REAL_DATA, local_study

from tunelab.answering import benchmark_responses as benchmarks  # noqa: F401  (imported before the children are)
from tunelab.answering import held_out_evaluation as evaluate  # noqa: F401  (imported before the children are)
from tunelab.config.study import Study
from tunelab.records.cells import known_cells
from tunelab.report.records import record_to_json
from tunelab.studies.run_study import run_study
from tunelab.studies.study_report import study_report
from tunelab.studies.tiny_scale import at_tiny_scale
from tunelab.training import finetune  # noqa: F401  (imported before the children are)

COSTS = (
    "peak_memory_bytes",
    "start_memory_bytes",
    "training_seconds",
    "evaluation_seconds",
    "tokens_per_second",
    "cost",
)


class Stage:
    """What a child does at the moment, in memory that parent and child share."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 200)

    def __call__(self, stage: str, done: int, total: int | None, detail: str = "") -> None:
        self.memory[:] = stage.encode()[:200].ljust(200)

    @property
    def name(self) -> str:
        return self.memory[:].decode(errors="replace").strip("\x00 ")


def killed_after(child: int, seconds: float) -> bool:
    """Kill the child after so long; False where it was done before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def found(study: Study, folder: Path) -> dict[str, Any]:
    """The report of a study, without its costs and without when it was made."""
    report = json.loads(json.dumps(record_to_json(study_report(folder))).replace(str(folder), "FOLDER"))
    del report["created"]
    for arm in report["arms"]:
        for cost in COSTS:
            arm[cost] = arm[cost] is not None
    failed = {cell.title: cell.error for cell in known_cells(study, folder) if cell.status != "done"}
    return {"report": report, "failed": failed}


def run(path: Path, folder: Path, data: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    folder.mkdir()
    study, _ = at_tiny_scale(local_study(path, folder, data), folder / "toys")
    stage, hits = Stage(), []
    began = time.monotonic()
    _, status = os.waitpid(forked(lambda: run_study(study, folder / "whole", progress=stage)), 0)
    assert status == 0, f"{path.stem}: the whole study failed"
    seconds = time.monotonic() - began
    while len(hits) < kills:
        child = forked(lambda: run_study(study, folder / "killed", progress=stage))
        if not killed_after(child, draw.uniform(0, seconds / kills)):
            break
        hits.append(stage.name)
    _, status = os.waitpid(forked(lambda: run_study(study, folder / "killed", progress=stage)), 0)
    assert status == 0, f"{path.stem}: the killed study did not go on"
    left = [str(one) for one in (folder / "killed").rglob(".*") if not one.name.endswith(".lock")]
    return {
        "whole": found(study, folder / "whole"),
        "killed": found(study, folder / "killed"),
        "hits": hits,
        "left": left,
        "seconds": seconds,
    }


def main(folder: Path, data: Path, kills: int, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    return {path.stem: run(path, folder / path.stem, data, kills, draw) for path in ON_REAL_DATA}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
