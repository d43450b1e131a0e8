"""Compare two runs or evaluations, item by item: do they differ?

    found = compare_runs("runs/full", "runs/lora")
    print(found[0].benchmark, verdict(found[0]))

It reads the files that scoring wrote and the responses next to them (evaluated.py); no model is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelab import plugins
from tunelab.comparison.align import NEVER_REFUSED, OF_THE_MODEL
from tunelab.comparison.evaluated import Evaluated, evaluated_in, is_run
from tunelab.comparison.paired_comparison import Comparison, Comparisons, correct
from tunelab.comparison.paired_evaluations import Side, compare_sides
from tunelab.config.held_out_metrics import HELD_OUT_SUBSTITUTES
from tunelab.errors import RunError, UsageError
from tunelab.evaluation.metrics.unseen import not_seen
from tunelab.files import as_path
from tunelab.records.evaluation_files import RESPONSES
from tunelab.records.responses import read_responses
from tunelab.records.runs import Run, eval_command

Tree = dict[str, Any]

#: Names of a run's base and tuned arm.
ARMS_OF_A_RUN = ("base", "tuned")


@dataclass(frozen=True)
class Compared:
    """A comparison of two runs, of two folders of evaluations, or of a run's base and tuned arm.

    Args:
        paths: of a and of b, as given; the same path twice if a run is compared with its base.
        names: of a and b in the comparisons.
        pairs: a's and b's evaluation of each compared benchmark.
        comparisons: of b against a, corrected together.
        only_in: benchmarks scored only for a, and only for b, if all common ones are compared.
        with_base: whether one run's base and tuned arm are compared.
        left_out: sentences about benchmarks that only another arm than the compared one was scored on.
    """

    paths: tuple[Path, Path]
    names: tuple[str, str]
    pairs: list[tuple[Evaluated, Evaluated]]
    comparisons: list[Comparison]
    only_in: tuple[list[str], list[str]]
    with_base: bool
    left_out: tuple[str, ...] = ()

    @property
    def same_responses(self) -> list[str]:
        """Sentences about benchmarks to which both sides hold the very same responses: one is a copy of the other."""
        return [
            f"{a.benchmark}: the responses of {self.names[0]} and {self.names[1]} are the same file, or a copy of it"
            for a, b in self.pairs
            if not a.is_held_out and a.response_hashes == b.response_hashes != ()
        ]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences about what was left out of the comparisons, or makes one of them void."""
        return (*self.same_responses, *self.not_seen, *self.left_out)

    @property
    def not_seen(self) -> list[str]:
        """Sentences about the metrics that cannot see the references, and so were not compared."""
        said = (f"{one.benchmark}: {line}" for pair in self.pairs for one in pair for line in not_seen(one.scores))
        return list(dict.fromkeys(said))


def compare_runs(
    a: Run | Path | str,
    b: Run | Path | str | None = None,
    *,
    benchmarks: str | Sequence[str] = (),
    metrics: str | Sequence[str] = (),
    allow_diff: str | Collection[str] = (),
    common_items_only: bool = False,
) -> Comparisons:
    """Compare the tuned arms of two runs (or any two evaluations) on all benchmarks that both have, and on held-out
    rows if both were evaluated on the same ones. Given one run, compare its base with its tuned arm.

    Args:
        a, b: a run, its directory, or the folder of an evaluation.
        benchmarks: names ("held-out" for held-out rows); () = all that both have. One text may name several,
            comma-separated; so may `metrics` and `allow_diff`.
        metrics: compared as well, where both have them ("brier").
        allow_diff: header or protocol keys that may differ, in addition to those of the model ("template").
        common_items_only: leave out items that one side lacks, instead of refusing.

    Returns:
        One comparison per benchmark, by its headline metric, and up to three of held-out rows (completion loss, BLEU,
        ROUGE-L; chrF and exact match where one of these cannot see the references): of b against a, corrected together
        (Holm). Its `remarks` say what was not compared, and where both sides have the same responses.

    Raises:
        RunError: no scores found, no common benchmark, or a named benchmark is not common.
        UsageError: one side has several evaluations of a benchmark, and it is unclear which to use; or no compared
            benchmark was scored by one of `metrics`.
        DataError: the two were not evaluated in the same way; lists every difference.
    """
    found = compared(
        a, b, benchmarks=benchmarks, metrics=metrics, allow_diff=allow_diff, common_items_only=common_items_only
    )
    return Comparisons(found.comparisons, found.remarks)


def compared(
    a: Run | Path | str,
    b: Run | Path | str | None = None,
    *,
    benchmarks: str | Sequence[str] = (),
    metrics: str | Sequence[str] = (),
    allow_diff: str | Collection[str] = (),
    common_items_only: bool = False,
) -> Compared:
    """Like compare_runs(), together with what was compared."""
    a, b = _path(a), None if b is None else _path(b)
    if b is not None and a.resolve() == b.resolve():
        raise UsageError(f"{a} and {b} are the same", "give two, or one alone to compare its base with its tuned arm")
    benchmarks, metrics, allow_diff = _named(benchmarks), _named(metrics), _named(allow_diff)
    names: tuple[str, str]
    left_out: list[str] = []
    if b is None:
        sides = [[one for one in evaluated_in(a) if one.arm == arm] for arm in ARMS_OF_A_RUN]
        names, places = ARMS_OF_A_RUN, [f"{a} ({arm})" for arm in ARMS_OF_A_RUN]
    else:
        everything = [evaluated_in(side) for side in (a, b)]
        sides = [_one_arm(found) for found in everything]
        left_out = [said for place, found in zip((a, b), everything, strict=True) for said in _other_arms(place, found)]
        names, places = (str(a), str(b)), [str(a), str(b)]
    benchmarks = [plugins.label(name) for name in benchmarks]
    known = [list(dict.fromkeys(one.benchmark for one in side)) for side in sides]
    common = [name for name in known[0] if name in known[1]]
    if missing := [name for name in benchmarks if name not in common]:
        raise _nothing_common(a, b, f" of {', '.join(missing)}")
    if not common:
        raise _nothing_common(a, b, "")
    pairs = list(
        _paired_up(sides, places, [name for name in common if not benchmarks or name in benchmarks], allow_diff)
    )
    _check_metrics(metrics, pairs)
    found = []
    for first, second in pairs:
        both = Side(names[0], [first]), Side(names[1], [second])
        for metric in _compared_by(first, second, metrics):
            found.append(compare_sides(*both, metric, allow_diff=allow_diff, common_items_only=common_items_only))
    only_in = [[name for name in one if name not in common and not benchmarks] for one in known]
    paths = (Path(a), Path(a if b is None else b))
    return Compared(paths, names, pairs, correct(found), (only_in[0], only_in[1]), b is None, tuple(left_out))


def _path(one: Run | Path | str) -> Path:
    return one.path if isinstance(one, Run) else as_path(one, "run")


def _named(names: str | Collection[str]) -> list[str]:
    return [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]


def _nothing_common(a: Path | str, b: Path | str | None, wanted: str) -> RunError:
    if b is None and not is_run(a):
        return RunError(
            f"{a}: a folder of evaluations, not a run", "give two folders, or a run to compare with its base"
        )
    if b is None:
        return RunError(
            f"base and tuned arm of {a} have no scores{wanted} in common",
            f"{eval_command(a)} evaluates both on its held-out rows, --benchmarks mmlu on a benchmark",
        )
    return RunError(
        f"{a} and {b} have no scores{wanted} in common", "evaluate both with the same --benchmarks and options"
    )


def _paired_up(
    sides: Sequence[Sequence[Evaluated]], places: Sequence[str], benchmarks: Sequence[str], allow_diff: Collection[str]
) -> Iterator[tuple[Evaluated, Evaluated]]:
    """Pairs of matching evaluations, one per benchmark."""
    for benchmark in benchmarks:
        firsts, seconds = ([one for one in side if one.benchmark == benchmark] for side in sides)
        if len(firsts) == len(seconds) == 1:
            yield firsts[0], seconds[0]
        else:
            yield _only_alike(firsts, seconds, places, allow_diff)


def _only_alike(
    firsts: Sequence[Evaluated], seconds: Sequence[Evaluated], places: Sequence[str], allow_diff: Collection[str]
) -> tuple[Evaluated, Evaluated]:
    """The one pair evaluated in the same way, out of several evaluations; pairs of one tunelab version come first.

    Raises:
        UsageError: there is no such pair, or more than one.
    """
    pairs = list(itertools.product(firsts, seconds))
    for ignored in ((*OF_THE_MODEL, *allow_diff), (*OF_THE_MODEL, *NEVER_REFUSED, *allow_diff)):
        alike = [pair for pair in pairs if _how_asked(pair[0], ignored) == _how_asked(pair[1], ignored)]
        if len(alike) == 1:
            return alike[0]
    same, place = (firsts, places[0]) if len(firsts) > 1 else (seconds, places[1])
    raise UsageError(
        f"{place} has several evaluations of {same[0].benchmark}: {', '.join(one.folder.name for one in same)}",
        "give the folder of the one meant, or name the other benchmarks with --benchmarks",
    )


def _how_asked(evaluated: Evaluated, ignored: Collection[str]) -> Tree:
    """The header of its responses without the ignored keys, which may be dotted."""
    header, _ = read_responses(evaluated.folder / RESPONSES)
    return _without(header, ignored)


def _without(tree: Tree, ignored: Collection[str], above: str = "") -> Tree:
    kept = {key: value for key, value in tree.items() if f"{above}{key}" not in ignored}
    return {
        key: _without(value, ignored, f"{above}{key}.") if isinstance(value, dict) else value
        for key, value in kept.items()
    }


def _check_metrics(metrics: Sequence[str], pairs: Sequence[tuple[Evaluated, Evaluated]]) -> None:
    """Raises UsageError if no pair was scored by one of the metrics."""
    known = list(dict.fromkeys(name for pair in pairs for name in _of_both(*pair)))
    if strange := [name for name in metrics if name not in known]:
        raise UsageError(f"no compared benchmark was scored by {', '.join(strange)}", f"known: {', '.join(known)}")


def _of_both(first: Evaluated, second: Evaluated) -> list[str]:
    known = {one.name for one in second.metrics()}
    return [one.name for one in first.metrics() if one.name in known]


def _compared_by(first: Evaluated, second: Evaluated, wanted: Sequence[str]) -> list[str]:
    """For held-out rows the metrics that both have, chrF and exact match only in place of one that cannot see the
    references; for a benchmark its headline metric; and the wanted ones, where both have them."""
    known = _of_both(first, second)
    if not first.is_held_out:
        return list(dict.fromkeys((first.metric().name, *(name for name in known if name in wanted))))
    unwanted = () if first.blind_metrics or second.blind_metrics else HELD_OUT_SUBSTITUTES
    return [name for name in known if name in wanted or name not in unwanted]


def _other_arms(place: Path | str, evaluated: Sequence[Evaluated]) -> Iterator[str]:
    """Benchmarks of a run or folder that are lost, as only another arm than the tuned one was scored on them."""
    used = {one.benchmark for one in _one_arm(list(evaluated))}
    for benchmark in dict.fromkeys(one.benchmark for one in evaluated if one.benchmark not in used):
        arms = ", ".join(dict.fromkeys(one.arm for one in evaluated if one.benchmark == benchmark))
        yield f"{benchmark} is not compared: in {place} only {arms} was scored on it, not the tuned arm"


def _one_arm(evaluated: list[Evaluated]) -> list[Evaluated]:
    """The tuned arm if there is one."""
    tuned = [one for one in evaluated if one.arm == "tuned"]
    return tuned or evaluated
