"""Versions and machine, stored with every result."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tunelab.cpu import memory_bytes

LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "safetensors", "numpy", "datasets")


def environment() -> dict[str, Any]:
    """Versions and machine, stored with every result. Imports nothing that is slow to import."""
    return {
        "tunelab": _version("tunelab"),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "source": source_state(),
    }


@cache
def source_state() -> dict[str, Any] | None:
    """Commit, and whether files differ from it, if tunelab runs from its own git checkout; otherwise None.

    Of the first call in a process: a later commit is not the code that was loaded.
    """
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not git("ls-files", "--error-unmatch", str(Path(__file__))):
        return None
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
