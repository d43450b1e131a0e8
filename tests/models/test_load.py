"""Models load whole or not at all, and every way in which they do not says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, model_folder, tiny_model, tiny_tokenizer

from tunelab.allowed_code import allow_code, only_allowed
from tunelab.errors import ModelError, UsageError
from tunelab.models import load
from tunelab.models.load import (
    check_tokenizer_fits,
    load_config,
    load_model,
    load_tokenizer,
    model_fingerprint,
    tokenizer_fingerprint,
)

FP32 = torch.float32


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_folder_gives_its_weights_in_the_dtype_asked_for(family: str, dtype: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", family)
    model = load_model(str(folder), dtype=load.DTYPES[dtype])
    assert {parameter.dtype for parameter in model.parameters()} == {load.DTYPES[dtype]}
    assert not model.training
    for expected, got in zip(tiny_model(family).parameters(), model.parameters(), strict=True):
        assert torch.equal(expected.to(load.DTYPES[dtype]), got)


def test_a_tokenizer_that_fits(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.eos_token_id == 256
    check_tokenizer_fits(load_model(str(folder), dtype=FP32), tokenizer)


def test_a_tokenizer_larger_than_the_embedding_table() -> None:
    with pytest.raises(
        ModelError, match=r"the tokenizer's largest id is 257, but LlamaForCausalLM embeds only 257 ids"
    ):
        check_tokenizer_fits(tiny_model("llama", vocab_size=257, pad_token_id=None), tiny_tokenizer())


def test_a_tokenizer_without_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "model")

    class SlowTokenizer:
        is_fast = False

    monkeypatch.setattr(load.AutoTokenizer, "from_pretrained", lambda *args, **more: SlowTokenizer())
    with pytest.raises(ModelError, match="model: SlowTokenizer gives no character offsets") as caught:
        load_tokenizer(str(folder))
    assert "fast tokenizer" in caught.value.hint


def test_a_folder_s_configuration_is_parsed_once_while_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = model_folder(tmp_path / "model"), load.AutoConfig.from_pretrained
    parsed: list[str] = []

    def counted(name: str, **more: Any) -> Any:
        parsed.append(name)
        return real(name, **more)

    monkeypatch.setattr(load.AutoConfig, "from_pretrained", counted)
    first = load_config(str(folder))
    first.num_hidden_layers = 1  # each caller has a copy of its own
    assert load_config(str(folder)).num_hidden_layers == 2 and parsed == [str(folder)]
    tree = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(tree | {"rms_norm_eps": 0.5}), encoding="utf-8")
    assert load_config(str(folder)).rms_norm_eps == 0.5 and len(parsed) == 2


def test_names_that_are_no_folders(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), "./none", "../none", "a/b/c"):
        with pytest.raises(ModelError, match=r"none: no such folder|a/b/c: no such folder"):
            load_model(name, dtype=FP32)
    with pytest.raises(ModelError, match=r"no model in the folder \(no config.json\)"):
        load_model(str(tmp_path), dtype=FP32)
    with pytest.raises(ModelError, match=r"no model in the folder"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("load", [load_config, load_tokenizer])
def test_a_file_is_no_folder(load: Callable[[str], object], tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"model.bin: a file, not a model's folder") as refused:
        load(str(tmp_path / "model.bin"))
    assert "a .gguf file" in refused.value.hint


def test_a_folder_with_a_tokenizer_alone_is_no_model(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).is_fast
    with pytest.raises(ModelError, match=r"no model in the folder \(no config.json\)"):
        load_model(str(tmp_path), dtype=FP32)


def test_weights_that_the_files_lack(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if ".1.mlp" in name]:
        del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"the weight files lack 3 weights of LlamaForCausalLM: model.layers.1.mlp.down"
    ):
        load_model(str(folder), dtype=FP32)
    for name in [name for name in weights if ".1." in name]:
        del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 9 weights of LlamaForCausalLM: .* and 6 more"):
        load_model(str(folder), dtype=FP32)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model: model\.norm\.weight is \(7,\), the model expects \(32,\)"):
        load_model(str(folder), dtype=FP32)


def test_a_torn_weight_file(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    data = (folder / "model.safetensors").read_bytes()
    for length in (len(data) // 2, 5, 0):
        (folder / "model.safetensors").write_bytes(data[:length])
        with pytest.raises(
            ModelError, match=r"model .*: cannot be loaded: model.safetensors is incomplete: Safetensor"
        ):
            load_model(str(folder), dtype=FP32)


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model .*: no safetensors weights") as caught:
        load_model(str(folder), dtype=FP32)
    assert "pickled weights can run code" in caught.value.hint


def test_remote_code_stays_off_unless_asked_for(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "made-up", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError, match="it has Python code, which tunelab does not run by default") as caught:
        load_model(str(folder), dtype=FP32)
    assert "model.trust_remote_code=true" in caught.value.hint
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("place", "message"), [("a/b--", "a/b: its Python code was not"), ("{}/", "code outside the")])
def test_allowed_code_is_not_that_of_another_repository(file: str, place: str, message: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "code.py").write_text("")
    tiny_tokenizer().save_pretrained(folder)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    content = json.loads((folder / file).read_text())
    content["auto_map"] = {"AutoTokenizer": [None, place.format(tmp_path / "elsewhere") + "code.M"]}
    (folder / file).write_text(json.dumps(content))
    with only_allowed({}):
        allow_code(folder)
        with pytest.raises(UsageError, match=message):
            load_config(str(folder), trust_remote_code=True)
        with pytest.raises(UsageError, match=message):
            load_tokenizer(str(folder), trust_remote_code=True)
    assert not (tmp_path / "ran").exists()


def test_a_hub_name_without_a_network() -> None:
    with pytest.raises(ModelError, match=r"model nobody/nothing: not on this machine, and the hub cannot be reached"):
        load_model("nobody/nothing", dtype=FP32)
    with pytest.raises(ModelError, match=r"tokenizer nobody/nothing@v1: not on this machine, and the hub cannot be"):
        load_tokenizer("nobody/nothing", revision="v1")


def hub_error(kind: type[Exception]) -> Exception:
    response = httpx.Response(403, request=httpx.Request("GET", "https://hub.invalid"))
    return kind("no", response=response)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (hub_error(hub.GatedRepoError), "model a/b@v2: the repository is gated", "hf auth login"),
        (hub_error(hub.RevisionNotFoundError), "model a/b@v2: no such revision", "branch, tag or commit"),
        (hub_error(hub.RepositoryNotFoundError), "model a/b@v2: neither a folder nor a hub repository", "spelling"),
        (hub.OfflineModeIsEnabled("no"), "model a/b@v2: not on this machine", "hf download"),
        (hub.LocalEntryNotFoundError("no"), "model a/b@v2: not on this machine", "hf download"),
        (KeyError("odd"), "model a/b@v2: cannot be loaded: KeyError: 'odd'", "restore the file, or"),
        (ImportError(""), "model a/b@v2: cannot be loaded: ImportError", "restore the file, or"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_hub_s_errors_in_the_user_s_words(
    error: Exception, message: str, hint: str, wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **more: Any) -> None:
        if not wrapped or isinstance(error, KeyError | ImportError):
            raise error if isinstance(error, OSError | KeyError | ImportError) else OSError("wrapped") from error
        try:
            raise error
        except Exception as cause:
            raise OSError("something about a/b") from cause

    monkeypatch.setattr(load.AutoConfig, "from_pretrained", fails)
    with pytest.raises(ModelError, match=message) as caught:
        load_model("a/b", dtype=FP32, revision="v2")
    assert hint in caught.value.hint


def test_fingerprints_tell_weights_and_tokenizers_apart(tmp_path: Path) -> None:
    folders = [model_folder(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    models = [load_model(str(folder), dtype=FP32) for folder in folders]
    prints = [model_fingerprint(str(folder), model) for folder, model in zip(folders, models, strict=True)]
    assert prints[0].startswith("sha256:")
    assert prints[0] != prints[1]
    assert prints[0] == model_fingerprint(str(folders[0]), models[0])
    models[0].config._commit_hash = "c0ffee"
    assert model_fingerprint("a/b", models[0]) == "a/b@c0ffee"
    other = tiny_tokenizer()
    other.eos_token = "<pad>"
    hashes = {tokenizer_fingerprint(tokenizer) for tokenizer in (tiny_tokenizer(), tiny_tokenizer(), other)}
    assert len(hashes) == 2
