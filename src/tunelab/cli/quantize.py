"""Quantize a model's linear layers to 4 or 8 bits: a checkpoint that loads without the original.

Examples:
  tunelab quantize meta-llama/Llama-3.1-8B --precision nf4 --out llama-nf4
  tunelab quantize Qwen/Qwen3-0.6B --precision mxfp4 --out qwen-mxfp4
  tunelab train --model llama-nf4 --precision nf4 --data alpaca
  tunelab quantize gpt2 --precision nf4 --out loftq --loftq-rank 16
  tunelab train --model loftq --precision nf4 --data alpaca adapter.init=loftq

nf4, fp4 and int8 are written as bitsandbytes checkpoints, mxfp4 as compressed-tensors (mxfp4-pack-quantized),
which stores no GPT-2 (Conv1D) and no layer whose width is not a multiple of 32.
"""

from __future__ import annotations

import argparse

from tunelab.cli._console import print_table, quick_imports
from tunelab.cli._json import add_json_flag, print_json, quantized_document
from tunelab.cli._words import is_change
from tunelab.errors import UsageError
from tunelab.units import format_bytes, format_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, --precision, --out, --json, and recipe keys."""
    parser.add_argument("model", metavar="MODEL", help="hub name, folder or .gguf file of a model")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="such as precision.skip=[down_proj]")
    parser.add_argument("--precision", metavar="FORMAT", required=True, help="nf4, fp4, int8, mxfp4, or a .py file")
    parser.add_argument("--out", metavar="DIR", required=True, help="output directory; must not exist")
    loftq = "LoftQ: also fit an adapter of this rank, for adapter.init=loftq (stored with the checkpoint)"
    parser.add_argument("--loftq-rank", metavar="N", type=int, help=loftq)
    parser.add_argument("--loftq-alternations", metavar="N", type=int, help="LoftQ iterations (default 5)")
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Quantize, write, and show the size."""
    if strange := [word for word in arguments.changes if not is_change(word)]:
        raise UsageError(f"{strange[0]}: expected key=value", "give one model, and overrides of precision keys")
    if arguments.loftq_rank is None and arguments.loftq_alternations is not None:
        raise UsageError("--loftq-alternations needs --loftq-rank", "name the rank of the adapter that LoftQ fits")
    with quick_imports():
        from tunelab.publishing.quantize import quantize

    made = quantize(
        arguments.model,
        arguments.out,
        precision=arguments.precision,
        changes=arguments.changes,
        loftq_rank=arguments.loftq_rank,
        loftq_alternations=5 if arguments.loftq_alternations is None else arguments.loftq_alternations,
    )
    if arguments.json:
        return print_json(quantized_document(made))
    print_table(
        ("what", "value"),
        [
            ("checkpoint", str(made.path)),
            ("precision", f"{made.precision}, {made.layers} layers"),
            ("bits per weight in these layers", format_number(made.bits_per_weight, 3)),
            ("size of the weights", f"{format_bytes(made.bytes)}, {format_bytes(made.dense_bytes)} in {made.dtype}"),
        ],
    )
    return 0
