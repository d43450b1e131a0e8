"""Promise: what documents tell people to type works: flags exist, recipes and studies load, keys are known."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tunelab import plugins
from tunelab.cli.main import verbs
from tunelab.config import load_recipe, reference_markdown
from tunelab.config.study import load_study
from tunelab.errors import TunelabError

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs" / "guides").glob("*.md"))]
YAML = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """Words of every `tunelab VERB ...` in code blocks and in code within lines."""
    blocks = "\n".join(re.findall(r"```\n(.*?)```", text, flags=re.DOTALL))
    for line in [*blocks.splitlines(), *re.findall(r"`([^`\n]+)`", text)]:
        found = re.search(r"(?:^|[/ $])tunelab (.*)", line)
        if found and (words := shlex.split(found[1], comments=True)) and words[0] in verbs():
            yield words


@cache
def flags_of(verb: str) -> set[str]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    plugins.load("cli", verb).add_arguments(parser)
    return set(parser._option_string_actions)


def unknown_flags(words: list[str]) -> list[str]:
    flags = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
    return [flag for flag in flags if flag not in flags_of(words[0])]


def where(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("page", PAGES, ids=where)
def test_flags_exist(page: Path) -> None:
    found = list(commands(page.read_text(encoding="utf-8")))
    wrong = [" ".join(words) for words in found if unknown_flags(words)]
    assert not wrong


def test_there_are_commands_to_check() -> None:
    counts = {page.stem: len(list(commands(page.read_text(encoding="utf-8")))) for page in PAGES}
    assert counts["README"] >= 10 and counts["benchmarks"] >= 10 and sum(counts.values()) >= 60
    assert unknown_flags(["train", "recipe.yaml", "--method", "lora", "--no-such-flag", "x"]) == ["--no-such-flag"]


@pytest.mark.parametrize("page", PAGES, ids=where)
def test_recipes_and_studies_load(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(YAML.findall(page.read_text(encoding="utf-8"))):
        file = tmp_path / f"{number}.yaml"
        if "\narms:" in block:
            file.write_text(block, encoding="utf-8")
            load_study(file)
            continue
        if block.startswith(("benchmarks:", "forgetting:", "published:", "recipe:")):
            continue  # parts of a study
        whole = "" if "model:" in block else "model: m\n"
        whole += "" if re.search(r"^data:", block, re.MULTILINE) else "data: alpaca\n"
        file.write_text(whole + block, encoding="utf-8")
        try:
            load_recipe(file)
        except TunelabError as error:
            pytest.fail(f"{block}\n{error.message}")


@pytest.mark.parametrize("page", PAGES, ids=where)
def test_keys_are_those_of_the_reference(page: Path) -> None:
    known = set(re.findall(r"^\| `([\w.]+)` \|", reference_markdown(), flags=re.MULTILINE))
    sections = r"(?:model|precision|adapter|data|train|evaluate)"
    named = re.findall(rf"(?<![\w./-])({sections}\.[a-z_]+)(?![\w./(])", page.read_text(encoding="utf-8"))
    assert sorted({key for key in named if key not in known}) == []
