"""Shell completion: verbs, flags, recipe keys and values, runs, studies; it never imports torch."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from verbs import Bench

from tunelab.cli import main as cli


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """What a shell would be given for a line, with the cursor at its end."""
    monkeypatch.chdir(tmp_path)

    def complete(line: str) -> list[str]:
        for name, value in shell(line).items():
            monkeypatch.setenv(name, value)
        written = io.StringIO()
        # argcomplete ends the process; here it ends the function.
        with pytest.raises(SystemExit):
            cli.complete_line(output_stream=written, exit_method=sys.exit)
        return written.getvalue().split("\v")

    return complete


def shell(line: str) -> dict[str, str]:
    """The variables that the shell's completion function sets."""
    known = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\v", "_ARGCOMPLETE_SHELL": "bash", "COMP_TYPE": "9"}
    known["_ARGCOMPLETE_COMP_WORDBREAKS"] = " \t\n\"'><;|&("
    return {**known, "COMP_LINE": line, "COMP_POINT": str(len(line.encode()))}


def test_verbs_and_flags(completed) -> None:  # type: ignore[no-untyped-def]
    assert {"train", "eval", "keys", "env"} <= {word.strip() for word in completed("tunelab ")}
    assert [word.strip() for word in completed("tunelab pre")] == ["prepare"]
    assert {"--lr", "--model"} <= {word.strip() for word in completed("tunelab train --")}
    assert [word.strip() for word in completed("tunelab export run --t")] == ["--to"]
    assert {word.strip() for word in completed("tunelab export run --to ")} >= {"hf", "gguf"}


def test_keys_and_values_also_after_flags(completed) -> None:  # type: ignore[no-untyped-def]
    assert "train.lr=" in completed("tunelab train train.")
    assert completed("tunelab train --method lora recipe.yaml train.sch") == ["train.schedule="]
    values = [word.strip() for word in completed("tunelab train train.schedule=")]
    assert values == ["train.schedule=cosine", "train.schedule=linear", "train.schedule=constant"]
    assert {word.strip() for word in completed("tunelab train --method ")} == {"lora", "full"}
    assert {word.strip() for word in completed("tunelab train --dtype b")} == {"bf16"}
    assert "nf4" in [word.strip() for word in completed("tunelab train --precision ")]


def test_runs_studies_benchmarks_and_sources(completed, bench: Bench) -> None:  # type: ignore[no-untyped-def]
    Path("runs/deep").mkdir(parents=True)
    Path("runs/first").mkdir()
    shutil.copy(bench.lora / "recipe.yaml", "runs/first/recipe.yaml")
    Path("rows.jsonl").touch()
    Path("mine.yaml").touch()
    assert completed("tunelab chat ru") == ["runs/"]
    assert [word.strip() for word in completed("tunelab chat runs/")] == ["runs/deep/", "runs/first"]
    assert {"runs/first", "runs/deep/"} <= {word.strip() for word in completed("tunelab eval runs/")}
    assert "runs/first" in [word.strip() for word in completed("tunelab train --resume runs/f")]
    assert {"phi3-alpaca-cleaned", "mine.yaml"} <= {word.strip() for word in completed("tunelab study run ")}
    assert {"alpaca", "rows.jsonl"} <= {word.strip() for word in completed("tunelab train --data ")}
    found = [word.strip() for word in completed("tunelab eval runs/first --benchmarks mmlu,")]
    assert "mmlu,ifeval" in found and "mmlu,mmlu" not in found
    assert {"slurm", "ray"} <= {word.strip() for word in completed("tunelab study run s --executor ")}


def test_the_installed_command_answers_without_torch(tmp_path: Path) -> None:
    out = tmp_path / "completions"
    code = "import sys; from tunelab.cli import main as cli\n"
    code += "def leave(code): print('torch' in sys.modules); sys.exit(code)\n"
    code += f"cli.complete_line(output_stream=open({str(out)!r}, 'w'), exit_method=leave)"
    environment = {**os.environ, **shell("tunelab train tr")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0 and done.stdout == "False\n", done.stderr
    assert "train.lr=" in out.read_text().split("\v")
    assert "PYTHON_ARGCOMPLETE_OK" in Path(cli.__file__).read_text(encoding="utf-8")[:1024]
