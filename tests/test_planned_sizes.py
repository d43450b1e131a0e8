"""Sizes that cannot be meant are refused before anything is built or counted in a loop."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import OfflineModeIsEnabled

from tunelab.config import parse_recipe
from tunelab.data.loader import TokenTable, TrainingPlan
from tunelab.errors import ConfigError, ModelError, UsageError
from tunelab.models import checkpoint_files, load, planned_size
from tunelab.models.load import context_window, load_config, load_model, load_tokenizer
from tunelab.training.setup import training_plan


def table(rows: int, length: int = 5) -> TokenTable:
    ids = np.arange(rows * length, dtype=np.int32)
    starts = np.arange(rows + 1, dtype=np.int64) * length
    return TokenTable(ids, np.ones(rows * length, dtype=np.bool_), starts, np.ones(rows, dtype=np.int64))


@pytest.mark.parametrize(("key", "value"), [("epochs", 1e6), ("epochs", 1e300), ("steps", 10**10), ("steps", 10**30)])
def test_plans_that_never_end(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"train\.{key}: expected at most "):
        parse_recipe({"model": "m", "data": "alpaca", "train": {key: value}})


@pytest.mark.parametrize("settings", [{"epochs": 100_000.5}, {"steps": 1_000_000_000}])
def test_a_large_plan_of_rows_is_counted_at_once(settings: dict[str, Any]) -> None:
    began = time.monotonic()
    chosen = {"epochs": 1.0, "steps": None, **settings}
    plan = TrainingPlan(table(20), batch_size=3, batch_tokens=None, micro_batch_tokens=64, **chosen)
    assert plan.total_steps == (settings.get("steps") or 700_004)
    last, reached = plan.step(plan.total_steps - 1)
    assert len(last.rows) == 3 and reached > 90_000
    assert time.monotonic() - began < 1


def test_the_plan_is_as_it_was() -> None:
    def steps(**size: Any) -> list[tuple[int, ...]]:
        plan = TrainingPlan(table(11), 3.5, None, micro_batch_tokens=64, seed=1, **size)
        return [plan.step(number)[0].rows for number in range(plan.total_steps)]

    by_rows, by_tokens = steps(batch_size=2, batch_tokens=None), steps(batch_size=None, batch_tokens=10)
    assert by_rows == by_tokens and len(by_rows) == 21


@pytest.mark.parametrize("train", [{"epochs": 90_000}, {"steps": 900_000_000}])
def test_a_plan_of_tokens_that_is_too_long_to_count(train: dict[str, Any]) -> None:
    recipe = parse_recipe({"model": "m", "data": "alpaca", "train": {**train, "batch_tokens": 10, "batch_size": None}})
    with pytest.raises(UsageError, match=rf"train\.{next(iter(train))}=.* passes over 2,000 rows .* times"):
        training_plan(recipe, table(2000))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_hidden_layers", 10**9, "num_hidden_layers is 1,000,000,000, but its weight files have"),
        ("num_local_experts", 10**9, "num_local_experts is 1,000,000,000, but expected at most 10,000"),
    ],
)
def test_a_configuration_of_more_than_there_is(
    key: str, value: int, message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    for read in (load_config, context_window, load_tokenizer, lambda name: load_model(name, dtype=torch.float32)):
        with pytest.raises(ModelError, match=message):
            read(str(folder))
    (folder / "config.json").write_text(json.dumps({**config, "text_config": {key: value}}))
    with pytest.raises(ModelError, match=message):
        load_config(str(folder))


@pytest.fixture
def on_hub(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub with a model a/b: its config.json, and what a request for each of its files would answer."""
    config = json.loads((models["llama"] / "config.json").read_text())
    asked: dict[str, Any] = {"config": config, "requests": []}

    class Hub:
        def file_exists(self, name: str, file: str, *, revision: str | None) -> bool:
            asked["requests"].append((name, file, revision))
            if "offline" in asked:
                raise OfflineModeIsEnabled("no")
            return False

        def parse_safetensors_file_metadata(self, name: str, file: str, *, revision: str | None) -> Any:
            return SimpleNamespace(tensors=dict.fromkeys(map(str, range(21))))

    monkeypatch.setattr("tunelab.models.checkpoint_files.HfApi", Hub)
    monkeypatch.setattr("tunelab.models.planned_size._planned", set())
    monkeypatch.setattr(planned_size.PretrainedConfig, "get_config_dict", lambda name, **more: (asked["config"], {}))
    monkeypatch.setattr(load.AutoConfig, "from_pretrained", lambda name, **more: SimpleNamespace(**asked["config"]))
    return asked


def test_a_model_on_the_hub_is_checked_before_it_is_downloaded(on_hub: dict[str, Any]) -> None:
    assert load_config("a/b", revision="v1").num_hidden_layers == 2
    load_config("a/b", revision="v1")
    assert on_hub["requests"] == [("a/b", "model.safetensors.index.json", "v1")], "asked once"
    on_hub["config"] |= {"num_hidden_layers": 22}
    for read in (load_config, load_tokenizer):
        with pytest.raises(ModelError, match=r"a/b: config\.json: num_hidden_layers is 22, but .* have 21"):
            read("a/b", revision="v2")


def test_what_the_hub_does_not_say_is_unknown(on_hub: dict[str, Any]) -> None:
    on_hub["offline"] = True
    on_hub["config"] |= {"num_hidden_layers": 22}
    assert load_config("a/b").num_hidden_layers == 22
    on_hub["config"] |= {"num_hidden_layers": 10**9}
    with pytest.raises(ModelError, match="num_hidden_layers is 1,000,000,000, but expected at most 10,000"):
        load_config("a/b", revision="v3")


def test_an_index_in_the_cache_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys("abc", "model-1.safetensors")}), encoding="utf-8")
    monkeypatch.setattr(checkpoint_files, "try_to_load_from_cache", lambda name, file, revision: str(tmp_path / file))
    assert checkpoint_files.tensor_count_on_hub("a/b", None) == 3
