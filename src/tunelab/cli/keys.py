"""Show the keys of recipes and studies with types, defaults and reasons, and what they are called in other tools.

Examples:
  tunelab keys
  tunelab keys batch
  tunelab keys gradient_accumulation_steps
  tunelab keys data.loss_on

WORD is searched in names and descriptions, and in the names of keys of transformers, PEFT, TRL, Axolotl and
LLaMA-Factory.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence

from tunelab.cli._console import console, print_data
from tunelab.config.other_tools import OtherKey
from tunelab.config.reference import Key, recipe_keys
from tunelab.config.rules import RULES
from tunelab.config.study_reference import find_keys, study_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An optional word."""
    parser.add_argument("word", nargs="?", metavar="WORD", help="only keys with it in name or description")


def run(arguments: argparse.Namespace) -> int:
    """Print the keys to stdout."""
    all_keys: tuple[list[Key], list[Key], list[OtherKey]] = (recipe_keys(), study_keys(), [])
    recipe, study, others = all_keys if arguments.word is None else find_keys(arguments.word)
    _show("Recipe", recipe)
    _show("Study", study)
    if others:
        print_data("Keys of other tools")
        for other in others:
            _print(f"{other.name} ({', '.join(other.tools)})", other.remedy())
    return 0


def _show(heading: str, found: Sequence[Key]) -> None:
    if not found:
        return
    print_data(heading)
    for key in found:
        default = (
            "" if not key.default else f"; {key.default}" if key.default == "required" else f"; default {key.default}"
        )
        rules = [f"Rule: {rule.wanted}." for rule in RULES if heading == "Recipe" and rule.keys[0] == key.path]
        _print(f"{key.path}: {key.accepts}{default}", " ".join([key.description, *rules]))
    print_data("")


def _print(first: str, text: str) -> None:
    width = console(sys.stdout).width
    for line, indent in ((first, 2), (text, 6)):
        print_data(textwrap.indent(textwrap.fill(line, width - indent, break_on_hyphens=False), " " * indent))
