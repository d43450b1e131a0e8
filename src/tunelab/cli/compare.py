"""Compare two runs, or a run with its base, item by item: differences with intervals, and what they do not show.

Examples:
  tunelab compare runs/full runs/lora
  tunelab compare runs/lora
  tunelab compare evaluations/ifeval-base-14ecd344 evaluations/ifeval-base-a52ca363 --but-for template

Both must have been scored on the same benchmarks in the same way (tunelab eval RUN --on mmlu,ifeval), or measured on
the same held-out rows (tunelab eval RUN), which are compared by response loss, BLEU and ROUGE-L. A run alone is
compared with its base.
"""

from __future__ import annotations

import argparse

from tunelab.cli._console import print_table, say
from tunelab.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One or two runs or folders of evaluations."""
    parser.add_argument("words", nargs="+", metavar="RUN", help="a run's directory, or a folder of evaluations")
    parser.add_argument("--on", metavar="NAMES", help="benchmarks, by commas, held-out among them; default: all")
    parser.add_argument(
        "--but-for", metavar="KEYS", help="what is meant to differ beside the model, by commas: template, decoding, ..."
    )
    parser.add_argument("--common-items-only", action="store_true", help="leave out items that one of them lacks")
    parser.add_argument("--flips", action="store_true", help="list the items that only one of them answers right")


def run(arguments: argparse.Namespace) -> int:
    """Compare, and say what was found in numbers and in words."""
    if len(arguments.words) > 2:
        raise UsageError(f"{len(arguments.words)} runs are given", "give two, or one to compare it with its base")
    from tunelab.compare.verdict import verdict
    from tunelab.workflows.compare import compare_runs

    first, second = (*arguments.words, None)[:2]
    found = compare_runs(
        first,
        second,
        benchmarks=_names(arguments.on),
        but_for=_names(arguments.but_for),
        common_items_only=arguments.common_items_only,
    )
    rows = []
    for one in found:
        shown = [one.benchmark, one.metric.replace("_", " "), f"{one.a_value:.4f}", f"{one.b_value:.4f}"]
        shown += [f"{one.difference:+.4f}", f"{one.low:+.4f} to {one.high:+.4f}"]
        p = one.p if one.p_holm is None else one.p_holm
        rows.append([*shown, f"{p:.2g}", f"{one.n:,}"])
    p_column = "p" if len(found) == 1 else f"p (Holm over {len(found)})"
    names = [found[0].a_name, found[0].b_name]
    print_table(["benchmark", "metric", *names, "difference", "95 % interval", p_column, "items"], rows)
    told: set[tuple[str, str]] = set()
    for one in found:
        say(f"{one.benchmark}, {one.metric.replace('_', ' ')}: {verdict(one)}")
        for key, (a, b) in one.differing.items():
            of_the_model = key.split(".")[0] in ("model_name", "revision", "model", "weights", "adapter", "arm")
            if not of_the_model and (one.benchmark, key) not in told:
                say(f"  {key} differs: {a} and {b}")
                told.add((one.benchmark, key))
        if arguments.flips and one.gained is not None and one.lost is not None:
            print_table(
                ["item", "only right in"],
                [*([item, one.b_name] for item in one.gained), *([item, one.a_name] for item in one.lost)],
            )
    return 0


def _names(value: str | None) -> list[str]:
    return [name.strip() for name in (value or "").split(",") if name.strip()]
