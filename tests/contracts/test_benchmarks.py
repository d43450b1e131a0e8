"""What every benchmark must hold to, tested for each file of evaluation/benchmarks the moment it exists."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

from tunelab import plugins
from tunelab.evaluation.benchmark import (
    Benchmark,
    BenchmarkOptions,
    Example,
    Graded,
    HubFiles,
    Item,
    Response,
    Score,
    Scored,
)

FOLDER = "evaluation/benchmarks"
NAMES = plugins.names(FOLDER)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
def module(name: str) -> ModuleType:
    return plugins.load(FOLDER, name)


def graded(module: ModuleType, *responses: Response) -> list[Graded]:
    options = module.Options()
    return [Graded(response, module.grade(response, options)) for response in responses]


def test_the_issues_benchmarks_are_there() -> None:
    assert set(NAMES) >= {"mmlu", "tinymmlu", "ifeval", "gsm8k", "truthfulqa", "alpacaeval"}


def test_docstring_opens_with_a_summary_line(name: str, module: ModuleType) -> None:
    summary = plugins.summary(FOLDER, name)
    assert summary.endswith(".") and 20 <= len(summary) <= 120
    assert "\n\n" in inspect.cleandoc(module.__doc__ or ""), "the docstring says more than its first line"


def test_says_what_it_is_where_it_comes_from_and_under_which_licence(module: ModuleType) -> None:
    benchmark = module.BENCHMARK
    assert isinstance(benchmark, Benchmark) and benchmark.kind in ("likelihood", "generate", "text")
    assert benchmark.hub is None or benchmark.shipped is None, "files come from one place"
    assert benchmark.metric and benchmark.licence and len(benchmark.source) > 20
    assert benchmark.chance is None or 0 <= benchmark.chance < 1
    assert benchmark.cluster is None or benchmark.cluster
    if benchmark.kind == "generate":
        assert benchmark.max_new_tokens > 0, "a generated answer has a limit"
    else:
        assert benchmark.max_new_tokens == 0 and benchmark.stop_strings == ()
    if benchmark.hub is not None:
        assert isinstance(benchmark.hub, HubFiles) and benchmark.hub.repository.count("/") == 1
        assert benchmark.hub.patterns and all(benchmark.hub.patterns)
        revision = benchmark.hub.revision
        assert revision is None or (len(revision) == 40 and set(revision) <= set("0123456789abcdef"))


def test_the_example_is_an_item_with_two_responses_of_its_kind(module: ModuleType) -> None:
    example = module.EXAMPLE
    assert isinstance(example, Example) and isinstance(example.item, Item)
    item = example.item
    assert item.id and item.question and (module.BENCHMARK.cluster is None) == (item.cluster == "")
    assert bool(item.choices) == (module.BENCHMARK.kind == "likelihood")
    assert json.loads(json.dumps(item.target)) == item.target, "a target is stored as JSON"
    for response in (example.right, example.wrong):
        assert (response.item, response.question, response.target) == (item.id, item.question, item.target)
        assert (response.cluster, response.choices) == (item.cluster, item.choices)
        assert len(response.log_probabilities) == (1 if module.BENCHMARK.kind == "text" else len(item.choices))
        assert Response.from_json(json.loads(json.dumps(response.to_json()))) == response


def test_right_is_one_and_wrong_is_zero(module: ModuleType) -> None:
    right, wrong = graded(module, module.EXAMPLE.right, module.EXAMPLE.wrong)
    values = [one.values[module.BENCHMARK.metric] for one in (right, wrong)]
    # A text is neither right nor wrong: its example has 1 and 2 bits per byte.
    assert values == (pytest.approx([1.0, 2.0]) if module.BENCHMARK.kind == "text" else [1.0, 0.0])


@pytest.mark.parametrize("text", ["", " \n", "\x00", "水 ☃ \ud83d", "#" * 10_000])
def test_any_text_or_flat_log_probabilities_give_a_number(module: ModuleType, text: str) -> None:
    response = module.EXAMPLE.right
    if module.BENCHMARK.kind == "generate":
        response = dataclasses.replace(response, text=text, answer_tokens=0)
    else:
        response = dataclasses.replace(response, log_probabilities=(-2.0,) * len(response.log_probabilities))
    (one,) = graded(module, response)
    value = one.values[module.BENCHMARK.metric]
    assert isinstance(value, float) and 0 <= value <= 1
    assert module.summarise([one], module.Options()).scores
    if text == "" and module.BENCHMARK.kind == "generate":
        assert value == 0, "no answer is no right answer"


def test_a_choice_is_graded_the_same_without_its_leading_space(module: ModuleType) -> None:
    for response in (module.EXAMPLE.right, module.EXAMPLE.wrong):
        bare = dataclasses.replace(response, choices=tuple(choice.strip() for choice in response.choices))
        assert graded(module, bare)[0].values == graded(module, response)[0].values


def test_grading_is_the_same_again_and_needs_no_files_or_network(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = graded(module, module.EXAMPLE.right, module.EXAMPLE.wrong)

    def refuse(*arguments: object, **more: object) -> None:
        pytest.fail("grading asks the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    second = graded(module, module.EXAMPLE.right, module.EXAMPLE.wrong)
    assert [one.values for one in first] == [one.values for one in second]
    assert list(tmp_path.iterdir()) == []


def test_values_go_to_json_and_back(module: ModuleType) -> None:
    for one in graded(module, module.EXAMPLE.right, module.EXAMPLE.wrong):
        assert json.loads(json.dumps(dict(one.values), allow_nan=False)) == dict(one.values)


def test_the_summary_begins_with_the_metric(module: ModuleType) -> None:
    wrong = dataclasses.replace(module.EXAMPLE.wrong, item="another")
    both = graded(module, module.EXAMPLE.right, wrong)
    scored = module.summarise(both, module.Options())
    assert isinstance(scored, Scored)
    first = scored.scores[0]
    assert first.name == module.BENCHMARK.metric and first.n == 2
    mean = 1.5 if module.BENCHMARK.kind == "text" else 0.5
    assert first.value == pytest.approx(mean), "values 1 and 0, or 2"
    # Both texts are of one domain, so that their error is not known.
    assert first.error is None if module.BENCHMARK.kind == "text" else first.error == pytest.approx(0.5)
    for score in [*scored.scores, *(score for group in scored.groups.values() for score in group)]:
        assert isinstance(score, Score) and math.isfinite(score.value) and score.unit and score.protocol
    assert len({score.name for score in scored.scores}) == len(scored.scores)
    assert json.loads(json.dumps(scored.to_json(), allow_nan=False)) == scored.to_json()
    assert module.summarise(both, module.Options()) == scored
    turned = module.summarise(both[::-1], module.Options()).scores[0]
    error = None if first.error is None else pytest.approx(first.error)
    assert (turned.value, turned.error) == (first.value, error), "the order of lines says nothing"


def test_options_are_frozen_explained_and_refuse_what_they_do_not_know(module: ModuleType) -> None:
    assert issubclass(module.Options, BenchmarkOptions)
    options = module.Options()
    assert module.Options(**options.model_dump(mode="json")) == options
    assert module.Options(**json.loads(options.model_dump_json())) == options
    with pytest.raises(ValidationError, match="colour"):
        module.Options(colour="red")
    with pytest.raises(ValidationError, match="frozen"):
        options.data = "elsewhere"
    assert all(field.description for field in module.Options.model_fields.values())


def test_all_are_imported_without_torch() -> None:
    code = (
        "import sys; from tunelab import plugins\n"
        f"for name in {NAMES!r}: plugins.load({FOLDER!r}, name)\n"
        "print(*sorted({'torch', 'transformers', 'datasets', 'peft', 'nltk', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
