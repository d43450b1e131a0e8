"""Every command that writes can be killed anywhere: the same command then finishes, and nothing is left over."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import forked
from sums_benchmark import write_benchmark, write_responses
from verbs import Bench

from tunelab.cli.main import main

KILLED = 9
#: What makes something durable or visible; a process dies before one of these calls.
CALLS = ("rename", "replace", "fsync", "link", "mkdir", "rmdir", "unlink")

#: Operation -> its command; OUT is what it creates, if that must be new.
COMMANDS: dict[str, tuple[str, ...]] = {
    "merge": ("merge", "RUN", "--out", "OUT"),
    "quantize": ("quantize", "MODEL", "--precision", "nf4", "--out", "OUT"),
    "peft": ("export", "RUN", "--to", "peft", "--out", "OUT"),
    "hf": ("export", "RUN", "--to", "hf", "--out", "OUT"),
    "gguf": ("export", "RUN", "--to", "gguf", "--out", "OUT"),
    "score": ("score", "RESPONSES", "--allow-code", "SUMS"),
    "compare": ("compare", "RUN", "--out", "report"),
    "eval": ("eval", "RUN", "--limit", "2", "--max-new-tokens", "2"),
    "generate": ("generate", "RUN", "--file", "PROMPTS", "--out", "answers.jsonl", "--max-new-tokens", "2"),
    "prepare": ("prepare", "RECIPE"),
}
SAMPLE = {"merge": (2,), "peft": (8,), "score": (3, 5), "prepare": (4,)}


def dying(number: int, work: Callable[[], Any]) -> Callable[[], Any]:
    """Work that ends the process as SIGKILL does, before its n-th call."""

    def killed() -> None:
        calls = 0
        for name in CALLS:
            original = getattr(os, name)

            def counted(*arguments: Any, original: Callable[..., Any] = original, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == number:
                    os._exit(KILLED)
                return original(*arguments, **options)

            setattr(os, name, counted)
        work()

    return killed


def ended(work: Callable[[], Any]) -> int:
    """Exit code of a child that does the work."""
    return os.waitstatus_to_exitcode(os.waitpid(forked(work), 0)[1])


class Workplace:
    """A folder with what the commands read."""

    def __init__(self, bench: Bench, folder: Path, operation: str) -> None:
        self.folder = folder
        folder.mkdir()
        shutil.copytree(bench.lora, folder / "run")
        (folder / "prompts.jsonl").write_text(json.dumps({"prompt": "1: red"}) + "\n")
        benchmark = str(write_benchmark(folder))
        write_responses(folder / "scored" / "responses.jsonl", benchmark, ["1", "2", "x", "4"])
        places = {"RUN": "run", "PROMPTS": "prompts.jsonl", "SUMS": benchmark, "RESPONSES": "scored", "OUT": "out"}
        places |= {"MODEL": str(bench.model), "RECIPE": str(bench.recipe)}
        self.words = [places.get(word, word) for word in COMMANDS[operation]]
        if operation == "compare":
            assert self.run(["eval", "run", "--limit", "4", "--max-new-tokens", "2"]) == 0

    def command(self, words: list[str]) -> None:
        os.chdir(self.folder)
        os.environ["TUNELAB_CACHE"] = str(self.folder / "cache")
        silent = os.open(self.folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        sys.stdout = sys.stderr = os.fdopen(silent, "w", buffering=1, encoding="utf-8")  # pytest's are other files
        if code := main(words):
            os._exit(code)

    def run(self, words: list[str]) -> int:
        return ended(lambda: self.command(words))

    def killed_at(self, number: int) -> bool:
        """Whether the command was killed at its n-th call; False if it had fewer."""
        code = ended(lambda: dying(number, lambda: self.command(self.words))())
        assert code in (0, KILLED), (self.folder / "said").read_text()
        return code == KILLED

    def check_same_command_finishes(self) -> None:
        code = self.run(self.words)
        said = (self.folder / "said").read_text()
        if code == 2:  # killed after its last step: everything is there
            assert "out: exists already" in said and any((self.folder / "out").iterdir())
        else:
            assert code == 0, said
        left = [path for path in self.folder.rglob(".*") if path.suffix in (".tmp", ".old")]
        assert left == []


@pytest.mark.parametrize(("operation", "number"), [(name, at) for name, points in SAMPLE.items() for at in points])
def test_a_killed_command_can_be_repeated(operation: str, number: int, bench: Bench, tmp_path: Path) -> None:
    place = Workplace(bench, tmp_path / "place", operation)
    assert place.killed_at(number)
    place.check_same_command_finishes()


@pytest.mark.slow
@pytest.mark.parametrize("operation", COMMANDS)
def test_killed_at_every_call(operation: str, bench: Bench, tmp_path: Path) -> None:
    number = 1
    while True:
        place = Workplace(bench, tmp_path / str(number), operation)
        if not place.killed_at(number):
            break
        place.check_same_command_finishes()
        shutil.rmtree(place.folder)
        number += 1 if number < 8 else 5
    assert number > 3
