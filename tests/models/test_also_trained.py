"""What an adapter trains besides its matrices: embeddings of new tokens, and whole modules, as PEFT itself does."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import PhiConfig, PhiForCausalLM

from tunelab.data.loader import packed_batch
from tunelab.errors import ModelError
from tunelab.models.adapters import add_lora, load_adapter, save_adapter, without_adapter
from tunelab.models.also_trained import also_trained_parameters
from tunelab.models.merge import adapted_outputs, compare_outputs, merge_adapter
from tunelab.models.new_tokens import add_embeddings
from tunelab.training.loss import TargetLoss

#: Ids of new tokens, and a table that is too short for them, and one that is padded beyond its tokenizer.
NEW, SHORT, PADDED = (258, 259), 258, 264
WHOLE = ("embed_tokens", "lm_head", "norms")
KINDS = {
    "tied, resized": ("llama", {"tie_word_embeddings": True, "vocab_size": SHORT}),
    "tied, padded": ("gpt2", {"vocab_size": PADDED}),
    "resized": ("llama", {"vocab_size": SHORT}),
}


def model_of(kind: str) -> Any:
    family, changes = KINDS[kind]
    return tiny.tiny_model(family, **changes)


def moved(model: PeftModel) -> PeftModel:
    """The adapted model as after some training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def adapted(kind: str, **settings: Any) -> PeftModel:
    base = model_of(kind)
    add_embeddings(base, NEW)
    return moved(add_lora(base, rank=2, alpha=4, **settings))


def is_tied(kind: str) -> bool:
    return kind.startswith("tied")


@pytest.mark.parametrize("kind", KINDS)
def test_new_ids_begin_at_the_mean_of_the_others_and_others_stay(kind: str) -> None:
    before = model_of(kind)
    model = copy.deepcopy(before)
    add_embeddings(model, NEW)
    assert model.get_input_embeddings().num_embeddings == (PADDED if "padded" in kind else 260)
    for old, new in (
        (before.get_input_embeddings().weight, model.get_input_embeddings().weight),
        (before.get_output_embeddings().weight, model.get_output_embeddings().weight),
    ):
        assert torch.equal(old[:258], new[:258])
        assert torch.allclose(new[258:260], old[:258].mean(0).expand(2, -1), atol=1e-7)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == is_tied(kind)
    add_embeddings(model, NEW, {259: [7, 7, 9]})
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        assert torch.allclose(table[259], (2 * table[7] + table[9]) / 3, atol=1e-7), "of words, weighed as they occur"
        assert not torch.allclose(table[258], table[259])


@pytest.mark.parametrize("settings", [{"new_tokens": NEW}, {"also_train": WHOLE}], ids=["new tokens", "whole"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_peft_s_own_forward_pass(kind: str, settings: dict[str, Any]) -> None:
    model = adapted(kind, **settings)
    table = tiny.random_table([9, 14], vocabulary=260)
    table.input_ids[[3, 7, 12, 20]] = (258, 259, 258, 259)
    module = TargetLoss(model, chunk=4)
    with module.attention():
        ours = module.of_batch(packed_batch(table, [0, 1], "all"))
    ours.backward()
    trained = also_trained_parameters(model)
    found = {name: parameter.grad.clone() for name, parameter in trained.items()}
    assert all(bool(gradient.any()) for gradient in found.values())
    model.zero_grad()
    own = torch.zeros(())
    for index in (0, 1):
        ids = torch.from_numpy(table.row(index)[0]).long()[None]
        own = own + model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)
    own.backward()
    assert torch.allclose(ours, own, rtol=1e-5)
    for name, parameter in trained.items():
        assert torch.allclose(found[name], parameter.grad, rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("settings", [{"new_tokens": NEW}, {"also_train": WHOLE}], ids=["new tokens", "whole"])
@pytest.mark.parametrize("kind", KINDS)
def test_saved_loaded_by_plain_peft_and_merged_it_is_one_model(
    kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = adapted(kind, **settings).eval()
    save_adapter(model, tmp_path)
    row = torch.tensor([[1, 258, 5, 259, 7]])
    expected = model(input_ids=row).logits
    ours = load_adapter(model_of(kind), tmp_path)
    assert torch.allclose(ours(input_ids=row).logits, expected, atol=1e-5)
    plain = model_of(kind)
    if "resized" in kind:
        plain.resize_token_embeddings(260)
    theirs = PeftModel.from_pretrained(plain, tmp_path).eval()(input_ids=row).logits
    assert torch.allclose(theirs[..., :260], expected[..., :260], atol=1e-5)
    outputs = adapted_outputs(ours)
    merged = merge_adapter(ours)
    assert compare_outputs(outputs, merged).passed
    merged.save_pretrained(tmp_path / "merged")
    read = type(merged).from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(read(input_ids=row).logits, expected, atol=1e-5)
    assert read.config.tie_word_embeddings == is_tied(kind)


@pytest.mark.parametrize("settings", [{"new_tokens": NEW}, {"also_train": ["embed_tokens"]}])
def test_a_tied_table_that_peft_would_train_apart_is_refused(settings: dict[str, Any]) -> None:
    base = tiny.tiny_model("gpt2")
    base._tied_weights_keys = {}  # what PEFT reads
    with pytest.raises(ModelError, match="PEFT trains embedding and head apart, which are one table"):
        add_lora(base, rank=2, alpha=4, **settings)


def test_of_new_tokens_only_their_rows_are_saved(tmp_path: Path) -> None:
    save_adapter(adapted("resized", new_tokens=NEW), tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys() if ".lora_" not in name}  # noqa: SIM118
    assert sorted(shapes.values()) == [[2, 32], [2, 32]]


def test_trained_rows_and_modules_are_float32_over_a_base_in_16_bits() -> None:
    base = tiny.tiny_model("llama", vocab_size=SHORT).to(torch.bfloat16)
    add_embeddings(base, NEW)
    model = add_lora(base, rank=2, alpha=4, new_tokens=NEW, also_train=["norms"])
    assert {parameter.dtype for parameter in also_trained_parameters(model).values()} == {torch.float32}


def test_norms_are_all_norms_and_nothing_that_ends_alike() -> None:
    model = add_lora(tiny.tiny_model("llama"), rank=2, alpha=4, also_train=["norms"])
    assert len(also_trained_parameters(model)) == 5
    only_last = add_lora(tiny.tiny_model("llama"), rank=2, alpha=4, also_train=["model.norm"])
    assert len(also_trained_parameters(only_last)) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["emb_tokens"], r"adapter.also_train: 'emb_tokens' matches no module of LlamaForCausalLM"),
        (["q_proj"], r"adapter.also_train: model.layers.0.self_attn.q_proj of LlamaForCausalLM has an adapter already"),
        (["mlp"], r"adapter.also_train: model.layers.0.mlp of LlamaForCausalLM is no single layer with weights"),
    ],
)
def test_names_are_checked_against_the_model(names: list[str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        add_lora(tiny.tiny_model("llama"), rank=2, alpha=4, also_train=names)


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_a_tied_head_with_an_adapter_cannot_be_trained_in_full_as_the_embedding(name: str) -> None:
    tied = tiny.tiny_model("llama", tie_word_embeddings=True)
    with pytest.raises(ModelError, match=r"adapter.also_train: lm_head of LlamaForCausalLM has an adapter already"):
        add_lora(tied, rank=2, alpha=4, targets=["lm_head", "q_proj"], also_train=[name])


def phi() -> Any:
    """A model whose head has a bias."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = PhiForCausalLM(PhiConfig(vocab_size=SHORT, **shape)).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    return model


def test_a_head_whose_bias_peft_would_leave_out_is_refused_and_the_remedy_helps() -> None:
    base = phi()
    add_embeddings(base, NEW)
    with pytest.raises(ModelError, match="PEFT's layer for single tokens leaves out a part of the head") as caught:
        add_lora(base, rank=2, alpha=4, new_tokens=NEW)
    assert "adapter.also_train=[embed_tokens, lm_head]" in caught.value.hint
    base = phi()
    add_embeddings(base, NEW)
    assert add_lora(base, rank=2, alpha=4, new_tokens=NEW, also_train=["embed_tokens", "lm_head"])


def test_a_head_with_an_adapter_cannot_train_single_rows() -> None:
    base = tiny.tiny_model("llama", vocab_size=SHORT)
    add_embeddings(base, NEW)
    with pytest.raises(ModelError, match=r"model.new_tokens: lm_head of LlamaForCausalLM has an adapter"):
        add_lora(base, rank=2, alpha=4, targets=["lm_head"], new_tokens=NEW)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that PEFT alone made, with a token that the base's table is too short for."""
    folder = tmp_path_factory.mktemp("foreign")
    base = tiny.tiny_model("llama", vocab_size=SHORT, tie_word_embeddings=True)
    base.resize_token_embeddings(260, mean_resizing=False)
    settings: dict[str, Any] = {"target_modules": ["q_proj"], "trainable_token_indices": [3, 259]}
    model = moved(get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2, **settings)))
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def test_an_adapter_of_others_with_trained_tokens(foreign: Path) -> None:
    base = tiny.tiny_model("llama", vocab_size=SHORT, tie_word_embeddings=True)
    row = torch.tensor([[1, 3, 5]])
    alone = base(input_ids=row).logits
    plain = tiny.tiny_model("llama", vocab_size=SHORT, tie_word_embeddings=True)
    plain.resize_token_embeddings(260, mean_resizing=False)
    theirs = PeftModel.from_pretrained(plain, foreign).eval()
    model = load_adapter(base, foreign)
    with_new = torch.tensor([[1, 259, 3]])
    shown = (*range(258), 259)  # 258 has no trained row
    assert torch.allclose(model(input_ids=with_new).logits[..., shown], theirs(input_ids=with_new).logits[..., shown])
    with without_adapter(model):
        assert torch.allclose(model(input_ids=row).logits[..., :258], alone, atol=1e-6)


def test_an_adapter_with_an_id_far_beyond_the_model_is_refused(foreign: Path, tmp_path: Path) -> None:
    for file in foreign.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "trainable_token_indices": [3, 10**9]}))
    with pytest.raises(ModelError, match="trainable_token_indices has the id 1000000000, but LlamaForCausalLM embeds"):
        load_adapter(tiny.tiny_model("llama", vocab_size=SHORT), tmp_path)
