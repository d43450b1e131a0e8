"""Full, LoRA and QLoRA fine-tuning of a small bundled model: no network, no GPU, a few minutes on two CPU cores.

Examples:
  tunelab demo
  tunelab demo --out runs/my-demo

It is a study (tunelab study): --out with the directory of an interrupted demo resumes it. The exit code is 1 if a job
failed. Measured times: benchmarks/results.
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import command, progress_bar, quick_imports, say
from tunelab.errors import Interrupted
from tunelab.progress import Progress
from tunelab.units import format_duration

if TYPE_CHECKING:
    from tunelab.records.cells import Cell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--out."""
    parser.add_argument("--out", metavar="DIR", help="study directory (default: runs/demo-N, the first unused N)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo study, show its report, and suggest what to try next."""
    start = time.monotonic()
    out = Path(arguments.out) if arguments.out else _free_directory()
    resume = command("demo", "--out", out)
    with quick_imports():
        from tunelab.cli.report import report_study
        from tunelab.studies.demo import demo_study
        from tunelab.studies.run_study import run_study

    study = demo_study()
    held_out = study.recipe["data"]["held_out"]
    say(
        f"Fine-tuning a small base model (2.2 M parameters) on {study.recipe['data']['size'] - held_out} instructions: "
        "full fine-tuning,\n"
        f"LoRA, and LoRA over a 4-bit base (NF4), each {len(study.seeds)} times ...\n"
        f"If you stop it, `{resume}` resumes.\n"
    )
    try:
        with progress_bar() as progress:
            cells = run_study(study, out, options={"workers": "1"}, progress=_in_short(progress))
    except Interrupted as stop:
        raise Interrupted(stop.message, f"resume with: {resume}") from None
    report_study(out, brief=True)
    if failed := [cell for cell in cells if cell.status == "failed"]:
        for cell in failed:
            say(f"failed: {cell.title}: {cell.error}")
        return 1
    say(f"± is one standard error over {held_out} held-out rows (not trained on).")
    say(f"\nDone in {format_duration(time.monotonic() - start)}. Next:")
    _say_next(out, cells)
    return 0


def _say_next(out: Path, cells: Sequence[Cell]) -> None:
    """Commands to try on the LoRA arm's first run, each below what it shows."""
    run, evaluation = [str(out / cell.folder) for cell in cells if cell.arm == "lora"][:2]
    steps = {
        "what the model sees in training": command("inspect", f"{run}/recipe.yaml", "--rows", 2),
        "its answers": shlex.join(["head", "-n", "3", f"{evaluation}/responses.jsonl"]),
        "chat with it": command("chat", run),
        "merge it into a plain transformers checkpoint": command("merge", run, "--out", f"{out}/merged"),
        "the same on a real model": "tunelab train --model distilgpt2 --data alpaca --size 800 --method lora",
    }
    for what, line in steps.items():
        say(f"  # {what}\n  {line}")


def _in_short(progress: Progress) -> Progress:
    """One bar per arm and kind of work ("lora: training"): a study's full stage names do not fit into 80 columns."""

    def report(stage: str, done: int, total: int | None, detail: str = "") -> None:
        _, arm, *_, work = stage.split(": ")  # "3/9: lora, seed 0: held-out: tuned: scoring held-out rows"
        if work.startswith(("training", "scoring", "answering")):  # reading and tokenizing take no time here
            progress(f"{arm.partition(',')[0]}: {work.partition(' ')[0]}", done, total, detail)

    return report


def _free_directory() -> Path:
    number = 1
    while (path := Path("runs") / f"demo-{number}").exists():
        number += 1
    return path
