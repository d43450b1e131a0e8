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

from tunelab.cli._console import print_table, progress_bar, quick_imports, say
from tunelab.cli._json import add_json_flag, merged_document, print_json
from tunelab.cli._merge_formats import COLUMNS, measured_on, quality_cells, show_merge_formats
from tunelab.cli._recipe_arguments import add_base_argument
from tunelab.errors import UsageError
from tunelab.records.runs import open_run
from tunelab.units import format_bytes, format_scientific, format_share, format_significant


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, --out, --format, --compare, --base, --force, --json."""
    parser.add_argument("run", metavar="RUN", help="run directory with an adapter")
    parser.add_argument("--out", metavar="DIR", help="output directory; must not exist")
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        help="fp32, bf16, fp16, dequantised, nf4, fp4, int8 or mxfp4; auto (default): dequantised for a quantized "
        "base, else the dtype of the base's checkpoint",
    )
    parser.add_argument("--compare", action="store_true", help="compare all formats, write nothing")
    add_base_argument(parser)
    parser.add_argument("--force", action="store_true", help="write even if rounding or the format costs too much")
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Merge and show the quality of the result, or compare all formats."""
    if arguments.compare == (arguments.out is not None):
        raise UsageError("give either --out DIR or --compare", "tunelab merge --help shows examples")
    if arguments.compare and (arguments.format is not None or arguments.force):
        flag = "--force" if arguments.format is None else "--format"
        raise UsageError(f"{flag} has no effect with --compare", "it compares all formats and writes none: omit it")
    open_run(arguments.run)  # a missing run is reported before torch is imported
    with quick_imports():
        from tunelab.inference.divergence import FLOOR_MULTIPLE
        from tunelab.models.merge import EXACT
        from tunelab.publishing.merge import NOT_MEASURED, merge

    if arguments.compare:
        show_merge_formats(arguments.run, arguments.base, as_json=arguments.json)
        return 0
    with progress_bar() as progress:
        how = {"format": arguments.format or "auto", "base": arguments.base, "force": arguments.force}
        merged = merge(arguments.run, arguments.out, **how, progress=progress)
    if arguments.json:
        return print_json(merged_document(merged))
    print_table(
        ("what", "value"),
        [
            ("merged checkpoint", str(merged.path)),
            ("format", merged.format),
            ("dtype", merged.dtype),
            ("size of the weights", format_bytes(merged.bytes)),
            *([] if merged.quality is None else list(zip(COLUMNS, *quality_cells([merged.quality]), strict=True))),
        ],
    )
    if merged.check is not None:
        say(
            f"the merged weights match base + adapter: in float32, the outputs of {merged.check.layers} layers differ "
            f"by at most {format_scientific(merged.check.largest_difference)} of the largest "
            f"(tolerance {format_scientific(EXACT, 1)})"
        )
    if merged.quality is not None and merged.floor is not None:
        say(
            f"rounded to {merged.dtype}: KL from base + adapter {format_scientific(merged.quality.kl)} nats, "
            f"top-1 agreement {format_share(1 - merged.quality.changed)}; base + adapter in {merged.dtype}: "
            f"{format_scientific(merged.floor.kl)}, {format_share(1 - merged.floor.changed)}; limit: "
            f"{format_significant(FLOOR_MULTIPLE)} times that KL"
        )
    say(NOT_MEASURED if merged.quality is None else measured_on(merged.quality))
    if merged.check is None:
        say("the merged model differs from the trained one; `tunelab merge RUN --compare` compares all formats")
    return 0
