"""`tunelab inspect`: rows as the model sees them, and a summary that counts everything."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_tokenizers import byte_tokenizer
from verbs import Bench, Command

from tunelab.cli import _console, _token_text
from tunelab.preparation.inspection import token_text

PLAIN = ["data.template=plain", "data.held_out=0", "data.max_length=128"]


def rows_of(path: Path, *pairs: tuple[str, str]) -> Path:
    path.write_text("".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in pairs), encoding="utf-8")
    return path


def test_targets_stand_in_double_brackets_and_line_breaks_are_shown(
    tunelab: Command, bench: Bench, tmp_path: Path
) -> None:
    rows = rows_of(tmp_path / "rows.jsonl", ("Hi", "Yo"))
    said = tunelab("inspect", "--model", bench.model, "--data", rows, *PLAIN)
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0] == "row 1: 29 tokens, 4 targets, 1 end of sequence (1 in the loss)"
    assert lines[1:4] == ["|".join("Instruction: Hi") + "|↵", "|" + "|".join("Response:") + "[[ |Y|o|<eos>]]", ""]
    assert lines[4].split() == ["training", "held-out"]
    assert "\x1b" not in said.out


def test_every_answer_of_a_conversation_is_marked(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    turns = [("user", "A"), ("assistant", "b"), ("user", "C"), ("assistant", "d")]
    rows.write_text(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    said = tunelab("inspect", "--model", bench.model, "--data", rows, *PLAIN)
    assert re.findall(r"\[\[(.*?)\]\]", said.out) == [" |b|<eos>", " |d|<eos>"]
    assert "2 end of sequence (2 in the loss)" in said.out


@pytest.mark.parametrize("verb", ["inspect", "prepare"])
def test_columns_that_are_not_read_are_listed_once(
    verb: str, tunelab: Command, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b", "id": 7, "source": "web"}\n' * 2)
    for _ in range(2):  # read, then from the cache
        said = tunelab(verb, "--model", bench.model, "--data", rows, *PLAIN)
        assert said.err.count(f"{rows}: columns that are not read: id (2 rows), source (2 rows)") == 1


def test_turns_that_are_not_in_the_loss_contradict_a_loss_on_everything(
    tunelab: Command, bench: Bench, tmp_path: Path
) -> None:
    turns = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "b", "train": False}]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": [*turns, {"role": "user", "content": "C"}, {**turns[1], "train": True}]}))
    said = tunelab("inspect", "--model", bench.model, "--data", rows, *PLAIN)
    assert re.findall(r"\[\[(.*?)\]\]", said.out) == [" |b|<eos>"] and said.out.index("C") < said.out.index("[[")
    said = tunelab("inspect", "--model", bench.model, "--data", rows, *PLAIN, "data.loss_on=all")
    assert said.code == 1 and "rows.jsonl row 1: a turn is marked not to be in the loss, but" in said.err


def test_a_loss_on_everything_marks_all_but_the_first_token(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "rows.jsonl", ("Hi", "Yo"))
    said = tunelab("inspect", "--model", bench.model, "--data", rows, *PLAIN, "data.loss_on=all")
    assert said.out.splitlines()[1].startswith("I[[n|s|t|r")
    assert ", 28 targets," in said.out and said.out.splitlines()[0].startswith("row 1: 29 tokens")


def test_rows_of_ids_are_shown_as_they_are(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"input_ids": [34, 35, 36]}\n')
    said = tunelab("inspect", "--model", bench.model, "--data", rows, *PLAIN)
    assert said.out.startswith(
        "row 1: 3 tokens, 2 targets, 0 end of sequence (0 in the loss); its last answer has no stop token\nC[[D|E]]\n"
    )


def test_a_row_that_was_cut_is_not_closed_and_is_counted(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "rows.jsonl", ("Hi", "a long answer"), ("Ho", "ok"), ("Hi " * 20, "never seen"))
    words = ["--model", bench.model, "--data", rows, *PLAIN, "data.max_length=32"]
    said = tunelab("inspect", *words, "data.on_overflow=truncate")
    first, second = (line for line in said.out.splitlines() if line.startswith("row "))
    assert first == "row 1: 32 tokens, 7 targets, 0 end of sequence (0 in the loss); its last answer has no stop token"
    assert "no stop token" not in second
    assert "[[ |a| |l|o|n|g]]" in said.out
    assert said.cells["truncated"] == ["1", "0"] and said.cells["dropped, too long"] == ["1", "0"]
    assert tunelab("inspect", *words).cells["dropped, too long"] == ["2", "0"]


def test_the_summary_counts_both_sides(tunelab: Command, bench: Bench) -> None:
    said = tunelab("inspect", bench.recipe, "--rows", "0")
    assert "row 1:" not in said.out
    assert said.cells["rows"] == ["18", "6"] and said.cells["dropped, bad"] == ["0", "0"]
    tokens, targets = (int(said.cells[name][0]) for name in ("tokens", "target tokens"))
    assert 0 < targets < tokens
    assert f"{bench.rows}: 24 rows read, 0 bad; license: unknown (data of your own)\n" in said.err
    assert said.err.endswith("template: plain; stop tokens: <eos>\n")


def test_the_summary_counts_rows_that_were_bad_when_read(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "rows.jsonl", *((f"{number:03d}", "ok") for number in range(9)))
    with rows.open("a", encoding="utf-8") as file:
        file.write('{"prompt": 3, "completion": null}\n' * 2)
    words = ["--model", bench.model, "--data", rows, *PLAIN, "data.held_out=0"]
    said = tunelab("inspect", *words, "--rows", "0")
    assert said.cells["dropped, bad when read"][0] == "2 in all"
    assert "2 more rows were bad when read" in tunelab("prepare", *words, "data.on_bad_row=skip").err


def test_the_summary_gives_the_spread_of_lengths_and_the_steps(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "rows.jsonl", *((f"{number:03d}", "o" * number) for number in range(1, 101)))
    words = ["--model", bench.model, "--data", rows, "--rows", "0", *PLAIN, "data.held_out=0"]
    said = tunelab("inspect", *words, "train.batch_size=8", "train.epochs=2")
    shortest = int(said.cells["longest row"][0]) - 99
    for share in (50, 90, 99):
        assert said.cells[f"length, p{share}"] == [str(shortest + share - 1), "–"]
    assert said.cells["steps"] == ["26", "–"], "13 per epoch of 100 rows"
    assert "held-out rows can" not in said.err
    said = tunelab("inspect", *words, "data.held_out=15")
    assert "warning: with 15 held-out rows the minimum detectable difference is" in said.err


def test_the_number_of_rows_shown(tunelab: Command, bench: Bench) -> None:
    for words, shown in ((), 3), (("--rows", "2"), 2), (("--rows", "99"), 18):
        assert len(re.findall(r"^row \d+:", tunelab("inspect", bench.recipe, *words).out, re.M)) == shown


def test_rows_that_are_all_too_long_are_counted(tunelab: Command, bench: Bench) -> None:
    words = ("--model", bench.model, "--data", bench.rows, "data.template=plain", "data.max_length=8")
    said = tunelab("inspect", *words, "data.held_out=6")
    assert said.code == 1, said.err
    assert said.cells["rows"] == ["0", "0"] and said.cells["dropped, too long"] == ["18", "6"]
    why = r"no training row is left: of 18 rows 18 are longer than 8 tokens \(the longest has \d+\) and 0 are bad; "
    assert re.search(why, said.err) and "row 1:" not in said.out
    refused = tunelab("prepare", *words, "data.held_out=6")
    assert refused.code == 1 and "no training row is left" in refused.err, "what was inspected is not cached"


def test_flags_that_cannot_be_obeyed_are_refused(tunelab: Command, bench: Bench) -> None:
    for flag, value in (("--out", "there"), ("--limit", "3")):
        said = tunelab("inspect", bench.recipe, flag, value)
        assert said.code == 2 and said.out == "" and f"error: {flag}: nothing is trained or evaluated" in said.err
        assert "--rows N shows N rows" in said.err


def test_bad_rows_are_counted_and_listed_not_fatal(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "rows.jsonl", ("Hi", "Yo"), *[("Hi", " ")] * 23)
    said = tunelab("inspect", "--model", bench.model, "--data", rows, *PLAIN)
    assert said.code == 0 and "24 rows read, 23 bad" in said.err
    bad = [line for line in said.err.splitlines() if line.startswith("bad: ")]
    assert bad[0] == "bad: rows.jsonl row 2: empty output: message 2 (assistant) has no text"
    assert len(bad) == 21 and bad[-1] == "bad: and 3 more"


def test_a_chat_template_shows_its_own_tokens_and_its_stops(tunelab: Command, tmp_path: Path) -> None:
    model = tiny.model_folder(tmp_path / "base")
    byte_tokenizer().save_pretrained(model)
    rows = rows_of(tmp_path / "rows.jsonl", ("Hi", "Yo"))
    said = tunelab("inspect", "--model", model, "--data", rows, *PLAIN, "data.template=chat")
    assert "<|im_start|>|u|s|e|r|↵\n|H|i|<|im_end|>|↵\n" in said.out
    assert re.findall(r"\[\[(.*?)\]\]", said.out) == ["Y|o|<|im_end|>"]
    assert said.err.endswith("template: chat; stop tokens: <eos>, <|im_end|>\n")


class Terminal:
    """Makes a captured stdout pass for a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("FORCE_COLOR", "1")
        for module in (_console, _token_text):
            monkeypatch.setattr(module, "is_terminal", lambda stream: stream is sys.stdout)


def test_a_terminal_shows_targets_in_green(
    tunelab: Command, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Terminal(monkeypatch)
    rows = rows_of(tmp_path / "rows.jsonl", ("Hi", "Yo"))
    out = tunelab("inspect", "--model", bench.model, "--data", rows, *PLAIN).out
    green = re.findall(r"\x1b\[(?:1;)?32m(.*?)\x1b\[0m", out)
    assert "".join(green) == " Yo<eos>"
    assert "[[" not in out and "Response" in re.sub(r"\x1b\[[\d;]*m", "", out)


def test_no_color_keeps_the_marks_away_and_the_text_plain(
    tunelab: Command, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    rows = rows_of(tmp_path / "rows.jsonl", ("Hi", "Yo"))
    out = tunelab("inspect", "--model", bench.model, "--data", rows, *PLAIN).out
    assert "32m" not in out
    assert "[[ |Y|o|<eos>]]" in out, "without colour the targets are marked"


def test_spelling_of_sentencepiece_tokens_keeps_their_space() -> None:
    class Pieces:
        all_special_ids = (9,)

        def convert_ids_to_tokens(self, id: int) -> str:
            return {1: "▁Yes", 2: "no", 9: "</s>"}[id]

        def decode(self, ids: list[int], **settings: Any) -> str:
            return {1: "Yes", 2: "no"}[ids[0]]

    assert [token_text(Pieces(), id) for id in (1, 2, 9)] == [" Yes", "no", "</s>"]
