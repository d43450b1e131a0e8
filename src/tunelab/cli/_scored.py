"""Scored response files on the screen: tables on stdout; warnings, paths and counts on stderr, each fact once."""

from __future__ import annotations

from collections.abc import Mapping

from tunelab.cli._console import print_table, say
from tunelab.report.table import EQUAL_VALUES, has_equal_values, score_rows
from tunelab.scoring.score import ScoredFile

ONE_ERROR = "± is one standard error over items"


def show_scores(benchmark: str, files: Mapping[str, ScoredFile], *, groups: bool = False) -> None:
    """The benchmark's table with one column per file; with `groups`, one more table per group."""
    parts = {benchmark: {column: one.scored.scores for column, one in files.items()}}
    for name in dict.fromkeys(name for one in files.values() for name in one.scored.groups if groups):
        parts[name] = {column: list(one.scored.groups.get(name, [])) for column, one in files.items()}
    for name, scores in parts.items():
        columns, rows = score_rows(scores)
        print_table([name, *columns[1:]], rows)
    if any(has_equal_values(score) for scores in parts.values() for found in scores.values() for score in found):
        say(EQUAL_VALUES)


def say_doubts(files: Mapping[str, ScoredFile]) -> None:
    """Warnings, each with all files that it is about, and files for other tools."""
    about: dict[str, list[str]] = {}
    for column, one in files.items():
        for warning in one.scored.warnings:
            about.setdefault(warning, []).append(column)
    for warning, columns in about.items():
        say(f"warning: {', '.join(columns)}: {warning}")
    for column, one in files.items():
        for path in one.outputs:
            say(f"{column}: for other tools: {path}")
