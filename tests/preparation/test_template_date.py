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
from tunelab.config.questions import HELD_OUT
from tunelab.config.study import parse_study
from tunelab.data.template_date import day_of_rendering, fixed_date, with_fixed_date, writes_date
from tunelab.errors import BadRow, ConfigError, Interrupted, RunError, UsageError
from tunelab.preparation.rows import row_encoder
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.publishing.export import export
from tunelab.records.cells import CREATED_FILE, first_day
from tunelab.records.responses import read_responses
from tunelab.records.runs import open_run
from tunelab.studies.run_study import run_study
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


def set_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(date=Tomorrow, datetime=datetime.datetime, time=datetime.time)
    monkeypatch.setattr("tunelab.data.template_date.datetime", clock)


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch)


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
    set_clock(monkeypatch)
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
    set_clock(monkeypatch)
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


def test_a_study_over_midnight_has_one_date(tree: dict[str, Any], tmp_path: Path) -> None:
    """Its first day, whichever day a job runs on: base and tuned are compared without a word about dates."""
    del tree["out"]
    tree |= {"evaluate": {"max_new_tokens": 1, "limit": 2}}
    study = parse_study(
        {
            "title": "dated",
            "recipe": tree,
            "arms": {"base": {"tuned": False}, "lora": {}},
            "seeds": [0],
            "benchmarks": {HELD_OUT: {}},
        }
    )
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / CREATED_FILE).write_text('{"created": "2024-02-29T23:59:58+00:00", "id": "5"}', encoding="utf-8")
    cells = run_study(study, folder)
    assert [cell.status for cell in cells] == ["done"] * 3, [cell.error for cell in cells]
    dates = [open_run(folder / cell.folder).manifest["data"]["date"] for cell in cells if not cell.benchmark]
    headers = [read_responses(folder / cell.folder / "responses.jsonl")[0] for cell in cells if cell.benchmark]
    assert [*dates, *(header["date"] for header in headers)] == ["2024-02-29"] * 3
    assert day_of_rendering() == datetime.date.today()


def test_a_study_that_does_not_say_when_it_began(tmp_path: Path) -> None:
    (tmp_path / CREATED_FILE).write_text('{"created": 5}', encoding="utf-8")
    with pytest.raises(RunError, match=r"created\.json: created: expected a date, got 5"):
        first_day(tmp_path)
