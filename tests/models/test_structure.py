"""How rows are run follows from an architecture's structure, in float32; dtype and rounding play no part."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_architecture
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
from tunelab.models.structure import SOURCES, check_own_logits, row_layout, structure_of
from tunelab.training.finetune import finetune
from tunelab.training.loss import TargetLoss

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
def test_what_is_right_is_packed_and_the_model_stays_as_it_was(family: str) -> None:
    model = tiny_model(family).train()
    before = torch.random.get_rng_state()
    assert row_layout(model) == "packed"
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before), "training is seeded"
    assert row_layout(tiny_model(family).to(torch.bfloat16), True) == "packed"
    assert row_layout(model, False) == "padded"


@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_does_not_count_however_large(family: str) -> None:
    assert row_layout(coarse_model(family).to(torch.bfloat16)) == "packed"


class Mixes(LlamaForCausalLM):
    """A token sees the embeddings of all before it, whatever rows they belong to."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.embed_tokens.register_forward_hook(lambda module, ids, embedded: embedded.cumsum(1))


class SeesPadding(LlamaForCausalLM):
    """A token sees the embeddings of all others, also of those after it."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.embed_tokens.register_forward_hook(lambda module, ids, embedded: embedded + embedded.sum(1)[:, None])


class TestNotPacked:
    @pytest.mark.parametrize(("kind", "layout"), [(Mixes, "padded"), (SeesPadding, "alone")])
    def test_rows_that_see_each_other(self, kind: type[LlamaForCausalLM], layout: str) -> None:
        model = kind(tiny_model("llama").config).eval()
        assert row_layout(model) == row_layout(model, False) == layout
        match = f"{kind.__name__}: packed rows give different logits than separate rows"
        with pytest.raises(ModelError, match=match) as refused:
            row_layout(model, True)
        assert "train.packing=auto pads the rows" in refused.value.hint
        found = structure_of(model)
        assert found.prefix == found.cached == found.packed, "they use the same attention"
        assert "rows padded at their beginnings give different logits" in found.left_padded
        assert "rows of equal length at once give different logits" in found.side_by_side

    def test_attention_across_borders(self, monkeypatch: pytest.MonkeyPatch) -> None:
        positions = forward.packed_positions
        monkeypatch.setattr(forward, "packed_positions", lambda starts, tokens: positions(starts, tokens) * 0)
        assert row_layout(tiny_model("llama")) == "padded"

    def test_a_sliding_window_that_is_not_passed_on(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        model = tiny_model("phi3", sliding_window=100)
        assert row_layout(model) == "packed"
        structure._known.clear()
        monkeypatch.setattr(structure, "cache_home", lambda: tmp_path / "empty")
        attention = forward.packed_sequence_attention
        monkeypatch.setattr(
            forward, "packed_sequence_attention", lambda *a, **k: attention(*a, **{**k, "sliding_window": None})
        )
        assert row_layout(model) == "padded"

    def test_a_cache_or_a_prefix_that_is_read_at_other_positions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read_tokens, read_after_prefix = structure.read_tokens, structure.read_after_prefix

        def later(model: Any, cache: Any, tokens: Any, positions: Any, *new: Any) -> Any:
            return read_tokens(model, cache, tokens, [place + 1 for place in positions], *new)

        def longer(model: Any, prefix: Any, rows: Any) -> Any:
            prefix.length += 1
            prefix.keys, prefix.values = (
                {layer: torch.cat([part, part[:, -1:]], dim=1) for layer, part in parts.items()}
                for parts in (prefix.keys, prefix.values)
            )
            return read_after_prefix(model, prefix, rows)

        monkeypatch.setattr(structure, "read_tokens", later)
        monkeypatch.setattr(structure, "read_after_prefix", longer)
        found = structure_of(tiny_model("llama"))
        assert found.packed == found.padded == found.left_padded == ""
        assert "cached rows give different logits" in found.cached
        assert "rows after a shared prefix give different logits" in found.prefix

    def test_layers_without_numbers(self) -> None:
        class Unnumbered(LlamaForCausalLM):
            def __init__(self, config: Any) -> None:
                super().__init__(config)
                for layer in self.model.layers:
                    del layer.self_attn.layer_idx

        found = structure_of(Unnumbered(tiny_model("llama").config).eval())
        assert found.packed == ""
        reason = "LlamaAttention does not pass its rows to its attention, or does not number its layers"
        assert found.cached == found.prefix == reason

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

        model = Closed(tiny_model("llama").config).eval()
        assert row_layout(model) == "padded"
        match = "Closed: packed rows fail: unexpected keyword argument 'row_starts'"
        assert structure_of(model).packed == match

    def test_a_class_that_cannot_be_built_again(self) -> None:
        class Once(LlamaForCausalLM):
            made = 0

            def __init__(self, config: Any) -> None:
                type(self).made += 1
                if type(self).made > 1:
                    raise ValueError("no second\none")
                super().__init__(config)

        model = Once(tiny_model("llama").config).eval()
        assert row_layout(model) == "alone", "nothing is known of it"
        with pytest.raises(ModelError, match=r"Once: a random model of its configuration cannot be run: no second$"):
            row_layout(model, True)

    def test_a_machine_that_is_full_is_no_fault_of_the_architecture(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def full(*model: Any, **named: Any) -> Any:
            raise MemoryError

        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(structure, "miniature", full)
            row_layout(tiny_model("llama"))
        with monkeypatch.context() as patch:
            patch.setattr(structure, "miniature", lambda *model, **named: 1 / 0)
            assert row_layout(tiny_model("llama")) == "alone"
        structure._known.clear()
        assert row_layout(tiny_model("llama")) == "packed", "what could not be found out is not kept"


class TestRefused:
    def test_logits_that_are_no_numbers(self) -> None:
        model = tiny_model("llama")
        with torch.no_grad():
            model.lm_head.weight[3] = float("nan")
        with pytest.raises(ModelError, match="LlamaForCausalLM: 7 of 1848 logits of a short row are not finite"):
            row_layout(model)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_logits_that_do_not_follow_from_hidden_states(self, dtype: torch.dtype) -> None:
        class Mean(LlamaForCausalLM):
            def forward(self, input_ids: Any = None, **known: Any) -> Any:
                output = super().forward(input_ids, **known)
                output.logits = output.logits + input_ids[..., None]
                return output

        model = Mean(tiny_model("llama").config).eval().to(dtype)
        with pytest.raises(ModelError, match="Mean: its logits do not follow from its backbone's last hidden states"):
            check_own_logits(model)

    def test_logits_that_depend_on_the_place(self) -> None:
        class Placed(LlamaForCausalLM):
            def forward(self, input_ids: Any = None, **known: Any) -> Any:
                output = super().forward(input_ids, **known)
                output.logits = output.logits + torch.arange(input_ids.shape[1])[:, None]
                return output

        with pytest.raises(ModelError, match="Placed: its logits do not follow from its backbone's last hidden states"):
            check_own_logits(Placed(tiny_model("llama").config).eval())

    def test_a_model_that_cannot_be_run(self) -> None:
        class Needs(LlamaForCausalLM):
            def forward(self, input_ids: Any = None, **known: Any) -> Any:
                raise KeyError("pixels")

        match = "Needs: its logits of a short row cannot be computed from token ids alone: 'pixels'"
        with pytest.raises(ModelError, match=match) as refused:
            check_own_logits(Needs(tiny_model("llama").config).eval())
        assert refused.value.hint == "use a causal language model, or another architecture"


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_that_are_scaled_behind_the_head_are_the_model_s_own(packing: bool, dtype: torch.dtype) -> None:
    for model in (
        GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0)),
        CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.25)),
        Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=0.5)),
    ):
        model.eval().to(dtype)
        ids = torch.arange(3, 15)
        own = float(model(input_ids=ids[None], labels=ids[None]).loss.detach())
        module = TargetLoss(model, layout=row_layout(model, packing))
        with module.attention(), torch.no_grad():
            found = float(module(ids, torch.tensor([0, 12]), torch.arange(11), ids[1:])) / 11
        assert found == pytest.approx(own, rel=1e-5 if dtype == torch.float32 else 1e-2)


def test_a_scaled_loss_is_trained_packed_and_padded_alike(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    shape = {**SHAPE, "max_position_embeddings": 128}
    torch.manual_seed(0)
    GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=8.0)).save_pretrained(tmp_path / "base")
    for file in models["llama"].glob("tokenizer*"):
        (tmp_path / "base" / file.name).write_bytes(file.read_bytes())
    losses = {}
    for packing in (True, False):
        run = finetune(recipe(tmp_path / "base", rows, tmp_path / f"run-{packing}", train__packing=packing))
        losses[packing] = [one["loss"] for one in run.metrics("train")]
        assert run.manifest["resolved"]["rows"] == ("packed" if packing else "padded")
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)


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

        assert row_layout(Tied(LlamaConfig(**SHAPE)).eval()) == "packed"

    def test_windows_and_chunks_are_shorter_than_the_rows(self) -> None:
        model = tiny_architecture("llama4_text")
        assert (model.config.attention_chunk_size, model.config.floor_scale) == (8192, 8192)
        made = miniature(model)
        assert (made.config.attention_chunk_size, made.config.floor_scale) == (WINDOW, WINDOW)
        assert row_layout(model) == "padded", "its chunks and scales count from the beginning of a packed sequence"


class TestCache:
    def test_every_source_file_counts(self) -> None:
        for name in SOURCES:
            text = (Path(structure.__file__).parent / name).read_text(encoding="utf-8")
            assert {f"{one}.py" for one in re.findall(r"^from tunelab\.models\.(\w+) import", text, re.M)} <= {*SOURCES}

    def count(self, monkeypatch: pytest.MonkeyPatch) -> list[type]:
        built: list[type] = []
        found = structure._found
        monkeypatch.setattr(structure, "_found", lambda model: (built.append(type(model)), found(model))[1])
        return built

    def test_each_configuration_is_asked_once(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        built = self.count(monkeypatch)
        structure_of(tiny_model("llama"))
        structure_of(tiny_model("llama", seed=3).to(torch.bfloat16))
        assert len(built) == 1, "other weights, another dtype: the same structure"
        structure._known.clear()
        structure_of(tiny_model("llama"))
        assert len(built) == 1, "another process reads it from the cache"
        structure_of(tiny_model("llama", rms_norm_eps=1e-3))
        assert len(built) == 2
        monkeypatch.setattr(structure, "__version__", "other")
        structure_of(tiny_model("llama"))
        assert len(built) == 3
        first = next((tmp_path / "structure").iterdir())
        assert json.loads(first.read_text(encoding="utf-8"))["class"] == "LlamaForCausalLM"

    @pytest.mark.parametrize("damage", ["", "{}", '{"structure": {"packed": ""}}'])
    def test_a_damaged_cache_is_written_again(
        self, damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        expected = structure_of(tiny_model("llama"))
        file = next((tmp_path / "structure").iterdir())
        file.write_text(damage, encoding="utf-8")
        structure._known.clear()
        assert structure_of(tiny_model("llama")) == expected
        assert json.loads(file.read_text(encoding="utf-8"))["structure"]["packed"] == ""

    def test_classes_of_a_checkpoint_s_own_are_not_kept(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        built = self.count(monkeypatch)

        class Own(LlamaForCausalLM):
            pass

        for _ in range(2):
            structure_of(Own(LlamaConfig(**SHAPE)).eval())
        assert built == [Own], "known for as long as the process lives"
        assert not (tmp_path / "structure").exists()

    def test_a_cache_that_cannot_be_written_is_no_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("", encoding="utf-8")
        monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "file"))
        assert row_layout(tiny_model("llama")) == "packed"


def test_a_module_that_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear is not a transformers model"):
        row_layout(nn.Linear(2, 2))
