"""Packed sequences give each row's own logits, as transformers' forward pass; what cannot be packed is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import varied_models
from tiny import FAMILIES, VOCABULARY, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM

from tunelab.errors import ModelError
from tunelab.evaluation.likelihood import row_likelihoods
from tunelab.inference.engine import generate
from tunelab.inference.sampling import Decoding
from tunelab.models import forward
from tunelab.models.forward import (
    RowLayout,
    attention_of,
    hidden_states,
    longrope_border,
    packed_attention,
    packed_hidden_states,
    packed_positions,
)
from tunelab.models.head import output_head

LENGTHS = (3, 17, 1, 40, 9)


def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, VOCABULARY, (length,), generator=generator) for length in LENGTHS]


def starts(parts: list[Tensor]) -> Tensor:
    return torch.tensor([0, *(len(part) for part in parts)]).cumsum(0)


def packed_logits(model: Any, parts: list[Tensor]) -> Tensor:
    with torch.no_grad(), packed_attention(model):
        return output_head(model)(packed_hidden_states(model, torch.cat(parts), starts(parts)))


def own_logits(model: Any, parts: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in parts])


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_sequences_give_each_row_s_own_logits(family: str) -> None:
    model, parts = tiny_model(family), rows()
    torch.testing.assert_close(packed_logits(model, parts), own_logits(model, parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [1, 4, 16, 17, 40, 100])
def test_a_sliding_window_is_that_of_transformers(window: int) -> None:
    model, parts = tiny_model("phi3", sliding_window=window), rows()
    expected = own_logits(model, parts)
    torch.testing.assert_close(packed_logits(model, parts), expected, rtol=1e-4, atol=1e-5)
    whole = own_logits(tiny_model("phi3", sliding_window=None), parts)
    assert torch.allclose(whole, expected, atol=1e-4) == (window >= 40), "a window below the longest row changes logits"


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_packed_sequences(family: str) -> None:
    model, parts = tiny_model(family).to(torch.bfloat16), rows()
    expected, got = own_logits(model, parts).float(), packed_logits(model, parts).float()
    assert float((expected - got).abs().max() / expected.abs().max()) < 5e-2


def test_a_soft_cap_on_logits_is_kept() -> None:
    config = Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5, attn_logit_softcapping=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model, parts = Gemma2ForCausalLM(config).eval(), rows()
    expected = own_logits(model, parts)
    assert 0.3 < float(expected.abs().max()) <= 0.5
    torch.testing.assert_close(packed_logits(model, parts), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["packed", "padded", "alone"])
def test_rows_beyond_longrope_s_border_leave_shorter_ones_alone(layout: RowLayout) -> None:
    model, parts = varied_models.tiny_model("phi3-longrope"), [row % varied_models.VOCABULARY for row in rows()]
    assert longrope_border(model) == 24 and max(map(len, parts)) > 24
    with torch.no_grad(), attention_of(model, layout):
        found = output_head(model)(hidden_states(model, torch.cat(parts), starts(parts), layout))
    torch.testing.assert_close(found, own_logits(model, parts), rtol=1e-4, atol=1e-5)


def dynamic_model() -> Any:
    """A model whose rotary embeddings are scaled beyond 24 tokens, by the longest row of each batch."""
    scaled = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    return tiny_model("llama", max_position_embeddings=24, rope_parameters=scaled)


@pytest.mark.parametrize("layout", ["packed", "padded", "alone"])
def test_dynamic_rotary_embeddings_up_to_the_context(layout: RowLayout) -> None:
    model = dynamic_model()
    parts = [part[:24] for part in rows()]
    assert max(map(len, parts)) == 24
    with torch.no_grad(), attention_of(model, layout):
        found = output_head(model)(hidden_states(model, torch.cat(parts), starts(parts), layout))
    torch.testing.assert_close(found, own_logits(model, parts), rtol=1e-4, atol=1e-5)


def test_dynamic_rotary_embeddings_beyond_the_context_are_refused() -> None:
    """There a row's logits depend on the rows beside it, and a cached key on how long its row will be."""
    model, row = dynamic_model(), rows()[3]
    made = list(generate(model, tiny_tokenizer(), [row[:20].tolist()], Decoding(max_new_tokens=10), stop_token_ids=()))
    ids = row[None, :20]
    theirs = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, eos_token_id=-1
    )
    assert made[0].stop_reason == "context" and list(made[0].token_ids) == theirs[0, 20:].tolist()
    with pytest.raises(ModelError, match="prompt 0 has 24 tokens and the model's context 24: no room for an answer"):
        list(generate(model, tiny_tokenizer(), [row[:24].tolist()], Decoding(), stop_token_ids=()))
    with pytest.raises(ModelError, match="row 0 has 25 tokens, more than the model's context of 24"):
        list(row_likelihoods(model, [(row[:25].tolist(), [True] * 25)], micro_batch_tokens=100))


def test_positions_restart_with_each_row() -> None:
    assert packed_positions(torch.tensor([0, 3, 4, 6]), 6).tolist() == [0, 1, 2, 0, 0, 1]


def test_attention_is_as_before_after_the_block_also_where_it_raises() -> None:
    model = tiny_model("llama")
    model.set_attn_implementation("eager")
    with pytest.raises(KeyError), packed_attention(model):
        assert model.config._attn_implementation == forward.PACKED_ATTENTION
        raise KeyError
    assert model.config._attn_implementation == "eager"


def test_an_attention_without_row_borders_is_refused() -> None:
    model = tiny_model("llama")
    with packed_attention(model), pytest.raises(ModelError, match="LlamaAttention does not pass row boundaries"):
        model(input_ids=torch.tensor([[1, 2, 3]]))


def test_a_module_that_is_no_transformers_model_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear is not a transformers model"):
        forward.underlying(nn.Linear(2, 2))


def test_a_model_without_an_output_head_is_refused() -> None:
    with pytest.raises(ModelError, match="LlamaModel has no backbone apart from its output head"):
        output_head(tiny_model("llama").model)


def test_the_attention_in_use_is_set_to_itself_even_where_it_cannot_be_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(type(model.model), "_can_set_attn_implementation", classmethod(lambda kind: False))
    with forward.attention_set_to(model, model.config._attn_implementation):
        pass
    match = "LlamaForCausalLM has an attention of its own, which cannot be replaced"
    with pytest.raises(ModelError, match=match), packed_attention(model):
        pass


def test_an_attention_with_a_bias_of_its_own_is_not_packed() -> None:
    states = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ModelError, match="Linear needs attention with position_bias, which packed attention lacks"):
        forward.packed_sequence_attention(nn.Linear(1, 1), states, states, states, [0, 3], position_bias=states)
