"""Files that a recipe names and that are not there are reported at once, whatever else would be asked first."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import recipe

from tunelab.answering.held_out_evaluation import evaluate_model
from tunelab.errors import DataError, UsageError
from tunelab.preparation.rows import as_recipe, prepare
from tunelab.training.finetune import finetune


def test_a_missing_data_file_is_reported_before_the_hub_is_asked(rows: Path, tmp_path: Path) -> None:
    made = recipe(Path("nobody/no-such-model"), tmp_path / "gone.jsonl", tmp_path / "run")
    for work in (finetune, prepare, lambda made: evaluate_model(as_recipe(made))):
        with pytest.raises(DataError, match=r"gone.jsonl: no such file"):
            work(made)
    for changes, message in (
        ({"data__sources": [{"name": "alpaka", "path": str(rows)}]}, "alpaka"),
        ({"data__template": "chat", "data__chat_template": "gone.jinja"}, "gone.jinja: no such file"),
    ):
        with pytest.raises(UsageError, match=message):
            finetune(recipe(Path("nobody/no-such-model"), rows, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
