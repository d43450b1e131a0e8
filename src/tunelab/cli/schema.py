"""Print the JSON Schema of a recipe, for validation and completion of YAML in editors.

Examples:
  tunelab schema > recipe.schema.json
  then write this as the first line of a recipe:
  # yaml-language-server: $schema=recipe.schema.json
"""

from __future__ import annotations

import argparse
import json

from tunelab.cli._console import print_data
from tunelab.config import json_schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`tunelab schema` takes no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Print the schema to stdout."""
    print_data(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    return 0
