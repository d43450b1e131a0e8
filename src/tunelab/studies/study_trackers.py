"""Log a study to trackers: the scores of its evaluations, and one run of its group with the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunelab import plugins
from tunelab.config import Recipe
from tunelab.config.study import Study
from tunelab.files import read_json
from tunelab.records.cells import Cell, read_study
from tunelab.records.evaluation_files import SCORES
from tunelab.records.old_format import read_scores
from tunelab.report.content import StudyReport, read_report
from tunelab.report.excerpt import excerpt
from tunelab.report.html_page import SHARES, html_page
from tunelab.report.markdown_page import markdown_page
from tunelab.report.plots import svg_files
from tunelab.report.study_tables import Cell as TableCell
from tunelab.report.study_tables import Column, StudyTable, tables
from tunelab.training.tracked_run import cell_run, report_run
from tunelab.training.trackers import Shown, started


@contextmanager
def tracked_evaluation(study: Study, cell: Cell, folder: Path, recipe: Recipe) -> Iterator[Callable[[Path], None]]:
    """Track the cell as a run of the recipe's trackers; yields a function that logs the scores of a folder.

    Trackers are started before the evaluation, so that an unreachable tracker fails at once.

    Raises:
        UsageError: a tracker is not installed.
        RunError: a tracker could not be started.
    """
    if not recipe.train.trackers:
        yield lambda scored: None
        return
    with started(recipe.train.trackers, cell_run(study, cell, folder, recipe)) as trackers:

        def log_scores(scored: Path) -> None:
            path = scored / SCORES
            content = read_scores(read_json(path), path)
            benchmark = plugins.label(cell.benchmark)
            values = score_values(benchmark, content["scores"])
            for tracker in trackers:
                tracker.log(values)

        yield log_scores


def score_values(benchmark: str, scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Stored scores as tracker metrics: "mmlu/accuracy" and, if known, its SE as "mmlu/accuracy error"."""
    values: dict[str, float] = {}
    for score in scores:
        values[f"{benchmark}/{score['name']}"] = score["value"]
        if score["error"] is not None:
            values[f"{benchmark}/{score['name']} error"] = score["error"]
    return values


def log_report(folder: Path | str) -> None:
    """Log a study's report (report.json) as a run of the study's group, to every tracker that an arm uses: the tables,
    each arm's headline scores as metrics, the page and its plots. Does nothing if no arm uses a tracker.

    Raises:
        UsageError: a tracker is not installed.
        RunError: there is no study or no report, or a tracker could not be started.
    """
    folder = Path(folder)
    study, _ = read_study(folder)
    recipes = [recipe for arm in study.arms if (recipe := study.arm_recipe(arm, study.seeds[0])).train.trackers]
    if not recipes:
        return
    report = read_report(folder / "report.json")
    names = list(dict.fromkeys(name for recipe in recipes for name in recipe.train.trackers))
    with started(names, report_run(study, folder, recipes[0])) as trackers:
        for tracker in trackers:
            tracker.log(main_values(report))
            tracker.show(_shown(report, folder))


def main_values(report: StudyReport) -> dict[str, float]:
    """Each arm's headline scores, one panel per benchmark: "mmlu accuracy/lora", with both standard errors."""
    values: dict[str, float] = {}
    for score in report.scores:
        if score.is_main:
            name = f"{score.benchmark} {score.name}/{score.arm}"
            known = {name: score.value, f"{name} error": score.error, f"{name} seed error": score.seed_error}
            values |= {key: value for key, value in known.items() if value is not None}
    return values


def _shown(report: StudyReport, folder: Path) -> Shown:
    return Shown(
        page_name="report.html",
        page=html_page(report),
        markdown=markdown_page(report),
        tables={table.title: _plain(table) for table in tables(report)},
        plots=svg_files(excerpt(report, *SHARES[0])[0]),
    )


def _plain(table: StudyTable) -> tuple[list[str], list[list[str]]]:
    """Headings and rows as single-line strings."""
    return [_heading(column) for column in table.columns], [[_line(cell) for cell in row] for row in table.rows]


def _heading(column: Column) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


def _line(cell: TableCell) -> str:
    return "; ".join(line for line in (cell.text, *cell.notes) if line)
