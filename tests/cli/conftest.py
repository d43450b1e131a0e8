"""What the verbs are tried on: a tiny base model, rows, and two finished runs of a few steps (made once a session)."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from verbs import Bench, Command, Said, run_recipe

from tunelab.cli.main import main
from tunelab.training.finetune import finetune


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    model = tiny.model_folder(folder / "base")
    rows = tiny.rows_file(folder / "rows.jsonl")
    recipe = run_recipe(folder, model, rows)
    finetune(recipe)
    (folder / "full").mkdir()
    full = run_recipe(folder / "full", model, rows, method="full", train__lr=1e-3, train__steps=2)
    finetune(full)
    return Bench(model, rows, recipe, folder / "run", folder / "full" / "run")


@pytest.fixture
def tunelab(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs one command line in an empty working directory, as a shell would."""
    monkeypatch.chdir(tmp_path)

    def command(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return command
