"""YAML that grows when it is read is refused at once: aliases of aliases, endless nesting, huge texts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from tunelab.config import load_recipe
from tunelab.config.study import load_study
from tunelab.config.yaml_text import DEEPEST, MOST_CHARACTERS, MOST_VALUES, parse_yaml
from tunelab.errors import ConfigError, TunelabError

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 40))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{p: *a{n - 1}, q: *a{n - 1}}}\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "more than 10,000 values"),
        (MERGES, "more than 10,000 values"),
        ("a: &a [*a]", "an alias contains itself"),
        ("a: &a {b: *a}", "an alias contains itself"),
        ("[" * 100_000, "nested too deeply: more than 50 levels"),
        ("{a: " * 100_000, "nested too deeply: more than 50 levels"),
        ("- " * 100_000 + "a", "nested too deeply: more than 50 levels"),
        ("a: [" + "1, " * 10_000 + "1]", "more than 10,000 values"),
        ("a: " + "x" * 1_000_000, "1,000,003 characters, expected at most 1,000,000"),
    ],
)
def test_what_grows_is_refused_at_once(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    for read in (load_recipe, load_study):
        began = time.monotonic()
        with pytest.raises(TunelabError, match=message):
            read(path)
        assert time.monotonic() - began < 5
    with pytest.raises(TunelabError, match=message):
        load_recipe(None, [f"train.lr={text}"])


def test_what_is_done_with_a_value_is_not_seen_by_the_next_reader_of_the_text() -> None:
    text = "data: {sources: [a]}"
    first = parse_yaml(text, "x")
    first["data"]["sources"].append("b")
    assert parse_yaml(text, "x") == {"data": {"sources": ["a"]}}


def test_what_stays_small_is_read() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: [*a, *a]", "x") == {"a": [1, 2], "b": [1, 2], "c": [[1, 2], [1, 2]]}
    rows = list(range(MOST_VALUES - 10))
    assert parse_yaml(yaml.safe_dump({"rows": rows}), "x") == {"rows": rows}
    deep = "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    parse_yaml(deep, "x")
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_yaml(f"[[{deep}]]", "x")
    assert len(parse_yaml("x" * MOST_CHARACTERS, "x")) == MOST_CHARACTERS
