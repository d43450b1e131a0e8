"""Which layers get an adapter: expressions, numbers of layers, exclusions, and what matches nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from tiny import tiny_model

from tunelab.config import load_recipe
from tunelab.errors import ConfigError, ModelError
from tunelab.models.adapters import add_lora, coverage
from tunelab.models.targets import resolve_targets
from tunelab.training.forecast import adapters_words

LLAMA, GPT2 = tiny_model("llama"), tiny_model("gpt2")
QV = r".*\.self_attn\.(q|v)_proj"


def adapted(model: Any) -> set[str]:
    return {name.removeprefix("base_model.model.") for name, one in model.named_modules() if hasattr(one, "lora_A")}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # from within PEFT
@pytest.mark.parametrize(
    ("ours", "peft"),
    [
        ({"targets": QV}, {"target_modules": QV}),
        ({"targets": QV, "exclude": r".*\.1\..*"}, {"target_modules": QV, "exclude_modules": r".*\.1\..*"}),
        ({"targets": ["q_proj"], "layers": [1]}, {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
        ({"exclude": ["o_proj"]}, {"target_modules": "all-linear", "exclude_modules": ["o_proj"]}),
        ({"targets": "lm_head|" + QV}, {"target_modules": "lm_head|" + QV}),
    ],
)  # fmt: skip
def test_the_same_layers_as_peft(ours: dict[str, Any], peft: dict[str, Any]) -> None:
    expected = adapted(get_peft_model(tiny_model("llama"), LoraConfig(task_type="CAUSAL_LM", r=2, **peft)))
    assert adapted(add_lora(tiny_model("llama"), rank=2, alpha=4, **ours)) == expected


def test_an_expression_may_be_narrowed_by_layers_which_peft_refuses() -> None:
    assert resolve_targets(LLAMA, QV, layers=[1]) == [f"model.layers.1.self_attn.{one}_proj" for one in "qv"]
    assert resolve_targets(GPT2, "attention", layers=[0]) == [
        f"transformer.h.0.attn.c_{one}" for one in ("attn", "proj")
    ]
    assert resolve_targets(LLAMA, ["q_proj", "lm_head"], layers=[0, 1]) == ["q_proj"]


REFUSED: list[tuple[str | Sequence[str], dict[str, Any], str, str]] = [
    (r".*\.self_atn\.q_proj", {}, r"matches no linear layer of LlamaForCausalLM; it must match a whole name",
     r"did you mean self_attn\? linear layers"),
    (r".*\.(q_porj|v_prj)", {}, r"matches no linear layer", r"did you mean q_proj and v_proj\?"),
    (r"(self_attn|mlp)\.(q_proj|up_proj)", {}, "must match a whole", r"a whole name is model\.layers\.0\.self_attn"),
    (["q_porj"], {}, "'q_porj' matches no linear layer", r"did you mean self_attn\.q_proj or .*\? linear layers: mlp"),
    (r".*layers\.0.*", {}, r"also matches model\.layers\.0 \(LlamaDecoderLayer\), which is no linear layer", "end it"),
    (r".*(embed_tokens|q_proj)", {}, r"also matches model\.embed_tokens \(Embedding\)", "end it with the layers"),
    ("all-linear", {"layers": [0, 2]}, r"adapter\.layers: LlamaForCausalLM has no layer 2", "are 0 to 1"),
    ("attention", {"exclude": ["up_proj"]}, r"adapter\.exclude: 'up_proj' matches none of the", "self_attn"),
    ("all-linear", {"exclude": "up_pr."}, r"adapter\.exclude: 'up_pr\.' matches none", "they are: self_attn.q_proj"),
    (QV, {"exclude": ".*self_attn.*"}, "no linear layer is left to adapt", "less with adapter.exclude"),
    (["lm_head"], {"layers": [0]}, "no linear layer is left to adapt", "more with adapter.targets"),
]  # fmt: skip


@pytest.mark.parametrize(("targets", "narrowed", "message", "hint"), REFUSED)
def test_what_matches_nothing_is_refused(
    targets: str | Sequence[str], narrowed: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ModelError, match=message) as refused:
        resolve_targets(LLAMA, targets, **narrowed)
    assert re.search(hint, refused.value.hint), refused.value.hint


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("adapter.targets=q_proj", r"a list of one: [q_proj]"),
        ("adapter.targets=all-liner", "did you mean all-linear?"),
        ("adapter.targets='.*(q_proj'", "a list of one"),
        ("adapter.exclude=o_proj", "a list of one: [o_proj]"),
        ("adapter.layers=3", "a list of one: [3]"),
    ],
)
def test_a_word_is_no_expression(override: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_recipe(None, [override], {"model": "gpt2", "data": "alpaca"})
    (problem,) = refused.value.problems
    assert problem.path == override.partition("=")[0] and hint in problem.hint
    assert "a list" in problem.message


def test_what_is_adapted_is_said_and_recorded() -> None:
    model = add_lora(tiny_model("llama"), rank=2, alpha=4, targets=["q_proj", "mlp.up_proj", "lm_head"], layers=None)
    found = coverage(model)
    assert (found.layers, found.of) == (5, 15)
    assert found.modules == {"self_attn.q_proj": [0, 1], "mlp.up_proj": [0, 1], "lm_head": []}
    assert adapters_words(found) == (
        "adapters on 5 of 15 linear layers: 2 self_attn.q_proj, 2 mlp.up_proj, 1 lm_head (in layers 0-1); "
    )
    one = add_lora(tiny_model("llama"), rank=2, alpha=4, exclude=["self_attn.q_proj", "down_proj"], layers=[1])
    assert adapters_words(coverage(one)) == (
        "adapters on 5 of 14 linear layers: 1 self_attn.k_proj, 1 self_attn.v_proj, 1 self_attn.o_proj, "
        "1 mlp.gate_proj, 1 mlp.up_proj (in layer 1); "
    )
    every_other = add_lora(tiny_model("llama", num_hidden_layers=12), rank=2, alpha=4, layers=list(range(0, 12, 2)))
    assert adapters_words(coverage(every_other)) == (
        "adapters on 42 of 84 linear layers: 6 self_attn.q_proj, 6 self_attn.k_proj, 6 self_attn.v_proj, "
        "6 self_attn.o_proj, 6 mlp.gate_proj, 6 mlp.up_proj and 1 more kind (in layers 0, 2, 4, 6 and 2 more ranges); "
    )
    assert adapters_words(None) == ""
    assert (
        adapters_words(coverage(add_lora(tiny_model("llama"), rank=2, alpha=4))) == "adapters on all 14 linear layers; "
    )
