"""`eval --check`: a short sanity check of a model's scores; what it found, and what to distrust."""

from __future__ import annotations

import argparse
from pathlib import Path

from tunelab.cli._benchmarks import compute_changes, one_subject
from tunelab.cli._console import print_table, progress_bar, say
from tunelab.cli._json import check_document, print_json
from tunelab.cli._words import is_change
from tunelab.errors import UsageError

#: Flags that have no effect on a check, by their attribute names.
_USELESS = (
    *("benchmarks", "data", "method", "size", "seed", "out", "limit"),
    *("max_new_tokens", "micro_batch_tokens", "chat_template", "backend"),
)


def evaluate_check(arguments: argparse.Namespace) -> int:
    """One row per check on stdout; what to distrust, in sentences, on stderr."""
    if given := [name for name in _USELESS if getattr(arguments, name) is not None]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{flags} cannot be used with --check", "the check has its own items and prompts")
    changes = [word for word in arguments.words if is_change(word)]
    subject = one_subject(arguments, [word for word in arguments.words if word not in changes])
    from tunelab.answering.benchmark_settings import BenchmarkSettings
    from tunelab.answering.self_check import check

    settings = BenchmarkSettings(
        arms=(arguments.arm,) if arguments.arm else (),
        adapter=Path(arguments.adapter) if arguments.adapter else None,
        template=arguments.template,
        changes=(*compute_changes(arguments), *changes),
        base=Path(arguments.base) if arguments.base else None,
    )
    with progress_bar() as progress:
        findings = check(subject, settings, progress=progress)
    if arguments.json:
        return print_json(check_document(findings))
    print_table(["check", "found"], [[one.what, one.found] for one in findings])
    distrusted = [one for one in findings if one.distrust]
    for one in distrusted:
        say(f"{one.what}: {one.distrust}")
    if not distrusted:
        say("nothing found to distrust")
    return 0
