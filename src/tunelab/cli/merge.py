"""Merge a run's adapter into its base: one checkpoint, compared with the model that was trained.

Examples:
  tunelab merge runs/alpaca --compare
  tunelab merge runs/alpaca --out merged
  tunelab merge runs/alpaca --out merged-nf4 --format nf4

--format fp32, bf16 or fp16 adds the adapter to the base's original weights. For a quantized base, dequantised adds it
to the dequantized weights that it was trained on; nf4, fp4, int8 and mxfp4 quantize the sum. --compare compares all
formats and writes nothing.
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
    parser.add_argument("run", metavar="RUN", help="run directory with an adapter")
    parser.add_argument("--out", metavar="DIR", help="output directory; must not exist")
    parser.add_argument(
        "--format",
        default="auto",
        metavar="FORMAT",
        help="fp32, bf16, fp16, dequantised, nf4, fp4, int8 or mxfp4; auto (default): dequantised for a quantized "
        "base, else the dtype of the base's checkpoint",
    )
    parser.add_argument("--compare", action="store_true", help="compare all formats, write nothing")
    parser.add_argument(
        "--force", action="store_true", help="write even if rounding or the format degrades the model too much"
    )


def run(arguments: argparse.Namespace) -> int:
    """Merge and show the quality of the result, or compare all formats."""
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
            f"On {first.tokens:,} completion tokens of held-out rows. Loss: base {first.base_loss:.4f}, "
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
            ("size of the weights", format_bytes(merged.bytes)),
            *([] if merged.quality is None else list(zip(COLUMNS, _cells(merged.quality), strict=True))),
        ],
    )
    if merged.check is not None:
        say(
            f"the merged weights match base + adapter: in float32, the outputs of {merged.check.layers} layers differ "
            f"by at most {merged.check.largest_difference:.1e} of the largest (tolerance {EXACT:.0e})"
        )
    if merged.quality is not None and merged.floor is not None:
        say(
            f"rounded to {merged.dtype}: KL from base + adapter {merged.quality.kl:.1e} nats, "
            f"top-1 agreement {1 - merged.quality.changed:.1%}; base + adapter in {merged.dtype}: "
            f"{merged.floor.kl:.1e}, {1 - merged.floor.changed:.1%}; limit: {FLOOR_MULTIPLE:g} times that KL"
        )
    if merged.check is None:
        say("the merged model differs from the trained one; `tunelab merge RUN --compare` compares all formats")
    return 0


COLUMNS = ("KL from the trained model", "perplexity", "changed tokens", "improvement kept")


def _cells(quality: Divergence) -> tuple[str, str, str, str]:
    kept = "no improvement" if quality.kept_improvement is None else f"{quality.kept_improvement:.1%}"
    return f"{quality.kl:.2e} nats", f"{quality.perplexity:.4g}", f"{quality.changed:.2%}", kept
