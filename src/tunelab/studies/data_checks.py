"""What the data checks found in the rows of finished trainings, for a report's section and its caveats."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from tunelab.errors import RunError
from tunelab.linting.finding import Finding
from tunelab.linting.lint import Lint
from tunelab.records.runs import Run
from tunelab.report.data_checks_content import DataChecks, DataFinding
from tunelab.report.records import record_from_json
from tunelab.studies.benchmark_overlaps import Overlaps
from tunelab.units import format_counted, format_names, format_sentence

#: A training: its arm, and what tells it from the arm's others ("seed 1").
Name = tuple[str, str]

#: Trainings and arms that a finding names.
MOST_NAMED = 6


def data_checks_part(runs: Mapping[Name, Run], overlaps: Overlaps | None = None) -> DataChecks | None:
    """What the checks found in the rows of these trainings; None if there is nothing to read, as in older runs.

    Args:
        runs: finished trainings.
        overlaps: of their rows with the items of benchmarks; None = not looked for.
    """
    read = _read(runs)
    checked = [name for _, names in read for name in names]
    if not checked and overlaps is None:
        return None
    of_trainings: dict[Finding, list[Name]] = {}
    for lint, names in read:
        for one in lint.findings:
            of_trainings.setdefault(one, []).extend(names)
    findings = [_shown(one, _named(names, checked)) for one, names in of_trainings.items()]
    arms = list(dict.fromkeys(arm for arm, _ in runs))
    for of_arms in overlaps.findings if overlaps is not None else ():
        named = "" if set(arms) <= set(of_arms.arms) else format_names(of_arms.arms)
        findings.append(_shown(of_arms.finding, named))
    findings.sort(key=lambda one: one.level != "error")
    lost = [name for name in runs if name not in set(checked)]
    said = [*_said_of_rows(read, findings), *_said_of_others(read, lost, list(runs)), *_said_of_overlaps(overlaps)]
    return DataChecks(tuple(said), tuple(findings))


def data_checks_caveat(part: DataChecks | None) -> Iterator[str]:
    """One sentence, if something was found."""
    if part is not None and part.findings:
        listed = ", ".join(_counted(one) for one in part.findings)
        yield f"The data checks found in the rows: {listed}. The section on data checks says more."


def _counted(one: DataFinding) -> str:
    """ "duplicates (12 rows)", "no-end-token (400 rows of lora, an error that was allowed)"."""
    of = f" of {one.trainings}" if one.trainings else ""
    allowed = ", an error that was allowed" if one.level == "error" else ""
    return f"{one.check} ({format_counted(one.count, 'row')}{of}{allowed})"


def _read(runs: Mapping[Name, Run]) -> list[tuple[Lint, list[Name]]]:
    """What was found, each time with the trainings on the same rows; those whose file is missing or damaged are left
    out."""
    by_content: dict[bytes, list[Name]] = {}
    for name, run in runs.items():
        with suppress(OSError):
            by_content.setdefault(run.lint_file.read_bytes(), []).append(name)
    found = []
    for content, names in by_content.items():
        with suppress(ValueError, RecursionError, RunError):
            found.append((record_from_json(Lint, json.loads(content)), names))
    return found


def _shown(one: Finding, trainings: str) -> DataFinding:
    return DataFinding(one.check, one.level, one.what, one.count, one.why, one.remedy, one.examples, trainings)


def _named(names: Sequence[Name], among: Sequence[Name]) -> str:
    """Trainings in words: an arm where all of its own are meant, "" where all are."""
    if len(names) == len(among):
        return ""
    of_arm, all_of = Counter(arm for arm, _ in names), Counter(arm for arm, _ in among)
    said = [arm if of_arm[arm] == all_of[arm] else ", ".join(filter(None, (arm, at))) for arm, at in names]
    said = list(dict.fromkeys(said))
    more = [f"{len(said) - MOST_NAMED:,} more"] if len(said) > MOST_NAMED else []
    return "; ".join([*said[:MOST_NAMED], *more])


def _said_of_rows(read: Sequence[tuple[Lint, Sequence[Name]]], findings: Sequence[DataFinding]) -> Iterator[str]:
    if not read:
        return
    trainings = sum(len(names) for _, names in read)
    counts = sorted({sum(lint.rows.values()) for lint, _ in read})
    each = f"{counts[0]:,} to {counts[-1]:,} rows" if len(counts) > 1 else format_counted(counts[0], "row")
    counted = format_counted(len(findings), "finding") if findings else "no findings"
    yield f"The rows of {format_counted(trainings, 'training')} were checked ({each} each): {counted}."


def _said_of_others(
    read: Sequence[tuple[Lint, Sequence[Name]]], lost: Sequence[Name], among: Sequence[Name]
) -> Iterator[str]:
    if lost:
        of = _named(lost, among) or "the trainings"
        yield f"What the checks found in the rows of {of} is not known: lint.json in the run is missing or damaged."
    for note in dict.fromkeys(note for lint, _ in read for note in lint.notes):
        yield format_sentence(note)


def _said_of_overlaps(overlaps: Overlaps | None) -> Iterator[str]:
    if overlaps is None:
        return
    if overlaps.compared:
        found = "some overlap, see below" if overlaps.findings else "no overlap"
        yield f"Training rows were compared with the items of {format_names(overlaps.compared)}: {found}."
    for note in overlaps.notes:
        yield format_sentence(note)
