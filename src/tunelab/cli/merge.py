"""Merge a run's adapter into its base: one checkpoint, measured against the model that was trained.

Examples:
  tunelab merge runs/alpaca --compare
  tunelab merge runs/alpaca --out merged
  tunelab merge runs/alpaca --out merged-nf4 --format nf4

--format fp32, bf16 or fp16 adds the adapter to the base's own weights; over a quantised base, dequantised adds it to
the weights that the codes stand for, which it was trained over; nf4, fp4, int8 and mxfp4 quantise the sum. --compare
measures them all and writes nothing.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tunelab.cli._console import print_table, progress_bar, say
from tunelab.errors import UsageError
from tunelab.units import format_bytes

if TYPE_CHECKING:
    from tunelab.evaluation.divergence import Divergence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --out, --format, --compare, --force."""
    parser.add_argument("run", metavar="RUN", help="directory of a run that trained an adapter")
    parser.add_argument("--out", metavar="DIR", help="directory of the merged model; must not exist")
    parser.add_argument(
        "--format",
        default="auto",
        metavar="FORMAT",
        help="fp32, bf16, fp16, dequantised, nf4, fp4, int8 or mxfp4; auto (default): dequantised over a quantised "
        "base, else the dtype of the base's checkpoint",
    )
    parser.add_argument("--compare", action="store_true", help="compare all formats, write nothing")
    parser.add_argument(
        "--force", action="store_true", help="write also what rounding or the format made worse than is sound"
    )


def run(arguments: argparse.Namespace) -> int:
    """Merge and show what became of the model, or compare all formats."""
    if arguments.compare == (arguments.out is not None):
        raise UsageError("give either --out DIR or --compare", "tunelab merge --help shows examples")
    from tunelab.models.merge import EXACT
    from tunelab.publishing.merge import FLOOR_MULTIPLE, compare_merges, merge, recommended_merge

    with progress_bar() as progress:
        if arguments.compare:
            found = compare_merges(arguments.run, progress=progress)
        else:
            merged = merge(
                arguments.run, arguments.out, format=arguments.format, force=arguments.force, progress=progress
            )
    if arguments.compare:
        print_table(("format", *COLUMNS), [(name, *_cells(quality)) for name, quality in found.items()])
        first = next(iter(found.values()))
        say(
            f"On {first.tokens:,} answer tokens of held-out rows; loss of the base {first.base_loss:.4f}, of the "
            f"trained model {first.trained_loss:.4f} nats per token."
        )
        say(f"Recommended: --format {recommended_merge(found)}")
        return 0
    print_table(
        ("what", "value"),
        [
            ("merged checkpoint", str(merged.path)),
            ("format", merged.format),
            ("dtype", merged.dtype),
            ("size of its weights", format_bytes(merged.bytes)),
            *([] if merged.quality is None else list(zip(COLUMNS, _cells(merged.quality), strict=True))),
        ],
    )
    if merged.check is not None:
        say(
            f"base + adapter and the merged weights are the same model: in float32 outputs of {merged.check.layers} "
            f"layers differ by {merged.check.largest_difference:.1e} of the largest at most (tolerated {EXACT:.0e})"
        )
    if merged.quality is not None and merged.floor is not None:
        say(
            f"rounded to {merged.dtype}, its KL from base + adapter is {merged.quality.kl:.1e} nats "
            f"({1 - merged.quality.changed:.1%} same most likely token); {merged.dtype} alone costs base + adapter "
            f"{merged.floor.kl:.1e} ({1 - merged.floor.changed:.1%}), and up to {FLOOR_MULTIPLE:g} times that is sound"
        )
    if merged.check is None:
        say("the merged model is not the one that was trained; `tunelab merge RUN --compare` shows all formats")
    return 0


COLUMNS = ("KL from the trained model", "perplexity", "changed tokens", "improvement kept")


def _cells(quality: Divergence) -> tuple[str, str, str, str]:
    kept = "no improvement" if quality.kept_improvement is None else f"{quality.kept_improvement:.1%}"
    return f"{quality.kl:.2e} nats", f"{quality.perplexity:.4g}", f"{quality.changed:.2%}", kept
