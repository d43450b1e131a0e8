"""The words and flags that every verb shares which works on a recipe: train, prepare, inspect."""

from __future__ import annotations

import argparse
import re
from typing import Any

from tunelab.config import Recipe, load_recipe, resolve
from tunelab.errors import UsageError

_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*\s*=")


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE.yaml, key=value words and the short flags; recipe_of() makes a recipe of them."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE.yaml | key=value",
        help="a recipe file, and changes to it such as train.lr=1e-4 or data.template=chat; "
        "later words win over earlier ones, and over flags. All keys: docs/reference/recipe.md",
    )
    flags = parser.add_argument_group("flags for common keys")
    flags.add_argument("--model", metavar="NAME", help="hub name or local folder of the base model (model)")
    flags.add_argument(
        "--data",
        metavar="SOURCE",
        action="append",
        help="name of a source, or a json, jsonl, csv or parquet file; may be given several times (data.sources)",
    )
    flags.add_argument("--method", choices=("lora", "full"), help="train LoRA matrices or every weight (method)")
    flags.add_argument(
        "--precision", metavar="FORMAT", help="how the frozen base is stored: nf4, fp4, int8 or mxfp4 (precision.name)"
    )
    flags.add_argument("--size", metavar="N", type=int, help="rows sampled from the data in all (data.size)")
    flags.add_argument("--template", metavar="NAME", help="prompt template (data.template)")
    flags.add_argument("--out", metavar="DIR", help="directory of the run (out)")
    flags.add_argument(
        "--seed", metavar="N", type=int, help="seed of the training (train.seed); the rows keep theirs (data.seed)"
    )
    flags.add_argument("--limit", metavar="N", type=int, help="held-out rows evaluated at most (evaluate.limit)")


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The resolved recipe that the command line asks for.

    Raises:
        UsageError: two recipe files, or a file that cannot be read.
        ConfigError: everything that is wrong with the recipe, at once.
    """
    overrides = [word for word in arguments.words if _OVERRIDE.match(word)]
    files = [word for word in arguments.words if not _OVERRIDE.match(word)]
    if len(files) > 1:
        raise UsageError(f"two recipe files: {files[0]} and {files[1]}", "give one recipe, and key=value for changes")
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
