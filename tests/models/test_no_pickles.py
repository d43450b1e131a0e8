"""Nothing that unpickles is opened, whatever an index, a configuration or an adapter names as weight files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from tunelab.errors import ModelError
from tunelab.models.adapters import add_lora, load_adapter
from tunelab.models.checkpoint_files import INDEX, SINGLE, no_pickles
from tunelab.models.load import load_model
from tunelab.models.loftq import STORED, begin_at_stored
from tunelab.models.precision import weight_format


class Leaves:
    """What leaves a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.trace), "w")


@pytest.fixture
def folder(models: dict[str, Path], tmp_path: Path) -> Path:
    """A model whose pickled weights leave a trace in its folder when they are opened."""
    made = tmp_path / "model"
    shutil.copytree(models["llama"], made)
    torch.save({"weights": Leaves(tmp_path / "opened")}, made / "pytorch_model.bin")
    return made


def loaded(folder: Path, precision: str | None = None) -> PreTrainedModel:
    return load_model(str(folder), dtype=torch.float32, form=weight_format(precision) if precision else None)


@pytest.mark.parametrize("precision", [None, "nf4"])
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "../model/pytorch_model.bin", "/x/model.safetensors", "../a.safetensors", "", 5, None]
)
def test_an_index_that_names_anything_but_safetensors(name: Any, precision: str | None, folder: Path) -> None:
    names = load_file(folder / SINGLE)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, name)}))
    (folder / SINGLE).unlink()  # transformers prefers a single file
    with pytest.raises(ModelError, match=r"index\.json: (names .* \.safetensors file next to it|weight_map: expected)"):
        loaded(folder, precision)
    assert not (folder.parent / "opened").exists()


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"weight_map": [1]}', "null"])
@pytest.mark.parametrize("precision", [None, "nf4"])
def test_an_index_that_is_none(text: str, precision: str | None, folder: Path) -> None:
    (folder / INDEX).write_text(text)
    with pytest.raises(ModelError, match=r"index\.json: (expected a JSON object|not JSON|weight_map: expected)"):
        loaded(folder, precision)


def test_a_file_that_the_configuration_names(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "adapter_model.bin"}))
    (folder / "pytorch_model.bin").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.bin: is named as a weight file, and is not safetensors"):
        loaded(folder)
    assert not (folder.parent / "opened").exists()


def test_an_adapter_in_the_model_s_folder_is_no_way_in(folder: Path) -> None:
    adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": str(folder)}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "pytorch_model.bin").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError):
        loaded(folder)
    assert not (folder.parent / "opened").exists()


def test_an_adapter_s_weights_and_caches(folder: Path, tmp_path: Path) -> None:
    model = loaded(folder)
    adapted = add_lora(model, rank=2, alpha=2, targets=["q_proj"])
    adapter = tmp_path / "adapter"
    adapted.save_pretrained(str(adapter))
    config = json.loads((adapter / "adapter_config.json").read_text())

    def with_config(**changes: Any) -> None:
        (adapter / "adapter_config.json").write_text(json.dumps({**config, **changes}))

    with_config(megatron_config={"a": 1}, megatron_core="this")
    with pytest.raises(ModelError, match="megatron_config makes PEFT import the package this"):
        load_adapter(loaded(folder), adapter)
    with_config()
    load_adapter(loaded(folder), adapter)
    (adapter / "adapter_model.safetensors").unlink()
    shutil.copy(folder / "pytorch_model.bin", adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        load_adapter(loaded(folder), adapter)
    assert not (tmp_path / "opened").exists()


def test_a_loftq_folder_with_pickled_weights(folder: Path, tmp_path: Path) -> None:
    (folder / STORED).mkdir()
    (folder / "pytorch_model.bin").rename(folder / STORED / "adapter_model.bin")
    adapted = add_lora(loaded(folder, "nf4"), rank=2, alpha=2)
    with pytest.raises(ModelError, match=f"{STORED}: no adapter_model.safetensors"):
        begin_at_stored(adapted, folder)


def test_torch_loads_again_afterwards(folder: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="is named as a weight file"), no_pickles():
        torch.load(tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt")["a"] == 1
