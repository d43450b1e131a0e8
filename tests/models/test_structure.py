"""What cannot be packed is refused for its structure, in float32; a model's dtype and its rounding play no part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FAMILIES, VOCABULARY, coarse_model, recipe, tiny_model
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from tunelab.errors import ModelError
from tunelab.models import forward, structure
from tunelab.models.miniature import VOCABULARY as CUT_VOCABULARY
from tunelab.models.miniature import WINDOW, miniature
from tunelab.models.structure import check_packed_forward
from tunelab.training.finetune import finetune

SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 257,
    "bos_token_id": 256,
    "eos_token_id": 256,
}


@pytest.fixture(autouse=True)
def unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing is known of any architecture when a test begins."""
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path))
    monkeypatch.setattr(structure, "_known", {})
    yield


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_right_passes_and_the_model_stays_as_it_was(family: str) -> None:
    model = tiny_model(family).train()
    before = torch.random.get_rng_state()
    check_packed_forward(model)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before), "training is seeded"
    check_packed_forward(tiny_model(family).to(torch.bfloat16))


@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_is_not_refused_however_large(family: str) -> None:
    check_packed_forward(coarse_model(family).to(torch.bfloat16))


class TestRefused:
    def test_attention_with_a_soft_cap(self) -> None:
        model = Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8))
        with pytest.raises(
            ModelError, match="Gemma2Attention needs attention with softcap, which packed attention lacks"
        ):
            check_packed_forward(model)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_logits_that_are_scaled_behind_the_head(self, dtype: torch.dtype) -> None:
        for model in (
            GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0)),
            CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.99)),
        ):
            with pytest.raises(ModelError, match="packed rows give different logits than separate rows") as refused:
                check_packed_forward(model.to(dtype))
            assert "attention-only decoders" in refused.value.hint, "one row at a time is wrong too"
            with pytest.raises(ModelError, match="a packed row gives different logits than alone"):
                check_packed_forward(model, packed=False)
        check_packed_forward(GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=1.0)).to(dtype))
        check_packed_forward(CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=1.0)).to(dtype))

    @pytest.mark.parametrize("packing", [True, False])
    def test_a_scaled_loss_is_refused_before_the_first_step(
        self, packing: bool, models: dict[str, Path], rows: Path, tmp_path: Path
    ) -> None:
        shape = {**SHAPE, "max_position_embeddings": 128}
        GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=8.0)).save_pretrained(tmp_path / "base")
        for file in models["llama"].glob("tokenizer*"):
            (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
        asked = recipe(tmp_path / "base", rows, tmp_path / "run", train__packing=packing)
        with pytest.raises(ModelError, match=r"GraniteForCausalLM: .* gives? different logits than"):
            finetune(asked)
        assert not list((tmp_path / "run").glob("checkpoints/*"))

    def test_attention_across_borders(self, monkeypatch: pytest.MonkeyPatch) -> None:
        positions = forward.packed_positions
        monkeypatch.setattr(forward, "packed_positions", lambda starts, tokens: positions(starts, tokens) * 0)
        match = r"LlamaForCausalLM: packed rows give different logits than separate rows"
        with pytest.raises(ModelError, match=match):
            check_packed_forward(tiny_model("llama"))

    def test_a_sliding_window_that_is_not_passed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny_model("phi3", sliding_window=100)
        check_packed_forward(model)
        structure._known.clear()
        monkeypatch.setattr(structure, "cache_home", lambda: Path("nowhere"))
        attention = forward.packed_sequence_attention
        monkeypatch.setattr(
            forward, "packed_sequence_attention", lambda *a, **k: attention(*a, **{**k, "sliding_window": None})
        )
        with pytest.raises(ModelError, match="packed rows give different logits than separate rows"):
            check_packed_forward(model)

    def test_rows_that_mix_can_be_trained_one_at_a_time(self) -> None:
        class Mixes(LlamaForCausalLM):
            def __init__(self, config: Any) -> None:
                super().__init__(config)
                self.model.embed_tokens.register_forward_hook(lambda module, ids, embedded: embedded.cumsum(1))

        model = Mixes(tiny_model("llama").config).eval()
        with pytest.raises(ModelError, match="Mixes: packed rows give different logits than separate rows") as caught:
            check_packed_forward(model)
        assert "train.packing=false trains it one row at a time" in caught.value.hint
        check_packed_forward(model, packed=False)

    def test_a_class_that_takes_no_row_borders(self) -> None:
        class Closed(LlamaForCausalLM):
            def __init__(self, config: Any) -> None:
                super().__init__(config)
                whole = self.model.forward

                def closed(**known: Any) -> Any:
                    if "row_starts" in known:
                        raise TypeError("unexpected keyword argument 'row_starts'")
                    return whole(**known)

                self.model.forward = closed

        with pytest.raises(ModelError, match="Closed: packed sequences fail: unexpected keyword argument 'row_starts'"):
            check_packed_forward(Closed(tiny_model("llama").config).eval())

    def test_a_class_that_cannot_be_built_again(self) -> None:
        class Once(LlamaForCausalLM):
            made = 0

            def __init__(self, config: Any) -> None:
                type(self).made += 1
                if type(self).made > 1:
                    raise ValueError("no second\none")
                super().__init__(config)

        model = Once(tiny_model("llama").config).eval()
        with pytest.raises(ModelError, match=r"Once: a random model of its configuration cannot be run: no second$"):
            check_packed_forward(model)

    def test_logits_that_are_no_numbers(self) -> None:
        model = tiny_model("llama")
        with torch.no_grad():
            model.lm_head.weight[3] = float("nan")
        with pytest.raises(ModelError, match="LlamaForCausalLM: 7 of 1848 logits of a short row are not finite"):
            check_packed_forward(model)


class TestMiniature:
    def test_one_layer_of_each_kind_stays(self) -> None:
        shape = {**SHAPE, "num_hidden_layers": 14}
        made = miniature(LlamaForCausalLM(LlamaConfig(**shape)))
        assert (len(made.model.layers), made.config.vocab_size) == (1, CUT_VOCABULARY)
        made = miniature(Gemma3ForCausalLM(Gemma3TextConfig(**shape, head_dim=8)))
        assert made.config.layer_types == ["sliding_attention"] * 5 + ["full_attention"]
        late = Qwen2Config(**shape, use_sliding_window=True, max_window_layers=12, sliding_window=64)
        made = miniature(Qwen2ForCausalLM(late))
        assert made.config.layer_types == ["full_attention", "sliding_attention"]
        assert made.config.sliding_window == WINDOW
        made = miniature(SmolLM3ForCausalLM(SmolLM3Config(**shape)))
        assert made.config.no_rope_layers == [1, 1, 1, 0], "rotary positions are a switch of the layer"

    def test_special_numbers_stay(self) -> None:
        config = GraniteConfig(
            **SHAPE, attention_multiplier=0.3, embedding_multiplier=5.0, residual_multiplier=0.7, logits_scaling=3.0
        )
        model = GraniteForCausalLM(config).to(torch.bfloat16)
        made = miniature(model)
        names = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling", "hidden_size")
        assert [getattr(made.config, name) for name in names] == [getattr(config, name) for name in names]
        assert made.config.rope_parameters == config.rope_parameters
        assert made.dtype == torch.float32 and model.config.vocab_size == VOCABULARY
        assert {parameter.dtype for parameter in made.parameters()} == {torch.float32}

    def test_attention_matters_biases_are_not_zero_and_weights_stay_tied(self) -> None:
        made = miniature(tiny_model("gpt2"))
        assert made.lm_head.weight is made.transformer.wte.weight
        assert float(made.transformer.h[0].attn.c_attn.bias.abs().min()) > 0
        assert float((made.transformer.ln_f.weight - 1).abs().min()) > 0
        made.set_attn_implementation("eager")
        weights = made(input_ids=torch.arange(12)[None], output_attentions=True).attentions[0][0, :, -1]
        assert float(weights.max(dim=-1).values.mean()) > 3 / 12, "uniform attention would be 1/12"
        same = miniature(tiny_model("gpt2", seed=9))
        assert torch.equal(same.transformer.wte.weight, made.transformer.wte.weight)

    def test_an_inner_width_that_is_tied_to_another_is_left_alone(self) -> None:
        class Tied(LlamaForCausalLM):
            def __init__(self, config: Any) -> None:
                super().__init__(config)
                if config.intermediate_size != 48:
                    raise ValueError("expected 48")

        check_packed_forward(Tied(LlamaConfig(**SHAPE)).eval())


class TestCache:
    def count(self, monkeypatch: pytest.MonkeyPatch) -> list[type]:
        built: list[type] = []
        found = structure._found
        monkeypatch.setattr(structure, "_found", lambda model: (built.append(type(model)), found(model))[1])
        return built

    def test_each_configuration_is_asked_once(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        built = self.count(monkeypatch)
        check_packed_forward(tiny_model("llama"))
        check_packed_forward(tiny_model("llama", seed=3).to(torch.bfloat16))
        assert len(built) == 1, "other weights, another dtype: the same structure"
        structure._known.clear()
        check_packed_forward(tiny_model("llama"))
        assert len(built) == 1, "another process reads it from the cache"
        check_packed_forward(tiny_model("llama", rms_norm_eps=1e-3))
        assert len(built) == 2
        monkeypatch.setattr(structure, "__version__", "other")
        check_packed_forward(tiny_model("llama"))
        assert len(built) == 3
        first = next((tmp_path / "structure").iterdir())
        assert json.loads(first.read_text(encoding="utf-8"))["class"] == "LlamaForCausalLM"

    def test_refusals_and_classes_of_a_checkpoint_s_own_are_not_kept(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        built = self.count(monkeypatch)

        class Own(LlamaForCausalLM):
            pass

        capped = Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8))
        for _ in range(2):
            check_packed_forward(Own(LlamaConfig(**SHAPE)).eval())
            with pytest.raises(ModelError, match="needs attention with softcap"):
                check_packed_forward(capped)
        assert built == [Own, Gemma2ForCausalLM], "known for as long as the process lives"
        assert not (tmp_path / "structure").exists()

    def test_a_cache_that_cannot_be_written_is_no_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("", encoding="utf-8")
        monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "file"))
        check_packed_forward(tiny_model("llama"))


def test_a_module_that_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear is not a transformers model"):
        check_packed_forward(nn.Linear(2, 2))
