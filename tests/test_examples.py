"""Every script in examples/ runs as its page says, with few steps, on the model and rows that ship with the package."""

from __future__ import annotations

import runpy
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


LONG = ("merge_and_load.py", "finetune_and_evaluate.py")


@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in SAID]
)
def test_it_runs_and_says_what_it_found(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, said = SAID[script]
    assert len((EXAMPLES / script).read_text(encoding="utf-8").splitlines()) < 60
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLES / script), str(tmp_path / "out"), *arguments])
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as the interpreter puts a script's folder first
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    printed = capsys.readouterr().out
    assert said in printed
    if script == "own_rows.py":
        assert "rows.jsonl row 3: no assistant turn" in printed
