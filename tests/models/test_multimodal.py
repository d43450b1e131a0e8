"""Of a multimodal model the text part is tuned; what is saved is still the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny import VOCABULARY, recipe, tiny_model, tiny_tokenizer
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, GotOcr2Config, GotOcr2ForConditionalGeneration

from tunelab.models.forward import attention_name, attention_set_to
from tunelab.models.linear_layers import linear_names, text_part, train_text_part
from tunelab.models.miniature import miniature
from tunelab.models.structure import row_layout
from tunelab.models.targets import resolve_targets
from tunelab.publishing.merge import merge
from tunelab.training.finetune import finetune

SPECIAL = {"pad_token_id": 257, "bos_token_id": 256, "eos_token_id": 256}


def shell() -> Any:
    text = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 20, **SPECIAL,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=260, boi_token_index=261,
        eoi_token_index=262, **SPECIAL,
    )  # fmt: skip
    return Gemma3ForConditionalGeneration(config).eval()


def got_ocr() -> Any:
    """Its vision part refuses sdpa, and comes first."""
    text = {
        "model_type": "qwen2", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "use_sliding_window": True,
        "sliding_window": 4, "layer_types": ["full_attention"] * 3 + ["sliding_attention"], **SPECIAL,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
        "output_channels": 8, "mlp_dim": 48, "window_size": 2, "global_attn_indexes": [1],
    }  # fmt: skip
    config = GotOcr2Config(text_config=text, vision_config=vision, image_token_index=260, **SPECIAL)
    return GotOcr2ForConditionalGeneration(config).eval()


def attentions(model: Any) -> list[str]:
    return [one._attn_implementation for one in (model.config, model.config.text_config, model.config.vision_config)]


def test_attention_is_set_in_the_text_part_alone() -> None:
    model = got_ocr()
    assert attentions(model) == attentions(miniature(model)) == ["eager", "sdpa", "eager"]
    with attention_set_to(model, "tunelab_packed"):
        assert attentions(model) == ["eager", "tunelab_packed", "eager"]
    assert attentions(model) == ["eager", "sdpa", "eager"] and attention_name(model) == "sdpa"
    assert row_layout(model) == "packed"


def test_a_miniature_has_a_text_layer_of_each_kind() -> None:
    assert "sliding_attention" in miniature(got_ocr()).config.text_config.layer_types


def test_full_training_leaves_the_other_parts_as_they_are() -> None:
    for model in (shell(), got_ocr()):
        train_text_part(model)
        names = [name for name, one in model.named_parameters() if one.requires_grad]
        assert names == [name for name, _ in model.named_parameters() if "language_model" in name or "lm_head" in name]
    whole = tiny_model("gpt2").requires_grad_(False)
    train_text_part(whole)
    assert all(one.requires_grad for one in whole.parameters())


def test_only_the_text_part_gets_adapters() -> None:
    model = shell()
    assert text_part(model) == "model.language_model."
    assert row_layout(model) == "packed"
    names = linear_names(model)
    assert len(names) == 14 and all(name.startswith("model.language_model.layers.") for name in names)
    assert resolve_targets(model, "all-linear") == sorted(names), "whole names: the vision part has a q_proj too"
    assert len(resolve_targets(model, "attention")) == 8
    named = resolve_targets(model, ["q_proj"])
    assert named == [name for name in sorted(names) if name.endswith("q_proj")], "none in the vision part"


def test_a_merged_run_is_the_whole_model_again(rows: Path, tmp_path: Path) -> None:
    base = shell()
    base.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    run = finetune(recipe(tmp_path / "base", rows, tmp_path / "run", train__steps=2, data__held_out=4))
    assert run.manifest["adapter"]["layers"] == 14
    merge(run, tmp_path / "merged")
    merged, info = Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    changed = {
        name for (name, was), (_, now) in zip(base.state_dict().items(), merged.state_dict().items(), strict=True)
        if not torch.equal(was, now.float())
    }  # fmt: skip
    assert len(changed) == 14 and all("language_model.layers" in name for name in changed)
