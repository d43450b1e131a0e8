"""Builds device_guard.cpp with g++, once for each build of torch, and loads it into a process."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("device_guard.cpp")
BUILT = SOURCE.parents[2] / "build" / "pretend_gpu"

#: The sources use interfaces of torch that no release promises to keep: built and tried with these.
VERSIONS = ("2.13",)


def why_not() -> str:
    """Why there is no pretend GPU here; "" = there is one."""
    if torch.version.cuda is not None:
        return "torch is built for CUDA: the pretend GPU is for builds without it"
    version = ".".join(torch.__version__.split(".")[:2])
    if version not in VERSIONS:
        return f"the pretend GPU is written for torch {', '.join(VERSIONS)}, not {version}"
    return "" if shutil.which("g++") else "the pretend GPU needs g++, which is not installed here"


@cache
def library() -> Path:
    """The built file: kept in build/ between sessions, named by the source, torch and the compiler."""
    compiler = subprocess.run(["g++", "-dumpfullversion", "-dumpmachine"], capture_output=True, text=True, check=True)
    facts = (SOURCE.read_text(encoding="utf-8"), torch.__version__, torch.__file__, compiler.stdout)
    target = BUILT / f"device_guard-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.so"
    if target.exists():
        return target
    BUILT.mkdir(parents=True, exist_ok=True)
    of_torch = Path(torch.__file__).parent
    descriptor, part = tempfile.mkstemp(dir=BUILT, suffix=".so")
    os.close(descriptor)
    includes = (of_torch / "include", of_torch / "include" / "torch" / "csrc" / "api" / "include")
    subprocess.run(
        ["g++", "-std=c++20", "-O0", "-w", "-shared", "-fPIC", *(f"-I{folder}" for folder in includes), str(SOURCE),
         "-o", part, f"-L{of_torch / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{of_torch / 'lib'}"],
        check=True,
    )  # fmt: skip
    os.replace(part, target)  # whole, whichever worker is first
    return target


def load() -> None:
    """Give this process a device guard for CUDA. It cannot be taken out again."""
    ctypes.CDLL(str(library()))
