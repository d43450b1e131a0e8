"""Renamed flags: the old one gives an error that names the new one."""

from __future__ import annotations

from collections.abc import Sequence

from tunelab.errors import UsageError

BENCHMARKS = {"--on": "--benchmarks"}
MICRO_BATCHES = {"--batch-tokens": "--micro-batch-tokens"}

#: Verb -> old flag -> new one.
RENAMED = {
    "compare": {**BENCHMARKS, "--but-for": "--allow-diff"},
    "eval": {**BENCHMARKS, **MICRO_BATCHES},
    "generate": {**BENCHMARKS, **MICRO_BATCHES},
    "merge": {"--into": "--format"},
    "score": {"--groups": "--by-group"},
    "study": {"--on": "--executor"},
}


def check_flags_are_current(verb: str, words: Sequence[str]) -> None:
    """Raises UsageError if a word is a renamed flag of the verb."""
    for word in words:
        flag, equals, value = word.partition("=")
        if new := RENAMED.get(verb, {}).get(flag):
            raise UsageError(f"{flag} is renamed: {new}", f"write {new}{equals}{value}")
