"""Initial matrices are PEFT's, leave the model as it was, and are saved as plain LoRA over the original base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rounding import assert_same_but_for_rounding
from tiny import tiny_model

from tunelab.errors import ModelError
from tunelab.models.adapters import add_lora, load_adapter, save_adapter
from tunelab.models.initialization import (
    changes_the_base,
    freeze_fixed,
    initialize,
    prepare_base,
    save_converted,
    take_out,
)
from tunelab.models.merge import logits_of, merge_adapter
from tunelab.models.targets import resolve_targets

GENERATOR = torch.Generator().manual_seed(0)
TOKENS = [torch.randint(3, 250, (24,), generator=GENERATOR).tolist() for _ in range(12)]
ROWS: list[Any] = [(ids, [False] * 4 + [True] * 20) for ids in TOKENS]
BASE = tiny_model("llama")
EXPECTED = logits_of(BASE, TOKENS[:2])


def adapted(init: str, family: str = "llama", **more: Any) -> Any:
    """A new adapter with these initial matrices, as a run makes it."""
    model = tiny_model(family)
    settings = {"rank": 4, "alpha": 8, "seed": 3, **more}
    prepare_base(model, resolve_targets(model, settings.get("targets", "all-linear")), init, settings["rank"], ROWS)
    made = add_lora(model, **settings)
    initialize(made, init, seed=3, rows=ROWS)
    if changes_the_base(init):
        take_out(made)
    return made


def shuffled(model: Any) -> Any:
    """The adapted model with other matrices: as if it were trained."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=GENERATOR) * 0.1)
    return model


def matrices(model: Any) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters() if ".lora_" in name}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # from within PEFT
@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "pissa", "pissa_niter_8", "olora", "mica", "eva", "corda"])
def test_the_model_begins_as_it_was(init: str) -> None:
    made = adapted(init)
    assert_same_but_for_rounding(logits_of(made, TOKENS[:2]), EXPECTED)
    found = matrices(made)
    assert {one.dtype for one in found.values()} == {torch.float32}
    assert any(bool(one.any()) for name, one in found.items() if ".lora_A." in name) != (init == "mica")
    fixed = {name for name, one in made.named_parameters() if ".lora_" in name and not one.requires_grad}
    assert fixed == ({name for name in found if ".lora_B." in name} if init == "mica" else set())
    if init in ("pissa", "olora", "mica"):  # no random numbers: PEFT's own, to the sign of a singular vector
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=init)
        theirs = matrices(get_peft_model(copy.deepcopy(BASE), config))
        assert theirs.keys() == found.keys()
        for name, one in found.items():
            torch.testing.assert_close(one.abs(), theirs[name].abs(), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # from within PEFT
@pytest.mark.parametrize(
    ("init", "family"), [("pissa", "llama"), ("pissa", "gpt2"), ("olora", "llama"), ("corda", "llama")]
)
@pytest.mark.parametrize("use_rslora", [False, True])
def test_what_is_saved_is_plain_lora_over_the_original_base(
    init: str, family: str, use_rslora: bool, tmp_path: Path
) -> None:
    made = adapted(init, family, use_rslora=use_rslora)
    save_adapter(made, tmp_path / "start")
    began = matrices(made)
    trained = shuffled(made)
    save_converted(trained, tmp_path / "saved", tmp_path / "start")
    expected = logits_of(trained, TOKENS[:2])
    for load in (load_adapter, PeftModel.from_pretrained):
        loaded = load(tiny_model(family), tmp_path / "saved")
        assert_same_but_for_rounding(logits_of(loaded, TOKENS[:2]), expected)
    assert loaded.peft_config["default"].r == 8 and loaded.peft_config["default"].init_lora_weights is True
    merged = merge_adapter(load_adapter(tiny_model(family), tmp_path / "saved"))
    assert_same_but_for_rounding(logits_of(merged, TOKENS[:2]), expected)
    again = load_adapter(tiny_model(family), tmp_path / "start", dropout=0.0)
    freeze_fixed(again, init)
    take_out(again)
    assert all(torch.equal(one, began[name]) for name, one in matrices(again).items())
    bases = [dict(one.named_parameters()) for one in (again, made)]
    assert all(torch.equal(bases[0][name], one) for name, one in bases[1].items() if ".lora_" not in name)


def test_eva_gives_layers_ranks_of_their_own(tmp_path: Path) -> None:
    made = adapted("eva")
    ranks = {len(one) for name, one in matrices(made).items() if ".lora_A." in name}
    assert len(ranks) > 1 and max(ranks) <= 8
    save_adapter(made, tmp_path)
    again = load_adapter(tiny_model("llama"), tmp_path, dropout=0.0)
    assert all(torch.equal(one, matrices(made)[name]) for name, one in matrices(again).items())


REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "pissa",
        "llama",
        {"rank": 40},
        r"adapter\.init=pissa: .* a rank of at most (16|32), and adapter\.rank is 40",
    ),
    ("olora", "gpt2", {}, r"adapter\.init=olora: .* is a Conv1D"),
    ("pissa", "gpt2", {"targets": ["lm_head"]}, r"lm_head shares its weight with transformer\.wte\.weight"),
    ("eva", "llama", {"rank": 20}, r"adapter\.init=eva: .* allows a rank of at most 16"),
]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # from within PEFT
@pytest.mark.parametrize(("init", "family", "more", "message"), REFUSED)
def test_layers_that_do_not_allow_it(init: str, family: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        adapted(init, family, **more)


def test_rows_that_do_not_do() -> None:
    made = add_lora(tiny_model("llama"), rank=4, alpha=8)
    with pytest.raises(ModelError, match="the training rows have fewer than 8 supervised tokens"):
        initialize(made, "eva", seed=0, rows=[([5, 6, 7], [False, True, True])])
    with pytest.raises(ModelError, match=r"adapter\.init=corda: PEFT cannot compute it"):
        prepare_base(tiny_model("llama"), ["q_proj"], "corda", 4, [])
