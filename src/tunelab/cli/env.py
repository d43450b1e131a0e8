"""Show versions, device, CPU features and memory, to paste into a bug report; no names, hosts or paths.

Examples:
  tunelab env
  tunelab env > environment.txt
"""

from __future__ import annotations

import argparse

from tunelab.cli._console import print_table
from tunelab.cli._json import add_json_flag, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--json."""
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from tunelab.cli._environment import environment_rows

    rows = environment_rows()
    if arguments.json:
        return print_json({"environment": dict(rows)})
    print_table(("what", "value"), rows)
    return 0
