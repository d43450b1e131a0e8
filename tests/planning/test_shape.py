"""Parameters counted from config.json are those of transformers' models, and of the published checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from tunelab.config import AdapterSettings
from tunelab.errors import ModelError, UsageError
from tunelab.planning import known
from tunelab.planning.adapters import adapters_of
from tunelab.planning.known import config_of, known_names
from tunelab.planning.shape import shape_of
from tunelab.planning.stored import base_bytes

#: Parameters of published checkpoints.
PUBLISHED = {
    "distilgpt2": 81_912_576,
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/phi-4": 14_659_507_200,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-3-1b-it": 999_885_952,
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-27b-it": 27_432_406_640,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
}

#: One model of each family in the table.
FAMILIES = (
    "gpt2", "Llama-3.2-1B", "phi-4", "Mistral-7B-v0.1", "Qwen2.5-0.5B", "Qwen3-0.6B", "gemma-2-2b", "gemma-3-1b-pt",
    "SmolLM3-3B", "Mixtral-8x7B-v0.1",
)  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_those_of_published_checkpoints(name: str) -> None:
    assert shape_of(config_of(name).values, name).total == PUBLISHED[name]


def two_layers(name: str) -> dict[str, Any]:
    values = dict(config_of(name).values)
    return {**values, "n_layer" if values["model_type"] == "gpt2" else "num_hidden_layers": 2}


@pytest.mark.parametrize("name", FAMILIES)
def test_counts_are_those_of_transformers_and_peft(name: str) -> None:
    """In full width, with two layers, on the meta device: the parameters, and those of adapters on all layers."""
    values = two_layers(name)
    shape = shape_of(values, name)
    kind = values["model_type"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**values, "torch_dtype": None}))
        assert shape.total == sum(one.numel() for one in model.parameters()) and sum(shape.parameters.values()) > 0
        if shape.experts:
            return
        names = [one.name for one in shape.linears]
        adapted = get_peft_model(model, LoraConfig(r=5, target_modules=names, fan_in_fan_out=kind == "gpt2"))
    trained = sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    assert adapters_of(shape, AdapterSettings(rank=5)).parameters == trained


def test_vision_is_counted_but_not_trained() -> None:
    shape = shape_of(config_of("gemma-3-4b-it").values)
    assert shape.parameters["vision"] == shape.total - shape.text > 4e8
    assert shape.prefix == "model.language_model.layers."


def test_adapters_by_words_names_and_layers() -> None:
    shape = shape_of(config_of("Llama-3.2-1B").values)
    whole = adapters_of(shape, AdapterSettings(rank=8))
    attention = adapters_of(shape, AdapterSettings(rank=8, targets="attention"))
    named = adapters_of(shape, AdapterSettings(rank=8, targets=("q_proj", "v_proj"), layers=(0, 3)))
    pattern = adapters_of(shape, AdapterSettings(rank=8, targets=r".*\.[03]\.self_attn\.[qv]_proj"))
    excluded = adapters_of(shape, AdapterSettings(rank=8, exclude=("gate_proj", "up_proj", "down_proj")))
    dora = adapters_of(shape, AdapterSettings(rank=8, use_dora=True))
    assert whole.parameters == 5_636_096 and set(whole.ranks[0]) == {one.name for one in shape.linears}
    assert attention == excluded and set(attention.ranks[0].values()) == {8} and len(attention.ranks[0]) == 4
    assert named == pattern and named.parameters == 2 * 8 * (4096 + 2560) and named.ranks[1] == {}
    assert dora.parameters - whole.parameters == 16 * sum(one.outputs for one in shape.linears)
    also = adapters_of(shape, AdapterSettings(rank=8, also_train=("embed_tokens", "lm_head", "norms", "score")))
    assert also.in_full == 128256 * 2048 + shape.parameters["norms"] and also.not_counted == ("score",)
    with pytest.raises(UsageError, match=r"adapter\.targets: .*c_attn.* matches no linear layer"):
        adapters_of(shape, AdapterSettings(targets=("c_attn",)))


@pytest.mark.parametrize("form", ["nf4", "int8", "mxfp4"])
def test_quantized_weights_have_the_size_of_their_format(form: str) -> None:
    from tunelab.models.precision import weight_format

    shape = shape_of(two_layers("Qwen2.5-0.5B"))
    own = weight_format(form)
    saved = 0
    for one in shape.linears:
        layout = own.packed_layout((one.outputs, one.inputs)).values()
        packed = sum(torch.empty(size, dtype=dtype, device="meta").nbytes for size, dtype in layout)
        saved += 2 * one.weights - packed
    assert base_bytes(shape, 2, form) == 2 * shape.total - shape.layers * saved
    assert base_bytes(shape, 2, form, {}, ["down_proj"]) > base_bytes(shape, 2, form)
    assert base_bytes(shape, 2, "nf4", {"double_quantization": False}) > base_bytes(shape, 2, "nf4")


def test_a_config_from_a_folder_the_table_or_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(two_layers("Llama-3.2-1B")))
    assert config_of(str(tmp_path)).source == "folder"
    for name in ("Llama-3.2-1B", "meta-llama/llama-3.2-1b-instruct"):
        assert config_of(name).source == "table" and config_of(name).name.startswith("meta-llama/Llama-3.2-1B")
    assert len(known_names()) == len(set(known_names())) > 35
    monkeypatch.setattr(known, "_from_hub", lambda name, revision: {"asked": [name, revision]})
    assert config_of("someone/Llama-3.2-1B").values == {"asked": ["someone/Llama-3.2-1B", None]}
    assert config_of("meta-llama/Llama-3.2-1B", "main").source == "hub"


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the folder has no config\.json"):
        config_of(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is not JSON: "):
        config_of(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json is not a JSON object"):
        config_of(str(tmp_path))
    with pytest.raises(
        ModelError, match=r"Lama-3\.2-1B: no config.json in a folder, in the table .* or on the hub"
    ) as e:
        config_of("Lama-3.2-1B")
    assert e.value.hint.startswith("did you mean meta-llama/Llama-3.2-1B")


def test_what_cannot_be_counted_is_refused_or_said() -> None:
    with pytest.raises(ModelError, match=r"x: an encoder-decoder model cannot be planned"):
        shape_of({"model_type": "t5", "is_encoder_decoder": True}, "x")
    with pytest.raises(ModelError, match=r"x: config.json \(mamba\) has no num_attention_heads"):
        shape_of({"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 9}, "x")
    llama = dict(config_of("Llama-3.2-1B").values)
    with pytest.raises(ModelError, match=r"qwen3_moe is a mixture of experts whose parameters cannot be counted"):
        shape_of({**llama, "model_type": "qwen3_moe", "num_experts": 8})
    with pytest.raises(ModelError, match=r"ernie4_5_moe is a mixture of experts"):
        shape_of({**llama, "model_type": "ernie4_5_moe", "moe_num_experts": 64})
    with pytest.raises(ModelError, match=r"x: BertForMaskedLM generates no text: it cannot be planned"):
        shape_of({**llama, "model_type": "bert", "architectures": ["BertForMaskedLM"]}, "x")
    with pytest.raises(ModelError, match=r"a value that no decoder has: max_position_embeddings='long'"):
        shape_of({**llama, "max_position_embeddings": "long"})
    assert not shape_of({**llama, "model_type": "new"}).is_known
    vision = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    assert not shape_of({"model_type": "llava", "text_config": llama, "vision_config": vision}).is_known
    with pytest.raises(ModelError, match=r"x: config.json \(llama\) has hidden_size='wide'"):
        shape_of({**llama, "hidden_size": "wide"}, "x")
    with pytest.raises(ModelError, match=r"x: config.json \(gpt2\) has n_layer=-2"):
        shape_of({**config_of("gpt2").values, "n_layer": -2}, "x")
    with pytest.raises(ModelError, match=r"x: config.json has a value that no decoder has: "):
        shape_of({**llama, "attention_dropout": "half"}, "x")


#: Keys that a config.json may leave out to its class.
LEFT_OUT = (
    "num_key_value_heads", "head_dim", "tie_word_embeddings", "num_local_experts", "num_experts_per_tok",
    "attention_bias", "sliding_window",
)  # fmt: skip


@pytest.mark.parametrize("name", [one for one in FAMILIES if one != "gpt2"])
def test_a_key_that_is_left_out_has_the_default_of_the_family(name: str) -> None:
    values = {key: value for key, value in two_layers(name).items() if key not in LEFT_OUT}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**values, "torch_dtype": None}))
    assert shape_of(values, name).total == sum(one.numel() for one in model.parameters())
