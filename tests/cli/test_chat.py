"""`tunelab chat`: piped it is a filter, at a terminal a conversation; nothing is lost at an error or at Ctrl-C."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from pexpect import fdpexpect
from safetensors.torch import load_file, save_file
from verbs import Bench, Command, Said

from tunelab.cli import _chat_loop as loop
from tunelab.data.messages import Conversation
from tunelab.data.reader import load_examples
from tunelab.inference import engine
from tunelab.inference.row import Generation

Talk = Callable[..., Said]


@pytest.fixture
def talk(tunelab: Command, monkeypatch: pytest.MonkeyPatch) -> Talk:
    """Runs `tunelab chat WORDS` with lines on a stdin that is no terminal."""

    def talked(words: list[object], *lines: str) -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("".join(f"{x}\n" for x in lines).encode())))
        return tunelab("chat", *words)

    return talked


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In place of the engine, answers "N: ok", N counted from 1; a question that says "stop" gets Ctrl-C midway."""
    calls: list[Any] = []

    def stream(model: Any, tokenizer: Any, prompt: Any, decoding: Any, *, stop_token_ids: Any) -> Iterator[str]:
        calls.append(decoding)
        question = tokenizer.decode(list(prompt)).rpartition("Instruction: ")[2]
        yield f" {len(calls)}:"
        if "stop" in question:
            os.kill(os.getpid(), signal.SIGINT)
        yield "" if "silent" in question else " ok"
        yield "\x1b[2J" if "escape" in question else ""
        end: Any = "length" if "long" in question else "context" if "full" in question else "stop"
        return Generation(0, (), "", end, len(prompt))  # type: ignore[return-value]

    monkeypatch.setattr(engine, "stream", stream)
    return calls


def test_piped_answers_alone_go_to_stdout(talk: Talk, bench: Bench, actor: list[Any]) -> None:
    said = talk(
        [bench.lora, "--set", "max_new_tokens=9"], "red?", "", "  /blue?  ", "/both", "cat?", "quit", "never asked"
    )
    assert said.code == 0
    assert said.out == "1: ok\n2: ok\n3: ok\n4: ok\n"
    assert said.err == (
        f"{bench.lora} (adapter, base {bench.model}), template plain; tuned answers\n"
        "both answer; the tuned model's answer is kept\n"
        "base:\ntuned:\n"
    )
    assert "\x1b" not in said.out + said.err and "you>" not in said.out + said.err


def test_a_wrong_command_is_told_and_the_rest_is_done(talk: Talk, bench: Bench, actor: list[Any]) -> None:
    said = talk([bench.lora], "/st temperature=1", "red?", "/set top_k=x", "/undo 2", "/save", "/undo", "/undo", "q")
    assert said.code == 1 and said.out == "1: ok\n"
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: unknown command /st; did you mean /set?",
        "error: top_k is 'x', expected an integer",
        "error: /undo takes no arguments, got '2'",
        "error: /save needs a file",
        "error: there is nothing to undo: the conversation is empty",
    ]
    assert "hint: known: /base, /tuned, /both, /system, /set, /tool, /undo" in said.err
    assert "removed: red?" in said.err


def test_commands(talk: Talk, bench: Bench, actor: list[Any]) -> None:
    said = talk(
        [bench.lora, "--set", "temperature=0.5 seed=7", "--set", "top_k=4"],
        *("/system Be brief.", "red?", "/system", "/base", "blue?", "/set", "/reset", "/tuned", "cat?", "/help"),
    )
    assert said.code == 0 and said.out == "1: ok\n2: ok\n3: ok\n"
    assert [(one.seed, one.temperature, one.top_k) for one in actor] == [(8, 0.5, 4), (9, 0.5, 4), (8, 0.5, 4)]
    for words in ("system message set\nno system message\nbase answers\n", "\nnew conversation\ntuned answers\n"):
        assert words in said.err
    assert "  max_new_tokens=64\n  temperature=0.5\n" in said.err and "  stop_strings=[]\n" in said.err
    for name in loop.COMMANDS:
        assert f"\n  /{name} " in said.err
    assert "the conversation continues with the tuned model's answer" in said.err and "Ctrl-D" in said.err


def test_a_saved_chat_is_read_as_training_data(talk: Talk, bench: Bench, actor: list[Any]) -> None:
    said = talk(
        [bench.lora, "--system", "Be brief."],
        "one\\",
        "and two?",
        "how long?",
        "/save chats.jsonl",
        "/save chats.jsonl",
    )
    assert said.code == 0, said.err
    assert said.err.count("1 line appended to chats.jsonl\n1 of its answers was cut off: check the file") == 2
    (example, again) = load_examples("auto", path=Path("chats.jsonl")).examples
    assert isinstance(example, Conversation) and isinstance(again, Conversation)
    assert [(turn.role, turn.content) for turn in example.messages] == [
        ("system", "Be brief."),
        ("user", "one\nand two?"),
        ("assistant", "1: ok"),
        ("user", "how long?"),
        ("assistant", "2: ok"),
    ]
    assert again.messages == example.messages


def test_how_an_answer_ended_is_told(talk: Talk, bench: Bench, actor: list[Any]) -> None:
    said = talk([bench.lora], "how long?", "how full?")
    assert "[the answer was cut off at max_new_tokens=64; raise it with /set]\n" in said.err
    assert "[the answer was cut off: the context window is full]\n" in said.err
    said = talk([bench.lora], "/both", "how long?")
    assert "[base's answer was cut off at" in said.err and "[tuned's answer was cut off at" in said.err


def test_a_pipe_gets_the_text_as_it_is(talk: Talk, bench: Bench, actor: list[Any]) -> None:
    said = talk([bench.lora], "escape?", "silent?", "red?")
    assert said.out == "1: ok\x1b[2J\n2:\n3: ok\n" and said.code == 0


def test_a_wrong_setting_is_told_before_models_are_loaded(
    talk: Talk, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunelab.answering.chat.chat_with_run", lambda *words: pytest.fail("loaded"))
    said = talk([bench.lora, "--set", "temperature=-1"])
    assert said.code == 2 and "error: temperature is -1.0, expected 0" in said.err


def test_ctrl_c_ends_a_script(talk: Talk, bench: Bench, actor: list[Any]) -> None:
    before = signal.getsignal(signal.SIGINT)
    said = talk([bench.lora], "stop?", "next?")
    assert (said.code, said.out) == (130, "1: ok\n") and "[stopped]\n" in said.err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_question_that_is_too_long_is_an_error_and_the_session_goes_on(talk: Talk, bench: Bench) -> None:
    said = talk([bench.full, "--set", "max_new_tokens=3"], "long " * 60, "red?")
    assert (
        said.code == 1
        and "error: the question is too long: " in said.err
        and "hint: ask a shorter question" in said.err
    )
    assert len(said.out.encode()) > 1


def test_real_models_answer_the_same_again(talk: Talk, bench: Bench) -> None:
    lines = ("/set temperature=1 max_new_tokens=8", "red?", "blue?", "/base", "cat?")
    said = {}
    for run in (bench.full, bench.lora):
        first, second = talk([run], *lines), talk([run], *lines)
        assert first.code == 0 and first.out == second.out and first.out.strip(), first.err
        assert talk([run], "/set seed=9", *lines).out != first.out
        said[run] = first.out
    adapter = ["--model", bench.model, "--adapter", bench.lora / "adapter"]
    assert talk(adapter, *lines).out == said[bench.lora]


@pytest.mark.parametrize(
    ("errors", "reason"), [("strict", "invalid start byte"), ("surrogateescape", "surrogates not allowed")]
)
def test_input_that_is_no_text(
    errors: str, reason: str, bench: Bench, monkeypatch: pytest.MonkeyPatch, tunelab: Command
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"red \xff\n"), encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", stdin)
    said = tunelab("chat", bench.lora)
    assert said.code == 1 and said.out == ""
    assert said.err.endswith(f"error: the input is not utf-8 text: {reason}\nhint: write it in UTF-8\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to chat with"),
        (["--adapter", "x"], "--adapter without --model"),
        (["nowhere"], "nowhere: no such run"),
        (["RUN", "--model", "x"], "RUN and --model: a run has its own model, adapter and template"),
        (["RUN", "--adapter", "x"], "RUN and --adapter: a run has its own"),
        (["RUN", "--template", "plain"], "RUN and --template: a run has its own"),
        (["RUN", "--set", "tmp=1"], "no setting named 'tmp'"),
    ],
)
def test_wrong_uses(words: list[str], message: str, talk: Talk, bench: Bench) -> None:
    said = talk([str(bench.lora) if word == "RUN" else word for word in words])
    assert said.code == 2 and said.out == "" and message in said.err and "hint: " in said.err


def test_an_unfinished_run_is_refused(talk: Talk, bench: Bench, tmp_path: Path) -> None:
    shutil.copytree(bench.lora, tmp_path / "copy")
    manifest = tmp_path / "copy/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "status": "interrupted"}))
    said = talk([tmp_path / "copy"], "red?")
    assert said.code == 1 and "the run is interrupted, not finished\nhint: tunelab train --resume" in said.err


def test_an_answer_ends_between_two_tokens_and_at_once_when_asked_twice() -> None:
    before = signal.getsignal(signal.SIGINT)
    with loop.ctrl_c_asks() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_control_characters_are_shown_not_obeyed() -> None:
    assert loop.visible("a\x1b[2Jb\tc\nd\r\x07ü") == "a\ufffd[2Jb\tc\nd\ufffd\ufffdü"


class Terminal:
    """The real command in a pseudo-terminal of a given width.

    Started by subprocess, which runs no Python between fork and exec: pexpect.spawn does, and a fork of a process whose
    other threads hold locks may then wait for them forever.
    """

    def __init__(self, *words: object, columns: int = 70, **environment: str) -> None:
        own_terminal = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
        # A suite that a script has put into the background ignores SIGINT, and so would its children.
        ctrl_c = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        code = f"{own_terminal}; {ctrl_c}; import sys; from tunelab.cli.main import main; sys.exit(main(sys.argv[1:]))"
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.main, terminal = pty.openpty()
        self.resize(columns)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, "chat", *map(str, words)],
            env={**kept, "TERM": "xterm", **environment},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        # The timeout is of a wait: the first is for all imports, on a machine that may be busy.
        self.child = fdpexpect.fdspawn(self.main, encoding="utf-8", timeout=200)

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    def wait(self, pattern: str) -> str:
        """What was shown up to and with the pattern."""
        self.child.expect(pattern)
        return str(self.child.before) + str(self.child.after)

    def type(self, line: str) -> None:
        self.child.sendline(line)

    def press_ctrl(self, letter: str) -> None:
        self.child.send(chr(ord(letter) - ord("@")))

    def ends(self) -> tuple[int | None, str]:
        rest = str(self.child.read())
        code = self.process.wait(timeout=60)
        self.child.close()
        return code, rest


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers with letters alone and never ends, and whose window takes a long answer.

    The head knows two letters, one the other's opposite, so one of them has a positive logit; all other tokens have 0.
    """
    folder = tiny.model_folder(tmp_path_factory.mktemp("endless") / "model", max_position_embeddings=100_000)
    weights = load_file(folder / "model.safetensors")
    head = torch.zeros_like(weights["lm_head.weight"])
    a, b = tiny.tiny_tokenizer().convert_tokens_to_ids(["a", "b"])
    head[a] = weights["lm_head.weight"][a]
    head[b] = -head[a]
    save_file({**weights, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


PROMPT = r"you> (\x1b\[0m)?"


@pytest.mark.slow
def test_a_conversation_at_a_terminal(endless: Path, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    terminal = Terminal("--model", endless, "--template", "plain", "--set", "max_new_tokens=12")
    assert "\x1b[1m" in terminal.wait(PROMPT)
    terminal.press_ctrl("C")
    assert "to leave: /quit, quit, exit, q or Ctrl-D" in terminal.wait(PROMPT)
    terminal.type("What is red?")
    shown = terminal.wait(PROMPT)
    assert "base> " in shown and "\x1b[" in shown
    terminal.type("And blue?")
    terminal.wait(PROMPT)
    terminal.type("/undo")
    assert "removed: And blue?" in terminal.wait(PROMPT)
    terminal.type("/both")
    assert "error: there is no tuned model here" in terminal.wait(PROMPT)
    terminal.type("/set max_new_tokens=50000")
    assert "max_new_tokens=50000" in terminal.wait(PROMPT)
    terminal.type("Say everything.")
    terminal.wait(r"base> (\x1b\[0m)?[^\x1b]{5}")
    terminal.press_ctrl("C")
    assert "[stopped]" in terminal.wait(PROMPT)
    terminal.type("/save " + str(path))
    assert "1 line appended to" in terminal.wait(PROMPT)
    terminal.type("/quit")
    code, _ = terminal.ends()
    assert code == 0
    turns = json.loads(path.read_text())["messages"]
    assert [turn["content"] for turn in turns[::2]] == ["What is red?", "Say everything."]
    assert all(turn["content"].strip() for turn in turns[1::2]) and len(turns) == 4
    assert len(load_examples("auto", path=path).examples) == 1


@pytest.mark.slow
def test_both_stand_side_by_side_where_the_terminal_is_wide_and_without_colour_where_asked(bench: Bench) -> None:
    terminal = Terminal(bench.lora, "--set", "max_new_tokens=4", columns=100, NO_COLOR="1")
    terminal.wait(PROMPT)
    terminal.type("/both")
    terminal.wait(PROMPT)
    terminal.type("What is red?")
    wide = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.wait(PROMPT))
    assert re.search(r"^base> {20,}tuned> *\r?$", wide, re.MULTILINE)
    terminal.resize(60)
    terminal.type("What is red?")
    narrow = terminal.wait(r"tuned> .*?you> ")  # the changed width may have drawn the prompt again before
    assert re.search(r"^base> .*\n(.*\n)*tuned> ", narrow, re.MULTILINE)
    assert not re.search(r"\x1b\[[\d;]*m", narrow), "no colour, no bold"
    terminal.press_ctrl("D")
    assert terminal.ends()[0] == 0


def test_tools_come_from_a_file(talk: Talk, bench: Bench, actor: list[Any], tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text('[{"name": "look", "parameters": {"type": "object"}}]', encoding="utf-8")
    said = talk([bench.lora, "--tools", tmp_path / "tools.json"], "red?")
    assert said.code == 1 and "error: the plain template has no place for tools" in said.err
    said = talk([bench.lora, "--tools", tmp_path / "none.json"], "red?")
    assert said.code == 1 and "none.json: cannot be read" in said.err
