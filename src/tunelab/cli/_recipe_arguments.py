"""Arguments shared by the verbs that take a recipe, and the flags for its common keys."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunelab.cli._words import is_change, looks_like_change
from tunelab.config import Recipe, load_recipe, resolve
from tunelab.errors import UsageError

if TYPE_CHECKING:
    from tunelab.config.study import Study


@dataclass(frozen=True, slots=True)
class KeyFlag:
    """A flag that sets a recipe key.

    Args:
        name: without dashes; also the attribute of the parsed arguments, with underscores.
        key: dotted recipe key.
        options: of argparse's add_argument.
        only_training: has no effect on a model that is evaluated without training.
        of_studies: `tunelab study run` has it too, for all arms.
    """

    name: str
    key: str
    help: str
    options: dict[str, Any]
    only_training: bool = False
    of_studies: bool = False

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")

    def add_to(self, parser: argparse._ArgumentGroup) -> None:
        parser.add_argument(f"--{self.name}", help=f"{self.help} ({self.key})", **self.options)


def _named(metavar: str) -> dict[str, Any]:
    return {"metavar": metavar}


_COUNT: dict[str, Any] = {"metavar": "N", "type": int}
_NUMBER: dict[str, Any] = {"metavar": "X", "type": float}
_SOURCES, _CHECKS = ({"metavar": name, "action": "append"} for name in ("SOURCE", "CHECK"))

KEY_FLAGS = (
    KeyFlag("model", "model", "hub name, local folder or .gguf file of the base", _named("NAME"), of_studies=True),
    KeyFlag("data", "data.sources", "source, data file, or OWNER/NAME of a hub dataset; repeatable", _SOURCES),
    KeyFlag("size", "data.size", "total rows sampled from the data", _COUNT, of_studies=True),
    KeyFlag("template", "data.template", "prompt template", _named("NAME")),
    KeyFlag("allow", "data.allow", "train in spite of this error of the data checks; repeatable", _CHECKS, True),
    KeyFlag("method", "method", "LoRA or full fine-tuning", _named("{lora,full}")),
    KeyFlag("precision", "precision.name", "frozen base in nf4, fp4, int8 or mxfp4", _named("FORMAT")),
    KeyFlag("rank", "adapter.rank", "LoRA rank", _COUNT, only_training=True, of_studies=True),
    KeyFlag("lr", "train.lr", "peak learning rate", _NUMBER, only_training=True, of_studies=True),
    KeyFlag("epochs", "train.epochs", "passes over the rows", _NUMBER, only_training=True, of_studies=True),
    KeyFlag("batch-size", "train.batch_size", "rows per step", _COUNT, only_training=True, of_studies=True),
    KeyFlag("dtype", "train.dtype", "compute dtype", _named("{auto,fp32,bf16,fp16}"), of_studies=True),
    KeyFlag("seed", "train.seed", "training seed; does not change the rows", _COUNT),
    KeyFlag("limit", "evaluate.limit", "maximum held-out rows to evaluate", _COUNT),
    KeyFlag("out", "out", "run directory", _named("DIR")),
)


def add_recipe_arguments(
    parser: argparse.ArgumentParser, *, subject: str = "RECIPE.yaml", training: bool = True
) -> None:
    """RECIPE.yaml, key=value words and flags for common keys; recipe_of() turns them into a recipe.

    Args:
        subject: what the words begin with.
        training: False leaves out the flags that only training uses.
    """
    parser.add_argument(
        "words",
        nargs="*",
        metavar=f"{subject} | key=value",
        help="a recipe file, and overrides such as data.template=chat; later ones override earlier ones and flags. "
        "All keys: tunelab keys",
    )
    group = parser.add_argument_group("flags for common keys")
    for flag in KEY_FLAGS:
        if training or not flag.only_training:
            flag.add_to(group)


def given_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """Flag (`--batch-size`) -> value, of all key flags that were given."""
    values = {f"--{flag.name}": getattr(arguments, flag.attribute, None) for flag in KEY_FLAGS}
    return {name: value for name, value in values.items() if value is not None}


def add_base_argument(parser: argparse._ActionsContainer) -> None:
    """--base and --allow-code, for verbs that take a run."""
    parser.add_argument("--base", metavar="DIR", help="with a run: where its base model is now, if it moved")
    add_code_argument(parser)


def add_code_argument(parser: argparse._ActionsContainer) -> None:
    """--allow-code, for verbs that read a run, a response file or a study's records, which may name Python code."""
    parser.add_argument(
        "--allow-code",
        metavar="PATH",
        action="append",
        help="run this .py file, or this model's code, where a run or a file names it; repeatable",
    )


def refuse_flags(arguments: argparse.Namespace, names: Sequence[str], why: str, instead: str) -> None:
    """Refuse flags of add_recipe_arguments() that the verb cannot obey, rather than ignore them.

    Raises:
        UsageError: names the flags that were given.
    """
    if given := [name for name in given_flags(arguments) if name in names]:
        raise UsageError(f"{', '.join(given)}: {why}", instead)


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The resolved recipe of a command line.

    Raises:
        UsageError: two recipe files, or a file that cannot be read.
        ConfigError: lists every problem of the recipe.
    """
    overrides = [word for word in arguments.words if is_change(word)]
    files = [word for word in arguments.words if not is_change(word)]
    if len(files) > 1:
        raise _two_files(files)
    flags = {flag.key: getattr(arguments, flag.attribute, None) for flag in KEY_FLAGS}
    return resolve(load_recipe(files[0] if files else None, overrides, flags))


def _two_files(files: Sequence[str]) -> UsageError:
    for word in files:
        if looks_like_change(word):
            key, _, value = word.partition("=")
            hint = f'to override the key, write it with a space: "{key}= {value}"'
            return UsageError(f"{word} is a file or directory here, not an override", hint)
    return UsageError(f"two recipe files: {files[0]} and {files[1]}", "give one recipe, and key=value overrides")


def add_study_flags(parser: argparse.ArgumentParser) -> None:
    """The flags for common keys that a study has: they set the key of all arms."""
    group = parser.add_argument_group("flags for common keys, of all arms")
    for flag in KEY_FLAGS:
        if flag.of_studies:
            flag.add_to(group)


def study_changes(arguments: argparse.Namespace) -> list[str]:
    """The flags for common keys as changes of a study: recipe.train.lr=0.001; `model` is already a study's word."""
    given = {flag.key: getattr(arguments, flag.attribute) for flag in KEY_FLAGS if flag.of_studies}
    prefix = {key: "" if key == "model" else "recipe." for key in given}
    return [f"{prefix[key]}{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


def check_arms_follow(study: Study, arguments: argparse.Namespace) -> None:
    """Check that no arm overrides a key that a flag sets for all.

    Raises:
        UsageError: names the arms, and how to set the key of one arm.
    """
    for flag in KEY_FLAGS:
        if not flag.of_studies or flag.key == "model" or getattr(arguments, flag.attribute) is None:
            continue
        if own := [name for name, arm in study.arms.items() if _has(arm.recipe, flag.key)]:
            raise UsageError(
                f"--{flag.name} is for all arms, but {', '.join(own)} set {flag.key} themselves",
                f"set it per arm: --set arms.{own[0]}.recipe.{flag.key}=VALUE",
            )


def _has(tree: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True
