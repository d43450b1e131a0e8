"""Prepared rows: nothing is lost without a count, the cache is never stale, and bad rows are named by file and row."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from tiny_tokenizers import byte_tokenizer

from tunelab.config import parse_recipe, resolve
from tunelab.data import prepared as prepared_module
from tunelab.data.messages import Conversation, Message, PretokenizedRow
from tunelab.data.prepared import PreparedData, cache_directory, cache_key, cached, prepare, store
from tunelab.data.templates import TEXT_TEMPLATES, get_template
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import DataError
from tunelab.preparation.rows import prepare as prepare_recipe
from tunelab.training.finetune import finetune

TOKENIZER = byte_tokenizer()
ENCODER = RowEncoder(TOKENIZER, TEXT_TEMPLATES["plain"])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model_folder(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return tiny.rows_file(tmp_path / "rows.jsonl")


def ask(prompt: str, answer: str, origin: str = "here") -> Conversation:
    return Conversation((Message("user", prompt), Message("assistant", answer)), origin)


def prepared(train: list[Any], held_out: list[Any] = [], **settings: Any) -> PreparedData:  # noqa: B006
    given: dict[str, Any] = {"max_length": 60, "on_overflow": "drop", "on_bad_row": "error", **settings}
    return prepare("key", train, held_out, ENCODER, **given)


def length(example: Conversation) -> int:
    return len(ENCODER.encode(example).input_ids)


# What becomes of rows


def test_both_sides_are_tokenised_and_counted() -> None:
    train, held_out = [ask("A", "b"), ask("C", "dd")], [ask("E", "f", "rows.jsonl row 9")]
    data = prepared(train, held_out)
    assert (data.train_counts.given, data.train_counts.kept) == (2, 2)
    assert data.train_counts.tokens == sum(map(length, train)) == data.train.tokens
    assert data.train_counts.targets == len(" b") + len(" dd") + 2 == sum(data.train.targets)
    assert data.train_counts.longest == length(train[1])
    assert [(one.origin, one.text) for one in data.references] == [("rows.jsonl row 9", "f")]
    assert data.stop_token_ids == (TOKENIZER.eos_token_id,)
    assert not data.from_cache and data.bad_rows == ()


def test_rows_too_long_are_dropped_by_count_or_cut_by_count() -> None:
    short, long, hopeless = ask("A", "b"), ask("A", "b" * 50), ask("A" * 90, "b")
    dropped = prepared([short, long, hopeless])
    assert (dropped.train_counts.kept, dropped.train_counts.dropped_too_long) == (1, 2)
    assert dropped.train_counts.truncated == 0
    cut = prepared([short, long, hopeless], on_overflow="truncate")
    assert (cut.train_counts.kept, cut.train_counts.truncated, cut.train_counts.dropped_too_long) == (2, 1, 1)
    ids, mask = cut.train.row(1)
    assert len(ids) == 60 and mask[-1] and TOKENIZER.eos_token_id not in ids


def test_rows_that_cannot_be_used_stop_the_work_by_name_and_all_at_once() -> None:
    bad = [PretokenizedRow((1, 999), origin=f"ids.jsonl row {number}") for number in range(1, 23)]
    with pytest.raises(DataError) as error:
        prepared([*bad, ask("A", "b")])
    lines = error.value.message.splitlines()
    largest = max(TOKENIZER.get_vocab().values())
    remedy = " (tokenize with the model's own tokenizer)"
    assert lines[0] == "22 rows cannot be used:"
    assert lines[1] == f"  ids.jsonl row 1: input_ids holds 999, but the tokenizer's largest id is {largest}{remedy}"
    assert len(lines) == 22 and lines[-1] == "  and 2 more"
    assert "data.on_bad_row=skip" in error.value.hint
    with pytest.raises(DataError, match=r"^1 row cannot be used:\n  ids\.jsonl row 1: "):
        prepared([ask("A", "b")], bad[:1])


def test_rows_that_cannot_be_used_are_skipped_by_count_and_listed() -> None:
    bad = PretokenizedRow((1, 999), origin="ids.jsonl row 1")
    data = prepared([bad, ask("A", "b")], on_bad_row="skip", bad_rows=["rows.jsonl row 4: empty output"])
    assert (data.train_counts.given, data.train_counts.kept, data.train_counts.bad) == (2, 1, 1)
    assert data.bad_rows[0] == "rows.jsonl row 4: empty output"
    assert data.bad_rows[1].startswith("ids.jsonl row 1: input_ids holds 999")


def test_no_training_row_left_says_where_they_went() -> None:
    message = (
        r"no training row is left: of 2 rows 1 are longer than 60 tokens \(the longest has 1\d\d\) and 1 are bad; "
        "the first: ids row 1: input_ids"
    )
    bad = PretokenizedRow((1, 999), origin="ids row 1")
    with pytest.raises(DataError, match=message) as error:
        prepared([ask("A" * 90, "b"), bad], on_bad_row="skip")
    assert error.value.hint == (
        "raise data.max_length or set data.on_overflow=truncate; fix the bad rows; `tunelab inspect` lists them"
    )
    with pytest.raises(DataError, match="no training row is left") as error:
        prepared([ask("A" * 90, "b")], on_overflow="truncate")
    assert "truncate" not in error.value.hint and "shorten the prompts" in error.value.hint
    with pytest.raises(DataError, match="no training row is left") as error:
        prepared([bad], on_bad_row="skip")
    assert error.value.hint == "fix the bad rows; `tunelab inspect` lists them"


def test_no_held_out_row_left_says_where_they_went() -> None:
    message = r"no held-out row is left: of 1 rows 1 are longer than 60 tokens \(the longest has 1\d\d\) and 0 are bad"
    with pytest.raises(DataError, match=message) as error:
        prepared([ask("A", "b")], [ask("A" * 90, "b")])
    assert "data.held_out=0" in error.value.hint


def test_progress_counts_both_sides() -> None:
    seen: list[tuple[str, int, int | None]] = []
    prepared(
        [ask("A", "b")],
        [ask("C", "d")],
        progress=lambda stage, done, total, detail="": seen.append((stage, done, total)),
    )
    assert seen[-1] == ("tokenizing", 2, 2)


# The cache


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_directory() == tmp_path / "cache" / "prepared"
    monkeypatch.delenv("TUNELAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "tunelab" / "prepared"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "tunelab" / "prepared"


def test_what_is_stored_comes_back() -> None:
    data = prepared([ask("A", "b"), ask("C", "dd")], [ask("E", "f", "rows.jsonl row 9")], bad_rows=["row 3: bad"])
    assert cached("key") is None
    folder = store(data)
    assert folder == cache_directory() / "key"
    back = cached("key")
    assert back is not None and back.from_cache
    assert (back.train.sha256, back.held_out.sha256) == (data.train.sha256, data.held_out.sha256)
    assert np.array_equal(back.train.prompt_lengths, data.train.prompt_lengths)
    for name in ("references", "sources", "train_counts", "held_out_counts", "bad_rows", "stop_token_ids"):
        assert getattr(back, name) == getattr(data, name)
    # A block that a disk lost: the file still has its header and its size.
    table = folder / "train.safetensors"
    content = table.read_bytes()
    table.write_bytes(content[:-40] + bytes(40))
    assert content[-40:] != bytes(40) and cached("key") is None, "it is prepared again"


def recipe_of(model: Path, rows: Path, **changes: Any) -> Any:
    held_out = {"data__held_out": 4, **changes}
    return resolve(parse_recipe(tiny.recipe(model, rows, rows.parent / "run", **held_out)))


def test_same_inputs_hit_wherever_the_file_lies(model: Path, rows: Path, tmp_path: Path) -> None:
    first = prepare_recipe(recipe_of(model, rows))
    assert not first.from_cache
    again = prepare_recipe(recipe_of(model, rows))
    assert again.from_cache and again.key == first.key and again.train.sha256 == first.train.sha256
    # loss_on and everything about training choose among the same tokens
    assert prepare_recipe(recipe_of(model, rows, data__loss_on="all", train__lr=1.0)).from_cache
    (tmp_path / "elsewhere").mkdir()
    moved = rows.rename(tmp_path / "elsewhere" / rows.name)
    assert prepare_recipe(recipe_of(model, moved)).from_cache


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data__template", "human-assistant"),
        ("data__max_length", 100),
        ("data__on_overflow", "truncate"),
        ("data__on_bad_row", "skip"),
        ("data__size", 20),
        ("data__seed", 1),
        ("data__held_out", 5),
    ],
)
def test_another_setting_misses(key: str, value: Any, model: Path, rows: Path) -> None:
    first = prepare_recipe(recipe_of(model, rows))
    other = prepare_recipe(recipe_of(model, rows, **{key: value}))
    assert not other.from_cache and other.key != first.key
    assert prepare_recipe(recipe_of(model, rows)).from_cache, "and the first is still there"


def test_one_changed_byte_of_the_data_misses(model: Path, rows: Path) -> None:
    first = prepare_recipe(recipe_of(model, rows))
    text = rows.read_text()
    rows.write_text(text.replace("0: ", "0; ", 1))
    other = prepare_recipe(recipe_of(model, rows))
    assert not other.from_cache and other.train.sha256 != first.train.sha256
    rows.write_text(text)
    assert prepare_recipe(recipe_of(model, rows)).from_cache


def test_another_tokenizer_misses(model: Path, rows: Path, tmp_path: Path) -> None:
    prepare_recipe(recipe_of(model, rows))
    byte_tokenizer([("a", "t")]).save_pretrained(tmp_path / "tokenizer")
    named = {"model__tokenizer": str(tmp_path / "tokenizer")}
    assert not prepare_recipe(recipe_of(model, rows, **named)).from_cache
    byte_tokenizer([("a", "t")], eos="<|im_end|>").save_pretrained(tmp_path / "tokenizer")
    assert not prepare_recipe(recipe_of(model, rows, **named)).from_cache, "the same text, another end of sequence"


def test_another_text_in_the_chat_template_file_misses(model: Path, rows: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}")
    chat = {"data__template": "chat", "data__chat_template": str(file)}
    assert not prepare_recipe(recipe_of(model, rows, **chat)).from_cache
    assert prepare_recipe(recipe_of(model, rows, **chat)).from_cache
    copy = tmp_path / "copy.jinja"
    copy.write_bytes(file.read_bytes())
    assert prepare_recipe(recipe_of(model, rows, **{**chat, "data__chat_template": str(copy)})).from_cache
    file.write_text(file.read_text().replace(": ", " - "))
    assert not prepare_recipe(recipe_of(model, rows, **chat)).from_cache


def test_other_source_code_or_another_library_misses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def key() -> str:
        return cache_key(sources=["a"], template=TEXT_TEMPLATES["plain"], tokenizer="t", settings={"size": 1})

    first = key()
    assert key() == first
    for name in prepared_module.TOKENISING_SOURCES:
        with monkeypatch.context() as patch:
            copy = tmp_path / name.replace(".py", "")
            _copied_with_change(Path(prepared_module.__file__).parent, copy, name)
            patch.setattr(prepared_module, "__file__", str(copy / "prepared.py"))
            assert key() != first, f"{name} was changed, and the key was not"
    with monkeypatch.context() as patch:
        patch.setattr(prepared_module.metadata, "version", lambda name: "0.0.0")
        assert key() != first
    with monkeypatch.context() as patch:
        patch.setattr(prepared_module, "__version__", "0.0.0")
        assert key() != first
    assert key() == first


def _copied_with_change(folder: Path, copy: Path, changed: str) -> None:
    """The tokenising sources with a comment added to one of them, or to one file of it where it is a folder."""
    for name in prepared_module.TOKENISING_SOURCES:
        files = sorted((folder / name).glob("*.py")) if (folder / name).is_dir() else [folder / name]
        for number, file in enumerate(files):
            target = copy / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes() + (b"# changed\n" if name == changed and number == 0 else b""))


def test_the_key_tells_templates_apart() -> None:
    def key(template: Any) -> str:
        return cache_key(sources=["a"], template=template, tokenizer="t", settings={})

    chat = get_template("chat", TOKENIZER)
    assert len({key(template) for template in (*TEXT_TEMPLATES.values(), chat)}) == len(TEXT_TEMPLATES) + 1


KILLED_STORE = """
    import os, sys
    from tunelab.data.messages import PretokenizedRow
    from tunelab.data import prepared
    from tunelab.data.loader import TokenTable

    real, calls = os.{function}, 0

    def killed(*arguments, **keywords):
        global calls
        calls += 1
        if calls > {allowed}:
            os.kill(os.getpid(), 9)
        return real(*arguments, **keywords)

    counts = prepared.RowCounts(*[0] * 10)
    table = TokenTable.of([])
    data = prepared.PreparedData("key", table, table, (), (), counts, counts, (), ())
    os.{function} = killed
    prepared.store(data)
    print("stored")
"""


@pytest.mark.parametrize(("function", "allowed"), [("fsync", 0), ("fsync", 3), ("rename", 0), ("replace", 0)])
def test_a_killed_store_leaves_nothing_usable(function: str, allowed: int) -> None:
    code = textwrap.dedent(KILLED_STORE.format(function=function, allowed=allowed))
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=dict(os.environ)
    )
    assert result.returncode == -9, result.stderr
    assert result.stdout == ""
    assert cached("key") is None
    store(prepared([ask("A", "b")]))
    back = cached("key")
    assert back is not None and len(back.train) == 1


def test_training_tokenises_nothing_after_prepare(
    model: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.recipe(model, rows, tmp_path / "run", data__held_out=4, train__steps=1)
    key = prepare_recipe(resolve(parse_recipe(recipe))).key

    encode_in_turn = RowEncoder.encode_in_turn

    def refuse(self: RowEncoder, batches: Sequence[Sequence[Any]]) -> Any:
        if any(example.origin for batch in batches for example in batch):  # of a file; not those that try a template
            raise AssertionError("a row was tokenised")
        return encode_in_turn(self, batches)

    monkeypatch.setattr(RowEncoder, "encode_in_turn", refuse)
    run = finetune(recipe)
    assert run.manifest["data"]["key"] == key
    with pytest.raises(AssertionError, match="a row was tokenised"):
        finetune({**recipe, "data": {**recipe["data"], "seed": 1}, "out": str(tmp_path / "other")})
