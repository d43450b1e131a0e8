"""A source of the user's own: it is read as ours are, and a mistake in it is named with its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunelab.allowed_code import allow_code
from tunelab.data.messages import Conversation
from tunelab.data.reader import LoadedSource, load_examples
from tunelab.errors import DataError, UsageError


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def texts(loaded: LoadedSource) -> list[list[tuple[str, str]]]:
    found = []
    for example in loaded.examples:
        assert isinstance(example, Conversation)
        found.append([(message.text, message.input) for message in example.messages])
    return found


def test_a_source_of_the_users_own(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    path = write(tmp_path, "rows.jsonl", b'{"q": "p"}\n{"q": ""}\n')
    source.write_text("HUB = None\nCOLUMNS = frozenset()\n", encoding="utf-8")
    allow_code(source)
    with pytest.raises(UsageError, match=r"mine.py' lacks LICENCE, EXAMPLE, Options, examples"):
        load_examples(str(source), path=path)
    source.write_text(
        "from tunelab.data.messages import Conversation, Message\n"
        "from tunelab.data.sources._source import SourceOptions\n"
        "HUB, LICENCE, COLUMNS, EXAMPLE = None, 'CC0', frozenset({'q'}), [{'q': 'x'}]\n"
        "class Options(SourceOptions):\n    pass\n"
        "def examples(row, options):\n"
        "    return [Conversation((Message('user', row['q']), Message('assistant', 'yes')))]\n",
        encoding="utf-8",
    )
    allow_code(source)
    loaded = load_examples(str(source), path=path, on_bad_row="skip")
    assert texts(loaded) == [[("p", ""), ("yes", "")]]
    assert loaded.bad_rows == ["rows.jsonl row 2: message 1 (user) has no text"]


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("def examples(row, options): return None", DataError, "returned None, expected a list of Conversation"),
        ("def examples(row, options): return [5]", DataError, r"returned \[5\], expected a list of Conversation"),
        ("def examples(row, options): 1 / 0", DataError, "row 1: the source .* fails: ZeroDivisionError"),
        ("def gather(rows, options): 1 / 0", DataError, "rows.jsonl: the source .* fails: ZeroDivisionError"),
        ("def gather(rows, options): return None", DataError, "rows.jsonl: the source .* fails: TypeError"),
        ("Options = 5", UsageError, "mine.py': Options is no SourceOptions"),
        ("def left_out(row, options): return 5", DataError, "rows.jsonl: the source .* fails: TypeError"),
    ],
)
def test_a_mistake_in_a_source_of_the_users_own(tmp_path: Path, code: str, error: type[Exception], said: str) -> None:
    source = tmp_path / "mine.py"
    source.write_text(f"from tunelab.data.sources.prompt_completion import *\n{code}\n", encoding="utf-8")
    allow_code(source)
    with pytest.raises(error, match=said):
        load_examples(str(source), path=write(tmp_path, "rows.jsonl", b'{"prompt": "p", "completion": "c"}\n'))
