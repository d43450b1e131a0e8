"""A checkpoint has exactly its model's weights: none is dropped without a word, whatever config.json says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from torch import Tensor
from transformers import Gemma4ForCausalLM, Gemma4TextConfig, MixtralConfig, MixtralForCausalLM, PreTrainedModel

from tunelab.errors import ModelError
from tunelab.models.adapters import add_lora, load_adapter
from tunelab.models.checkpoint_files import INDEX, SINGLE
from tunelab.models.load import load_model
from tunelab.models.precision import weight_format
from tunelab.models.quantized_save import save_quantized

PRECISIONS = [None, "nf4"]


@pytest.fixture
def folder(models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a tiny model's folder, to be changed."""
    return Path(shutil.copytree(models["llama"], tmp_path / "model"))


def with_config(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def with_weights(folder: Path, **more: Tensor) -> Path:
    """More weights in the folder's file; "__" in their names is a dot."""
    added = {name.replace("__", "."): tensor for name, tensor in more.items()}
    save_file(load_file(folder / SINGLE) | added, folder / SINGLE, metadata={"format": "pt"})
    return folder


def loaded(folder: Path, precision: str | None = None) -> PreTrainedModel:
    return load_model(str(folder), dtype=torch.float32, form=weight_format(precision) if precision else None)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("family", "key", "count"), [("llama", "num_hidden_layers", 9), ("gpt2", "n_layer", 11)])
def test_fewer_layers_than_are_stored(
    family: str,
    key: str,
    count: int,
    precision: str | None,
    models: dict[str, Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = with_config(Path(shutil.copytree(models[family], tmp_path / "model")), **{key: 1})
    match = rf"does not have {count} of the stored weights: \S+\.1\.\S+, .* more; config\.json names 1 layers, "
    with pytest.raises(ModelError, match=match + "the files have 2$") as refused:
        loaded(folder, precision)
    assert "restore config.json" in refused.value.hint
    assert not caplog.records, "the error says it all"


def test_fewer_layers_than_a_quantized_checkpoint_stores(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "stored").mkdir()
    save_quantized(loaded(folder, "nf4"), tmp_path / "stored")
    loaded(tmp_path / "stored", "nf4")
    with_config(tmp_path / "stored", num_hidden_layers=1)
    with pytest.raises(ModelError, match=r"config\.json names 1 layers, the files have 2"):
        loaded(tmp_path / "stored", "nf4")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_bias_that_the_configuration_turns_off(folder: Path, precision: str | None) -> None:
    with_weights(folder, model__layers__1__self_attn__q_proj__bias=torch.ones(32))
    with pytest.raises(
        ModelError, match=r"does not have 1 of the stored weights: model.layers.1.self_attn.q_proj.bias$"
    ):
        loaded(folder, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_no_language_model_reads_may_be_stored(folder: Path, precision: str | None) -> None:
    with_weights(
        folder,
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4),
        model__layers__0__self_attn__bias=torch.ones(1, 1, 8, 8),
        model__layers__0__self_attn__masked_bias=torch.tensor(-1e9),
        model__vision_tower__layers__7__weight=torch.ones(4),
        visual__blocks__5__attn__qkv__weight=torch.ones(4),
        mtp__layers__0__weight=torch.ones(4),
        v_head__summary__weight=torch.ones(4),
    )
    loaded(folder, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_that_predict_further_tokens(folder: Path, precision: str | None) -> None:
    with_weights(folder, model__layers__2__mlp__up_proj__weight=torch.ones(48, 32))
    with pytest.raises(ModelError, match=r"config\.json names 2 layers, the files have 3"):
        loaded(folder, precision)
    loaded(with_config(folder, num_nextn_predict_layers=1), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_tied_head(folder: Path, precision: str | None) -> None:
    with_config(folder, tie_word_embeddings=True)
    with pytest.raises(
        ModelError, match="sets tie_word_embeddings, but the weight files have an output head"
    ) as refused:
        loaded(folder, precision)
    assert "tie_word_embeddings to false" in refused.value.hint
    same = load_file(folder / SINGLE)["model.embed_tokens.weight"].clone()
    model = loaded(with_weights(folder, lm_head__weight=same), precision)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vocab_size": 300},
            r"model\.embed_tokens\.weight is \(264, 32\), the model expects \(300, 32\)|lm_head.weight",
        ),
        ({"intermediate_size": 64}, r"mlp\.\S+ (the weight )?is \(\d+, \d+\), the model expects \((32, 64|64, 32)\)"),
    ],
)
def test_other_widths_are_named(changes: dict[str, int], message: str, precision: str | None, folder: Path) -> None:
    with pytest.raises(ModelError, match=message):
        loaded(with_config(folder, **changes), precision)


def test_fewer_experts_than_are_stored(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = MixtralConfig(**shape, num_key_value_heads=2, vocab_size=264, num_local_experts=4)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    loaded(tmp_path)
    with pytest.raises(ModelError, match=r"expects|stored weights|cannot be loaded"):
        loaded(with_config(tmp_path, num_local_experts=3))


def test_stored_buffers_are_loaded_beside_quantized_layers(tmp_path: Path) -> None:
    """Gemma 4 scales the output of each layer by one that its checkpoint has."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 0}
    model = Gemma4ForCausalLM(Gemma4TextConfig(**shape, **more, vocab_size=264, num_kv_shared_layers=0))
    model.model.layers[1].layer_scalar.fill_(0.25)
    model.save_pretrained(tmp_path)
    found = loaded(tmp_path, "nf4")
    assert found.model.layers[1].layer_scalar.tolist() == [0.25]
    stored = load_file(tmp_path / SINGLE)
    del stored["model.layers.1.layer_scalar"]
    save_file(stored, tmp_path / SINGLE, metadata={"format": "pt"})
    for precision in PRECISIONS:
        with pytest.raises(ModelError, match=r"lack 1 weights of Gemma4ForCausalLM: model\.layers\.1\.layer_scalar"):
            loaded(tmp_path, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_sets_of_weight_files(folder: Path, precision: str | None) -> None:
    """transformers reads the single file, vLLM the indexed ones."""
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(folder / SINGLE), SINGLE)}
    (folder / INDEX).write_text(json.dumps(index))
    loaded(folder, precision)
    shutil.copy(folder / SINGLE, folder / "model-00001-of-00001.safetensors")
    index["weight_map"] = dict.fromkeys(index["weight_map"], "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"both model\.safetensors and .*index\.json, which names other files"):
        loaded(folder, precision)


def test_an_adapter_with_weights_that_the_model_does_not_have(tmp_path: Path) -> None:
    add_lora(tiny_model("llama"), rank=2, alpha=4).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    load_adapter(tiny_model("llama"), tmp_path)
    save_file(load_file(file) | {"base_model.model.model.layers.0.self_attn.q_proj.bias": torch.ones(32)}, file)
    with pytest.raises(ModelError, match=r"does not fit LlamaForCausalLM: unexpected key \S+q_proj\.bias"):
        load_adapter(tiny_model("llama"), tmp_path)
