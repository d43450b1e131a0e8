"""Recipes: what is read, what is refused and with which words, and that nothing is lost on the way back to YAML."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from tunelab.config import Recipe, load_recipe, parse_recipe, resolve
from tunelab.config.reference import keys
from tunelab.config.rules import RULES
from tunelab.config.yaml_text import parse_yaml
from tunelab.errors import ConfigError, UsageError

SMALL: dict[str, Any] = {"model": "gpt2", "data": "alpaca"}


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(*overrides: str, tree: dict[str, Any] | None = None) -> dict[str, tuple[str, str]]:
    """Path -> (message, hint) of everything that is wrong."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(None, overrides, SMALL if tree is None else tree)
    return {problem.path: (problem.message, problem.hint) for problem in caught.value.problems}


def test_a_recipe_says_only_what_differs(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "model: gpt2\ndata: alpaca\ntrain:\n  lr: 1e-5\n"))
    assert recipe.model.name == "gpt2"
    assert recipe.data.sources[0].name == "alpaca"
    assert recipe.train.lr == 1e-5
    assert recipe.method == "lora"


def test_sections_left_empty_have_their_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "model: gpt2\ndata: alpaca\ntrain:\nadapter:\n"))
    assert recipe == parse_recipe(SMALL)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("alpaca", [("alpaca", None)]),
        (["alpaca", "rows.jsonl"], [("alpaca", None), ("auto", "rows.jsonl")]),
        ("folder/Rows.JSON", [("auto", "folder/Rows.JSON")]),
        ("rows.csv.gz", [("auto", "rows.csv.gz")]),
        ("my_source.py", [("my_source.py", None)]),
        ({"sources": "alpaca"}, [("alpaca", None)]),
        ({"sources": {"name": "oasst1", "path": "trees.jsonl"}}, [("oasst1", "trees.jsonl")]),
        ({"sources": [{"path": "x.parquet"}]}, [("auto", "x.parquet")]),
    ],
)
def test_shorthands_of_data(data: Any, expected: list[tuple[str, str | None]]) -> None:
    recipe = parse_recipe({"model": "gpt2", "data": data})
    assert [(source.name, source.path) for source in recipe.data.sources] == expected


def test_the_method_and_the_shorthand_of_model() -> None:
    recipe = parse_recipe({**SMALL, "method": "full"})
    assert (recipe.method, recipe.model.name) == ("full", "gpt2")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E+3", 1e3),
        (".5", 0.5),
        ("5.", 5.0),
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        ("-7", -7),
        ("010", 10),  # not octal
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),  # YAML 1.1 reads 90
        ("2024-01-01", "2024-01-01"),  # YAML 1.1 reads a date
        ("'1e-5'", "1e-5"),
        ("_1", "_1"),
        ("1e", "1e"),
        ("[1e-5, x]", [1e-5, "x"]),
    ],
)
def test_yaml_scalars(text: str, value: Any) -> None:
    read = parse_yaml(text, "test")
    assert read == value
    assert type(read) is type(value)


def test_nan_is_read_as_a_number() -> None:
    assert math.isnan(parse_yaml(".nan", "test"))


@pytest.mark.parametrize(
    ("override", "value"),
    [("train.lr=1e-5", 1e-5), ("train.lr='1e-5'", 1e-5), ("train.lr=.5", 0.5), ("train.lr=1", 1.0)],
)
def test_a_number_may_be_written_any_way(override: str, value: float) -> None:
    assert load_recipe(None, [override], SMALL).train.lr == value


def test_overrides_win_over_flags_and_flags_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "model: {name: gpt2, revision: abc}\ndata: {sources: alpaca, template: plain}\nout: one\n")
    recipe = load_recipe(
        path, ["out=three"], {"model": "distilgpt2", "out": "two", "data.sources": ["x.json"], "data.size": None}
    )
    assert recipe.out == "three"
    # The revision belonged to the other model; the template belongs to neither of the sources.
    assert (recipe.model.name, recipe.model.revision) == ("distilgpt2", None)
    assert (recipe.data.template, recipe.data.sources[0].path) == ("plain", "x.json")


def test_overrides_reach_into_lists_and_shorthands() -> None:
    recipe = load_recipe(
        None,
        ["data.sources.1.path=rows.csv", "data.sources.1.options.lang=en", "model.revision=main"],
        {"model": "m", "data": ["a", "b"]},
    )
    assert recipe.data.sources[1].path == "rows.csv"
    assert recipe.data.sources[1].options == {"lang": "en"}
    assert recipe.model.revision == "main"


def test_the_last_override_wins() -> None:
    assert load_recipe(None, ["train.seed=1", "train.seed=2"], SMALL).train.seed == 2


def test_loading_changes_no_argument() -> None:
    flags = {"model": "m", "data": {"sources": [{"name": "a"}]}}
    before = json.dumps(flags)
    load_recipe(None, ["data.sources.0.size=3", "data.size=9"], flags)
    parse_recipe(flags)
    assert json.dumps(flags) == before


# What is refused.


@pytest.mark.parametrize(
    ("override", "path", "message", "hint"),
    [
        ("train.steps=3.0", "train.steps", r"expected a positive integer, or null, got 3\.0", "write 3"),
        ("train.steps=0", "train.steps", "expected a positive integer, or null, got 0", ""),
        ("train.steps=true", "train.steps", "expected a positive integer, or null, got true", ""),
        ("train.packing=yes", "train.packing", "expected auto, true or false, got 'yes'", ""),
        ("train.packing=1", "train.packing", "expected auto, true or false, got 1", ""),
        ("train.lr=0", "train.lr", "expected a positive number, or null, got 0", ""),
        ("train.lr=.nan", "train.lr", "expected a positive number, or null, got nan", ""),
        ("train.lr=.inf", "train.lr", "expected a positive number, or null, got inf", ""),
        ("train.lr=fast", "train.lr", "expected a positive number, or null, got 'fast'", ""),
        ("train.lr=true", "train.lr", "expected a positive number, or null, got true", ""),
        ("train.weight_decay=-1", "train.weight_decay", "expected a non-negative number, got -1", ""),
        ("adapter.dropout=1", "adapter.dropout", r"expected a number in \[0, 1\), got 1", ""),
        ("data.held_out=true", "data.held_out", "expected a fraction below 1, or an integer, got true", ""),
        ("data.held_out=-1", "data.held_out", "expected a fraction below 1, or an integer, got -1", ""),
        (
            "train.schedule=cosin",
            "train.schedule",
            "expected one of cosine, linear, constant, got 'cosin'",
            "did you mean cosine?",
        ),
        ("train.schedule=x", "train.schedule", "expected one of cosine, linear, constant, got 'x'", ""),
        ("model.revision=1234", "model.revision", "expected a string, or null, got 1234", "put it in quotes"),
        ("model.name=", "model.name", "expected a string, got null", ""),
        (
            "adapter.targets=q_proj",
            "adapter.targets",
            "expected one of all-linear, attention, or a regular expression for whole names, or a list, each",
            "",
        ),
        ("adapter.targets=[3]", "adapter.targets.0", "expected .*, got 3", "put it in quotes"),
        ("train.betas=[0.9]", "train.betas.1", "is missing", ""),
        ("train.betas=[0.9, 2]", "train.betas.1", r"expected a number in \[0, 1\), got 2", ""),
        (
            "train.trackers=[wand]",
            "train.trackers.0",
            "expected one of wandb, tensorboard, trackio, got 'wand'",
            "did you mean wandb?",
        ),
        ("train=3", "train", r"expected a section \(epochs, .*\), got 3", ""),
        ("adapter=3", "adapter", r"expected a section \(rank, .*\), got 3", ""),
        ("data=[]", "data.sources", r"expected a list, each a section .* got \[\]", ""),
        ("data=[3]", "data.sources.0", "expected a section .* got 3", ""),
        ("data.sources.0.weight=-1", "data.sources.0.weight", "expected a positive number, or null, got -1", ""),
        (
            "data.sources.4.name=x",
            "data.sources.4.name",
            "data.sources has no entry '4'",
            "entries are numbered 0 to 0",
        ),
        ("data.sources.x=x", "data.sources.x", "data.sources has no entry 'x'", "entries are numbered 0 to 0"),
        ("model.name.x=3", "model.name.x", "model.name is 'gpt2' and has no keys", "set model.name itself"),
        (
            "model.name.x.y=3",
            "model.name.x.y",
            "model.name is 'gpt2' and has no keys",
            "set model.name itself",
        ),
        ("train.lr", "train.lr", "expected section.key=value", "for example train.lr=1e-4"),
        ("=3", "=3", "expected section.key=value", "for example train.lr=1e-4"),
        ("out=[", "out", r"'\[' is not YAML: ", "quote the value"),
    ],
)
def test_wrong_values(override: str, path: str, message: str, hint: str) -> None:
    problems = problems_of(override)
    assert list(problems) == [path]
    assert re.match(message, problems[path][0])
    assert problems[path][1].startswith(hint)


def test_what_is_missing_is_named_with_its_flag() -> None:
    assert problems_of(tree={}) == {
        "model": ("is missing", "add it to the recipe, or give --model NAME"),
        "data": ("is missing", "add it to the recipe, or give --data SOURCE"),
    }


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "model: gpt2\ndata: {sources: alpaca, max_length: 9999}\n"
        "train: {lr: fast, early_stopping_patience: 2}\nsede: 1\n",
    )
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, ["train.steps=x", "oops"])
    paths = [problem.path for problem in caught.value.problems]
    assert sorted(paths) == [
        "data.max_length",
        "oops",
        "sede",
        "train.early_stopping_patience",
        "train.early_stopping_patience",
        "train.lr",
        "train.steps",
    ]
    assert caught.value.exit_code == 2
    assert caught.value.message.startswith(f"{path}: 7 problems\n")


def test_rules_that_look_at_a_wrong_key_wait() -> None:
    # eval_every is wrong, not absent: that `load_best_at_end: true` needs it would be beside the point.
    wrong = ("train.eval_every=often", "train.load_best_at_end=true", "data.validation=9")
    assert list(problems_of(*wrong)) == ["train.eval_every"]


BROKEN = [
    (["train.sharding=full", "method=full"], "train.sharding", "full fine-tuning cannot be sharded yet"),
    (["train.sharding=full", "precision=nf4"], "train.sharding", "a quantized base cannot be sharded yet"),
    (["train.sharding=full", "adapter.use_dora=true"], "train.sharding", "only LoRA's matrices can be trained"),
    (["method=full", "adapter.use_dora=true"], "adapter.use_dora", "DoRA requires LoRA"),
    (["method=full", "adapter.use_rslora=true"], "adapter.use_rslora", "rsLoRA requires LoRA"),
    (["method=full", "train.loraplus_lr_ratio=16"], "train.loraplus_lr_ratio", "LoRA+ requires LoRA"),
    (["precision=nf3"], "precision.name", "expected one of none, fp4, int8, mxfp4, nf4, or a .py file"),
    (
        ["precision=nf4", "method=full"],
        "precision.name",
        "a quantized base is frozen and can only be trained with LoRA",
    ),
    (["method=full", "adapter.from=runs/a"], "adapter.from", "full fine-tuning starts from a model"),
    (["adapter.init=loftq", "precision=nf4", "adapter.from=a"], "adapter.from", "has its weights already"),
    (["adapter.init=loftq"], "adapter.init", "needs a quantized base"),
    (["adapter.init=pissa", "adapter.use_dora=true"], "adapter.init", "DoRA is combined with zero, gaussian and"),
    (["adapter.init=pissa_niter_4", "precision=nf4"], "adapter.init", "which a quantized base does not allow"),
    (["adapter.init=eva", "method=full"], "adapter.init", "initial matrices require LoRA"),
    (["adapter.init=orthogonal", "adapter.rank=3"], "adapter.init", "orthogonal matrices need an even rank"),
    (["data.date=2025-01-02", "data.template=alpaca"], "data.date", "only a chat template writes a date"),
    (["data.thoughts=each", "data.template=alpaca"], "data.thoughts", "thoughts are ordinary text in a text template"),
    (["train.epochs=1e6"], "train.epochs", "expected at most 100,000 passes over the rows"),
    (["train.steps=10000000000"], "train.steps", "expected at most 1,000,000,000 steps"),
    (["adapter.also_train=[norms]", "method=full"], "adapter.also_train", "trains all modules already"),
    (["adapter.also_train=[norms]", "adapter.from=a"], "adapter.also_train", "only next to a new adapter"),
    (["model.new_tokens=template", "adapter.init=pissa"], "model.new_tokens", "only next to a new adapter"),
    (["model.new_tokens=[a, b, a]"], "model.new_tokens", "each token must be listed once"),
    (["adapter.targets=[]"], "adapter.targets", "the list of layers must not be empty"),
    (["adapter.layers=[]"], "adapter.layers", "the list of layers must not be empty"),
    (["data=auto"], "data.sources", "a source named `auto` needs a path or a repository"),
    (["data=[{name: a, weight: 1}, b]"], "data.sources", "either all sources have a weight or none"),
    (["data.held_out=1.5"], "data.held_out", "expected a fraction below 1, or an integer number of rows"),
    (
        ["data.chat_template=x.jinja", "data.template=alpaca"],
        "data.chat_template",
        "a chat template is used only with `template: chat`",
    ),
    (["data.max_length=5000"], "data.max_length", "the longest row must fit into one micro-batch"),
    (["train.batch_size=1", "train.batch_tokens=9"], "train.batch_size", "set in rows or in tokens"),
    (["train.warmup=1.5"], "train.warmup", "expected a fraction below 1, or an integer number of steps"),
    (["train.warmup=10", "train.steps=10"], "train.warmup", "warmup must end before training does"),
    (["data.validation=1.5"], "data.validation", "expected a fraction below 1, or an integer number of rows"),
    (["train.eval_every=5", "data.held_out=0"], "train.eval_every", "needs validation or held-out rows"),
    (["train.early_stopping_patience=5"], "train.early_stopping_patience", "early stopping needs evaluations"),
    (["train.load_best_at_end=true"], "train.load_best_at_end", "finding the best weights needs evaluations"),
    (["train.early_stopping_patience=5"], "train.early_stopping_patience", "early stopping chooses by validation rows"),
    (["train.load_best_at_end=true"], "train.load_best_at_end", "the best weights are chosen by validation rows"),
    (["train.dtype=fp16", "train.device=cpu"], "train.dtype", "fp16 needs a GPU"),
]


@pytest.mark.parametrize(("overrides", "path", "message"), BROKEN)
def test_rules_between_keys(overrides: list[str], path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(None, overrides, SMALL)
    found = [problem for problem in caught.value.problems if problem.path == path and message in problem.message]
    assert len(found) == 1
    assert found[0].hint


def test_every_rule_is_tested() -> None:
    assert len(BROKEN) == len(RULES)
    for rule in RULES:
        assert any(path == rule.keys[0] and message in rule.wanted for _, path, message in BROKEN), rule.wanted
        assert set(rule.keys) <= set(keys())


def test_a_remedy_that_is_followed_helps() -> None:
    assert load_recipe(None, ["method=lora", "adapter.use_dora=true"], SMALL).adapter.use_dora
    chosen = ["train.load_best_at_end=true", "train.eval_every=5", "data.validation=0.05"]
    assert load_recipe(None, chosen, SMALL).train.load_best_at_end


def test_a_recipe_built_in_python_is_checked_when_it_is_resolved() -> None:
    recipe = Recipe.model_validate({**SMALL, "train": {"early_stopping_patience": 2}})
    with pytest.raises(ConfigError, match="early stopping needs evaluations during training"):
        resolve(recipe)


def test_parse_recipe_names_its_origin() -> None:
    with pytest.raises(ConfigError, match=r"^notebook: 1 problem\n  modle: unknown key\n    did you mean model"):
        parse_recipe({**SMALL, "modle": 1}, origin="notebook")


# Files that are no recipes.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [gpt2\ndata: x\n", r"recipe.yaml: 1 problem\n  line 2, column 5: "),
        ("model: gpt2\n\tdata: x\n", r"line 2, column 1: .*cannot start any token"),
        (
            "model: gpt2\ntrain:\n  lr: 1\n  lr: 2\nmodel: x\n",
            r"2 problems\n  line 5: duplicate key 'model', first in line 1",
        ),
        ("- gpt2\n", "expected a mapping of keys, got list"),
        ("gpt2\n", "expected a mapping of keys, got str"),
        ("model: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("? [a]\n: b\n", "found unhashable key"),
        ("a: b\n---\nc: d\n", "expected a single document"),
        ("model: *nobody\n", "found undefined alias"),
    ],
)
def test_yaml_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(written(tmp_path, text))


def test_keys_twice_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 4: duplicate key 'lr', first in line 3"):
        load_recipe(written(tmp_path, "model: gpt2\ntrain:\n  lr: 1\n  lr: 2\nmodel: x\n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.yaml: no such recipe file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match=r"cannot be read: Is a directory"):
        load_recipe(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"model: caf\xe9\n")
    with pytest.raises(UsageError, match=r"latin.yaml: not UTF-8 at byte 10"):
        load_recipe(tmp_path / "latin.yaml")
