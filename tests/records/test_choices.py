"""Which rates a study tries and chooses: a pure function of the losses, with as many tries for each arm."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunelab.config.study import Study, parse_study
from tunelab.errors import ConfigError
from tunelab.records.choices import Loss, choices, most_tries, own_rate, rates_to_try, sources, try_recipe, with_rates

FULL = [2e-6, 6.32e-6, 2e-5, 6.32e-5, 2e-4]
LORA = [2e-5, 6.32e-5, 2e-4, 6.32e-4, 2e-3]


def study_of(**changes: Any) -> Study:
    tree: dict[str, Any] = {
        "title": "rates",
        "recipe": {"model": "gpt2", "data": {"sources": ["alpaca"], "validation": 10}},
        "arms": {
            "base": {"tuned": False},
            "full": {"recipe": {"method": "full"}},
            "lora": {},
            "nf4": {"recipe": {"precision": "nf4"}},
            "loftq": {"recipe": {"precision": "nf4", "adapter": {"init": "loftq"}}},
        },
        "benchmarks": {"held-out": {}},
        "search": {},
    }
    return parse_study(tree | changes)


def bowl(best: Mapping[str, float], diverges: float = math.inf) -> Callable[[str, float], Loss]:
    """Losses with their lowest point at a rate of each arm; infinite from `diverges` on."""

    def loss(arm: str, lr: float) -> Loss:
        return math.inf if lr >= diverges else 1 + math.log10(lr / best[arm]) ** 2

    return loss


INSIDE = {"full": 2e-5, "lora": 2e-4, "nf4": 2e-4, "loftq": 6e-4}


def test_arms_that_differ_in_precision_alone_share_the_rate_of_the_unquantized_one() -> None:
    assert sources(study_of()) == {"full": "full", "lora": "lora", "nf4": "lora", "loftq": "loftq"}
    each = {name: name for name in ("full", "lora", "nf4", "loftq")}
    assert sources(study_of(search={"share_precision": False})) == each
    without_dense = {"a": {"recipe": {"precision": "nf4"}}, "b": {"recipe": {"precision": "int8"}}}
    assert sources(study_of(arms=without_dense)) == {"a": "a", "b": "b"}


def test_five_rates_around_each_arm_s_own_and_they_meet() -> None:
    tried = rates_to_try(study_of(), lambda arm, lr: "waiting")
    assert tried == {"full": FULL, "lora": LORA, "loftq": LORA}
    assert set(FULL) & set(LORA) == {2e-5, 6.32e-5, 2e-4}
    own = study_of(recipe={"model": "gpt2", "data": {"sources": ["alpaca"], "validation": 10}, "train": {"lr": 0.1}})
    assert rates_to_try(own, lambda arm, lr: "waiting")["lora"] == [0.01, 0.0316, 0.1, 0.316, 1.0]
    factors = study_of(search={"factors": [0.5, 1, 2]})
    assert rates_to_try(factors, lambda arm, lr: "waiting")["full"] == [1e-5, 2e-5, 4e-5]


def test_the_lowest_loss_chooses_and_nothing_more_is_tried() -> None:
    study, losses = study_of(), bowl(INSIDE)
    assert rates_to_try(study, losses)["lora"] == LORA
    found = choices(study, losses)
    assert {arm: one.lr for arm, one in found.items()} == {"full": 2e-5, "lora": 2e-4, "nf4": 2e-4, "loftq": 6.32e-4}
    assert not any(one.edge for one in found.values()) and list(found["nf4"].tried) == LORA
    trained = with_rates(study, found)
    assert trained.search is None and trained.arm_recipe("nf4", 0).train.lr == 2e-4
    assert trained.arm_recipe("base", 0).train.lr is None
    assert trained.arm_recipe("loftq", 0).adapter.init == "loftq"


def test_an_edge_is_extended_and_every_arm_gets_as_many_tries() -> None:
    study = study_of()
    once = rates_to_try(study, bowl({**INSIDE, "full": 3e-4}))
    assert once == {"full": [*FULL, 6.32e-4], "lora": [*LORA, 3.56e-4], "loftq": [*LORA, 3.56e-4]}
    twice = rates_to_try(study, bowl({**INSIDE, "full": 1e-1}))
    assert twice["full"] == [*FULL, 6.32e-4, 2e-3] and {len(rates) for rates in twice.values()} == {7}
    assert len({*twice["lora"]}) == 7
    assert choices(study, bowl({**INSIDE, "full": 1e-1}))["full"].edge == "highest"
    down = rates_to_try(study, bowl({**INSIDE, "lora": 1e-9}))
    assert down["lora"] == [*LORA, 6.32e-6, 2e-6], "on the rates of the other arm further out, too"
    assert most_tries(study) == 21 and most_tries(study_of(search=None)) == 0


def test_a_diverged_try_counts_as_tried() -> None:
    study, losses = study_of(), bowl({**INSIDE, "full": 1e-1}, diverges=1.9e-4)
    assert rates_to_try(study, losses)["full"] == FULL, "beyond the best, one diverged: the best is at no edge"
    assert choices(study, losses)["full"].lr == 6.32e-5
    nothing = bowl(INSIDE, diverges=0.0)
    found = choices(study, nothing)["full"]
    assert (found.lr, found.edge) == (2e-7, "lowest") and set(found.tried.values()) == {math.inf}
    assert json.dumps(found.to_json(), allow_nan=False).count("null") == 7


def test_until_the_last_try_has_ended_there_is_no_choice() -> None:
    study, known = study_of(), bowl(INSIDE)
    found = choices(study, lambda arm, lr: "waiting" if (arm, lr) == ("full", 2e-6) else known(arm, lr))
    assert {one.lr for one in found.values()} == {None} and len(found["full"].tried) == 4
    assert with_rates(study, found).arms == study.arms


def test_a_failed_try_leaves_its_arm_without_a_rate_and_the_others_with_theirs() -> None:
    study, known = study_of(), bowl({**INSIDE, "loftq": 1.0})
    found = choices(study, lambda arm, lr: "failed" if arm == "lora" and lr == 2e-3 else known(arm, lr))
    assert (found["lora"].lr, found["nf4"].lr, found["full"].lr) == (None, None, 2e-5)
    assert len(found["loftq"].tried) == len(found["full"].tried) == 7
    assert {one.lr for one in choices(study, lambda arm, lr: "failed").values()} == {None}


def test_a_try_has_the_seed_of_the_search() -> None:
    recipe = try_recipe(study_of(seeds=[0, 1]), "full", 1e-3)
    assert (recipe.train.seed, recipe.train.lr, recipe.method) == (1000, 1e-3, "full")
    assert own_rate(study_of(), "full") == 2e-5 and own_rate(study_of(), "lora") == 2e-4
    with pytest.raises(ValueError, match="the study has no search"):
        try_recipe(study_of(search=None), "full", 1e-3)


@given(st.dictionaries(st.sampled_from([*LORA, *FULL]), st.floats(0, 10) | st.just(math.inf), min_size=0))
def test_every_arm_has_the_same_number_of_different_rates(by_rate: dict[float, float]) -> None:
    study = study_of()
    tried = rates_to_try(study, lambda arm, lr: by_rate.get(lr, 2.0))
    assert len({len(rates) for rates in tried.values()}) == 1
    assert all(len(set(rates)) == len(rates) <= 7 for rates in tried.values())


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"search": {"factors": [1, 1, 2]}}, "search.factors", "expected at least 3 different numbers"),
        ({"search": {"factors": [1]}}, "search.factors", "expected at least 3 different numbers"),
        ({"search": {"seed": 1}, "seeds": [0, 1]}, "search.seed", "1 is one of seeds"),
        ({"arms": {"base": {"tuned": False}}}, "search", "no arm is tuned"),
        (
            {"recipe": {"model": "gpt2", "data": "alpaca"}},
            "search",
            "arm full has no validation rows to choose a learning rate by",
        ),
        ({"search": {"rates": [1]}}, "search.rates", "unknown key"),
    ],
)
def test_a_search_that_cannot_choose_is_refused(changes: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_of(**changes)
    found = [one for one in caught.value.problems if one.path == path and message in one.message]
    assert found and all(one.hint for one in found)


def test_the_rate_of_an_arm_of_before_that_chose_by_held_out_rows_is_known() -> None:
    """A recipe that later rules refuse is still reported."""
    train = {"load_best_at_end": True, "eval_every": 1}
    tree = {"title": "t", "recipe": {"model": "gpt2", "data": "alpaca", "train": train}, "arms": {"lora": {}}}
    study = parse_study({**tree, "benchmarks": {"held-out": {}}}, is_asked=False)
    assert own_rate(study, "lora") == 2e-4
