"""The digest tells models apart that were built differently; the hash of weights tells single bits apart."""

from __future__ import annotations

import torch
from tiny import tiny_model

from tunelab.models.adapters import add_lora
from tunelab.models.digest import digest, weights_hash


def test_a_digest_counts_parameters_bytes_and_modules() -> None:
    model = tiny_model("llama")
    made = digest(model)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert (made.parameters, made.trainable, made.bytes) == (count, count, 4 * count)
    assert made.dtypes == {"float32": count}
    assert made.modules["LlamaDecoderLayer"] == 2
    assert made.to_json()["sha256"] == made.sha256


def test_tied_weights_are_counted_once() -> None:
    tied, untied = (digest(tiny_model("llama", tie_word_embeddings=tied)).parameters for tied in (True, False))
    assert untied - tied == 264 * 32


def test_what_was_built_otherwise_has_another_digest() -> None:
    frozen = tiny_model("llama")
    frozen.model.embed_tokens.weight.requires_grad_(False)
    models = [
        tiny_model("llama"),
        tiny_model("llama", num_hidden_layers=1),
        tiny_model("llama").to(torch.bfloat16),
        frozen,
        add_lora(tiny_model("llama"), rank=2, alpha=4),
        add_lora(tiny_model("llama"), rank=4, alpha=4),
        add_lora(tiny_model("llama"), rank=2, alpha=4, targets="attention"),
    ]
    assert len({digest(model).sha256 for model in models}) == len(models)
    assert digest(models[0]).sha256 == digest(tiny_model("llama", seed=1)).sha256, "weights are not part of it"


def test_a_hash_of_weights_sees_every_bit_and_name() -> None:
    weights = {"a": torch.zeros(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.tensor(1.0)}
    same = weights_hash(dict(reversed(weights.items())))
    assert same == weights_hash(weights)
    others = [
        {**weights, "a": torch.tensor([[0.0, 0, 0], [0, 0, -0.0]])},
        {**weights, "a": torch.zeros(3, 2)},
        {**weights, "b": torch.ones(3, dtype=torch.float16)},
        {"a": weights["a"], "b": weights["b"], "d": weights["c"]},
        {**weights, "c": torch.tensor([1.0])},
    ]
    assert len({weights_hash(other) for other in others} | {same}) == 6
