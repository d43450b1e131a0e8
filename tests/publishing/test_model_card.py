"""A run's card says what its report would; no card, report or tracker names a place or a user of this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from huggingface_hub import ModelCard

from tunelab.allowed_code import allow_code
from tunelab.answering.held_out_evaluation import evaluate
from tunelab.config import parse_recipe
from tunelab.config.shareable import is_place, place_name, shareable_yaml, without_places
from tunelab.files import write_json_atomically
from tunelab.records.runs import Run
from tunelab.report.html_page import html_page
from tunelab.report.markdown_page import markdown_page
from tunelab.report.model_card import HubBase, model_card
from tunelab.studies.arm_settings import setting_differences
from tunelab.studies.comparison_report import compare_report
from tunelab.training.finetune import finetune
from tunelab.training.tracked_run import training_run

USER = "jane.doe"
SOURCE = '''
"""Rows of one column."""
from tunelab.data.messages import Conversation, Message
from tunelab.data.sources._source import SourceOptions, text
HUB, LICENCE, COLUMNS = None, "unknown", ("prompt", "completion")
EXAMPLE = [{"prompt": "a", "completion": "b"}]
class Options(SourceOptions):
    pass
def examples(row, options):
    return [Conversation((Message("user", text(row, "prompt")), Message("assistant", text(row, "completion"))))]
'''
TEMPLATE = """{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of which everything is in the home of a user: model, rows, source, template, result."""
    home = tmp_path_factory.mktemp("card") / "home" / USER
    model, rows = tiny.model_folder(home / "models" / "base"), tiny.rows_file(home / "rows.jsonl")
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    source, template = home / "my_source.py", home / "my_template.jinja"
    source.write_text(SOURCE, encoding="utf-8")
    template.write_text(TEMPLATE, encoding="utf-8")
    allow_code(str(source))
    recipe = tiny.recipe(model, rows, home / "runs" / "first", data__held_out=4, train__steps=2)
    recipe["data"] |= {"template": "chat", "chat_template": str(template)}
    recipe["data"]["sources"] = [{"name": str(source), "path": str(rows)}]
    recipe["evaluate"] = {"max_new_tokens": 2}
    return finetune(recipe)


def card(run: Run) -> str:
    return (run.adapter / "README.md").read_text(encoding="utf-8")


def test_the_card_is_next_to_the_weights_and_has_every_score(run: Run) -> None:
    before = card(run)
    assert "No benchmark was run and no answer was scored" in before and "eval_results" not in before
    for said in (
        "LoRA (rank 4)", "base (a local folder)", "| license of the base | apache-2.0 |", "| my\\_source |",
        "not stated", "| training | 20 |", "`chat_template.jinja`", "Trained once (seed 0)", "held-out loss",
    ):  # fmt: skip
        assert said.replace("\\", "") in before.replace("\\", ""), said
    scores = evaluate(run).arms
    after = card(run)
    assert "Where none is stated, find out which license binds" in after and "Both bind" not in after
    assert "no answer was scored" not in after and "What training cost elsewhere" in after
    (found,) = ModelCard(after).data.to_dict()["model-index"]
    (metrics,) = (one["metrics"] for one in found["results"])
    tuned = {score.name: score for score in scores["tuned"]}
    assert {one["type"]: one["value"] for one in metrics} == {
        name: score.value for name, score in tuned.items() if not score.is_blind
    }
    perplexity = next(one for one in metrics if one["type"] == "completion_perplexity")
    assert perplexity["args"] == {"standard_error": tuned["completion_perplexity"].error, "items": 4}
    assert "| metric | base | tuned | unit | better | items |" in after


def test_metadata_of_a_base_and_data_on_the_hub(run: Run) -> None:
    manifest = json.loads(json.dumps(run.manifest))
    source = {
        "origin": "tatsu-lab/alpaca:all@0123 train",
        "identity": "hub:tatsu-lab/alpaca",
        "licence": "CC BY-NC 4.0",
    }
    manifest["data"]["sources"][0] |= source
    found = model_card(run, manifest, base=HubBase("owner/base", "c0ffee", "mit"), name="me/tuned")
    data = found.data.to_dict()
    assert (data["base_model"], data["base_model_relation"], data["license"]) == ("owner/base", "adapter", "mit")
    assert (data["datasets"], data["pipeline_tag"]) == (["tatsu-lab/alpaca"], "text-generation")
    assert "Licenses: the base, mit; the data, CC BY-NC 4.0. Both bind this model" in found.text
    assert 'PeftModel.from_pretrained(base, "me/tuned")' in found.text


def test_the_caveats_of_what_was_left_out(run: Run) -> None:
    folder = run.evaluations / "mmlu-tuned-0"
    score = {"name": "accuracy", "value": 0.5, "error": 0.1, "n": 20, "unit": "0-1", "higher_is_better": True}
    header = {"arm": "tuned", "items": 20, "limit": 20}
    content = {
        "format_version": 2,
        "benchmark": "/home/jane.doe/mmlu.py",
        "options": {"shots": 1, "file": "/home/jane.doe/x"},
    }
    folder.mkdir(parents=True)
    write_json_atomically(folder / "scores.json", {**content, "header": header, "scores": [{**score, "protocol": {}}]})
    try:
        text = str(model_card(run))
    finally:
        (folder / "scores.json").unlink()
    assert "### mmlu (shots 1, file x)" in text and "| accuracy | 0.50 ± 0.10 | 0-1 | higher | 20 |" in text
    assert "mmlu: only 20 items were evaluated." in text and "mmlu: the base was not evaluated" in text


def test_a_merge_says_over_how_many_tokens_it_was_measured(run: Run) -> None:
    merged = {"format": "bf16", "dtype": "bf16", "bytes": 1, "quality": {"kl": 0.0004, "tokens": 40}}
    said = "its distance from the trained model is KL 4.0e-04 nats per token, over 40 held-out tokens."
    assert said in str(model_card(run, merged=merged))


def test_nothing_that_leaves_names_a_place_or_a_user(run: Run) -> None:
    evaluate(run)
    report = compare_report(run)
    tracked = training_run(run, run.recipe)
    leaving = {
        "card": card(run),
        "merged card": str(model_card(run, merged={"format": "bf16", "dtype": "bf16", "bytes": 1, "quality": None})),
        "report.json": json.dumps(report.to_json()),
        "report.html": html_page(report),
        "report.md": markdown_page(report),
        "tracker": json.dumps([tracked.project, tracked.name, tracked.group, dict(tracked.config)]),
    }
    assert [name for name, text in leaving.items() if USER in text or "/home" in text] == []
    assert "rows.jsonl" in leaving["card"] and "my_template.jinja" in leaving["tracker"]


def test_places_in_a_recipe_become_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jane" / "base").mkdir(parents=True)
    tree: dict[str, Any] = {
        "model": "jane/base",
        "data": ["~/rows.jsonl", {"name": "./s.py", "path": "jane/a.csv"}],
        "adapter": {"from": "jane/adapter"},
        "out": "jane/x",
    }
    shown = yaml.safe_load(shareable_yaml(parse_recipe(tree)))
    assert (shown["model"]["name"], shown["adapter"]["from"], shown["out"]) == ("base", "adapter", "x")
    assert [(one["name"], one["path"]) for one in shown["data"]["sources"]] == [
        ("auto", "rows.jsonl"),
        ("s.py", "a.csv"),
    ]
    assert (
        yaml.safe_load(shareable_yaml(parse_recipe({**tree, "model": "owner/base"})))["model"]["name"] == "owner/base"
    )
    gone = shareable_yaml(parse_recipe({**tree, "model": "owner/base"}), has_local_base=True)
    assert yaml.safe_load(gone)["model"]["name"] == "base"
    assert [is_place(one) for one in ("gpt2", r".\d+.q_proj", "/a/b", "a/b/c", "~jane/x", "a/b\nc")] == [
        False, False, True, True, True, False,
    ]  # fmt: skip
    assert place_name("C:\\Users\\jane\\base") == "base" and place_name("/home/jane/base/") == "base"


def test_places_in_messages_become_names() -> None:
    said = "ModelError: /home/jane/base/model.safetensors: damaged (see ~/log.txt, https://a.b/c/d); use --out x"
    assert without_places(said) == "ModelError: model.safetensors: damaged (see log.txt, https://a.b/c/d); use --out x"


def test_two_places_of_one_name_are_still_a_difference() -> None:
    settings = {"a": {"model.name": "/x/base"}, "b": {"model.name": "/y/base"}, "c": {"model.name": "/x/base"}}
    (found,) = setting_differences(settings, ())
    assert asdict(found)["values"] == {"a": "base (1)", "b": "base (2)", "c": "base (1)"}
