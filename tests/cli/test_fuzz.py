"""Damaged and odd files: whatever a recipe, a model's folder or rows contain, a command ends with words.

No run may end in a traceback, take ten seconds, or write outside its directory. `make test` holds a sample of each
kind; the whole is a slow test.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from fuzzing import (
    BYTES,
    ODD,
    PATHS,
    SAMPLE,
    TREES,
    WHOLE,
    as_json,
    changed_copy,
    ends_in_words,
    mutated,
    place_of,
    prepare,
)
from hypothesis import given
from hypothesis import strategies as st

from tunelab.config.reference import keys


@pytest.fixture(scope="module")
def place(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with place_of(models["llama"], rows, tmp_path_factory.mktemp("fuzz")) as folder:
        yield folder


# --- one example of each kind ---


def a_recipe(place: Path, draw: Any) -> None:
    text = draw(
        st.one_of(
            st.text(alphabet="{}[]:,-&*!|>'\"#%@` \n\tab1.~<?", max_size=60).map(str.encode),
            st.binary(max_size=40),
            st.builds(recipe_text, st.just(place), st.sampled_from(list(keys())), TREES),
        )
    )
    (place / "here" / "recipe.yaml").write_bytes(text)
    ends_in_words(place, "prepare", "recipe.yaml")


def recipe_text(place: Path, key: str, value: Any) -> bytes:
    tree: dict[str, Any] = {
        "model": {"name": str(place / "model")},
        "data": {"sources": [{"path": str(place / "rows.jsonl")}], "template": "plain"},
    }
    at: Any = tree
    *parents, last = key.replace("sources.", "sources.0.").split(".")
    for name in parents:
        at = at[0] if name.isdecimal() else at.setdefault(name, {})
    at[last] = value
    return yaml.dump(tree, allow_unicode=False).encode("utf-8", "surrogatepass")


def an_override(place: Path, draw: Any) -> None:
    key = draw(st.sampled_from(list(keys())) | st.text(max_size=8))
    value = draw(st.text(max_size=12) | TREES.map(str))
    prepare(place, place / "model", place / "rows.jsonl", f"{key}={value}".replace("\0", "0"))


def a_config(place: Path, draw: Any) -> None:
    config = json.loads((place / "model" / "config.json").read_text())
    tree = mutated(config, draw(PATHS)[:2], draw(ODD.filter(small)))
    with changed_copy(place, "model", "config.json", draw(st.just(as_json(tree)) | BYTES)) as model:
        ends_in_words(place, "generate", "--model", model, "--prompt", "red", "--raw", "--max-new-tokens", 1)


def small(value: Any) -> bool:
    """Values that do not merely ask for a larger model."""
    return not isinstance(value, int | float) or abs(value) < 10


def an_index(place: Path, draw: Any) -> None:
    index = {"metadata": {"total_size": 5}, "weight_map": {"model.norm.weight": "model.safetensors"}}
    content = draw(st.builds(mutated, st.just(index), PATHS, TREES).map(as_json) | BYTES)
    with changed_copy(place, "model", "model.safetensors.index.json", content) as model:
        ends_in_words(place, "generate", "--model", model, "--prompt", "red", "--raw", "--max-new-tokens", 1)


def a_tokenizer(place: Path, draw: Any) -> None:
    name = draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]))
    file = place / "model" / name
    tree = json.loads(file.read_text()) if file.exists() else {"eos_token": "<eos>"}
    content = draw(st.builds(mutated, st.just(tree), PATHS, TREES).map(as_json) | BYTES)
    with changed_copy(place, "model", name, content) as model:
        prepare(place, model, place / "rows.jsonl")


def other_files(place: Path, draw: Any) -> None:
    name = draw(
        st.sampled_from(["generation_config.json", "added_tokens.json", "chat_template.jinja", "model.safetensors"])
    )
    with changed_copy(place, "model", name, draw(BYTES | TREES.map(as_json))) as model:
        ends_in_words(place, "generate", "--model", model, "--prompt", "red", "--raw", "--max-new-tokens", 1)


ROWS = [
    {"prompt": "p", "completion": "c"},
    {"instruction": "i", "input": "", "output": "o"},
    {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
    {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
    {"input_ids": [1, 2, 3, 256], "completion_mask": [0, 0, 1, 1]},
]


def rows_of_any_format(place: Path, draw: Any) -> None:
    row = draw(st.sampled_from(ROWS))
    made = [row, *draw(st.lists(st.builds(mutated, st.just(row), PATHS, TREES) | TREES, max_size=3))]
    ending = draw(st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz"]))
    content = draw(st.just(written(made, ending)) | BYTES)
    if draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content)))]
    file = place / "here" / f"rows{ending}"
    file.write_bytes(content)
    prepare(place, place / "model", file)


def written(made: list[Any], ending: str) -> bytes:
    """The rows as a file; what the format cannot hold is left out."""
    lines = [as_json(one) for one in made]
    if ending == ".json":
        return b"[" + b",".join(lines) + b"]"
    if ending in (".csv", ".tsv"):
        separator = "," if ending == ".csv" else "\t"
        objects = [one for one in made if isinstance(one, dict)]
        text = "\n".join(separator.join(repr(cell)[:80] for cell in one.values()) for one in objects)
        return (separator.join(objects[0]) + "\n" + text).encode("utf-8", "surrogatepass")
    if ending == ".parquet":
        sink = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made[:1]), sink)
        return sink.getvalue()
    content = b"\n".join(lines)
    return gzip.compress(content) if ending.endswith(".gz") else content


KINDS: dict[str, Callable[[Path, Any], None]] = {
    function.__name__: function
    for function in (a_recipe, an_override, a_config, an_index, a_tokenizer, other_files, rows_of_any_format)
}


@pytest.mark.parametrize("kind", KINDS)
@SAMPLE
@given(data=st.data())
def test_a_sample_ends_in_words(kind: str, place: Path, data: st.DataObject) -> None:
    KINDS[kind](place, data.draw)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
@WHOLE
@given(data=st.data())
def test_everything_ends_in_words(kind: str, place: Path, data: st.DataObject) -> None:
    KINDS[kind](place, data.draw)
