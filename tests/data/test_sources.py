"""Each source's own rules: what a row becomes, and which rows are refused with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tunelab.data.messages import Conversation, PretokenizedRow
from tunelab.data.reader import load_source
from tunelab.errors import BadRow


def convert(name: str, row: dict[str, Any], **options: Any) -> list[Any]:
    module = load_source(name)
    made: list[Any] = module.examples(row, module.Options(**options))
    return made


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


def refused(name: str, row: dict[str, Any], match: str, **options: Any) -> None:
    with pytest.raises(BadRow, match=match):
        convert(name, row, **options)


class TestAlpaca:
    @pytest.mark.parametrize(
        "text", ["", "  \n", None, "<noinput>", "<NoInput>", "<noinput", "< noinput >", "\\<noinput\\>", "No input."]
    )
    def test_every_spelling_of_no_input(self, text: str | None) -> None:
        [made] = convert("alpaca", {"instruction": "Say hello.", "input": text, "output": "Hello."})
        assert made.messages[0].input == "" and made.messages[0].content == "Say hello."

    @pytest.mark.parametrize("text", ["no inputs", "There is no input here", "<none>", "0", " x "])
    def test_other_inputs_are_kept_untouched(self, text: str) -> None:
        [made] = convert("alpaca", {"instruction": "i", "input": text, "output": "o"})
        assert made.messages[0].input == text

    def test_no_input_column(self) -> None:
        [made] = convert("alpaca", {"instruction": " i ", "output": "o\n"})
        assert turns(made) == [("user", " i "), ("assistant", "o\n")]

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"output": ""}, r"empty output: message 2 \(assistant\) has no text"),
            ({"output": "\n "}, "empty output"),
            ({"instruction": " "}, r"message 1 \(user\) has no text"),
            ({"output": None}, "column 'output' is null, expected text"),
            ({"output": ["a"]}, "column 'output' is a list, expected text"),
            ({"input": 5}, "column 'input' is a number, expected text"),
            ({"instruction": True}, "column 'instruction' is true or false, expected text"),
        ],
    )
    def test_bad_rows(self, change: dict[str, Any], match: str) -> None:
        refused("alpaca", {"instruction": "i", "input": "", "output": "o", **change}, match)

    def test_system_and_history_are_turns(self) -> None:
        row = {"instruction": "And?", "output": "B", "system": "Be brief.", "history": [["Why?", "A"]]}
        [made] = convert("alpaca", row)
        assert turns(made) == [
            ("system", "Be brief."),
            *(("user", "Why?"), ("assistant", "A")),
            *(("user", "And?"), ("assistant", "B")),
        ]
        assert convert("alpaca", {**row, "history": json.dumps(row["history"])}) == [made]

    @pytest.mark.parametrize("history", [["a"], [["a"]], [["a", None]], [{"q": "a"}]])
    def test_a_history_of_another_form(self, history: Any) -> None:
        row = {"instruction": "i", "output": "o", "history": history}
        refused("alpaca", row, r"history: entry 1 is .*, expected \[question, answer\], both text")


class TestPromptCompletionAndColumns:
    def test_a_system_column_is_the_system_turn(self) -> None:
        [made] = convert("prompt-completion", {"prompt": "p", "completion": "c", "system": "s"})
        assert turns(made)[0] == ("system", "s")

    def test_texts_are_untouched(self) -> None:
        [made] = convert("prompt-completion", {"prompt": "Q: 1+1?\nA:", "completion": " 2"})
        assert turns(made) == [("user", "Q: 1+1?\nA:"), ("assistant", " 2")]

    def test_lists_of_messages_are_refused(self) -> None:
        refused("prompt-completion", {"prompt": [], "completion": "2"}, "column 'prompt' is a list, expected text")

    def test_mapping(self) -> None:
        row = {"q": "Why?", "a": "Because.", "s": "Be brief.", "c": "context"}
        [made] = convert("columns", row, prompt="q", completion="a", system="s", input="c")
        assert turns(made) == [("system", "Be brief."), ("user", "Why?"), ("assistant", "Because.")]
        assert made.messages[1].input == "context"

    def test_blank_system_and_null_input_are_none(self) -> None:
        row = {"q": "Why?", "a": "Because.", "s": " ", "c": None}
        [made] = convert("columns", row, prompt="q", completion="a", system="s", input="c")
        assert turns(made) == [("user", "Why?"), ("assistant", "Because.")] and made.messages[0].input == ""

    def test_a_misspelt_column_is_an_error_and_not_none(self) -> None:
        row = {"q": "Why?", "a": "Because."}
        refused("columns", row, "no column 'sys'; the row has: q, a", prompt="q", completion="a", system="sys")
        refused("columns", row, "no column 'question'; the row has: q, a", prompt="question", completion="a")


USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello"}


class TestMessages:
    def test_developer_is_system_and_parts_are_joined(self) -> None:
        parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
        row = {"messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}, ANSWER]}
        [made] = convert("messages", row)
        assert turns(made) == [("system", "Be kind."), ("user", "Hello"), ("assistant", "Hello")]

    def test_a_csv_cell_holds_the_list_as_json(self) -> None:
        assert convert("messages", {"messages": json.dumps([USER, ANSWER])}) == convert(
            "messages", {"messages": [USER, ANSWER]}
        )

    @pytest.mark.parametrize(
        ("value", "match"),
        [
            ([], "no assistant turn"),
            ([USER], "no assistant turn"),
            ([USER, ANSWER, USER], "last turn is not the assistant's"),
            ([ANSWER], "roles do not alternate"),
            ([USER, USER, ANSWER], "roles do not alternate"),
            ([USER, {"role": "system", "content": "x"}, ANSWER], "system turn comes after the first"),
            ([USER, {"role": "assistant", "content": ""}], "empty output: message 2"),
            (
                [USER, {"role": "critic", "content": "x"}],
                "turn 2 has role 'critic'; known: system, developer, user, as",
            ),
            ([USER, {"role": "tool", "content": "x"}, ANSWER], "a tool's turn does not follow a tool call"),
            ([USER, {"role": None, "content": "x"}], "turn 2 has role None"),
            ([USER, {"role": "assistant", "content": None}], r"turn 2 \(assistant\) is null, expected text"),
            ([USER, {**ANSWER, "tool_calls": [{"id": "1"}]}], r"turn 2 \(assistant\): call 1 has no name"),
            ([USER, {**ANSWER, "weight": 0.5}], r"turn 2 \(assistant\) has weight 0.5, expected 0, 1, false or true"),
            ([USER, {**ANSWER, "train": "no"}], r"turn 2 \(assistant\) has train 'no', expected 0, 1"),
            ([USER, {**ANSWER, "weight": 1, "train": False}], "weight 1 and train False: one says that it is in the"),
            ([USER, {**ANSWER, "weight": 0}], "no assistant turn is in the loss: each is marked not to be"),
            ([{**USER, "train": True}, ANSWER], r"turn 1 \(user\) is marked to be in the loss: only assistant turns"),
            ([USER, {**ANSWER, "train_detail": [{"train": False}]}], "has train_detail: a turn is in the loss as a"),
            ([USER, {**ANSWER, "reasoning_content": 5}], "reasoning_content is a number, expected text"),
            ([{**USER, "thinking": "Hm."}, ANSWER], r"turn 1 \(user\) has thinking: only assistant turns have"),
            (
                [USER, {**ANSWER, "thinking": "a", "reasoning": "b"}],
                "has reasoning and thinking, which differ",
            ),
            ([USER, {"role": "assistant", "text": "x"}], "turn 2 needs 'role' and 'content'; it has: role, text"),
            ([USER, "Hello"], "turn 2 is text, expected an object"),
            ([{"role": "user", "content": [{"type": "image_url"}]}, ANSWER], "turn 1 .* has a part that is not text"),
            ({"role": "user"}, "column 'messages' is an object, expected a list"),
            ("Hi there", "column 'messages' is text, but not a JSON list"),
            ("5", "column 'messages' is a number, expected a list"),
        ],
    )
    def test_bad_rows(self, value: Any, match: str) -> None:
        refused("messages", {"messages": value}, match)

    def test_weight_one_is_no_matter(self) -> None:
        assert turns(convert("messages", {"messages": [USER, {**ANSWER, "weight": 1}]})[0])[1] == ("assistant", "Hello")

    @pytest.mark.parametrize(
        "mark",
        [
            {"weight": 0},
            {"train": False},
            {"training": 0},
            {"loss": False},
            {"masked": True},
            {"mask": 1},
            {"weight": 0, "train": False, "loss": None},
        ],
    )
    @pytest.mark.parametrize("source", ["messages", "sharegpt"])
    def test_every_spelling_of_a_turn_that_is_not_in_the_loss(self, source: str, mark: dict[str, Any]) -> None:
        column = "messages" if source == "messages" else "conversations"
        [made] = convert(source, {column: [{**USER, "weight": 1, "train": False}, {**ANSWER, **mark}, USER, ANSWER]})
        assert [turn.in_loss for turn in made.messages if turn.role == "assistant"] == [False, True]

    def test_thoughts_and_a_system_column_are_read(self) -> None:
        [made] = convert("messages", {"system": "Be brief.", "messages": [USER, {**ANSWER, "thinking": "Hm."}]})
        assert turns(made)[0] == ("system", "Be brief.") and made.messages[-1].reasoning == "Hm."


class TestShareGpt:
    @pytest.mark.parametrize("user", ["human", "user", "prompter"])
    @pytest.mark.parametrize("assistant", ["gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot"])
    def test_words_for_roles(self, user: str, assistant: str) -> None:
        row = {"conversations": [{"from": user, "value": "Hi"}, {"from": assistant, "value": "Hello"}]}
        assert turns(convert("sharegpt", row)[0]) == [("user", "Hi"), ("assistant", "Hello")]

    def test_system_column_and_role_content_turns(self) -> None:
        [made] = convert("sharegpt", {"system": "Be kind.", "conversations": [USER, ANSWER]})
        assert turns(made) == [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello")]

    @pytest.mark.parametrize(
        ("row", "match"),
        [
            ({"conversations": [{"from": "alien", "value": "x"}]}, "turn 1 has role 'alien'; known: system, human"),
            ({"conversations": [{"value": "x"}]}, "turn 1 needs 'from' and 'value' or 'role' and 'content'"),
            ({"conversations": [{"from": "human", "value": 3}]}, r"turn 1 \(human\) is a number, expected text"),
            ({"conversations": [{"from": "human", "value": "x"}]}, "no assistant turn"),
            (
                {"system": "a", "conversations": [{"from": "system", "value": "b"}, USER, ANSWER]},
                "system turn comes after the first message",
            ),
        ],
    )
    def test_bad_rows(self, row: dict[str, Any], match: str) -> None:
        refused("sharegpt", row, match)


class TestPretokenized:
    def test_passes_through_untouched(self) -> None:
        row = {"input_ids": [5, 0, 5, 2], "completion_mask": [0, 1, False, True]}
        assert convert("pretokenized", row) == [PretokenizedRow((5, 0, 5, 2), (False, True, False, True))]
        assert convert("pretokenized", {"input_ids": [5, 2]}) == [PretokenizedRow((5, 2), None)]

    def test_csv_cells(self) -> None:
        assert convert("pretokenized", {"input_ids": "[5, 2]", "completion_mask": "[0, 1]"}) == [
            PretokenizedRow((5, 2), (False, True))
        ]
        assert convert("pretokenized", {"input_ids": "[5, 2]", "completion_mask": ""}) == [PretokenizedRow((5, 2))]

    @pytest.mark.parametrize(
        ("columns", "kept", "mask"),
        [
            ({"labels": [-100, -100, 7, 2]}, (5, 6, 7, 2), (False, False, True, True)),
            ({"labels": [5, 6, 7, 2]}, (5, 6, 7, 2), (True,) * 4),
            ({"labels": [-100, -100, 7, -100], "attention_mask": [1, 1, 1, 0]}, (5, 6, 7), (False, False, True)),
            ({"labels": [-100, -100, 7, 2], "attention_mask": [0, 1, 1, 1]}, (6, 7, 2), (False, True, True)),
            ({"attention_mask": [1, 1, 1, 0]}, (5, 6, 7), None),
            ({"assistant_masks": [0, 0, 1, 1]}, (5, 6, 7, 2), (False, False, True, True)),
            ({"assistant_masks": [0, 1, 0, 0], "completion_mask": None}, (5, 6, 7, 2), (False, True, False, False)),
            (
                {"labels": [5, -100, 7, 2], "completion_mask": [0, 0, 1, 1], "position_ids": [0, 1, 2, 3]},
                *((5, 6, 7, 2), (False, False, True, True)),
            ),
        ],
    )
    def test_labels_and_masks_of_other_tools(self, columns: dict[str, Any], kept: Any, mask: Any) -> None:
        assert convert("pretokenized", {"input_ids": [5, 6, 7, 2], **columns}) == [PretokenizedRow(kept, mask)]

    @pytest.mark.parametrize(
        ("columns", "match"),
        [
            ({"labels": [-100, 8, 7, 2]}, r"labels\[1\] is 8 \(a number\), expected -100 or input_ids' own 6"),
            ({"labels": [-100, 6]}, "labels has 2 entries, input_ids has 4"),
            ({"labels": [-100] * 4}, "zero target tokens: labels marks no token after the first"),
            (
                {"labels": [5, 6, -100, -100], "attention_mask": [0, 1, 0, 0]},
                "labels has token 0 in the loss, attention",
            ),
            ({"labels": [-100, -100, 7, 2], "completion_mask": [0, 1, 1, 1]}, "completion_mask and labels contradict"),
            ({"attention_mask": [1, 0, 1, 1]}, "attention_mask is 0 at token 1, between tokens of the row"),
            ({"attention_mask": [1, 1, 2, 2]}, r"attention_mask\[2\] is 2"),
            ({"attention_mask": [0, 0, 0, 1]}, r"input_ids has 1 token\(s\)"),
            ({"attention_mask": [0, 0, 0, 0]}, r"input_ids has 0 token\(s\)"),
            ({"position_ids": [0, 1, 0, 1]}, "position_ids do not count from 0 by 1: are these several packed"),
        ],
    )
    def test_contradictions_are_refused(self, columns: dict[str, Any], match: str) -> None:
        refused("pretokenized", {"input_ids": [5, 6, 7, 2], **columns}, match)

    @pytest.mark.parametrize(
        ("ids", "mask", "match"),
        [
            ("5 2", None, "column 'input_ids' is text, but not a JSON list"),
            ([], None, r"input_ids has 0 token\(s\): at least 2"),
            ([5], None, r"input_ids has 1 token\(s\): at least 2"),
            ([5, -100], None, r"input_ids\[1\] is -100: token ids are not negative"),
            ([5, 2.0], None, r"input_ids\[1\] is 2.0 \(a number\), expected an integer"),
            ([True, 2], None, r"input_ids\[0\] is True \(true or false\), expected an integer"),
            ([5, None], None, r"input_ids\[1\] is null, expected an integer"),
            ([5, "2"], None, r"input_ids\[1\] is '2' \(text\), expected an integer"),
            ([5, 2], [1], "completion_mask has 1 entries, input_ids has 2"),
            ([5, 2], [0, 2], r"completion_mask\[1\] is 2 \(a number\), expected 0, 1, false or true"),
            ([5, 2], [0, 1.0], r"completion_mask\[1\] is 1.0"),
            ([5, 2], [0, None], r"completion_mask\[1\] is null"),
            ([5, 2], [0, 0], "zero target tokens: completion_mask marks no token after the first"),
            ([5, 2], [1, 0], "zero target tokens"),
            ([5, 2], 1, "column 'completion_mask' is a number, expected a list"),
        ],
    )
    def test_bad_rows(self, ids: Any, mask: Any, match: str) -> None:
        refused("pretokenized", {"input_ids": ids, "completion_mask": mask}, match)
