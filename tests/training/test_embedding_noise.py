"""NEFTune: noise as large as each row's own length says, as in transformers, in training alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_model
from torch import Tensor, nn
from transformers.integrations.neftune import neftune_post_forward_hook

from tunelab.models.forward import RowLayout, attention_of, hidden_states
from tunelab.training.embedding_noise import EmbeddingNoise
from tunelab.training.loss import TargetLoss


def test_it_is_that_of_transformers_for_one_row() -> None:
    ours, theirs = nn.Embedding(9, 16), nn.Embedding(9, 16)
    theirs.load_state_dict(ours.state_dict())
    ids = torch.arange(7)[None]
    EmbeddingNoise(ours, alpha=5.0).before_pass(torch.full((1, 7), 7))
    theirs.neftune_noise_alpha = 5.0
    theirs.register_forward_hook(neftune_post_forward_hook)
    found = []
    for embedding in (ours, theirs):
        torch.manual_seed(3)
        found.append(embedding(ids))
    torch.testing.assert_close(*found)
    assert not torch.equal(found[0], nn.functional.embedding(ids, ours.weight))


@pytest.mark.parametrize("layout", ["packed", "padded", "alone"])
def test_each_token_s_noise_is_that_of_its_own_row(layout: RowLayout) -> None:
    """In these rows a token's id is its row's length; 0 is padding."""
    lengths, seen = [3, 40, 9, 33, 70], []
    model: Any = tiny_model("llama").train()
    ids = torch.cat([torch.full((length,), length) for length in lengths])
    starts = torch.tensor([0, *lengths]).cumsum(0)
    passes: list[Tensor] = []
    embedding = model.get_input_embeddings()
    embedding.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    noise = EmbeddingNoise(embedding, alpha=10.0)

    def noted(found: Tensor) -> None:
        passes.append(found)
        noise.before_pass(found)

    outputs: list[Tensor] = []
    embedding.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with attention_of(model, layout):
        hidden_states(model, ids, starts, layout, noted)
    assert sum(int((one != 0).sum()) for one in seen) == sum(lengths)
    for given, told, output in zip(seen, passes, outputs, strict=True):
        is_token = given != 0
        assert torch.equal(told[is_token], given[is_token])
        added = (output - nn.functional.embedding(given, embedding.weight)).detach().abs()
        largest = 10.0 / (told * output.shape[-1]).sqrt()
        share = (added / largest[..., None])[is_token]
        assert 0.9 < float(share.max()) <= 1 + 1e-5
        assert float(share.mean()) == pytest.approx(0.5, abs=0.1)


def test_there_is_none_in_evaluation() -> None:
    batch = {"input_ids": torch.arange(3, 9), "row_starts": torch.tensor([0, 6])}
    batch |= {"predicted_from": torch.arange(5), "labels": torch.arange(4, 9)}
    plain, noisy = (TargetLoss(tiny_model("gpt2"), noise_alpha=alpha) for alpha in (None, 50.0))
    with torch.no_grad(), plain.attention(), noisy.attention():
        assert torch.equal(plain.eval()(**batch), noisy.eval()(**batch))
        assert not torch.equal(noisy.train()(**batch), noisy(**batch))
