"""Chat templates by name, for base models that have none: assets/chat_templates/NAME.jinja."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "chat_templates"


@cache
def shipped_templates() -> tuple[str, ...]:
    """Names of the chat templates that ship with tunelab."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.jinja")))


def is_chat(name: str) -> bool:
    """Whether `data.template` names a chat template: the tokenizer's own, or one that ships."""
    return name == "chat" or name in shipped_templates()


def shipped_template(name: str, start: str = "") -> str:
    """The Jinja source of a chat template that ships.

    Args:
        start: text of the tokens that the tokenizer itself puts before a text, which the template then writes.
    """
    source = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")
    return f"{{{{- {json.dumps(start)} }}}}\n{source}" if start else source
