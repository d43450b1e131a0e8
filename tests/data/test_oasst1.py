"""OpenAssistant trees: which conversations they give, from both forms, and what is refused or left out."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tunelab.data.reader import load_examples
from tunelab.data.select import split_held_out
from tunelab.errors import DataError


def message(message_id: str, role: str, parent: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "message_id": message_id,
        "parent_id": parent,
        "role": role,
        "text": f"text {message_id}",
        "lang": "en",
    } | more


# r ─ a1 (rank 1) ─ p1 ─ b1
#   │             └ p2
#   ├ a0 (rank 0) ─ p3
#   │             └ p4 ─ b2 (rank 1), b3 (rank 0), b4 (no rank)
#   └ a2 (no rank, deleted) ─ p5 ─ b5
TREE = [
    message("r", "prompter"),
    message("a1", "assistant", "r", rank=1),
    message("p1", "prompter", "a1"),
    message("b1", "assistant", "p1"),
    message("p2", "prompter", "a1"),
    message("a0", "assistant", "r", rank=0),
    message("p3", "prompter", "a0", rank=1),
    message("p4", "prompter", "a0", rank=0),
    message("b2", "assistant", "p4", rank=1),
    message("b3", "assistant", "p4", rank=0),
    message("b4", "assistant", "p4"),
    message("a2", "assistant", "r", deleted=True),
    message("p5", "prompter", "a2"),
    message("b5", "assistant", "p5"),
]


def load_oasst(folder: Path, rows: list[dict[str, Any]], *, skip: bool = False, **options: Any) -> Any:
    path = folder / "trees.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_examples("oasst1", path=path, options=options, on_bad_row="skip" if skip else "error")


def ids(loaded: Any) -> list[str]:
    return [" ".join(m.content.removeprefix("text ") for m in example.messages) for example in loaded.examples]


def nested(rows: list[dict[str, Any]]) -> dict[str, Any]:
    nodes: dict[str, dict[str, Any]] = {row["message_id"]: {**row, "replies": []} for row in rows}
    for row in rows[1:]:
        nodes[row["parent_id"]]["replies"].append(nodes[row["message_id"]])
    return {"message_tree_id": rows[0]["message_id"], "tree_state": "ready_for_export", "prompt": nodes["r"]}


def flat(node: dict[str, Any], parent: str | None = None) -> Iterator[dict[str, Any]]:
    replies = node.get("replies", [])
    yield {**{key: value for key, value in node.items() if key != "replies"}, "parent_id": parent}
    for reply in replies:
        yield from flat(reply, node["message_id"])


class TestOasstTrees:
    @pytest.mark.parametrize("form", ["flat", "nested", "root"])
    def test_best_path_and_all_paths(self, tmp_path: Path, form: str) -> None:
        rows = {"flat": TREE, "nested": [nested(TREE)], "root": [nested(TREE)["prompt"]]}[form]
        best = load_oasst(tmp_path, rows)
        assert ids(best) == ["r a0 p4 b3"]
        everything = load_oasst(tmp_path, rows, paths="all")
        assert ids(everything) == ["r a1 p1 b1", "r a0 p4 b2", "r a0 p4 b3", "r a0 p4 b4"]
        assert best.left_out == everything.left_out == {"deleted messages (with their replies)": 3}
        assert best.rows_read == len(rows)
        assert [example.origin for example in everything.examples][:2] == [
            "trees.jsonl row 1 (1 of 4)",
            "trees.jsonl row 1 (2 of 4)",
        ]
        assert {example.group for example in everything.examples} == {"text r"}

    def test_best_path_is_cut_back_to_its_last_answer(self, tmp_path: Path) -> None:
        rows = [*TREE[:2], TREE[4]]
        assert ids(load_oasst(tmp_path, rows)) == ["r a1"]
        assert ids(load_oasst(tmp_path, [*rows, message("p6", "prompter", "a1")], paths="all")) == ["r a1"]

    def test_unranked_replies_follow_the_file(self, tmp_path: Path) -> None:
        replies = [message(name, "assistant", "r") for name in ("y", "x")]
        assert ids(load_oasst(tmp_path, [TREE[0], *replies])) == ["r y"]
        assert ids(load_oasst(tmp_path, [TREE[0], *replies, message("z", "assistant", "r", rank=4)])) == ["r z"]

    def test_flat_messages_in_any_order_keep_their_trees(self, tmp_path: Path) -> None:
        rows = list(TREE)
        random.Random(0).shuffle(rows)
        assert ids(load_oasst(tmp_path, rows)) == ["r a0 p4 b3"]
        assert sorted(ids(load_oasst(tmp_path, rows, paths="all"))) == [
            "r a0 p4 b2",
            "r a0 p4 b3",
            "r a0 p4 b4",
            "r a1 p1 b1",
        ]

    def test_a_chain_deeper_than_the_recursion_limit(self, tmp_path: Path) -> None:
        rows = [message("0", "prompter")]
        rows += [message(str(n), ("prompter", "assistant")[n % 2], str(n - 1)) for n in range(1, 3000)]
        [example] = load_oasst(tmp_path, rows, paths="all").examples
        assert len(example.messages) == 3000

    def test_language_is_the_root_prompts_and_takes_whole_trees(self, tmp_path: Path) -> None:
        other = [message("s", "prompter", lang="de"), message("t", "assistant", "s", lang="en")]
        rows = [*TREE[:2], *other]
        english = load_oasst(tmp_path, rows, language="en")
        assert ids(english) == ["r a1"]
        assert english.left_out == {"trees in another language than en": 1}
        assert ids(load_oasst(tmp_path, rows, language="de")) == ["s t"]
        assert ids(load_oasst(tmp_path, rows)) == ["r a1", "s t"]

    def test_csv_and_float_values_mean_the_same(self, tmp_path: Path) -> None:
        rows = [
            message("r", "prompter", "", deleted="False"),
            message("x", "assistant", "r", rank="", deleted="False"),
            message("y", "assistant", "r", rank="1.0", deleted="False"),
            message("z", "assistant", "r", rank=0.0, deleted="True", text=""),
        ]
        assert ids(load_oasst(tmp_path, rows)) == ["r y"]

    def test_a_tree_whose_root_or_every_reply_is_deleted_is_left_out(self, tmp_path: Path) -> None:
        gone = [message("s", "prompter", deleted=True), message("t", "assistant", "s")]
        silenced = [message("u", "prompter"), message("v", "assistant", "u", deleted=True)]
        loaded = load_oasst(tmp_path, [*TREE[:2], *gone, *silenced])
        assert ids(loaded) == ["r a1"] and loaded.bad_rows == []
        assert loaded.left_out == {"deleted messages (with their replies)": 3}
        with pytest.raises(DataError, match=r"no row can be used, of 2 read\n  left out: 2 deleted messages"):
            load_oasst(tmp_path, gone)

    @pytest.mark.parametrize(
        ("row", "match"),
        [
            (
                message("x", "assistant", "gone"),
                "row 3: message 'x': its parent 'gone' is not in the file, or is a bad row",
            ),
            (message("a1", "assistant", "r"), "row 3: message_id 'a1' is also in row 2"),
            (
                message("x", "assistant", "x"),
                "row 3: message 'x': the chain of its parents does not reach a root prompt",
            ),
            (message("x", "human", "r"), "row 3: message 'x' has role 'human'; known: prompter, assistant"),
            (message("x", "assistant", "r", text=" "), r"row 3: message 'x' \(assistant\) has no text"),
            (message("x", "assistant", "r", text=None), "row 3: column 'text' is null, expected text"),
            (
                message("x", "assistant", "r", rank="top"),
                "row 3: message 'x': rank is 'top', expected a number or null",
            ),
            (message("", "assistant", "r"), "row 3: column 'message_id' is empty"),
            (
                message("x", "assistant", "r") | {"parent_id": 5},
                "row 3: message 'x': parent_id is a number, expected text",
            ),
            (message("x", "prompter"), "row 3: no assistant turn: message 'x' has no answer"),
            (message("x", "assistant"), "row 3: roles do not alternate"),
        ],
    )
    def test_bad_flat_messages(self, tmp_path: Path, row: dict[str, Any], match: str) -> None:
        with pytest.raises(DataError, match=rf"1 of 3 rows cannot be used:\n  trees\.jsonl {match}"):
            load_oasst(tmp_path, [*TREE[:2], row])
        loaded = load_oasst(tmp_path, [*TREE[:2], row], skip=True)
        assert ids(loaded) == ["r a1"] and len(loaded.bad_rows) == 1

    def test_replies_of_a_bad_message_are_named_as_well(self, tmp_path: Path) -> None:
        rows = [*TREE[:2], message("x", "human", "r"), message("y", "prompter", "x"), message("z", "assistant", "y")]
        bad = load_oasst(tmp_path, rows, skip=True).bad_rows
        assert [line.partition(":")[0] for line in bad] == [f"trees.jsonl row {n}" for n in (3, 4, 5)]
        assert "the chain of its parents" in bad[2]

    def test_bad_rows_are_listed_in_the_order_of_the_file(self, tmp_path: Path) -> None:
        rows = [TREE[0], message("x", "assistant", "gone"), TREE[1], message("y", "human", "r")]
        bad = load_oasst(tmp_path, rows, skip=True).bad_rows
        assert [line.partition(":")[0] for line in bad] == ["trees.jsonl row 2", "trees.jsonl row 4"]

    @pytest.mark.parametrize(
        ("tree", "match"),
        [
            ({"prompt": "Hi"}, "column 'prompt' is text, expected the root message"),
            ({"prompt": message("r", "prompter", replies=5)}, "message 'r': replies is a number, expected a list"),
            ({"prompt": message("r", "prompter", replies=["x"])}, "a reply is text, expected a message"),
            ({"prompt": message("r", "prompter", replies=None)}, "no assistant turn: message 'r' has no answer"),
            ({"prompt": {"role": "prompter", "text": "Hi"}}, "no column 'message_id'"),
            (nested([TREE[0], message("x", "assistant", "r", text="")]), r"message 'x' \(assistant\) has no text"),
        ],
    )
    def test_bad_nested_trees(self, tmp_path: Path, tree: dict[str, Any], match: str) -> None:
        with pytest.raises(DataError, match=rf"trees\.jsonl row 1: {match}"):
            load_oasst(tmp_path, [tree])

    def test_a_language_needs_the_column_lang(self, tmp_path: Path) -> None:
        rows = [{key: value for key, value in row.items() if key != "lang"} for row in TREE[:2]]
        assert ids(load_oasst(tmp_path, rows)) == ["r a1"]
        with pytest.raises(DataError, match="row 1: no column 'lang'"):
            load_oasst(tmp_path, rows, language="en")


class TestRealTrees:
    @pytest.mark.parametrize(("paths", "count"), [("best", 100), ("all", 546)])
    def test_nested_and_flat_give_the_same_conversations(
        self, shared_data: Path, tmp_path: Path, paths: str, count: int
    ) -> None:
        source = shared_data / "oasst" / "en_100_tree.jsonl"
        trees = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        from_trees = load_examples("auto", path=source, options={"paths": paths})
        assert from_trees.name == "oasst1" and from_trees.bad_rows == [] and from_trees.left_out == {}
        messages = [row for tree in trees for row in flat(tree["prompt"])]
        from_messages = load_oasst(tmp_path, messages, paths=paths)
        assert from_messages.rows_read == 1167
        assert len(from_trees.examples) == len(from_messages.examples) == count
        assert [e.messages for e in from_trees.examples] == [e.messages for e in from_messages.examples]
        roots = {tree["prompt"]["text"] for tree in trees}
        assert {example.group for example in from_trees.examples} == roots

    def test_every_answer_that_no_answer_follows_ends_one_path(self, shared_data: Path) -> None:
        source = shared_data / "oasst" / "en_100_tree.jsonl"
        examples = load_examples("oasst1", path=source, options={"paths": "all"}).examples
        trees = [json.loads(line)["prompt"] for line in source.read_text(encoding="utf-8").splitlines()]

        def answers_below(node: dict[str, Any]) -> int:
            return sum((reply["role"] == "assistant") + answers_below(reply) for reply in node["replies"])

        def last_answers(node: dict[str, Any]) -> int:
            own = node["role"] == "assistant" and not answers_below(node)
            return own + sum(last_answers(reply) for reply in node["replies"])

        assert len(examples) == sum(map(last_answers, trees))

    def test_no_prompt_stands_on_both_sides_of_a_split(self, shared_data: Path) -> None:
        source = shared_data / "oasst" / "en_100_tree.jsonl"
        examples = load_examples("oasst1", path=source, options={"paths": "all"}).examples
        for seed in range(20):
            train, held_out = split_held_out(examples, 0.2, seed)
            assert len(train) + len(held_out) == len(examples) and len(held_out) >= 109
            assert not {example.group for example in train} & {example.group for example in held_out}
