"""A run uses the very base that it was trained on, wherever it is now, or says which other model it found."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from tunelab.answering.chat import chat_with_model, chat_with_run
from tunelab.answering.generate import open_responder
from tunelab.answering.held_out_evaluation import evaluate
from tunelab.cli.main import main
from tunelab.errors import RunError, UsageError
from tunelab.preparation.base import base_name, own_recipe, trained_recipe
from tunelab.publishing.export import export
from tunelab.publishing.merge import merge
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune, resume


@pytest.fixture(scope="module")
def original(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with here/base, a run of it, here/run, and other/base, which is another model."""
    folder = tmp_path_factory.mktemp("original")
    tiny.model_folder(folder / "here/base")
    tiny.model_folder(folder / "other/base", seed=8)
    recipe = tiny.recipe(
        Path("base"), rows, Path("run"), data__held_out=4, train__steps=1, evaluate={"max_new_tokens": 2}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "here")
        finetune(recipe)
    return folder


@pytest.fixture
def made(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder with the run; the current folder is the other one."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    manifest = tmp_path / "here/run/manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(str(original), str(tmp_path)), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "other")
    return tmp_path / "here"


VERBS: dict[str, Callable[..., Any]] = {
    "generate": lambda run, **how: open_responder(run, **how).model,
    "chat": lambda run, **how: chat_with_run(run, **how),
    "eval": lambda run, **how: evaluate(run, **how),
    "merge": lambda run, **how: merge(run, "out", **how),
    "hf": lambda run, **how: export(run, "out", to="hf", **how),
    "gguf": lambda run, **how: export(run, "out", to="gguf", **how),
}


@pytest.mark.parametrize("verb", VERBS)
def test_another_model_of_the_same_name_is_not_taken(verb: str, made: Path) -> None:
    VERBS[verb](made / "run")  # the run's own base, not ./base
    shutil.rmtree("out", ignore_errors=True)
    shutil.rmtree(made / "base")
    with pytest.raises(
        RunError, match=r"run: not the base that it was trained on \(.*other/base: its weights differ\)"
    ):
        VERBS[verb](made / "run")
    assert not Path("out").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_base_that_moved_is_named_once(verb: str, made: Path) -> None:
    shutil.move(made / "base", made / "moved")
    shutil.rmtree("base")
    with pytest.raises(RunError, match=r"run: its base is no longer at .*here/base") as caught:
        VERBS[verb](made / "run")
    assert "--base PATH" in caught.value.hint
    VERBS[verb](made / "run", base=made / "moved")
    shutil.rmtree("out", ignore_errors=True)
    VERBS[verb](made / "run")  # remembered
    assert base_name(Run(made / "run")) == "moved"


def test_a_project_that_moved_as_a_whole(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert trained_recipe(Run(Path("run"))).model.name == str(tmp_path / "elsewhere/base")


def test_what_base_may_not_be(made: Path) -> None:
    with pytest.raises(RunError, match=r"--base nowhere: no model in the folder \(no config.json\)"):
        open_responder(made / "run", base="nowhere")
    with pytest.raises(RunError, match=r"not the base that it was trained on .*its weights differ"):
        open_responder(made / "run", base="base")
    config = made / "base/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rms_norm_eps": 1e-3}))
    with pytest.raises(RunError, match=r"its config\.json differs"):
        open_responder(made / "run")
    with pytest.raises(UsageError, match="--base base without a run"):
        open_responder(model="base", base="base")


def test_an_adapter_on_another_base(made: Path) -> None:
    adapter = made / "run/adapter"
    assert open_responder(model=str(made / "base"), adapter=adapter)
    for opened in (open_responder, chat_with_model):
        with pytest.raises(RunError, match="adapter: not trained on base"):
            opened(model="base", adapter=adapter)


def test_the_digest_is_of_the_bytes_there_are(made: Path) -> None:
    weights = made / "base/model.safetensors"
    content = bytearray(weights.read_bytes())
    before = weights.stat()
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size and time of writing
    with pytest.raises(RunError, match="its weights differ"):
        open_responder(made / "run")


def test_a_run_goes_on_where_its_base_is_now(made: Path) -> None:
    run = Run(made / "run")
    run.update_manifest(status="interrupted")
    shutil.move(made / "base", made / "moved")
    with pytest.raises(RunError, match="not the base that it was trained on"):
        resume(run.path)
    assert resume(run.path, base=made / "moved").status == "finished"


def test_the_commands_take_it(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(made / "base", made / "moved")
    run, base = str(made / "run"), ["--base", str(made / "moved")]
    assert main(["generate", run, "--prompt", "Hi", "--max-new-tokens", "1"]) == 1
    assert "hint: restore it, or say where it is now: --base PATH" in capsys.readouterr().err
    manifest = Run(made / "run").manifest
    for words in (
        ["generate", run, "--prompt", "Hi", "--max-new-tokens", "1"],
        ["eval", run, "--limit", "1"],
        ["merge", run, "--out", "merged"],
        ["export", run, "--to", "hf", "--out", "hf"],
    ):
        Run(made / "run").update_manifest(**manifest)  # forget where it is
        assert main([*words, *base]) == 0, words
    Run(made / "run").update_manifest(**manifest)
    assert main(["export", run, "--to", "peft", "--out", "peft"]) == 0  # an adapter alone
    assert main(["train", "--model", "base", *base]) == 2
    assert main(["chat", "--model", "base", *base]) == 2
    assert main(["eval", "--model", "base", "--data", "rows.jsonl", *base]) == 2
    assert capsys.readouterr().err.count("--base without") == 3


def test_a_template_that_is_gone_and_was_not_kept_is_named_with_what_can_be_done(tmp_path: Path, rows: Path) -> None:
    file = tmp_path / "chat.jinja"
    tree = tiny.recipe(tiny.model_folder(tmp_path / "base"), rows, tmp_path / "run")
    tree["data"] |= {"template": "chat", "chat_template": str(file)}
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.recipe_file.write_text(json.dumps(tree), encoding="utf-8")  # it failed before it kept the template's text
    with pytest.raises(
        RunError, match=r"run: its chat template, .*chat\.jinja, is gone, and the run keeps no copy"
    ) as caught:
        own_recipe(run)
    assert "--overwrite" in caught.value.hint
    file.write_text("{{ messages }}", encoding="utf-8")
    assert own_recipe(run).data.chat_template == str(file)
