"""The decoding flags of `generate`: one for each setting of tunelab.inference.sampling.Decoding."""

from __future__ import annotations

import argparse
import dataclasses

from tunelab.errors import UsageError
from tunelab.inference.sampling import Decoding

HELP = {
    "max_new_tokens": "maximum tokens per answer (default 128)",
    "temperature": "0 = greedy (default); higher = more random",
    "top_p": "nucleus sampling: smallest set of tokens with this total probability (default 1: off)",
    "top_k": "sample from the k most likely tokens (default 0: off)",
    "min_p": "minimum probability relative to the most likely token (default 0: off)",
    "repetition_penalty": "above 1 penalizes tokens that already occurred (default 1: off)",
    "seed": "sampling seed (default 0); prompt number i uses (seed, i)",
}


#: Settings that a temperature of 0 leaves without effect.
_OF_SAMPLING = ("top_p", "top_k", "min_p", "seed")


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting; decoding_of() reads them."""
    flags = parser.add_argument_group("decoding")
    for field in dataclasses.fields(Decoding):
        if field.name == "stop_strings":
            continue
        flag, kind = f"--{field.name.replace('_', '-')}", int if isinstance(field.default, int) else float
        flags.add_argument(flag, metavar="N" if kind is int else "X", type=kind, help=HELP[field.name])
    flags.add_argument("--stop", metavar="TEXT", action="append", help="stop string; may be repeated")


def decoding_of(arguments: argparse.Namespace) -> Decoding:
    """The settings; those without a flag have their defaults. Raises UsageError if one is invalid or has no effect."""
    given = {name: value for name in HELP if (value := getattr(arguments, name)) is not None}
    decoding = Decoding(**given, stop_strings=tuple(arguments.stop or ()))
    if decoding.temperature == 0 and (useless := [name for name in _OF_SAMPLING if name in given]):
        flag = f"--{useless[0].replace('_', '-')}"
        raise UsageError(f"{flag} has no effect at temperature 0: decoding is greedy", "give --temperature, or omit it")
    return decoding
