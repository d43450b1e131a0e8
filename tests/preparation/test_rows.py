"""What the preparation of a recipe refuses before it reads a row, and which rows it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from tunelab.config import DataSettings, parse_recipe, resolve
from tunelab.errors import DataError, ModelError, UsageError
from tunelab.preparation import rows as preparation
from tunelab.preparation.rows import Selection, fit_to_model, prepare, read_source, select
from tunelab.preparation.tokenizer import template_file
from tunelab.training.finetune import finetune


def test_a_chat_template_file_that_is_not_there(tmp_path: Path) -> None:
    tree = tiny.recipe(tiny.model_folder(tmp_path / "model"), tiny.rows_file(tmp_path / "rows.jsonl"), tmp_path / "run")
    tree["data"] |= {"template": "chat", "chat_template": str(tmp_path / "none.jinja")}
    with pytest.raises(UsageError, match=r"data.chat_template: .*none.jinja: no such file"):
        prepare(resolve(parse_recipe(tree)))


def test_a_chat_template_file_that_is_no_utf_8(tmp_path: Path) -> None:
    (tmp_path / "odd.jinja").write_bytes(b"{{ \xff }}")
    tree = tiny.recipe(tmp_path / "model", tmp_path / "rows.jsonl", tmp_path / "run")
    tree["data"] |= {"template": "chat", "chat_template": str(tmp_path / "odd.jinja")}
    with pytest.raises(UsageError, match=r"data.chat_template: .*odd.jinja: not UTF-8 at byte 3"):
        template_file(parse_recipe(tree).data.chat_template or "")


def test_a_model_whose_window_cannot_be_read(tmp_path: Path) -> None:
    tiny.tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "no-such-family"}', encoding="utf-8")
    tree = tiny.recipe(tmp_path / "model", tmp_path / "rows.jsonl", tmp_path / "run")
    with pytest.raises(ModelError, match=r"model .*model: cannot be loaded: .*no-such-family"):
        fit_to_model(resolve(parse_recipe(tree)), tiny.tiny_tokenizer())


def test_rows_are_as_long_as_the_model_s_window_allows(tmp_path: Path) -> None:
    model, tokenizer = tiny.model_folder(tmp_path / "model"), tiny.tiny_tokenizer()
    tree = tiny.recipe(model, tmp_path / "rows.jsonl", tmp_path / "run")
    del tree["data"]["max_length"]
    fitted = fit_to_model(
        resolve(parse_recipe({**tree, "train": {**tree["train"], "micro_batch_tokens": 4096}})), tokenizer
    )
    assert fitted.data.max_length == tiny.CONTEXT
    tree["data"]["max_length"] = tiny.CONTEXT + 1
    with pytest.raises(UsageError, match=f"has a context window of {tiny.CONTEXT} tokens"):
        fit_to_model(resolve(parse_recipe(tree)), tokenizer)


def test_a_file_is_read_once_while_it_stays_as_it_is(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))  # no test before it prepared these rows
    rows = tiny.rows_file(tmp_path / "rows.jsonl")
    recipe = resolve(parse_recipe(tiny.recipe(models["llama"], rows, tmp_path / "run")))
    reads: list[object] = []
    real = preparation.load_examples
    monkeypatch.setattr(preparation, "load_examples", lambda *of, **more: reads.append(of) or real(*of, **more))
    first, second = prepare(recipe), prepare(recipe)
    assert len(reads) == 1 and (first.key, second.from_cache) == (second.key, True)
    with rows.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"prompt": "more", "completion": "rows"}) + "\n")
    assert prepare(recipe).key != first.key and len(reads) == 2


def test_a_training_asks_for_the_model_s_window_once(
    models: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    window = preparation.context_window

    def counted(name: str, **how: Any) -> int | None:
        asked.append(name)
        return window(name, **how)

    monkeypatch.setattr(preparation, "context_window", counted)
    tree = tiny.recipe(models["llama"], rows, tmp_path / "run", train__steps=1)
    finetune(tree)
    assert len(asked) == 1
    prepare(tree)
    assert len(asked) == 2


def test_parallel_files_are_sampled_independently(tmp_path: Path) -> None:
    files = [tmp_path / f"{language}.jsonl" for language in ("english", "german")]
    for file in files:
        lines = [json.dumps({"prompt": f"{file.stem} {number}", "completion": "yes"}) for number in range(40)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sources = [{"name": "prompt_completion", "path": str(file), "size": 10} for file in files]
    tree = tiny.recipe(tmp_path / "model", files[0], tmp_path / "run")
    data = parse_recipe({**tree, "data": {"sources": sources, "held_out": 0}}).data
    chosen = [one.group.split() for one in select(data, [read_source(data, 0), read_source(data, 1)]).train]
    english, german = ({row for language, row in chosen if language == file.stem} for file in files)
    assert len(english) == len(german) == 10
    assert english != german


def test_fewer_training_rows_leave_held_out_and_validation_rows_as_they_are(tmp_path: Path) -> None:
    rows = str(tiny.rows_file(tmp_path / "rows.jsonl", rows=40))

    def selected(size: int | None) -> Selection:
        data = DataSettings(sources=[rows], held_out=8, validation=6, train_size=size)  # type: ignore[arg-type]
        return select(data, [read_source(data, 0)])

    every, more, fewer = selected(None), selected(20), selected(10)
    assert [len(one.train) for one in (every, more, fewer)] == [26, 20, 10]
    assert every.held_out == more.held_out == fewer.held_out and every.validation == fewer.validation
    origins = [{row.origin for row in one.train} for one in (every, more, fewer)]
    assert origins[2] < origins[1] < origins[0], "a smaller sample is part of a larger one"
    with pytest.raises(DataError, match=r"data.train_size is 27, but 26 training rows are left after held-out and"):
        selected(27)
