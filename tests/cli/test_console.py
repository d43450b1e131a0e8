"""Words on stderr, data on stdout, bars for terminals alone; and the words that verbs share about a recipe."""

from __future__ import annotations

import argparse
import gc
import io
import re
import sys

import pytest

from tunelab.cli import _console
from tunelab.cli._recipe_arguments import add_recipe_arguments, recipe_of
from tunelab.config import Recipe
from tunelab.errors import ConfigError, UsageError
from tunelab.progress import silent


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 60 columns; a test itself puts it in the place of stdout or stderr, after pytest put its own."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    return Terminal()


def test_imports_do_not_look_for_garbage_and_everything_after_them_does() -> None:
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), _console.quick_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() == frozen  # little was imported: nothing is kept for good
    gc.disable()
    try:
        with _console.quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_words_and_data_have_their_own_streams(capsys: pytest.CaptureFixture[str]) -> None:
    _console.say("words")
    _console.print_data("data")
    _console.print_data("more\n")
    assert capsys.readouterr() == ("data\nmore\n", "words\n")


def test_a_table_in_a_pipe_is_plain_aligned_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    _console.print_table(["arm", "perplexity"], [["base", "12.34 ± 0.56"], ["[red]tuned", "9"], ["x" * 200, "1"]])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and "\x1b" not in out
    assert [len(line) for line in lines] == [200 + 2 + 12] * 4
    assert lines[2].split() == ["[red]tuned", "9"]


def test_numbers_are_aligned_to_the_right_and_texts_to_the_left(capsys: pytest.CaptureFixture[str]) -> None:
    _console.print_table(["arm", "score", "unit"], [["base", "12.34 ± 0.56", "per token"], ["tuned", "–", "0-1"]])
    lines = ["arm           score  unit", "base   12.34 ± 0.56  per token", "tuned             –  0-1"]
    assert capsys.readouterr().out.splitlines() == lines


def test_a_table_on_a_terminal_shows_every_cell(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    _console.print_table(["arm", "perplexity"], [["[red]base", "12.34 ± 0.56"]])
    assert "[red]base" in terminal.getvalue() and "12.34 ± 0.56" in terminal.getvalue()


def test_a_table_too_wide_for_the_terminal_goes_on_below(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    columns = ["benchmark", "metric", "difference", "95 % interval", "p (Holm over 3)"]
    row = ["held-out", "completion loss", "-0.770", "-0.794 to -0.746", "< 0.001"]
    _console.print_table(columns, [row, [*row[:1], "bleu", *row[2:]]], keys=2)
    shown = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    assert all(len(line) <= 60 for line in lines)
    assert sum(line.startswith("held-out") for line in lines) == 6, "each part names its rows"
    assert sum("-0.794 to -0.746" in line for line in lines) == sum("< 0.001" in line for line in lines) == 2


def test_what_fits_no_table_is_wrapped_between_words(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal)
    path = "/a/path" * 10
    _console.print_table(["what", "value"], [["written", path], ["checked", "every tensor, one by one, " * 4]])
    lines = terminal.getvalue().split("\n")
    assert f"written  {path}" in lines
    assert [line for line in lines if "tensor" in line][1].startswith("         ")
    assert all(len(line) <= 60 for line in lines if path not in line)


def test_a_table_needs_whole_rows() -> None:
    with pytest.raises(ValueError, match="row 2 has 1 cells, the table has 2 columns"):
        _console.print_table(["a", "b"], [["1", "2"], ["1"]])


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_only_where_they_are_wanted(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, no_color: str) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    _console.console(terminal).print("[red]word")
    assert ("\x1b[31m" in terminal.getvalue()) is (no_color == "")
    plain = io.StringIO()
    _console.console(plain).print("[red]" + "word " * 100)
    assert plain.getvalue() == "word " * 100 + "\n"


def test_lines_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with _console.progress_bar() as progress:
        progress("training", 0, 2)
        progress("training", 1, 2, "loss 2.3")
    out, err = capsys.readouterr()
    assert out == "" and err == "training: 1/2  0:00:00 left  loss 2.3  " + err.split("  ")[-1]


def test_lines_on_a_dumb_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", terminal)
    with _console.progress_bar() as progress:
        progress("held-out loss", 0, 2)
        progress("held-out loss", 2, 2, "loss 2.3")
    assert terminal.getvalue().startswith("held-out loss: 2/2  in 0:00:00  loss 2.3")


def test_of_several_processes_the_first_alone_reports(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with _console.progress_bar() as progress:
        assert progress is silent
        progress("training", 1, 2, "loss 2.3")
    assert capsys.readouterr() == ("", "")


def test_a_bar_shows_stage_count_rate_and_detail(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", terminal)
    with _console.progress_bar() as progress:
        for done in range(1, 4):
            progress("training [x]", done, 3, f"loss {done}.5")
        progress("reading", 5, None)
        progress("scoring", 0, 9)
        progress("scoring", 3, 9)
    shown = terminal.getvalue()
    assert "training [x]" in shown and "3/3" in shown and "loss 3.5" in shown and "/s" in shown
    assert "in 0:00:00" in shown and "3/9  0:00:00 left" in shown
    assert "reading" in shown and "5/?" in shown


def test_a_bar_never_touches_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with _console.progress_bar() as progress:
        progress("training", 1, 1)
        print("data")
    assert capsys.readouterr().out == "data\n"


def asked(*words: str) -> Recipe:
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    return recipe_of(parser.parse_intermixed_args(words))


def test_the_issue_s_example() -> None:
    recipe = asked("--model", "distilgpt2", "--data", "alpaca", "--size", "800", "--method", "lora")
    assert (recipe.model.name, recipe.data.sources[0].name, recipe.data.size) == ("distilgpt2", "alpaca", 800)
    assert (recipe.method, recipe.train.lr) == ("lora", 2e-4)


def test_every_flag_reaches_its_key() -> None:
    recipe = asked(
        *(
            "--model",
            "m",
            "--data",
            "a",
            "--data",
            "b.csv",
            "--method",
            "full",
            "--template",
            "plain",
            "--out",
            "runs/x",
        ),
        *("--seed", "7", "--limit", "5", "train.lr=1e-3"),
    )
    assert [source.path for source in recipe.data.sources] == [None, "b.csv"]
    assert (recipe.method, recipe.data.template, recipe.out) == ("full", "plain", "runs/x")
    assert (recipe.train.seed, recipe.data.seed, recipe.evaluate.limit, recipe.train.lr) == (7, 0, 5, 1e-3)


def test_words_and_flags_may_stand_in_any_order(tmp_path: object) -> None:
    path = f"{tmp_path}/a=b.yaml"
    with open(path, "w", encoding="utf-8") as file:
        file.write("model: m\ndata: a\n")
    recipe = asked("train.seed=3", "--out", "o", path, "--size", "9", "data.chat_template=x.yaml", "data.template=chat")
    assert (recipe.train.seed, recipe.out, recipe.data.size, recipe.data.chat_template) == (3, "o", 9, "x.yaml")


def test_two_recipes_are_one_too_many() -> None:
    with pytest.raises(UsageError, match=r"^two recipe files: a\.yaml and b\.yaml$"):
        asked("a.yaml", "b.yaml")


def test_nothing_asked_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="model: is missing\n    add it to the recipe, or give --model NAME"):
        asked()
