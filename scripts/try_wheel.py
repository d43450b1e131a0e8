"""Build the wheel, install it into an empty virtual environment, and run it there, away from the repository.

Usage: python scripts/try_wheel.py [--without-demo]     (needs a package index, as `make test` does)

The exit code is 1 if a command fails; what it printed is shown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

#: What a wheel is made of.
PARTS = ("src/", "setup.py", "pyproject.toml", "README.md", "LICENSE")

ASSETS = "tunelab/assets"


def tracked() -> list[str]:
    """The files that git tracks, in this repository's own paths."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def build(folder: Path) -> Path:
    """The wheel, built in a folder from a copy of what git tracks, by the setuptools of this environment.

    Raises:
        RuntimeError: the build failed.
    """
    for name in tracked():
        if name.startswith(PARTS):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / name)
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return folder / done.stdout.split()[-1]


def install(wheel: Path, environment: Path) -> Path:
    """Install a wheel and what it needs, in the tested versions; returns the environment's folder of programs."""
    venv.create(environment, with_pip=True)
    programs = environment / "bin"
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", REPOSITORY / "constraints.txt", wheel], check=True)
    return programs


def commands(assets: Path, with_demo: bool) -> list[list[str]]:
    """What is run, the quickest first; model and rows are the package's own."""
    model, rows = str(assets / "demo_base"), str(assets / "demo_instructions.jsonl")
    training = ["train", "--model", model, "--data", rows, "--size", "24", "train.steps=2", "data.held_out=4"]
    return [
        ["--version"],
        ["study", "list"],
        ["keys", "lr"],
        [*training, "--out", "runs/first"],
        ["generate", "runs/first", "--prompt", "Name a color.", "--max-new-tokens", "4"],
        ["push", "runs/first", "me/first", "--base", "owner/base", "--dry-run"],
        *([["demo"]] if with_demo else []),
    ]


def run(programs: Path, words: Sequence[str], folder: Path) -> bool:
    """Run one command in an empty folder, without the repository and without a network; whether it succeeded."""
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    started = time.monotonic()
    done = subprocess.run(
        [programs / "tunelab", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**own, "HF_HUB_OFFLINE": "1"},
    )
    print(f"{time.monotonic() - started:6.1f} s, exit {done.returncode}: tunelab {' '.join(words)}", flush=True)
    if done.returncode:
        print(done.stdout)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-demo", action="store_true")
    with_demo = not parser.parse_args().without_demo
    with tempfile.TemporaryDirectory(prefix="tunelab-wheel-") as temporary:
        root = Path(temporary)
        (root / "source").mkdir()
        (root / "empty").mkdir()
        started = time.monotonic()
        programs = install(build(root / "source"), root / "environment")
        print(f"{time.monotonic() - started:6.1f} s: built and installed", flush=True)
        (assets,) = (root / "environment").glob(f"lib/python*/site-packages/{ASSETS}")
        failed = [words for words in commands(assets, with_demo) if not run(programs, words, root / "empty")]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
