"""Arguments shared by the verbs that take a recipe: train, prepare, inspect, eval."""

from __future__ import annotations

import argparse
import re
from typing import Any

from tunelab.config import Recipe, load_recipe, resolve
from tunelab.errors import UsageError

_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*\s*=")


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE.yaml, key=value words and short flags; recipe_of() turns them into a recipe."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE.yaml | key=value",
        help="a recipe file, and overrides such as train.lr=1e-4 or data.template=chat; "
        "later ones override earlier ones and flags. All keys: docs/reference/recipe.md",
    )
    flags = parser.add_argument_group("flags for common keys")
    flags.add_argument("--model", metavar="NAME", help="hub name or local folder of the base model (model)")
    flags.add_argument(
        "--data",
        metavar="SOURCE",
        action="append",
        help="source name, or a json, jsonl, csv or parquet file; may be repeated (data.sources)",
    )
    flags.add_argument("--method", choices=("lora", "full"), help="LoRA or full fine-tuning (method)")
    flags.add_argument(
        "--precision", metavar="FORMAT", help="format of the frozen base: nf4, fp4, int8 or mxfp4 (precision.name)"
    )
    flags.add_argument("--size", metavar="N", type=int, help="total rows sampled from the data (data.size)")
    flags.add_argument("--template", metavar="NAME", help="prompt template (data.template)")
    flags.add_argument("--out", metavar="DIR", help="run directory (out)")
    flags.add_argument(
        "--seed", metavar="N", type=int, help="training seed (train.seed); does not change the rows (data.seed)"
    )
    flags.add_argument("--limit", metavar="N", type=int, help="maximum held-out rows to evaluate (evaluate.limit)")


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The resolved recipe of a command line.

    Raises:
        UsageError: two recipe files, or a file that cannot be read.
        ConfigError: lists every problem of the recipe.
    """
    overrides = [word for word in arguments.words if _OVERRIDE.match(word)]
    files = [word for word in arguments.words if not _OVERRIDE.match(word)]
    if len(files) > 1:
        raise UsageError(f"two recipe files: {files[0]} and {files[1]}", "give one recipe, and key=value overrides")
    flags: dict[str, Any] = {
        "model": arguments.model,
        "data.sources": arguments.data,
        "method": arguments.method,
        "precision.name": arguments.precision,
        "data.size": arguments.size,
        "data.template": arguments.template,
        "out": arguments.out,
        "train.seed": arguments.seed,
        "evaluate.limit": arguments.limit,
    }
    return resolve(load_recipe(files[0] if files else None, overrides, flags))
