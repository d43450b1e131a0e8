"""Shell completion: verbs, flags, recipe keys and values, runs, studies; it never imports torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunelab.cli import main as cli

LINES = {
    "verbs": "tunelab ",
    "a verb": "tunelab pre",
    "flags": "tunelab train --",
    "a flag": "tunelab export run --t",
    "choices": "tunelab export run --to ",
    "keys": "tunelab train train.",
    "a key after flags": "tunelab train --method lora recipe.yaml train.sch",
    "values of a key": "tunelab train train.schedule=",
    "values of a flag": "tunelab train --method ",
    "a value of a flag": "tunelab train --dtype b",
    "formats": "tunelab train --precision ",
    "directories": "tunelab chat ru",
    "runs": "tunelab chat runs/",
    "runs to evaluate": "tunelab eval runs/",
    "a run to resume": "tunelab train --resume runs/f",
    "studies": "tunelab study run ",
    "sources": "tunelab train --data ",
    "benchmarks": "tunelab eval runs/first --benchmarks mmlu,",
    "methods": "tunelab study init --compare full,",
    "executors": "tunelab study run s --executor ",
}

#: argcomplete talks to the shell through file descriptors of its own, so it gets a process of its own.
DRIVER = """
import io, json, os, sys
from tunelab.cli import main as cli
found = {}
for name, line in json.loads(sys.argv[1]).items():
    os.environ.update(COMP_LINE=line, COMP_POINT=str(len(line)))
    written = io.StringIO()
    try:
        cli.complete_line(output_stream=written, exit_method=sys.exit)
    except SystemExit:
        found[name] = [word.strip() for word in written.getvalue().split("|")]
print(json.dumps({"torch": "torch" in sys.modules, **found}))
"""


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What a shell is given for each line, with the cursor at its end."""
    folder = tmp_path_factory.mktemp("completion")
    for run in ("runs/deep", "runs/first"):
        (folder / run).mkdir(parents=True)
    for file in ("runs/first/recipe.yaml", "rows.jsonl", "mine.yaml"):
        (folder / file).touch()
    shell = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "|", "_ARGCOMPLETE_SHELL": "bash", "COMP_TYPE": "9"}
    shell["_ARGCOMPLETE_COMP_WORDBREAKS"] = " \t\n\"'><;|&("
    command = [sys.executable, "-c", DRIVER, json.dumps(LINES)]
    environment = {**os.environ, **shell}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_verbs_and_flags(completed: dict[str, list[str]]) -> None:
    assert {"train", "eval", "keys", "env"} <= set(completed["verbs"]) and "-h" not in completed["verbs"]
    assert completed["a verb"] == ["prepare"]
    assert {"--lr", "--model"} <= set(completed["flags"])
    assert completed["a flag"] == ["--to"] and {"hf", "gguf"} <= set(completed["choices"])


def test_keys_and_values_also_after_flags(completed: dict[str, list[str]]) -> None:
    assert "train.lr=" in completed["keys"] and "train.lr" not in completed["keys"]
    assert completed["a key after flags"] == ["train.schedule="]
    assert completed["values of a key"] == [f"train.schedule={one}" for one in ("cosine", "linear", "constant")]
    assert completed["values of a flag"] == ["lora", "full"] and completed["a value of a flag"] == ["bf16"]
    assert "nf4" in completed["formats"]


def test_runs_studies_benchmarks_and_sources(completed: dict[str, list[str]]) -> None:
    assert completed["directories"] == ["runs/"] and completed["runs"] == ["runs/deep/", "runs/first"]
    assert completed["runs to evaluate"] == ["runs/deep/", "runs/first"]
    assert completed["a run to resume"] == ["runs/first"]
    assert {"phi3-alpaca-cleaned", "mine.yaml"} <= set(completed["studies"])
    assert {"alpaca", "rows.jsonl"} <= set(completed["sources"])
    assert "mmlu,ifeval" in completed["benchmarks"] and "mmlu,mmlu" not in completed["benchmarks"]
    assert "full,qlora" in completed["methods"] and "full,full" not in completed["methods"]
    assert {"slurm", "ray"} <= set(completed["executors"])


def test_a_tab_does_not_wait_for_torch(completed: dict[str, list[str]]) -> None:
    assert completed["torch"] is False
    assert "PYTHON_ARGCOMPLETE_OK" in Path(cli.__file__).read_text(encoding="utf-8")[:1024]
