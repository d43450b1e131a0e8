"""A chat template that writes the date: the date is fixed, recorded, and the same ever after."""

from __future__ import annotations

import datetime
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from tunelab.answering.chat import chat_with_model, chat_with_run
from tunelab.answering.generate import open_responder
from tunelab.answering.held_out_evaluation import evaluate
from tunelab.config import parse_recipe, resolve
from tunelab.data.template_date import fixed_date, with_fixed_date, writes_date
from tunelab.errors import BadRow, ConfigError, Interrupted, UsageError
from tunelab.preparation.rows import load_recipe_tokenizer, row_encoder
from tunelab.publishing.export import export
from tunelab.training.finetune import finetune, resume

#: As Llama 3.2's: the date is the function's where there is one.
DATED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}'
    "{%- endif %}{%- endif %}"
    "{{- 'Date: ' + date_string + '\n' }}"
    "{%- for turn in messages %}{{- turn.role + ': ' + turn.content + eos_token + '\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'assistant: ' }}{%- endif %}"
)
TURNS = [{"role": "user", "content": "Hi"}]
DAY = datetime.date(2024, 2, 29)


class Tomorrow(datetime.date):
    """A day after every other one."""

    @classmethod
    def today(cls) -> datetime.date:  # type: ignore[override]
        return datetime.date(2031, 1, 2)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))
    model = tiny.model_folder(tmp_path / "model")
    (model / "chat_template.jinja").write_text(DATED, encoding="utf-8")
    made = tiny.recipe(model, tiny.rows_file(tmp_path / "rows.jsonl"), tmp_path / "run")
    made["data"] |= {"template": "chat", "held_out": 4}
    return made


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunelab.preparation.rows.datetime", SimpleNamespace(date=Tomorrow))


def rendered(source: str, **settings: Any) -> str:
    tokenizer = tiny.tiny_tokenizer()
    return str(tokenizer.apply_chat_template(TURNS, chat_template=source, tokenize=False, **settings))


def test_the_date_is_fixed_in_the_template_itself() -> None:
    fixed = with_fixed_date(DATED, DAY)
    assert rendered(fixed) == "Date: 29 Feb 2024\nuser: Hi<eos>\n"
    today = datetime.datetime.now().strftime("%d %b %Y")
    assert rendered(fixed).replace("29 Feb 2024", today) == rendered(DATED)
    assert fixed_date(fixed) == DAY and fixed_date(DATED) is None
    assert with_fixed_date(fixed, datetime.date.today()) == fixed
    assert with_fixed_date("{{ messages[0].content }}", DAY) == "{{ messages[0].content }}"
    assert not writes_date("{{ messages }}") and not writes_date(None)


def test_a_format_without_a_text_refuses_the_row(tree: dict[str, Any]) -> None:
    source = "{%- set f = '%Y' -%}{{ strftime_now(f) }}{{ messages[0].content }}"
    (Path(tree["model"]["name"]) / "chat_template.jinja").write_text(source, encoding="utf-8")
    recipe = resolve(parse_recipe(tree))
    with pytest.raises(BadRow, match=r"the date is fixed to .*, and has no text for this format"):
        row_encoder(load_recipe_tokenizer(recipe), recipe).stop_token_ids()


def test_a_run_keeps_its_date(tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    today = datetime.date.today().isoformat()
    run = finetune(tree)
    assert run.manifest["data"]["date"] == today
    monkeypatch.setattr("tunelab.preparation.rows.datetime", SimpleNamespace(date=Tomorrow))
    assert evaluate(run, limit=2, max_new_tokens=2)
    responder = open_responder(run)
    assert responder.date == today
    assert f"date {today}" in chat_with_run(run).template
    export(run, tmp_path / "merged", to="hf")
    assert f"date {today}" in chat_with_model(tmp_path / "merged").template
    assert "date 2031-01-02" in chat_with_model(tree["model"]["name"]).template


def test_an_interrupted_run_is_resumed_on_another_day(tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
        if stage == "training" and done == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        finetune(tree, progress=stops)
    monkeypatch.setattr("tunelab.preparation.rows.datetime", SimpleNamespace(date=Tomorrow))
    assert resume(tree["out"]).manifest["data"]["date"] == datetime.date.today().isoformat()


def test_a_model_of_a_run_keeps_the_date_of_its_training(tree: dict[str, Any]) -> None:
    template = Path(tree["model"]["name"]) / "chat_template.jinja"
    template.write_text(with_fixed_date(DATED, DAY), encoding="utf-8")
    for date in (None, "2024-02-29"):
        tokenizer = load_recipe_tokenizer(resolve(parse_recipe({**tree, "data": {**tree["data"], "date": date}})))
        assert fixed_date(tokenizer.chat_template) == DAY
    tree["data"]["date"] = "2026-01-31"
    with pytest.raises(
        UsageError, match=r"data\.date is 2026-01-31, but the chat template's date is fixed to 2024-02-29"
    ):
        load_recipe_tokenizer(resolve(parse_recipe(tree)))


def test_a_recipe_names_the_date(tree: dict[str, Any], tomorrow: None) -> None:
    tree["data"]["date"] = "2024-02-29"
    tokenizer = load_recipe_tokenizer(resolve(parse_recipe(tree)))
    assert fixed_date(tokenizer.chat_template) == DAY
    for wrong in ("29 Feb 2024", "20240229", "2023-02-29"):
        with pytest.raises(ConfigError, match=r"data\.date"):
            parse_recipe({**tree, "data": {**tree["data"], "date": wrong}})
    (Path(tree["model"]["name"]) / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"data\.date is 2024-02-29, but the chat template writes no date"):
        load_recipe_tokenizer(resolve(parse_recipe(tree)))
    with pytest.raises(ConfigError, match="only a chat template writes a date"):
        resolve(parse_recipe({**tree, "data": {**tree["data"], "template": "alpaca"}}))
