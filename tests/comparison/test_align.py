"""Unlike things are refused by name, all at once; what may differ is listed; common items come in one order."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from tunelab.comparison.align import ABSENT, GradedItems, align
from tunelab.errors import DataError

HEADER = {
    "benchmark": "mmlu",
    "benchmark_options": {"shots": 5, "protocol": "lm-eval"},
    "items": 3,
    "items_sha256": "sha256:aa",
    "limit": None,
    "model": "sha256:11",
    "arm": "base",
    "precision": {"format": "none"},
    "dtype": "bfloat16",
    "template": None,
    "decoding": {"temperature": 0.0, "stop_token_ids": [2]},
    "tunelab": "0.1.0",
}
A = GradedItems(
    "base",
    {"law/1": 1.0, "law/2": 0.0, "art/1": 1.0},
    {"law/1": "Who owns it?", "law/2": "Is it theft?", "art/1": "Who painted it?"},
    {"law/1": "law", "law/2": "law", "art/1": "art"},
    HEADER,
    {"follows": "lm-evaluation-harness"},
)


def _tuned(**changes: Any) -> GradedItems:
    header = {**HEADER, "arm": "tuned", "adapter": "sha256:22", **changes.pop("header", {})}
    return dataclasses.replace(A, name="tuned", header=header, **changes)


def test_items_come_in_the_order_of_a() -> None:
    b = _tuned(values={"art/1": 0.0, "law/2": 1.0, "law/1": 0.5})
    pairs = align(A, b)
    assert pairs.items == ["law/1", "law/2", "art/1"]
    assert (pairs.a, pairs.b) == ([1.0, 0.0, 1.0], [0.5, 1.0, 0.0])
    assert pairs.clusters == ["law", "law", "art"]
    assert (pairs.only_in_a, pairs.only_in_b) == ([], [])
    assert (pairs.a_name, pairs.b_name) == ("base", "tuned")


def test_what_makes_the_model_may_differ_and_is_listed() -> None:
    b = _tuned(header={"tunelab": "0.2.0", "decoding": {"temperature": 0.0, "stop_token_ids": [2, 5]}})
    assert align(A, b).differing == {
        "arm": ("base", "tuned"),
        "adapter": (ABSENT, "sha256:22"),
        "tunelab": ("0.1.0", "0.2.0"),
        "decoding.stop_token_ids": ([2], [2, 5]),
    }


def test_what_was_written_and_read_again_is_alike() -> None:
    header = {**HEADER, "decoding": {"temperature": 0.0, "stop_token_ids": (2,)}}
    stored = json.loads(json.dumps(header))
    assert align(dataclasses.replace(A, header=header), dataclasses.replace(A, header=stored)).differing == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"template": "alpaca"},
            'template: null in base, "alpaca" in tuned\n    evaluate both in the same template',
        ),
        (
            {"decoding": {"temperature": 0.7, "stop_token_ids": [2]}},
            "decoding.temperature: 0.0 in base, 0.7 in tuned\n    generate again with the same decoding",
        ),
        (
            {"decoding": "likelihood of choices"},
            'decoding: {"temperature": 0.0, "stop_token_ids": [2]} in base, "likel',
        ),
        ({"benchmark": "ifeval"}, 'benchmark: "mmlu" in base, "ifeval" in tuned\n    compare scores of one benchmark'),
        (
            {"benchmark_options": {"shots": 0, "protocol": "lm-eval"}},
            "benchmark_options.shots: 5 in base, 0 in tuned\n    evaluate both with the same benchmark options",
        ),
        (
            {"items_sha256": "sha256:bb"},
            'items_sha256: "sha256:aa" in base, "sha256:bb" in tuned\n    evaluate both on',
        ),
        ({"limit": 3}, "limit: null in base, 3 in tuned\n    evaluate both with the same --limit"),
        ({"judge": "x"}, f'judge: "{ABSENT}" in base, "x" in tuned\n    evaluate both in the same way'),
    ],
)
def test_unlike_headers_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        align(A, _tuned(header=change))
    assert caught.value.message.startswith("base and tuned cannot be compared: 1 difference\n  ")
    assert message in caught.value.message
    assert caught.value.hint == "a key that is meant to differ can be allowed by name (--allow-diff)"


def test_keys_can_be_named_as_meant_to_differ() -> None:
    b = _tuned(
        header={"template": "alpaca", "decoding": {"temperature": 0.7, "stop_token_ids": [2]}},
        protocol={"follows": "the paper"},
    )
    meant = {"arm", "adapter", "template", "decoding", "protocol.follows"}
    assert set(align(A, b, allow_diff=meant).differing) == {
        "arm",
        "adapter",
        "template",
        "decoding.temperature",
        "protocol.follows",
    }
    with pytest.raises(DataError, match='arm: "base" in base, "tuned" in tuned'):
        align(A, b, allow_diff=meant - {"arm"})
    with pytest.raises(DataError, match=r"1 difference\n  decoding\.temperature: 0\.0 in base, 0\.7"):
        align(A, b, allow_diff={*meant, "decoding.top_p"} - {"decoding"})


def test_all_that_is_unlike_is_said_at_once() -> None:
    b = _tuned(
        header={"template": "alpaca"},
        protocol={"follows": "the paper"},
        values={"law/1": 1.0, "law/2": 0.0, "law/3": 0.0},
        prompts={"law/1": "Who owns this?", "law/2": "Is it theft?"},
        clusters={"law/1": "law", "law/2": "ethics"},
    )
    with pytest.raises(DataError) as caught:
        align(A, b)
    for line in (
        "base and tuned cannot be compared: 6 differences",
        '  template: null in base, "alpaca" in tuned',
        '  protocol.follows: "lm-evaluation-harness" in base, "the paper" in tuned',
        "    score both files again with this version and the same options",
        "  items: 1 of base is not in tuned: 'art/1'",
        "    finish the evaluation of tuned, or compare common items only",
        "  items: 1 of tuned is not in base: 'law/3'",
        "  prompts: 1 of 2 items have different prompts: 'law/1'"
        ' ("Who owns it?" against "Who owns this?", from character 0)',
        "    evaluate both on the same files with the same version of tunelab",
        '  clusters: 1 of 2 items are in different clusters: \'law/2\' ("law" against "ethics")',
    ):
        assert line in caught.value.message.splitlines()


def test_long_lists_and_long_prompts_are_cut_to_what_differs() -> None:
    ids = [f"law/{place}" for place in range(40)]
    a = GradedItems("a", dict.fromkeys(ids, 1.0), dict.fromkeys(ids, "x" * 500 + "yes" + "z" * 500))
    b = GradedItems("b", dict.fromkeys(ids, 1.0), dict.fromkeys(ids, "x" * 500 + "no" + "z" * 500))
    with pytest.raises(DataError) as caught:
        align(a, b)
    assert "40 of 40 items have different prompts: 'law/0', 'law/1', 'law/2', …" in caught.value.message
    assert '("xxxxxxxxxxyes' in caught.value.message and "from character 490" in caught.value.message
    assert len(caught.value.message) < 500
    assert caught.value.hint == ""  # no key differs that could be named


def test_common_items_only() -> None:
    b = _tuned(values={"art/1": 0.0, "law/1": 0.0, "art/2": 1.0}, header={"limit": 3, "items": 9})
    pairs = align(A, b, common_items_only=True)
    assert (pairs.items, pairs.only_in_a, pairs.only_in_b) == (["law/1", "art/1"], ["law/2"], ["art/2"])
    assert pairs.differing["limit"] == (None, 3)
    with pytest.raises(DataError, match="base and tuned have no item in common"):
        align(A, _tuned(values={"art/2": 1.0}), common_items_only=True)


def test_prompts_that_are_not_known_are_not_compared() -> None:
    assert align(A, _tuned(prompts={})).items == list(A.values)


def test_no_clusters_are_none() -> None:
    assert align(GradedItems("a", {"1": 1.0}), GradedItems("b", {"1": 0.0})).clusters is None


def test_values_must_be_finite() -> None:
    with pytest.raises(DataError, match="tuned: item 'law/2' has the value nan: expected a finite number"):
        align(A, _tuned(values={**A.values, "law/2": math.nan}))
