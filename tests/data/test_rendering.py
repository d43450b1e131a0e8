"""Chat templates that loop, grow, overflow or include are refused within bounds, in words."""

from __future__ import annotations

import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tunelab.data import rendering
from tunelab.data.messages import Conversation, Message
from tunelab.data.rendering import rendered
from tunelab.data.templates import get_template
from tunelab.errors import BadRow, ModelError
from tunelab.models.load import load_tokenizer

CONVERSATION = Conversation((Message("user", "Why?"), Message("assistant", "Because.")))


@pytest.fixture(scope="module")
def tokenizer(models: dict[str, Path]) -> Any:
    return load_tokenizer(str(models["llama"]))


def render(tokenizer: Any, template: str) -> Any:
    tokenizer.chat_template = template
    return get_template("chat", tokenizer).render(CONVERSATION)


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("template", [LOOPS, "{% set n = 10 ** 8 %}{{ 3 ** 10 ** n }}", "{{ 10 ** (10 ** 8) }}"])
def test_a_template_that_does_not_end(template: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.3)
    with pytest.raises((ModelError, BadRow), match=r"the chat template (renders one .* more than 0\.3 s|fails|needs)"):
        render(tokenizer, template)


GROWS = "{% set n = namespace(x='xxxxxxxxxx') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
LIST = "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}"


@pytest.mark.parametrize(
    "template", [GROWS, LIST, "{{ '%9999999999d' % 1 }}", "{{ 'x' * 9999999999 }}", "{{ 'x' | center(9999999999) }}"]
)
def test_a_template_that_takes_all_memory(template: str, tokenizer: Any) -> None:
    with pytest.raises((ModelError, BadRow), match=r"the chat template (needs more than 1\.00? GiB|fails|refuses)"):
        render(tokenizer, template)


def test_a_text_that_is_too_long(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="a conversation of 20 characters into 2,000,000"):
        render(tokenizer, "{{ 'x' * 2000000 }}")


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 2.0 ** 9999 }}", "OverflowError"),
        ("{% include 'other' %}", "TypeError"),
        ("{% extends 'other' %}", "TypeError"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError"),
        ("{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}", "RecursionError"),
    ],
)
def test_a_template_that_fails(template: str, error: str, tokenizer: Any) -> None:
    with pytest.raises(BadRow, match=f"the chat template fails: .*{error}") as caught:
        render(tokenizer, template)
    assert "use a text template" in caught.value.hint


def test_what_was_set_is_restored() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    assert rendered(lambda: "text", 4) == "text"
    assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL)[0] == 0


def test_other_threads_render_too() -> None:
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(rendered(lambda: "text", 4)))
    thread.start()
    thread.join()
    assert said == ["text"]
