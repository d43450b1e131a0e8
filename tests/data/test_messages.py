"""What a conversation must be before anything is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from tunelab.data.messages import Conversation, Message, check_conversation
from tunelab.errors import BadRow


def conversation(*turns: tuple[Any, Any]) -> Conversation:
    return Conversation(tuple(Message(role, content) for role, content in turns))


def test_a_good_one_is_given_back() -> None:
    good = conversation(("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"))
    assert check_conversation(good) is good
    assert good.group == "Hi"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((("user", "a"), ("robot", "b")), "message 2 has role 'robot'"),
        ((("user", 5), ("assistant", "b")), r"message 1 \(user\): content is int, expected a string"),
        ((("user", "a"), ("assistant", " ")), r"empty output: message 2 \(assistant\) has no text"),
        ((("user", ""), ("assistant", "b")), r"^message 1 \(user\) has no text"),
        ((("user", "a"),), "no assistant turn"),
        ((("user", "a"), ("assistant", "b"), ("system", "c")), "a system turn comes after the first message"),
        ((("assistant", "b"), ("user", "a")), "roles do not alternate user, assistant: assistant, user"),
        ((("user", "a"), ("assistant", "b"), ("user", "c")), "the last turn is not the assistant's"),
    ],
)
def test_what_is_refused(turns: tuple[tuple[Any, Any], ...], message: str) -> None:
    with pytest.raises(BadRow, match=message):
        check_conversation(conversation(*turns))
