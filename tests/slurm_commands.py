"""Slurm's commands as programs of this machine (studies/executors/slurm_stand_in.py)."""

from __future__ import annotations

import sys
from pathlib import Path

STAND_IN = Path(__file__).parent / "studies" / "executors" / "slurm_stand_in.py"
COMMANDS = ("sbatch", "srun", "squeue", "sacct", "scancel", "scontrol")


def write_commands(programs: Path, place: Path) -> Path:
    """Write them into a folder for PATH, and make the directory for $SLURM_STAND_IN, which is returned."""
    programs.mkdir()
    place.mkdir()
    for name in COMMANDS:
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "{STAND_IN}" {name} "$@"\n')
        (programs / name).chmod(0o755)
    return place
