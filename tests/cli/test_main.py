"""The command's frame: help without torch, errors in words, exit codes."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import tunelab
from tunelab import plugins
from tunelab.cli import main as cli
from tunelab.errors import ModelError, UsageError

VERBS = cli.verbs()


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from tunelab.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, **environment})


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A verb of the test's own, called `probe`; its `behaviour` is called by run()."""
    module = ModuleType("probe", "Probe the frame.\n\nExamples:\n  tunelab probe --loud")
    module.behaviour = lambda arguments: 0  # type: ignore[attr-defined]

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("words", nargs="*")
        parser.add_argument("--loud", action="store_true")

    module.add_arguments = add_arguments  # type: ignore[attr-defined]
    module.run = lambda arguments: module.behaviour(arguments)  # type: ignore[attr-defined]
    monkeypatch.setattr(plugins, "names", lambda folder: ["main", "probe"])
    monkeypatch.setattr(plugins, "load", lambda folder, name: module)
    return module


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_overview_names_every_verb_with_its_summary(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    flat = " ".join(out.split())
    assert flat.startswith((tunelab.__doc__ or "").splitlines()[0])
    for name in VERBS:
        summary = plugins.summary("cli", name)
        assert summary and f"\n  {name} " in out and f" {name} {summary}" in flat
    assert "\nmore:\n" not in out, "every verb of the package is in a group"
    assert out.count("\n  tunelab ") == 3
    assert "main" not in VERBS and not any(name.startswith("_") or name.startswith("-") for name in VERBS)


@pytest.mark.parametrize(
    "words", [("merge", "nothing", "--out", "x"), ("export", "nothing", "--to", "hf", "--out", "x")]
)
def test_a_missing_run_is_reported_before_the_work_is_imported(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for heavy in ("tunelab.publishing.merge", "tunelab.publishing.export"):
        monkeypatch.setitem(sys.modules, heavy, None)  # an import would fail
    assert cli.main(list(words)) == 1
    assert capsys.readouterr().err.startswith("error: nothing: no run there (no recipe.yaml)\nhint: ")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from tunelab.cli.main import main; main([]); print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0
    loaded = {name.split(".")[0] for name in result.stderr.split()}
    heavy = {"torch", "transformers", "datasets", "numpy", "pydantic", "rich", "yaml", "peft", "accelerate", "pyarrow"}
    assert loaded & heavy == set()
    assert "tunelab" in loaded


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_with_examples_in_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([name, "--help"]) == 0
    out, _ = capsys.readouterr()
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert f"usage: tunelab {name} " in out
    assert plugins.summary("cli", name).split()[0] in out
    assert "Examples:" in out and f"tunelab {name}" in out.partition("Examples:")[2]


def test_no_verb_s_help_imports_torch() -> None:
    code = (
        "import sys\nfrom tunelab.cli.main import main\n"
        "for name in sys.argv[1:]:\n"
        "    main([name, '--help'])\n"
        "    assert 'torch' not in sys.modules, name"
    )
    done = subprocess.run([sys.executable, "-c", code, *VERBS], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tunelab {tunelab.__version__}\n"
    assert importlib.metadata.version("tunelab") == tunelab.__version__


def test_an_unknown_verb_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["shema"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: unknown verb 'shema'; did you mean 'schema'?\nhint: known verbs: ")
    assert "Traceback" not in err


def test_main_is_no_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["main"]) == 2
    assert "unknown verb 'main'" in capsys.readouterr().err
    assert cli.main(["--loud"]) == 2
    assert "unknown option '--loud'" in capsys.readouterr().err


def test_options_may_stand_between_words(verb: Any) -> None:
    seen = []
    verb.behaviour = lambda arguments: seen.append(arguments.words) or 0
    assert cli.main(["probe", "recipe.yaml", "--loud", "train.lr=1"]) == 0
    assert seen == [["recipe.yaml", "train.lr=1"]]


def test_options_of_a_verb_are_checked(verb: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["probe", "--lou"]) == 2  # no abbreviations: they would change their meaning with a new flag
    assert capsys.readouterr().err == "error: unknown flag --lou\nhint: did you mean --loud?\n"


def test_a_verb_s_exit_code_is_the_command_s(verb: Any) -> None:
    verb.behaviour = lambda arguments: 7 if arguments.loud else 0
    assert cli.main(["probe"]) == 0
    assert cli.main(["probe", "--loud"]) == 7


@pytest.mark.parametrize(("kind", "code"), [(ModelError, 1), (UsageError, 2)])
def test_errors_are_words_and_an_exit_code(
    verb: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: type[ModelError], code: int
) -> None:
    def fail(arguments: object) -> int:
        raise kind("no model there", "look elsewhere")

    verb.behaviour = fail
    monkeypatch.delenv("TUNELAB_DEBUG", raising=False)
    assert cli.main(["probe"]) == code
    assert capsys.readouterr().err == "error: no model there\nhint: look elsewhere\n"
    assert cli.main(["probe", "--debug"]) == code
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    monkeypatch.setenv("TUNELAB_DEBUG", "1")
    assert cli.main(["probe"]) == code
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    monkeypatch.setenv("TUNELAB_DEBUG", "0")
    assert cli.main(["probe"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_mistake_of_ours_is_said_as_ours(verb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    verb.behaviour = lambda arguments: plugins.label(7)  # type: ignore[arg-type]
    assert cli.main(["probe"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: unexpected AttributeError: 'int' object has no attribute 'endswith' (")
    assert "tunelab/plugins.py, line " in error
    assert hint == "hint: this is a defect of tunelab: run it again with --debug and report the traceback"
    assert cli.main(["probe", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_library_s_failure_comes_with_its_own_sentence(verb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    verb.behaviour = lambda arguments: yaml.safe_load("[1, 2")
    assert cli.main(["probe"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: yaml failed: ParserError: while parsing a flow sequence")
    assert hint == "hint: --debug shows the traceback"


def test_what_is_no_exception_is_said_too(verb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def panic(arguments: object) -> int:
        raise type("PanicException", (BaseException,), {})("index out of bounds")

    verb.behaviour = panic
    assert cli.main(["probe"]) == 1
    assert "PanicException: index out of bounds" in capsys.readouterr().err


def test_ctrl_c_is_one_line(verb: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    verb.behaviour = interrupt
    assert cli.main(["probe"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("word", ["schema", "--version"])  # more than Python's buffer, and less
def test_a_reader_that_goes_away_is_no_error(word: str) -> None:
    code = "import sys; from tunelab.cli.main import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", code, word], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=200) == 141
    said = process.stderr.read()
    assert b"BrokenPipeError" not in said and b"Traceback" not in said, said
    process.stderr.close()


def test_a_terminal_without_unicode_is_served(verb: Any) -> None:
    result = run("schema", PYTHONIOENCODING="ascii")
    assert result.returncode == 0
    code = "import sys; from tunelab.cli import main as m; m._dispatch = lambda words: print('5 ± 1') or 0; "
    code += "sys.exit(m.main([]))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=200)
    assert (result.returncode, result.stdout) == (0, "5 \\xb1 1\n")


def test_schema_is_data_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["title"] == "tunelab recipe"


def test_the_installed_command_is_this_function() -> None:
    (point,) = importlib.metadata.entry_points(group="console_scripts", name="tunelab")
    assert point.load() is cli.main


def test_verbs_are_short() -> None:
    folder = Path(cli.__file__).parent
    assert all((folder / f"{name.replace('-', '_')}.py").is_file() for name in VERBS)


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["train", "--lerning-rate", "1"], "unknown flag --lerning-rate", ""),
        (["train", "--epoch", "1"], "unknown flag --epoch", "did you mean --epochs?"),
        (["train", "--epoch=1"], "unknown flag --epoch", "did you mean --epochs?"),
        (["schema", "more"], "unexpected word 'more'", ""),
        (["export"], "--to, --out: missing", ""),
        (["export", "run", "--out", "x", "--to", "ggfu"], "--to is 'ggfu', expected one of", "did you mean gguf?"),
        (["study", "rum"], "what is 'rum', expected one of init, run, list, status", "did you mean run?"),
        (["train", "--lr", "fast"], "--lr is 'fast', expected a number", ""),
        (["train", "--rank", "1.5"], "--rank is '1.5', expected an integer", ""),
        (["train", "--lr"], "--lr needs a value", ""),
        (["train", "--debug=x"], "argument --debug: ignored explicit argument 'x'", ""),
    ],
)
def test_argparse_s_errors_are_in_our_form(
    words: list[str], said: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    error, advice = err.splitlines()
    assert out == "" and error.startswith(f"error: {said}")
    assert advice == f"hint: {hint or f'tunelab {words[0]} --help shows all arguments and examples'}"
