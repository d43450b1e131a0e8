"""Show versions, device, CPU features and memory, to paste into a bug report; no names, hosts or paths.

Examples:
  tunelab env
  tunelab env > environment.txt
"""

from __future__ import annotations

import argparse

from tunelab.cli._console import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`tunelab env` takes no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from tunelab.cli._environment import environment_rows

    rows = environment_rows()
    print_table(("what", "value"), rows)
    return 0
