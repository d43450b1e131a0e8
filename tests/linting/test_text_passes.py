"""Promise: what the checks skip for speed changes nothing that they find."""

from __future__ import annotations

import random

import pytest

from tunelab.data.messages import Conversation, Message
from tunelab.linting import duplicates
from tunelab.linting.duplicates import Twins, twins
from tunelab.linting.lint import lint
from tunelab.linting.rows import LintedRows
from tunelab.linting.secrets import MARKS, SECRETS
from tunelab.linting.text_checks import email_addresses, secrets
from tunelab.linting.words import words_of

LONG = "aB3" * 30
EXAMPLES = {
    "AWS access key": [f"{start}{'Z7' * 8}" for start in ("AKIA", "ASIA")],
    "GitHub token": [*(f"gh{kind}_{LONG}" for kind in "pousr"), f"github_pat_{LONG}"],
    "Hugging Face token": [f"hf_{LONG}"],
    "OpenAI or Anthropic key": [f"sk-{LONG}", f"sk-ant-{LONG}", f"sk-proj-{LONG}"],
    "Google API key": ["AIza" + LONG[:35]],
    "Slack token": [f"xox{kind}-{LONG}" for kind in "abprs"],
    "private key": ["-----BEGIN PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----"],
    "JSON web token": [f"eyJ{LONG}.eyJ{LONG}.{LONG}"],
}


def pair(prompt: str = "Why?", answer: str = "So.") -> Conversation:
    return Conversation((Message("user", prompt), Message("assistant", answer)))


def texts(rows: list[Conversation]) -> LintedRows:
    return LintedRows({"training": range(len(rows))}, [f"row {number}" for number in range(len(rows))], rows)


@pytest.mark.parametrize("name", SECRETS)
def test_every_form_of_a_secret_has_a_mark_that_is_looked_for(name: str) -> None:
    for secret in EXAMPLES[name]:
        found = secrets(texts([pair(), pair(answer=f"Take {secret} twice: {secret}")]))
        assert found.rows == [1] and found.show(1) == f"2 {name}s (not shown)"


def test_marks_are_of_secrets_and_addresses() -> None:
    assert MARKS.keys() == {*SECRETS, "e-mail address"}
    assert email_addresses(texts([pair(), pair("Write to ann@corp.io")])).rows == [1]


@pytest.mark.parametrize("library", [True, False])
def test_one_pass_finds_the_twins_of_three(library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "has_library", lambda: library)
    chance = random.Random(0)
    signs = ["?", " ?", "!", "ΑΣ", "ας", ""]
    made = [
        (chance.choice(["Why", "why?", "How", *signs]), chance.choice(["A b.", "a B", "c", *signs])) for _ in range(80)
    ]
    rows = texts([pair(prompt, answer) for prompt, answer in made])

    def repeated(found: list[str]) -> dict[int, int]:
        keys = [" ".join(words_of(text)) or text.strip() for text in found]
        return {place: keys.index(key) for place, key in enumerate(keys) if keys.index(key) != place}

    exact = repeated([f"{prompt}\n{answer}" for prompt, answer in zip(rows.prompts, rows.answers, strict=True)])
    found = twins(rows)
    assert (found.exact, found.prompts) == (exact, repeated(rows.prompts)) and 20 < len(exact) < 80
    assert isinstance(found, Twins) and (library or not found.near)


@pytest.mark.parametrize("hidden", [EXAMPLES["AWS access key"][0], "ann@corp.io"])
def test_no_check_shows_a_row_with_a_secret_or_an_address(hidden: str) -> None:
    long = "word " * 22  # what is shown of the prompt ends within what is hidden
    rows = [pair(f"{long}{hidden}", "the same answer to it"), pair(f"{long}{hidden}", "the same answer to it")]
    found = lint(texts(rows)).findings
    shown = {one.check: one.examples[0].shown for one in found}
    assert "not shown" in shown["duplicates"]
    assert not any(hidden[:6] in example.shown for one in found for example in one.examples)
