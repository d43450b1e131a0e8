"""The story of scoring: a file of responses is read, graded over the cores and summarised; no model, no torch.

Our own files name their benchmark in the header; other tools' files are recognised by what they hold
(evaluation/foreign_responses.py). A file that is scored is never changed; what was found is written beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelab import plugins
from tunelab.errors import RunError, TunelabError
from tunelab.evaluation.benchmark import Graded, Response, Score, Scored
from tunelab.evaluation.win_rate import read_annotations, win_rate
from tunelab.files import write_json_atomically, write_text_atomically
from tunelab.records.evaluation_files import GRADES, RESPONSES, SCORES
from tunelab.records.old_format import stamped
from tunelab.scoring.grading import grade_responses
from tunelab.scoring.read_responses import (
    ANNOTATIONS,
    JUDGED,
    ReadResponses,
    benchmark_named_by,
    checked_options,
    is_header,
    lines_of_one_benchmark,
    option_prefix,
    read_foreign_lines,
    read_lines,
    read_our_file,
    response_files,
)
from tunelab.version import __version__

FOLDER = "evaluation/benchmarks"


@dataclass(frozen=True)
class ScoredFile:
    """What was found of one file of responses.

    Args:
        path: the file (or the folder of another tool's files).
        benchmark: its benchmark's name.
        header: what made the responses; of another tool's file its form and name.
        scored: scores, groups, warnings and facts; the warnings say, too, what is missing from the file.
        graded: each response with its values, in the order of the file.
        scores_path: where the scores lie; grades.jsonl, each item's values, lies beside them.
        outputs: files for other tools, where the benchmark writes any (evaluation/benchmark.py, write_outputs).
    """

    path: Path
    benchmark: str
    header: dict[str, Any]
    scored: Scored
    graded: list[Graded]
    scores_path: Path
    outputs: tuple[Path, ...] = ()


def score_file(
    path: Path, *, benchmark: str | None = None, options: Mapping[str, Any] | None = None, workers: int | None = None
) -> ScoredFile:
    """Score a file of responses; write scores.json and grades.jsonl beside it, for a file of another name than ours
    into the folder NAME.scored beside it. A benchmark may write files of its own there, for other tools to read.

    Args:
        path: a file, or a folder that holds responses.jsonl, the samples of lm-evaluation-harness, or the annotations
            of alpaca_eval, whose win rate is told.
        benchmark: name, or path of a user's own .py file, in place of the benchmark that the file names or is
            recognised as.
        options: the benchmark's options by name, in place of those that the file's header names. Only those that
            concern grading make sense here; every one that differs is named in a warning.
        workers: processes that grade; None = one a core. Changes no result.

    Raises:
        RunError: there are no responses, a line is damaged or cannot be graded, or nothing can be written there.
        DataError: another tool's file whose form or items are not known.
        UsageError: no such benchmark or option.
    """
    path = Path(path)
    files = response_files(path)
    if files[0].name == ANNOTATIONS:
        return _score_annotations(path, files[0], options or {})
    lines, torn = read_lines(files)
    name = benchmark or benchmark_named_by(lines[0])
    module = plugins.load(FOLDER, name)
    if is_header(lines[0].value):
        read = read_our_file(files[0], name, module, options or {})
        torn = torn or (files[0] if len(lines) > 1 + len(read.responses) else None)
    else:
        read = read_foreign_lines(lines_of_one_benchmark(path, lines, benchmark), name, module, options or {})
    if torn:
        read.warnings.insert(0, f"the last line of {torn.name} is torn and was left out: its writer was killed")
    if not read.responses:
        raise RunError(f"{files[0]}: holds no responses yet", "finish the evaluation that writes it")
    values = grade_responses(read.module, name, read.options, read.responses, read.places, workers)
    graded = [Graded(response, one) for response, one in zip(read.responses, values, strict=True)]
    scored = _summarised(read, graded, path)
    scores_path = _write(read, graded, scored, files)
    outputs = _write_outputs(read, scores_path.parent)
    return ScoredFile(path, name, read.header, scored, graded, scores_path, outputs)


def _summarised(read: ReadResponses, graded: list[Graded], path: Path) -> Scored:
    warnings = list(read.warnings)
    if read.items is not None and len(graded) != read.items:
        warnings.append(f"{len(graded)} of {read.items} items are answered in the file: the evaluation is not finished")
    try:
        scored: Scored = read.module.summarise(graded, read.options)
    except TunelabError as error:
        raise RunError(f"{path}: {error.message}", error.hint) from error
    if not scored.scores:
        raise RunError(f"{path}: benchmark {read.benchmark} gave no score", "its summarise() must give at least one")
    for score in scored.scores:
        if score.error == 0 and score.unit == "0-1":
            # The rule of three: with 95 % probability a rate above 3 / n would have shown at least once.
            warnings.append(
                f"{score.name}: all {score.n:,} items came out alike, its standard error of 0 says nothing; the other "
                f"outcome may still come up in {min(1.0, 3 / score.n):.1%} of items"
            )
    if read.prompts:
        scored = _with_protocol(scored, {"prompts": read.prompts})
    return dataclasses.replace(scored, warnings=[*warnings, *scored.warnings])


def _with_protocol(scored: Scored, more: Mapping[str, Any]) -> Scored:
    def noted(scores: list[Score]) -> list[Score]:
        return [dataclasses.replace(score, protocol={**score.protocol, **more}) for score in scores]

    groups = {name: noted(scores) for name, scores in scored.groups.items()}
    return dataclasses.replace(scored, scores=noted(scored.scores), groups=groups)


def _score_annotations(path: Path, file: Path, given: Mapping[str, Any]) -> ScoredFile:
    """Win rates of a folder of alpaca_eval's results; the judgement of each instruction is its graded value."""
    module = plugins.load(FOLDER, JUDGED)
    options = checked_options(module, JUDGED, given)
    graded = [
        Graded(Response(str(place), "", one.instruction, {"baseline": one.baseline}, one.instruction), {"win": one.win})
        for place, one in enumerate(read_annotations(file.parent))
    ]
    header = {"benchmark": JUDGED, "prompts": "judged by alpaca_eval", "files": [file.name]}
    scored = win_rate(file.parent)
    read = ReadResponses(JUDGED, module, options, header, [one.response for one in graded], [], None)
    return ScoredFile(path, JUDGED, header, scored, graded, _write(read, graded, scored, [file]))


def _write(read: ReadResponses, graded: list[Graded], scored: Scored, files: list[Path]) -> Path:
    """Values by item first, then the scores, which name their hash: a kill between the two can be seen.

    They lie beside our own file; beside another tool's, which may lie among others, in a folder of its own.
    """
    folder = files[0].parent
    if files[0].name != RESPONSES:
        folder = folder / f"{files[0].stem if len(files) == 1 else option_prefix(read.benchmark)}.scored"
    grades = "".join(
        json.dumps({"item": one.response.item, "cluster": one.response.cluster, "values": one.values}) + "\n"
        for one in graded
    )
    found = {
        "tunelab": __version__,
        "benchmark": read.benchmark,
        # Where its files lie is a matter of the machine, not of the scores.
        "options": read.options.model_dump(mode="json", exclude={"data"}),
        "header": read.header,
        "responses": {file.name: _sha256(file.read_bytes()) for file in files},
        "grades": _sha256(grades.encode()),
        **scored.to_json(),
    }
    try:
        folder.mkdir(exist_ok=True)
        write_text_atomically(folder / GRADES, grades)
        write_json_atomically(folder / SCORES, stamped(found))
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder / SCORES


def _write_outputs(read: ReadResponses, folder: Path) -> tuple[Path, ...]:
    """What a benchmark writes for other tools. Another tool's responses do not say which model made them: none then."""
    if not (read.is_ours and hasattr(read.module, "write_outputs")):
        return ()
    try:
        return tuple(read.module.write_outputs(read.responses, read.header, folder))
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(f"{folder}: cannot be written: {error.strerror}", "copy the responses to where you may write")


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
