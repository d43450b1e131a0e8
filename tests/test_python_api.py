"""The Python API: names are found without importing, everything takes a path, a text, a mapping or an object, and what
is wrong is our own error."""

from __future__ import annotations

import ast
import pydoc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import recipe

import tunelab
from tunelab.config import as_recipe, load_recipe
from tunelab.data.prompts import Prompt
from tunelab.records.evaluation_files import LIKELIHOODS
from tunelab.records.responses import held
from tunelab.records.runs import Run

PUBLIC = [name for name in tunelab.__all__ if name != "__version__"]


@pytest.fixture(scope="module")
def tree(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("run") / "run"
    return recipe(models["llama"], rows, folder, data__held_out=6, train__steps=3)


@pytest.fixture(scope="module")
def run(tree: dict[str, Any]) -> Run:
    return tunelab.finetune(tree)


@pytest.fixture(scope="module")
def scores(run: Run) -> Any:
    return tunelab.evaluate(run, max_new_tokens=2)


# What the module shows.


def test_names_are_completed_without_importing_torch() -> None:
    code = "import sys, tunelab; names = dir(tunelab); assert 'torch' not in sys.modules; print(*names)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(tunelab.__all__) <= set(done.stdout.split())
    errors = {"BadRow", "ConfigError", "DataError", "ModelError", "RunError", "TrainingError", "UsageError"}
    assert {"generate", "chat", "export", "quantize", "inspect", "load_study", *errors} <= set(dir(tunelab))


def test_a_public_name_is_there_with_a_docstring() -> None:
    assert [name for name in PUBLIC if not getattr(tunelab, name).__doc__] == []


def test_type_checkers_see_the_same_names() -> None:
    source = ast.parse(Path(tunelab.__file__).read_text(encoding="utf-8"))
    block = next(node for node in source.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    late = {name: home if ":" in home else f"{home}:{name}" for name, home in tunelab._HOMES.items()}
    assert seen == late and set(late) == set(PUBLIC)
    assert (Path(tunelab.__file__).parent / "py.typed").exists()


def test_help_lists_them() -> None:
    shown = pydoc.plain(pydoc.render_doc(tunelab))
    for name in ("finetune(recipe", "evaluate(run", "class Run", "class TunelabError", "inspect(recipe"):
        assert name in shown
    with pytest.raises(AttributeError, match="has no attribute 'finetun'"):
        tunelab.finetun  # noqa: B018


# Recipes and changes.


def test_changes_are_merged_into_a_recipe_of_any_form(tree: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("{model: m, data: alpaca, train: {epochs: 7}}")
    for form in (path, str(path), load_recipe(path), load_recipe(path).model_dump()):
        made = as_recipe(form, {"train": {"lr": 1e-4}, "data.size": 5, "out": tmp_path})
        assert (made.train.lr, made.train.epochs, made.data.size, made.out) == (1e-4, 7, 5, str(tmp_path))
    assert as_recipe(None, {"model": Path("m"), "data": "rows.jsonl"}).model.name == "m"


def test_a_shorthand_keeps_the_section_but_a_new_model_is_a_new_model() -> None:
    old = {"model": {"name": "a", "revision": "r"}, "data": {"sources": ["alpaca"], "size": 9}, "precision": "nf4"}
    made = as_recipe(old, {"data": "rows.jsonl", "model": "b"})
    assert (made.data.size, made.data.sources[0].path) == (9, "rows.jsonl")
    assert (made.model.name, made.model.revision, made.precision.name) == ("b", None, "nf4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"lrr": 1}}, r"train\.lrr: unknown key(?s:.*)did you mean train\.lr"),
        ({"train__lr": 1}, r"train__lr: unknown key"),
        ({"learning_rate": 1}, r"learning_rate: unknown key(?s:.*)train\.lr=1"),
        ({"train": {"lr": "fast"}}, r"train\.lr: expected"),
        ({"train": 3}, r"train: expected"),
    ],
)
def test_a_wrong_change_is_our_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(tunelab.ConfigError, match=message):
        tunelab.finetune({"model": "m", "data": "alpaca"}, **changes)


def test_a_recipe_that_is_none() -> None:
    with pytest.raises(tunelab.UsageError, match="recipe is int, expected a path"):
        tunelab.prepare(5)  # type: ignore[arg-type]
    with pytest.raises(tunelab.ConfigError, match="model: is missing"):
        tunelab.prepare()
    with pytest.raises(tunelab.UsageError, match=r"no\.yaml: no such recipe file"):
        tunelab.finetune("no.yaml")


# Runs, evaluations, comparisons.


def test_a_run_is_opened_by_path_text_and_object(run: Run) -> None:
    assert tunelab.open_run(str(run.path)) == tunelab.open_run(run.path) == tunelab.open_run(run) == run
    with pytest.raises(tunelab.RunError, match="no run there"):
        tunelab.open_run("nowhere")
    with pytest.raises(tunelab.UsageError, match="run is int, expected a path"):
        tunelab.open_run(3)  # type: ignore[arg-type]
    with pytest.raises(tunelab.RunError, match="is finished; there is nothing to resume"):
        tunelab.resume(run)


def test_wrong_arguments_of_evaluate(run: Run) -> None:
    with pytest.raises(tunelab.UsageError, match=r"no arm named 'tune'; did you mean 'tuned'\?"):
        tunelab.evaluate(run, arms=("tune",))
    with pytest.raises(tunelab.UsageError, match="no arm is named"):
        tunelab.evaluate(run, arms=())
    with pytest.raises(tunelab.UsageError, match="limit is '5', expected a positive integer"):
        tunelab.evaluate(run, limit="5")  # type: ignore[arg-type]
    assert list(tunelab.evaluate(run, arms="tuned", max_new_tokens=2).arms) == ["tuned"]


def test_a_model_is_evaluated_from_a_mapping(tree: dict[str, Any], run: Run, tmp_path: Path) -> None:
    found = tunelab.evaluate_model(
        {**tree, "evaluate": {"max_new_tokens": 2}}, adapter=str(run.adapter), out=str(tmp_path / "out")
    )
    assert list(found.arms) == ["base", "tuned"] and found.path == tmp_path / "out"
    with (
        held(found.folders["tuned"] / LIKELIHOODS),
        pytest.raises(tunelab.RunError, match="another process is writing it"),
    ):
        tunelab.evaluate_model({**tree, "evaluate": {"max_new_tokens": 2}}, adapter=run.adapter, out=tmp_path / "out")
    with pytest.raises(tunelab.UsageError, match="adapter is int, expected a path"):
        tunelab.evaluate_model(tree, adapter=3)  # type: ignore[arg-type]


def test_benchmarks_take_texts_and_mappings(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "red", "answer": "blue"}\n{"prompt": "cat", "answer": "dog"}\n')
    (found,) = tunelab.evaluate_benchmarks(str(run.path), str(path), {"arms": "tuned", "max_new_tokens": 2})
    assert repr(found).startswith("BenchmarkScores(mine: accuracy tuned ")
    assert "<td>accuracy</td>" in found._repr_html_()
    frame = found.to_frame()
    assert frame[["benchmark", "arm", "metric"]].values.tolist() == [["mine", "tuned", "accuracy"]]
    for settings, message in (
        ({"limitt": 1}, r"no setting 'limitt'; did you mean limit\?"),
        ({"limit": "1"}, "limit is '1', expected a positive integer"),
        ({"arms": "both"}, "no arm named 'both'"),
        ({"out": 3}, "out is int, expected a path"),
    ):
        with pytest.raises(tunelab.UsageError, match=message):
            tunelab.evaluate_benchmarks(run, [str(path)], settings)


def test_studies_take_mappings_and_paths(tmp_path: Path) -> None:
    with pytest.raises(tunelab.ConfigError, match="title: is missing"):
        tunelab.run_study({"arms": {}}, "out")
    with pytest.raises(tunelab.UsageError, match=r"no\.yaml"):
        tunelab.run_study("no.yaml", "out")
    with pytest.raises(tunelab.UsageError, match="study is int, expected a path"):
        tunelab.run_study(3, "out")  # type: ignore[arg-type]
    path = tmp_path / "study.yaml"
    path.write_text(
        "{title: t, recipe: {model: m, data: alpaca}, arms: {base: {tuned: false}}, benchmarks: {ifevil: {}}}"
    )
    with pytest.raises(tunelab.UsageError, match="no benchmark named 'ifevil'; did you mean 'ifeval'"):
        tunelab.run_study(str(path), str(tmp_path / "out"))


def test_publishing_takes_texts_and_refuses_the_rest(run: Run, tmp_path: Path) -> None:
    with pytest.raises(tunelab.UsageError, match="out is int, expected a path"):
        tunelab.merge(str(run.path), 3)  # type: ignore[arg-type]
    with pytest.raises(tunelab.UsageError, match="no export to 'onnx'"):
        tunelab.export(run, tmp_path / "x", to="onnx")  # type: ignore[arg-type]
    with pytest.raises(tunelab.UsageError, match="no dtype 'Q4' of a GGUF file"):
        tunelab.export(run, tmp_path / "x", to="gguf", kind="Q4")  # type: ignore[arg-type]
    with pytest.raises(tunelab.UsageError, match="model is int, expected a path"):
        tunelab.quantize(3, tmp_path / "x", precision="nf4")  # type: ignore[arg-type]


# Answers.


def test_generate(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    one = tunelab.generate(run, "red", max_new_tokens=3)
    assert isinstance(one, tunelab.Answer) and len(one.token_ids) <= 3
    several = tunelab.generate(str(run.path), ["blue cat", "red", {"prompt": "sun"}], max_new_tokens=3)
    assert [answer.item for answer in several] == ["000001", "000002", "000003"] and several[1].text == one.text
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "red", "id": "a"}\n')
    assert [answer.item for answer in tunelab.generate(run, path, arm="base", max_new_tokens=2)] == ["a"]
    opened = tunelab.open_responder(model=str(models["llama"]), raw=True)
    assert len(tunelab.generate(opened, ["red"], max_new_tokens=2)) == 1
    assert tunelab.generate(models["llama"], [], raw=True) == []


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ("red", {"temprature": 1}, r"no setting 'temprature'; did you mean temperature\?"),
        ("red", {"temperature": "hot"}, "temperature is 'hot', expected a value such as 0.0"),
        ("red", {"top_p": 3}, "top_p is 3, expected above 0"),
        ("red", {"arm": "tune"}, r"no arm named 'tune'; did you mean 'tuned'\?"),
        (3, {}, "prompts is int, expected texts"),
        ([3], {}, "prompt 1 is int"),
        ([{"question": "red"}], {}, "prompt 1: expected"),
        (" ", {}, "prompt 1 has no text"),
    ],
)
def test_wrong_arguments_of_generate(prompts: Any, settings: dict[str, Any], message: str, run: Run) -> None:
    with pytest.raises(tunelab.TunelabError, match=message):
        tunelab.generate(run, prompts, **settings)


def test_an_open_responder_keeps_what_it_was_opened_with(models: dict[str, Path]) -> None:
    opened = tunelab.open_responder(model=str(models["llama"]), raw=True)
    with pytest.raises(tunelab.UsageError, match="an open responder keeps its arm"):
        tunelab.generate(opened, [Prompt("1", (), "here")], arm="base")


def test_chat(run: Run, models: dict[str, Path]) -> None:
    chat = tunelab.chat(run, max_new_tokens=2)
    assert isinstance(chat.ask("red"), str) and len(chat.session.exchanges) <= 1
    chat.session.answer_with("both")
    assert chat.ask("blue").startswith("base: ")
    with pytest.raises(tunelab.UsageError, match="a run has its own model and template; precision cannot change it"):
        tunelab.chat(run, precision="nf4")
    assert tunelab.chat(models["llama"], template="plain").template == "plain"


def test_inspect(tree: dict[str, Any]) -> None:
    found = tunelab.inspect(tree, rows=2, data={"held_out": 4})
    assert repr(found).startswith("Inspection(20 training rows, ") and "4 held-out rows" in repr(found)
    assert "[[" in repr(found.rows[0]) and "<span" in found._repr_html_()
    assert found.to_frame()["split"].value_counts().to_dict() == {"training": 20, "held-out": 4}
    with pytest.raises(tunelab.UsageError, match="rows is '2', expected 0 or a positive integer"):
        tunelab.inspect(tree, rows="2")  # type: ignore[arg-type]


# What a notebook shows.


def test_a_run_in_words_table_frame_and_plot(run: Run, tmp_path: Path) -> None:
    said = repr(run)
    assert said.startswith(f"Run({str(run.path)!r}: status finished, model ") and "held-out loss" in said
    assert "<td>finished</td>" in run._repr_html_() and len(said) < 400
    frame = run.to_frame()
    assert {"kind", "step", "loss"} <= set(frame.columns) and (frame["kind"] == "train").sum() == 3
    figure = run.plot_loss()
    assert figure.axes[0].get_ylabel() == "loss (nats per target token)"
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    empty = Run(tmp_path)
    assert "new" in repr(empty)
    with pytest.raises(tunelab.UsageError, match="no training step was logged yet"):
        empty.plot_loss()
    (tmp_path / "manifest.json").write_text("{")
    assert "unreadable" in repr(empty)


def test_scores_and_comparisons(run: Run, scores: Any) -> None:
    assert repr(scores).startswith("Scores(6 held-out rows: completion perplexity base ")
    assert "<th>tuned</th>" in scores._repr_html_() and len(repr(scores)) < 200
    frame = scores.to_frame()
    assert set(frame["arm"]) == {"base", "tuned"} and {"value", "error", "n", "unit"} <= set(frame.columns)
    found = tunelab.compare(run)
    assert repr(found[0]).startswith("Comparison(tuned minus base, held-out completion loss: ")
    assert "<table>" in found[0]._repr_html_() and len(found[0].to_frame()) == 1
    assert "p after Holm over 3" in found._repr_html_() and len(found.to_frame()) == 3
    assert tunelab.compare(run, benchmarks="held-out") == found
    with pytest.raises(tunelab.UsageError, match="are the same"):
        tunelab.compare(str(run.path), run)
    with pytest.raises(tunelab.UsageError, match="run is int, expected a path"):
        tunelab.compare(3)  # type: ignore[arg-type]


def test_without_pandas(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(tunelab.UsageError, match="needs pandas") as caught:
        run.to_frame()
    assert caught.value.hint == "pip install pandas"
