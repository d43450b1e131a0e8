"""The dtype of a checkpoint whose config.json names it for its text part alone: the planner and the training agree."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny import recipe
from transformers import Gemma3Config

from tunelab.config import as_recipe
from tunelab.planning.shape import _dtype_bytes
from tunelab.preparation.model import checkpoint_dtype


def test_it_is_read_of_the_text_part_too(tmp_path: Path) -> None:
    config = Gemma3Config().to_dict()
    for one in ("dtype", "torch_dtype"):
        config.pop(one, None)
    config["text_config"]["dtype"] = "bfloat16"
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = checkpoint_dtype(as_recipe(recipe(tmp_path, tmp_path, tmp_path)))
    assert found == torch.bfloat16
    assert found.itemsize == _dtype_bytes(config)
