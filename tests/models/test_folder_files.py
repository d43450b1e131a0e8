"""The small files of a model's folder: a mistake in one is named by file and key, whatever a library makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tunelab.errors import ModelError
from tunelab.models import load
from tunelab.models.adapters import load_adapter
from tunelab.models.folder_files import CONFIG_FILES, TOKENIZER_FILES
from tunelab.models.load import load_config, load_model, load_tokenizer


@pytest.fixture
def folder(models: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(models["llama"], tmp_path / "model"))


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"5", b'"x"', b"\xff\xfe", b"[" * 3000, bytes(64)])
def test_a_file_that_is_no_object_is_named(folder: Path, content: bytes) -> None:
    readers = dict.fromkeys(CONFIG_FILES, load_config) | dict.fromkeys(TOKENIZER_FILES, load_tokenizer)
    for name, reader in (*readers.items(), ("tokenizer.json", load_tokenizer)):
        kept = (folder / name).read_bytes() if (folder / name).exists() else None
        (folder / name).write_bytes(content)
        with pytest.raises(ModelError, match=rf"{name}: (not JSON|not UTF-8|expected a JSON object)") as caught:
            reader(str(folder))
        assert caught.value.hint == "restore the file, or download the model again"
        (folder / name).unlink() if kept is None else (folder / name).write_bytes(kept)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 0}, "vocab_size: expected a positive integer, got 0"),
        ({"num_attention_heads": -4}, "num_attention_heads: expected a positive integer, got -4"),
        ({"num_key_value_heads": 0}, "num_key_value_heads: expected a positive integer, got 0"),
        ({"head_dim": 1.5}, r"head_dim: expected a positive integer, got 1\.5"),
        ({"hidden_size": "x"}, "hidden_size: expected a positive integer, got 'x'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected a positive integer, got 0"),
        ({"max_position_embeddings": -5}, "max_position_embeddings: expected a positive integer, got -5"),
        ({"pad_token_id": 10**9}, r"pad_token_id: expected an id below vocab_size \(264\), got 1000000000"),
        ({"rms_norm_eps": 1e300}, r"rms_norm_eps: expected a number in \[0, 1\)"),
        ({"rms_norm_eps": "x"}, r"rms_norm_eps: expected a number in \[0, 1\), got 'x'"),
        ({"attention_dropout": 5}, "attention_dropout: expected a number between 0 and 1, got 5"),
        ({"quantization_config": 5}, "quantization_config: expected an object, got 5"),
        ({"rope_parameters": []}, r"rope_parameters: expected an object, got \[\]"),
        ({"layer_types": 5}, "layer_types: expected a list, got 5"),
        ({"dtype": "zzz"}, "dtype: expected one of float64, float32"),
        ({"text_config": {"vocab_size": 0}}, "vocab_size: expected a positive integer, got 0"),
        ({"hidden_size": float("inf")}, "hidden_size: expected a positive integer, got inf"),
    ],
)
def test_a_value_that_cannot_be_is_named_by_its_key(folder: Path, changes: dict[str, Any], said: str) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes), encoding="utf-8")
    with pytest.raises(ModelError, match=rf"config\.json: {said}"):
        load_config(str(folder))


def test_a_value_that_only_the_library_knows_comes_with_its_sentence(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_attention_heads": 3}), encoding="utf-8")
    with pytest.raises(ModelError, match="not a multiple of the number of attention heads") as caught:
        load_config(str(folder))
    assert caught.value.hint.endswith("--debug shows the traceback")


def test_an_index_names_weight_files_that_are_there(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="weight_map: expected weight names with the file of each"):
        load_model(str(folder), dtype=torch.float32)
    index.write_text('{"weight_map": {"a": "part-1.safetensors"}}', encoding="utf-8")
    with pytest.raises(ModelError, match=r"names part-1\.safetensors, which is not in the folder"):
        load_model(str(folder), dtype=torch.float32)


def test_a_tokenizer_without_its_parts_is_named(folder: Path) -> None:
    for content, said in (("{}", "model: expected an object"), ('{"model": {}}', "added_tokens: expected a list")):
        (folder / "tokenizer.json").write_text(content, encoding="utf-8")
        with pytest.raises(ModelError, match=rf"tokenizer\.json: {said}"):
            load_tokenizer(str(folder))


def test_a_chat_template_that_is_no_utf_8_is_named(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"{{ \xff }}")
    with pytest.raises(ModelError, match=r"chat_template\.jinja: not UTF-8 at byte 3"):
        load_tokenizer(str(folder))


def test_a_generation_config_that_only_the_library_can_refuse(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **more: object) -> None:
        raise TypeError("odd value")

    monkeypatch.setattr(load.GenerationConfig, "from_pretrained", fails)
    with pytest.raises(ModelError, match=r"generation_config\.json of .*: cannot be loaded: TypeError: odd value"):
        load.end_token_ids(str(folder))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"peft_type": "PROMPT_TUNING"}', "peft_type is 'PROMPT_TUNING', and only LORA is supported"),
        ('{"peft_type": "IA3"}', "peft_type is 'IA3', and only LORA is supported"),
        ("{}", "peft_type is None, and only LORA is supported"),
        ("null", "expected a JSON object, got null"),
        ('{"peft_type": "LORA", "r": "x", "target_modules": ["q_proj"]}', "the adapter does not fit LlamaForCausalLM"),
    ],
)
def test_an_adapter_of_another_method_is_refused_by_name(
    models: dict[str, Path], tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "adapter_config.json").write_text(content, encoding="utf-8")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=said):
        load_adapter(load_model(str(models["llama"]), dtype=torch.float32), tmp_path)
