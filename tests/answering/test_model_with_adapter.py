"""A model with an adapter of a run is prompted as the adapter was trained: the run's tokenizer, template and dates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from tunelab.answering import held_out_evaluation
from tunelab.answering.generate import prompted
from tunelab.answering.held_out_evaluation import evaluate_model
from tunelab.config import parse_recipe, resolve
from tunelab.errors import UsageError
from tunelab.records.runs import Run

OWN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"  # noqa: E501


@pytest.fixture
def made(tmp_path: Path, rows: Path) -> tuple[dict[str, Any], Run]:
    """A recipe that names no template, and the folder of a run with an added token and a chat template of its own."""
    tree = tiny.recipe(tiny.model_folder(tmp_path / "base"), rows, tmp_path / "out", data__held_out=4)
    del tree["data"]["template"]
    run = Run(tmp_path / "run")
    run.adapter.mkdir(parents=True)
    trained = {**tree, "data": {**tree["data"], "template": "chat", "thoughts": "last"}}
    run.recipe_file.write_text(json.dumps(trained), encoding="utf-8")
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.add_tokens(["</assistant>"], special_tokens=True)
    tokenizer.chat_template = OWN
    tokenizer.save_pretrained(run.tokenizer)
    return tree, run


def asked(tree: dict[str, Any], run: Run, **data: Any) -> tuple[Any, Any]:
    recipe = resolve(parse_recipe({**tree, "data": {**tree["data"], **data}}))
    found, tokenizer, is_known = prompted(recipe, run.adapter)
    assert is_known
    return found, tokenizer


def test_held_out_rows_are_rendered_and_tokenized_as_the_adapter_was_trained(
    made: tuple[dict[str, Any], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, run = made
    seen: list[Any] = []
    monkeypatch.setattr(held_out_evaluation, "_adapter_arms", lambda *_: {})
    monkeypatch.setattr(held_out_evaluation, "_evaluate_arms", lambda *given: seen.extend(given))
    evaluate_model(tree, adapter=run.adapter)
    _, recipe, tokenizer, data, *_ = seen
    assert (recipe.data.template, tokenizer.chat_template) == ("chat", OWN)
    assert recipe.data.sources[0].path == tree["data"]["sources"][0]["path"], "the rows are the recipe's"
    ids, _ = data.held_out.row(0)
    assert tokenizer.decode(ids).startswith("<user>") and tokenizer.convert_tokens_to_ids("</assistant>") in ids


def test_another_template_that_is_named_is_used_with_the_tokenizer_of_the_run(made: tuple[dict[str, Any], Run]) -> None:
    recipe, tokenizer = asked(*made, template="alpaca")
    assert recipe.data.template == "alpaca" and "</assistant>" in tokenizer.get_added_vocab()
    recipe, tokenizer = asked(*made)
    assert (recipe.data.template, recipe.data.thoughts) == ("chat", "last")


def test_end_tokens_are_those_of_the_tokenizer_that_the_run_names(made: tuple[dict[str, Any], Run]) -> None:
    tree, run = made
    trained = json.loads(run.recipe_file.read_text())
    own = str(run.tokenizer)
    run.recipe_file.write_text(json.dumps({**trained, "model": {**trained["model"], "tokenizer": own}}))
    assert asked(tree, run)[0].model.tokenizer == own
    assert asked(tree, run, template="plain")[0].model.tokenizer == own
    assert asked({**tree, "model": {**tree["model"], "tokenizer": own}}, run)[0].model.tokenizer == own


def test_another_tokenizer_or_date_is_refused(made: tuple[dict[str, Any], Run]) -> None:
    tree, run = made
    other = {**tree, "model": {**tree["model"], "tokenizer": tree["model"]["name"]}}
    with pytest.raises(UsageError, match=r"model.tokenizer is .*base, but .*adapter was trained with the tokenizer of"):
        asked(other, run)
    with pytest.raises(UsageError, match=r"data.date is 2024-01-01, but .*adapter was trained with no date in its"):
        asked(tree, run, date="2024-01-01")
