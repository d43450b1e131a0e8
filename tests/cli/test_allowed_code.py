"""Code that only a file names runs nowhere unless --allow-code names it; code that the user named runs as before."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from sums_benchmark import write_benchmark, write_responses
from verbs import Bench, Command

from tunelab.allowed_code import allow_code, allow_copy, allowed_code, check_code_is_allowed, only_allowed
from tunelab.cli.main import verbs
from tunelab.config import load_recipe
from tunelab.errors import UsageError
from tunelab.models.precision import stored_format
from tunelab.records.runs import Run
from tunelab.studies.run_cell import run_cell
from tunelab.studies.run_study import run_study

#: Verb -> the rest of a command on a run; those that are not here read no file that could name code, or only the
#: user's own: prepare, inspect, quantize, demo.
OF_A_RUN: dict[str, tuple[str, ...]] = {
    "eval": ("--limit", "2"),
    "generate": ("--prompt", "red"),
    "chat": (),
    "merge": ("--out", "merged"),
    "export": ("--to", "hf", "--out", "exported"),
}
NOT_ASKED = "its Python code was not asked for: a run, a response file or a model names it"


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A Python file that leaves a trace when it runs, and cannot be used."""
    folder = tmp_path / "from elsewhere"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise OSError('used')\n")
    return folder / "evil.py"


def foreign(run: Path, to: Path, **changes: Any) -> Path:
    """A copy of a run whose recipe says something else."""
    shutil.copytree(run, to)
    recipe = yaml.safe_load((to / "recipe.yaml").read_text())
    for path, value in changes.items():
        section, _, key = path.partition("__")
        recipe[section][key] = value
    (to / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    manifest = json.loads((to / "manifest.json").read_text())
    manifest.pop("recipe")
    (to / "manifest.json").write_text(json.dumps(manifest))
    return to


def ran(tmp_path: Path) -> bool:
    return (tmp_path / "ran").exists()


@pytest.mark.parametrize("verb", OF_A_RUN)
def test_a_run_s_own_precision_runs_only_where_it_is_allowed(
    verb: str, tunelab: Command, bench: Bench, tmp_path: Path, evil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    run = foreign(bench.lora, tmp_path / "run", precision__name=str(evil))
    said = tunelab(verb, run, *OF_A_RUN[verb])
    assert said.code == 2 and f"{evil}: {NOT_ASKED}" in said.err and not ran(tmp_path)
    assert f"--allow-code {shlex.quote(str(evil))}" in said.err
    assert NOT_ASKED in tunelab(verb, run, *OF_A_RUN[verb], "--allow-code", run).err and not ran(tmp_path)
    said = tunelab(verb, run, *OF_A_RUN[verb], "--allow-code", evil)
    assert said.code == 2 and f"{evil}: line 2: OSError: used, when it is imported" in said.err and ran(tmp_path)
    (tmp_path / "ran").unlink()
    assert NOT_ASKED in tunelab(verb, run, *OF_A_RUN[verb]).err, "allowed for one command only"
    assert not ran(tmp_path)


@pytest.mark.parametrize("verb", OF_A_RUN)
def test_a_run_s_remote_code_runs_only_where_it_is_allowed(
    verb: str, tunelab: Command, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    run = foreign(bench.lora, tmp_path / "run", model__trust_remote_code=True)
    said = tunelab(verb, run, *OF_A_RUN[verb])
    assert said.code == 2 and f"{bench.model}: {NOT_ASKED}" in said.err
    assert tunelab(verb, run, *OF_A_RUN[verb], "--allow-code", bench.model).code == 0


@pytest.mark.parametrize("key", ["precision__name", "data__sources"])
def test_resuming_and_evaluating_read_no_code_of_the_run_s(
    key: str, tunelab: Command, bench: Bench, tmp_path: Path, evil: Path
) -> None:
    value: Any = str(evil) if key.startswith("precision") else [{"name": str(evil), "path": str(bench.rows)}]
    run = foreign(bench.lora, tmp_path / "run", **{key: value})
    assert NOT_ASKED in tunelab("eval", run, "--limit", "2").err
    Run(run).update_manifest(status="interrupted")
    assert NOT_ASKED in tunelab("train", "--resume", run).err and not ran(tmp_path)
    assert "OSError: used" in tunelab("train", "--resume", run, "--allow-code", evil).err and ran(tmp_path)


def test_a_response_file_s_benchmark(tunelab: Command, tmp_path: Path, evil: Path) -> None:
    path = tmp_path / "responses.jsonl"
    path.write_text(json.dumps({"benchmark": str(evil)}) + "\n" + json.dumps({"item": "0", "prompt_hash": ""}) + "\n")
    for words in (["score", path], ["score", tmp_path]):
        assert NOT_ASKED in tunelab(*words).err and not ran(tmp_path)
    assert "OSError: used" in tunelab("score", path, "--as", evil).err and ran(tmp_path)
    assert "OSError: used" in tunelab("score", path, "--allow-code", evil).err


def test_a_checkpoint_s_quantization_names_no_file(evil: Path, tmp_path: Path) -> None:
    said = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": str(evil)}
    with only_allowed({}), pytest.raises(UsageError, match="was not asked for"):
        stored_format(said, "model")
    with only_allowed({}), pytest.raises(UsageError, match="no format named"):
        stored_format({**said, "bnb_4bit_quant_type": str(evil.with_suffix(""))}, "model")
    assert not ran(tmp_path)


@pytest.mark.parametrize("verb", ["train", "prepare", "inspect"])
def test_what_the_given_recipe_names_is_asked_for(
    verb: str, tunelab: Command, bench: Bench, tmp_path: Path, evil: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {bench.model}\ndata:\n  sources:\n    - {{name: {evil}, path: {bench.rows}}}\n")
    said = tunelab(verb, recipe)
    assert said.code == 2 and "OSError: used" in said.err and ran(tmp_path)
    (tmp_path / "ran").unlink()
    assert "OSError: used" in tunelab(verb, "--model", bench.model, "--data", evil).err and ran(tmp_path)


def test_what_a_command_names_is_asked_for(tunelab: Command, bench: Bench, evil: Path, tmp_path: Path) -> None:
    commands = (
        ("eval", bench.lora, "--benchmarks", evil),
        ("eval", "--model", bench.model, "--data", bench.rows, "--template", "plain", "--precision", evil),
        ("generate", bench.lora, "--benchmarks", evil),
        ("generate", "--model", bench.model, f"precision={evil}", "--template", "plain", "--prompt", "red"),
        ("chat", "--model", bench.model, "--precision", evil),
        ("quantize", bench.model, "--precision", evil, "--out", "q"),
    )
    for words in commands:
        said = tunelab(*words)
        assert said.code == 2 and "OSError: used" in said.err, words
        (tmp_path / "ran").unlink()


def study_of(bench: Bench, evil: Path | None, tmp_path: Path) -> dict[str, Any]:
    recipe = {
        "model": str(bench.model),
        "data": {
            "sources": [{"name": "prompt-completion", "path": str(bench.rows)}],
            "held_out": 4,
            "template": "plain",
        },
        "train": {"steps": 1, "dtype": "fp32", "device": "cpu", "lr": 1e-3},
    }
    arms: dict[str, Any] = {"one": {"recipe": {"precision": str(evil)} if evil else {}}}
    return {"title": "t", "recipe": recipe, "arms": arms, "seeds": [0], "benchmarks": {"held-out": {}}}


def test_a_study_s_jobs_have_the_permissions_that_it_was_started_with(bench: Bench, evil: Path, tmp_path: Path) -> None:
    study = study_of(bench, evil, tmp_path)
    with only_allowed({}):
        (training, _) = run_study(study, tmp_path / "study")
        assert training.status == "failed" and "OSError: used" in training.error and ran(tmp_path)
        started_with = allowed_code()
    (tmp_path / "ran").unlink()
    with only_allowed({}):
        said = run_cell(tmp_path / "study", training.key).error
        assert NOT_ASKED in said and not ran(tmp_path), "the study's directory alone allows nothing"
        assert "OSError: used" in run_cell(tmp_path / "study", training.key, allowed=started_with).error
        evil.write_text(evil.read_text() + "# changed\n")
        (tmp_path / "ran").unlink()
        said = run_cell(tmp_path / "study", training.key, allowed=started_with).error
        assert "its Python code has changed since it was allowed" in said and not ran(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("executor", "options"), [("here", {"workers": "2"}), ("ray", {})])
def test_worker_processes_have_the_permissions_too(
    executor: str, options: dict[str, str], bench: Bench, evil: Path, tmp_path: Path
) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason="needs ray (pip install tunelab[ray]), which is not installed")
    with only_allowed({}):
        study = study_of(bench, evil, tmp_path)
        cells = run_study(study, tmp_path / "study", executor=executor, options=options)
    assert "OSError: used" in cells[0].error and ran(tmp_path)


@pytest.mark.slow
def test_code_that_the_command_allows_runs_on_ray(bench: Bench, tunelab: Command, tmp_path: Path) -> None:
    """A source of the study file, and --allow-code that names it: workers may run it, and record its hash."""
    pytest.importorskip("ray", reason="needs ray (pip install tunelab[ray]), which is not installed")
    source = tmp_path / "mine.py"
    source.write_text("from tunelab.data.sources.prompt_completion import *\n")
    study = study_of(bench, None, tmp_path)
    study["recipe"]["data"]["sources"] = [{"name": str(source), "path": str(bench.rows)}]
    study["recipe"]["evaluate"] = {"limit": 1, "max_new_tokens": 1}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    words = ("study", "run", "study.yaml", "--out", "made", "--executor", "ray", "--allow-code", source)
    said = tunelab(*words)
    assert said.code == 0, said.err
    (run,) = (tmp_path / "made" / "runs").iterdir()
    assert list(Run(run).manifest["code"]) == [str(source)]


def test_hashes_are_recorded(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text("from tunelab.data.sources.prompt_completion import *\n")
    said = tunelab(
        *("train", "--model", bench.model, "--out", "run", f"data.sources=[{{name: {source}, path: {bench.rows}}}]"),
        *("train.steps=1", "train.dtype=fp32", "train.lr=1e-3", "data.template=plain"),
    )
    assert said.code == 0, said.err
    digest = hashlib.sha256(b".\0" + source.read_bytes()).hexdigest()
    assert Run(tmp_path / "run").manifest["code"] == {str(source): digest}
    benchmark = write_benchmark(tmp_path)
    responses = write_responses(tmp_path / "responses.jsonl", str(benchmark), ["1", "2", "3", "4"])
    said = tunelab("score", responses, "--allow-code", benchmark, "--workers", "2")
    assert said.code == 0, said.err
    found = json.loads((tmp_path / "scores.json").read_text())["code"]
    assert found == {str(benchmark): hashlib.sha256(b".\0" + benchmark.read_bytes()).hexdigest()}


def test_every_verb_that_reads_what_may_name_code_has_the_flag(tunelab: Command) -> None:
    has = {verb for verb in verbs() if "--allow-code" in tunelab(verb, "--help").out}
    assert has == {*OF_A_RUN, "train", "score", "study"}


def test_a_file_that_is_edited_after_it_was_allowed(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    with only_allowed({}):
        allow_code(path)
        check_code_is_allowed(str(path))
        path.write_text("x = 2\n")
        with pytest.raises(UsageError, match="has changed since it was allowed"):
            check_code_is_allowed(str(path))
        allow_code(path)
        with only_allowed(allowed_code(), is_closed=True):
            allow_code(tmp_path / "other.py")
            assert list(allowed_code()) == [str(path)]


def test_a_recipe_that_a_run_carries_allows_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: {name: m, trust_remote_code: true}\ndata: alpaca\n")
    with only_allowed({}):
        load_recipe(tmp_path / "r.yaml", is_asked=False)
        assert allowed_code() == {}
        load_recipe(tmp_path / "r.yaml")
        assert allowed_code() == {"m": ""}


def test_code_saved_with_a_trained_model_is_allowed_if_it_is_the_base_s(tmp_path: Path) -> None:
    base, copy = tmp_path / "base", tmp_path / "copy"
    for folder in (base, copy):
        folder.mkdir()
        (folder / "modeling.py").write_text("x = 1\n")
    with only_allowed({}):
        allow_copy(copy, str(base), base)
        assert allowed_code() == {}
        allow_code(base)
        allow_copy(copy, str(base), base)
        check_code_is_allowed(str(copy))
    with only_allowed({}):
        allow_code(base)
        (copy / "modeling.py").write_text("x = 2\n")
        allow_copy(copy, str(base), base)
        with pytest.raises(UsageError, match="was not asked for"):
            check_code_is_allowed(str(copy))


def test_a_compiled_copy_beside_a_file_is_not_what_runs(tmp_path: Path, evil: Path) -> None:
    import py_compile

    from tunelab import plugins

    path = tmp_path / "mine.py"
    path.write_text("answer = 1\n")
    compiled = py_compile.compile(str(evil), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    cached = tmp_path / "__pycache__"
    cached.mkdir()
    shutil.copy(str(compiled), cached / Path(str(compiled)).name.replace("evil", "mine"))
    with only_allowed({}):
        allow_code(path)
        assert plugins.load("things", str(path)).answer == 1 and not ran(tmp_path)
