"""The story of a comparison: what two runs or evaluations answered, item by item, and whether they differ.

    found = compare_runs("runs/full", "runs/lora")
    print(found[0].benchmark, verdict(found[0]))

Read are the files that scoring wrote and the responses beside them (evaluated.py); no model is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tunelab.compare.verdict import Comparison, correct
from tunelab.errors import RunError, UsageError
from tunelab.workflows.evaluated import Evaluated, evaluated_in
from tunelab.workflows.paired_evaluations import Side, compare_sides


def compare_runs(
    a: Path | str,
    b: Path | str | None = None,
    *,
    benchmarks: Sequence[str] = (),
    but_for: Collection[str] = (),
    common_items_only: bool = False,
) -> list[Comparison]:
    """Compare the tuned arms of two runs (or any two evaluations) on every benchmark that both have, and on held-out
    rows where both were measured on the same; or, given one run, its base with its tuned arm.

    Args:
        benchmarks: names ("held-out" for held-out rows); () = all that both have.
        but_for: header or protocol keys that are meant to differ, beyond those of the model ("template").
        common_items_only: leave out items that one of them lacks, instead of refusing.

    Returns:
        One comparison a benchmark, by its figure to quote, and up to three of held-out rows (response loss, BLEU,
        ROUGE-L): of b against a, corrected together (Holm).

    Raises:
        RunError: nothing was scored there, or no benchmark is common.
        UsageError: which of several evaluations of one benchmark is meant cannot be known.
        DataError: the two are not alike in what they were asked: says all that differs.
    """
    names = (str(a), str(b)) if b is not None else ("base", "tuned")
    pairs = list(_common(a, b, benchmarks))
    if not pairs:
        wanted = f" of {', '.join(benchmarks)}" if benchmarks else ""
        raise RunError(
            f"{a} and {b or a} have no scores{wanted} in common", "evaluate both with the same --on and options"
        )
    found = []
    for first, second in pairs:
        sides = Side(names[0], [first]), Side(names[1], [second])
        for metric in _compared_by(first, second):
            found.append(compare_sides(*sides, metric, but_for=but_for, common_items_only=common_items_only))
    return correct(found)


def _common(a: Path | str, b: Path | str | None, benchmarks: Sequence[str]) -> Iterator[tuple[Evaluated, Evaluated]]:
    """The evaluations that belong together, benchmark by benchmark."""
    if b is None:
        sides = [[one for one in evaluated_in(a) if one.arm == arm] for arm in ("base", "tuned")]
        places = [f"{a} (base)", f"{a} (tuned)"]
    else:
        sides, places = [_one_arm(evaluated_in(side)) for side in (a, b)], [str(a), str(b)]
    known = [dict.fromkeys(one.benchmark for one in side) for side in sides]
    for benchmark in known[0]:
        if benchmark not in known[1] or (benchmarks and benchmark not in benchmarks):
            continue
        chosen = []
        for side, place in zip(sides, places, strict=True):
            same = [one for one in side if one.benchmark == benchmark]
            if len(same) > 1:
                folders = ", ".join(one.folder.name for one in same)
                raise UsageError(
                    f"{place} has several evaluations of {benchmark}: {folders}",
                    "give the folder of the one meant, or name the other benchmarks with --on",
                )
            chosen.append(same[0])
        yield chosen[0], chosen[1]


def _compared_by(first: Evaluated, second: Evaluated) -> list[str | None]:
    """Of held-out rows every figure that both have; of a benchmark its figure to quote (None)."""
    if not first.is_held_out:
        return [None]
    known = {one.name for one in second.metrics()}
    return [one.name for one in first.metrics() if one.name in known]


def _one_arm(evaluated: list[Evaluated]) -> list[Evaluated]:
    """The tuned arm where there is one."""
    tuned = [one for one in evaluated if one.arm == "tuned"]
    return tuned or evaluated
