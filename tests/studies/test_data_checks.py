"""A report has a section on what the data checks found in its trainings' rows, once for all that share them."""

from __future__ import annotations

import json
from pathlib import Path

from tunelab.linting.finding import Finding, ShownRow
from tunelab.linting.lint import Lint
from tunelab.records.runs import Run
from tunelab.studies.benchmark_overlaps import ArmsFinding, Overlaps
from tunelab.studies.data_checks import Name, data_checks_caveat, data_checks_part


def finding(check: str, count: int, level: str = "warning") -> Finding:
    rows = tuple(f"rows.jsonl row {number}" for number in range(count))
    assert level in ("error", "warning")
    return Finding(check, level, f"{count} rows", count, "it hurts", "mend it", (ShownRow(rows[0], "seen"),), rows)  # type: ignore[arg-type]


def run(folder: Path, *found: Finding, rows: int = 60) -> Run:
    """A run that keeps what the checks found."""
    folder.mkdir(parents=True)
    path = Run(folder).lint_file
    path.write_text(json.dumps(Lint({"training": rows}, found, ("no rensa",)).to_json()), encoding="utf-8")
    return Run(folder)


def test_the_same_findings_are_listed_once_and_errors_first(tmp_path: Path) -> None:
    both = (finding("duplicates", 12), finding("no-end-token", 1200, "error"))
    runs: dict[Name, Run] = {("a", f"seed {n}"): run(tmp_path / f"a{n}", *both) for n in (0, 1)}
    part = data_checks_part(runs)
    assert part is not None and part.said[0] == "The rows of 2 trainings were checked (60 rows each): 2 findings."
    assert part.said[1] == "No rensa."
    assert [(one.check, one.tag, one.trainings) for one in part.findings] == [
        ("no-end-token", "error, allowed", ""),
        ("duplicates", "warning", ""),
    ]
    assert part.findings[0].examples == (ShownRow("rows.jsonl row 0", "seen"),)
    said = "no-end-token (1,200 rows, an error that was allowed), duplicates (12 rows)"
    assert list(data_checks_caveat(part)) == [
        f"The data checks found in the rows: {said}. The section on data checks says more."
    ]
    runs |= {("b", f"seed {n}"): run(tmp_path / f"b{n}", finding("refusals", 1), *both[:n], rows=40) for n in (0, 1)}
    part = data_checks_part(runs)
    assert part is not None and part.said[0].startswith("The rows of 4 trainings were checked (40 to 60 rows each)")
    assert {one.check: one.trainings for one in part.findings} == {
        "no-end-token": "a",
        "duplicates": "a; b, seed 1",
        "refusals": "b",
    }


def test_no_findings_and_missing_or_damaged_files_are_said(tmp_path: Path) -> None:
    runs: dict[Name, Run] = {("a", "seed 0"): run(tmp_path / "a"), ("b", "seed 0"): run(tmp_path / "b")}
    runs["b", "seed 0"].lint_file.write_text('{"rows": 3}', encoding="utf-8")
    part = data_checks_part(runs)
    assert part is not None and part.findings == () and list(data_checks_caveat(part)) == []
    assert part.said[0] == "The rows of 1 training were checked (60 rows each): no findings."
    assert part.said[1] == (
        "What the checks found in the rows of b is not known: lint.json in the run is missing or damaged."
    )
    assert data_checks_part({("older", "seed 0"): Run(tmp_path / "nowhere")}) is None
    assert list(data_checks_caveat(None)) == []


def test_overlaps_are_among_the_findings(tmp_path: Path) -> None:
    runs: dict[Name, Run] = {("a", "seed 0"): run(tmp_path / "a"), ("b", "seed 0"): run(tmp_path / "b")}
    overlap = ArmsFinding(("b",), finding("benchmark-overlap", 3))
    part = data_checks_part(runs, Overlaps("0", ("mmlu",), (overlap,), ("rows were not compared with x: gone",)))
    assert part is not None and [(one.check, one.trainings) for one in part.findings] == [("benchmark-overlap", "b")]
    assert part.said[0].endswith("checked (60 rows each): 1 finding.")
    assert part.said[-2:] == (
        "Training rows were compared with the items of mmlu: some overlap, see below.",
        "Rows were not compared with x: gone.",
    )
    part = data_checks_part({}, Overlaps("0", ("mmlu (3 of its 9 items are too short to be found)",)))
    assert part is not None and part.said == (
        "Training rows were compared with the items of mmlu (3 of its 9 items are too short to be found): no overlap.",
    )
