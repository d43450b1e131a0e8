"""Every script in examples/ runs as its page says, with few steps, on the model and rows that ship with the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
#: script -> arguments behind the directory, and what it must say.
SAID = {
    "finetune_and_evaluate.py": (["3"], "completion loss changes by -"),
    "own_rows.py": ([], "learned: [' Short.<|endoftext|>', ' Warm.<|endoftext|>']"),
    "custom_source.py": (["12"], "at step 12"),
    "merge_and_load.py": (["3"], "nats (KL) from base + adapter"),
}


def test_every_example_is_here() -> None:
    modules = {"riddles.py"}  # a source that custom_source.py trains with
    assert {path.name for path in EXAMPLES.glob("*.py")} == SAID.keys() | modules


@pytest.mark.parametrize("script", SAID)
def test_it_runs_and_says_what_it_found(script: str, tmp_path: Path) -> None:
    arguments, said = SAID[script]
    lines = (EXAMPLES / script).read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), str(tmp_path / "out"), *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "TUNELAB_CACHE": str(tmp_path / "cache")},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert said in done.stdout
    if script == "own_rows.py":
        assert "rows.jsonl row 3: no assistant turn" in done.stdout
