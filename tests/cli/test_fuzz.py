"""Damaged and odd files: whatever a recipe, a model's folder or rows contain, a command ends with words.

No run may end in a traceback, take ten seconds, or write outside its directory. `make test` holds a sample of each
kind; the whole is a slow test.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunelab.cli.main import main
from tunelab.config.reference import keys

LONGEST_RUN = 10.0  # seconds
SAMPLE = settings(max_examples=12, derandomize=True, suppress_health_check=list(HealthCheck), deadline=None)
WHOLE = settings(max_examples=600, suppress_health_check=list(HealthCheck), deadline=None)

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 3, 7, 2**31, 2**63, 2**64, 10**30]),
    st.sampled_from([0.0, -0.0, 1.5, -3.2, 1e-320, 1e300, float("inf"), float("nan")]),
    st.sampled_from(
        ["", "x", "1e-5", "../x", "/", "~", "\0", "{{ 1 }}", "é\u2028", "\ud800", "a" * 5000, "auto", "chat"]
    ),
    st.integers(),
    st.text(max_size=20),
)
TREES = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
BYTES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"null", b"[]", b"{}", b"5", b'"x"', b"\xff\xfe", b"[" * 5000, b'{"a":' * 3000, bytes(64), b"9" * 5000]
    ),
)


@pytest.fixture(scope="module")
def place(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a model, rows, and the directory `here`, from which commands are run."""
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(models["llama"], folder / "model")
    shutil.copy(rows, folder / "rows.jsonl")
    (folder / "here").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELAB_CACHE", str(folder / "here" / "cache"))
        patch.setenv("HOME", str(folder))
        patch.chdir(folder / "here")
        yield folder


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """What is in a directory, apart from `here`."""
    found = {}
    for path in folder.rglob("*"):
        if "here" not in path.relative_to(folder).parts:
            state = path.lstat()
            found[str(path)] = state.st_mtime_ns, state.st_size
    return found


def ends_in_words(place: Path, *words: object) -> None:
    """Run a command line; it succeeds, or says what is wrong."""
    before, began = listing(place), time.monotonic()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    said = err.getvalue()
    assert time.monotonic() - began < LONGEST_RUN, f"{time.monotonic() - began:.0f} s"
    assert code in (0, 1, 2), said
    assert "Traceback" not in said and "defect of tunelab" not in said, said
    assert code == 0 or "error: " in said, said
    assert listing(place) == before, "something was written outside"
    shutil.rmtree(place / "here" / "cache", ignore_errors=True)


def prepare(place: Path, model: Path, data: Path, *more: object) -> None:
    common = ("data.template=plain", "data.held_out=0", "data.on_bad_row=skip", "train.device=cpu")
    ends_in_words(place, "prepare", "--model", model, "--data", data, *common, *more)


@contextlib.contextmanager
def changed_model(place: Path, name: str, content: bytes) -> Iterator[Path]:
    """A copy of the model's folder with one file of other content."""
    with tempfile.TemporaryDirectory(dir=place / "here") as folder:
        copy = Path(shutil.copytree(place / "model", Path(folder) / "model"))
        (copy / name).write_bytes(content)
        yield copy


def mutated(tree: Any, path: list[float], value: Any) -> Any:
    """The tree with one place set to `value`: each number chooses a branch."""
    if not path or not isinstance(tree, dict | list) or not tree:
        return value
    if isinstance(tree, list):
        at = int(path[0] * len(tree)) % len(tree)
        return [mutated(one, path[1:], value) if index == at else one for index, one in enumerate(tree)]
    name = sorted(tree)[int(path[0] * len(tree)) % len(tree)]
    return {**tree, name: mutated(tree[name], path[1:], value)}


PATHS = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


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
    with changed_model(place, "config.json", draw(st.just(as_json(tree)) | BYTES)) as model:
        ends_in_words(place, "generate", "--model", model, "--prompt", "red", "--raw", "--max-new-tokens", 1)


def small(value: Any) -> bool:
    """Values that do not merely ask for a larger model."""
    return not isinstance(value, int | float) or abs(value) < 10


def an_index(place: Path, draw: Any) -> None:
    index = {"metadata": {"total_size": 5}, "weight_map": {"model.norm.weight": "model.safetensors"}}
    content = draw(st.builds(mutated, st.just(index), PATHS, TREES).map(as_json) | BYTES)
    with changed_model(place, "model.safetensors.index.json", content) as model:
        ends_in_words(place, "generate", "--model", model, "--prompt", "red", "--raw", "--max-new-tokens", 1)


def a_tokenizer(place: Path, draw: Any) -> None:
    name = draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]))
    file = place / "model" / name
    tree = json.loads(file.read_text()) if file.exists() else {"eos_token": "<eos>"}
    content = draw(st.builds(mutated, st.just(tree), PATHS, TREES).map(as_json) | BYTES)
    with changed_model(place, name, content) as model:
        prepare(place, model, place / "rows.jsonl")


def other_files(place: Path, draw: Any) -> None:
    name = draw(
        st.sampled_from(["generation_config.json", "added_tokens.json", "chat_template.jinja", "model.safetensors"])
    )
    with changed_model(place, name, draw(BYTES | TREES.map(as_json))) as model:
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
