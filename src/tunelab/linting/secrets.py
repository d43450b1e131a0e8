"""What is never shown of a row: keys, tokens and e-mail addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

#: Name -> what such texts look like.
Shapes = Mapping[str, re.Pattern[str]]

#: Shapes of secrets: the providers' own prefixes, so that ordinary text is not taken for one.
SECRETS = {
    "AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{60,})\b",
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "OpenAI or Anthropic key": r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}",
    "Google API key": r"\bAIza[A-Za-z0-9_-]{35}\b",
    "Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
}
#: One of these is in every text of a shape. Nearly all rows have none, which takes a tenth of the time to see.
MARKS = {
    "AWS access key": ("AKIA", "ASIA"),
    "GitHub token": ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    "Hugging Face token": ("hf_",),
    "OpenAI or Anthropic key": ("sk-",),
    "Google API key": ("AIza",),
    "Slack token": ("xox",),
    "private key": ("-----BEGIN ",),
    "JSON web token": ("eyJ",),
    "e-mail address": ("@",),
}
SECRET_SHAPES: Shapes = {name: re.compile(shape) for name, shape in SECRETS.items()}
EMAIL_SHAPES: Shapes = {
    "e-mail address": re.compile(r"\b[\w.+-]+@(?!(?:[\w-]+\.)*example\.)[\w-]+\.[A-Za-z][\w.-]*[A-Za-z]")
}


def occurrences(texts: Iterable[str], shapes: Shapes) -> dict[str, int]:
    """How often each shape occurs in texts, of those that do."""
    joined = "\n".join(texts)
    if not _has_mark(shapes, joined):
        return {}
    counts = {name: len(shape.findall(joined)) for name, shape in shapes.items()}
    return {name: count for name, count in counts.items() if count}


def _has_mark(names: Iterable[str], text: str) -> bool:
    for name in names:
        for mark in MARKS[name]:  # plain loops: this runs for every row
            if mark in text:
                return True
    return False
