"""Merge a run's adapter into its base: one plain transformers checkpoint, checked.

Examples:
  tunelab merge runs/alpaca --out merged
  tunelab merge runs/alpaca --out merged --dtype bf16

The written checkpoint is loaded again, and its logits are compared with those of base + adapter.
"""

from __future__ import annotations

import argparse

from tunelab.cli._console import print_table, progress_bar, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --out, --dtype."""
    parser.add_argument("run", metavar="RUN", help="directory of a run that trained an adapter")
    parser.add_argument("--out", metavar="DIR", required=True, help="directory of the merged model; must not exist")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="of the weights; auto: the base's own"
    )


def run(arguments: argparse.Namespace) -> int:
    """Merge, and show how far the merged model is from base + adapter."""
    from tunelab.workflows.export import merge

    with progress_bar() as progress:
        merged = merge(arguments.run, arguments.out, dtype=arguments.dtype, progress=progress)
    check = merged.check
    print_table(
        ("what", "value"),
        [
            ("merged checkpoint", str(merged.path)),
            ("dtype", merged.dtype),
            ("tokens compared", f"{check.tokens:,}"),
            ("largest difference of logits", f"{check.largest_difference:.2e} of the largest logit"),
            ("tolerated", f"{check.tolerance:.0e}"),
            ("same most likely token", f"{check.same_argmax:.2%}"),
        ],
    )
    say("base + adapter and the merged checkpoint are the same model within the dtype's error")
    return 0
