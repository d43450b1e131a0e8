"""Score a response file: read it, grade it on all cores and summarize; needs no model and no torch.

Our own files name their benchmark in the header; other tools' files are recognized by their content
(evaluation/foreign_responses.py). The response file is never changed; results are written next to it.
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
from tunelab.allowed_code import allow_python_files, code_hashes
from tunelab.errors import RunError, TunelabError
from tunelab.evaluation.benchmark import Graded, Response, Score, Scored
from tunelab.evaluation.benchmark_files import load_benchmark
from tunelab.evaluation.win_rate import read_annotations, win_rate
from tunelab.files import file_sha256, write_json_atomically, write_text_atomically
from tunelab.records.evaluation_files import GRADES, RESPONSES, SCORES
from tunelab.records.old_format import stamped
from tunelab.records.responses import json_line
from tunelab.report.model_card import update_model_card
from tunelab.scoring.grading import grade_responses
from tunelab.scoring.read_responses import (
    ANNOTATIONS,
    JUDGED,
    ReadResponses,
    benchmark_named_by,
    checked_options,
    is_header,
    lines_of_one_benchmark,
    read_foreign_lines,
    read_lines,
    read_our_file,
    response_files,
)
from tunelab.units import format_share
from tunelab.version import __version__


@dataclass(frozen=True)
class ScoredFile:
    """The result of scoring one response file.

    Args:
        path: the file (or the folder of another tool's files).
        benchmark: its benchmark's name.
        header: what produced the responses; for another tool's file its format and name.
        scored: scores, groups, warnings and facts; warnings include what is missing from the file.
        graded: each response with its values, in file order.
        scores_path: path of scores.json; grades.jsonl, with each item's values, is next to it.
        outputs: files for other tools, if the benchmark writes any (evaluation/benchmark.py, write_outputs).
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
    """Score a response file. Writes scores.json and grades.jsonl next to a responses.jsonl; for any other file name,
    into the folder NAME.scored next to it, together with the responses in tunelab's form, which `compare` and reports
    read. A benchmark may write additional files there, for other tools to read.

    Args:
        path: a file, or a folder with responses.jsonl, samples of lm-evaluation-harness, or annotations of alpaca_eval
            (for its win rate).
        benchmark: name, or path of a user's own file; overrides the benchmark that the file names or is
            recognized as.
        options: the benchmark's options by name; override those in the file's header. Only those that
            affect grading are useful here; a warning names each one that differs.
        workers: grading processes; None = one per core. Does not change results.

    Raises:
        RunError: there are no responses, a line is damaged or cannot be graded, or the folder is not writable.
        DataError: another tool's file with an unknown format or unknown items.
        UsageError: unknown benchmark or option.
    """
    path = Path(path)
    files = response_files(path)
    if files[0].name == ANNOTATIONS:
        return _score_annotations(path, files[0], options or {})
    lines, torn = read_lines(files)
    allow_python_files([benchmark] if benchmark is not None else [])
    name = benchmark or benchmark_named_by(lines[0])
    module = load_benchmark(name)
    if is_header(lines[0].value):
        read = read_our_file(files[0], name, module, options or {})
        torn = torn or (files[0] if len(lines) > 1 + len(read.responses) else None)
    else:
        read = read_foreign_lines(lines_of_one_benchmark(path, lines, benchmark), name, module, options or {})
    if torn:
        read.warnings.insert(0, f"the last line of {torn.name} is incomplete and skipped: its writer was killed")
    if not read.responses:
        raise RunError(f"{files[0]}: contains no responses yet", "finish the evaluation that writes it")
    values = grade_responses(read.module, name, read.options, read.responses, read.places, workers)
    graded = [Graded(response, one) for response, one in zip(read.responses, values, strict=True)]
    scored = _summarised(read, graded, path)
    scores_path = _write(read, graded, scored, files)
    outputs = _write_outputs(read, scores_path.parent)
    return ScoredFile(path, name, read.header, scored, graded, scores_path, outputs)


def _summarised(read: ReadResponses, graded: list[Graded], path: Path) -> Scored:
    warnings = list(read.warnings)
    if read.items is not None and len(graded) != read.items:
        warnings.append(f"the file has answers to {len(graded)} of {read.items} items: the evaluation is not finished")
    try:
        scored: Scored = read.module.summarise(graded, read.options)
    except TunelabError as error:
        raise RunError(f"{path}: {error.message}", error.hint) from error
    if not scored.scores:
        raise RunError(f"{path}: benchmark {read.benchmark} gave no score", "its summarise() must give at least one")
    for score in scored.scores:
        if score.error == 0 and score.unit == "0-1":
            # Rule of three: a rate above 3 / n would have shown at least once with 95 % probability.
            warnings.append(
                f"{score.name}: all {score.n:,} items have the same value: a standard error of 0 says nothing; up to "
                f"{format_share(min(1.0, 3 / score.n))} of items may have the other value (95 % confidence)"
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
    """Win rates of a folder of alpaca_eval's results; the graded value of an instruction is its judgement."""
    module = load_benchmark(JUDGED)
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
    """Write the values per item first, then the scores with their hash, so that a kill in between is detected.

    They go next to our own file; for another tool's file, which may be among others, into a separate folder.
    """
    folder = files[0].parent
    if files[0].name != RESPONSES:
        folder = folder / f"{files[0].stem if len(files) == 1 else plugins.label(read.benchmark)}.scored"
    grades = "".join(
        json.dumps({"item": one.response.item, "cluster": one.response.cluster, "values": one.values}) + "\n"
        for one in graded
    )
    found = {
        "tunelab": __version__,
        "benchmark": read.benchmark,
        # The location of its files depends on the machine and does not affect scores.
        "options": read.options.model_dump(mode="json", exclude={"data"}),
        "header": read.header,
        "code": code_hashes(read.benchmark),
        "responses": {file.name: f"sha256:{file_sha256(file)}" for file in files},
        "grades": f"sha256:{hashlib.sha256(grades.encode()).hexdigest()}",
        **scored.to_json(),
    }
    try:
        folder.mkdir(exist_ok=True)
        if files[0].name != RESPONSES:
            _write_responses(read, folder / RESPONSES)
        write_text_atomically(folder / GRADES, grades)
        write_json_atomically(folder / SCORES, stamped(found))
        update_model_card(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder / SCORES


def _write_responses(read: ReadResponses, path: Path) -> None:
    lines = [stamped(read.header), *(response.to_json() for response in read.responses)]
    write_text_atomically(path, b"".join(map(json_line, lines)).decode())


def _write_outputs(read: ReadResponses, folder: Path) -> tuple[Path, ...]:
    """Write a benchmark's files for other tools. None for other tools' responses, which do not name their model."""
    if not (read.is_ours and hasattr(read.module, "write_outputs")):
        return ()
    try:
        return tuple(read.module.write_outputs(read.responses, read.header, folder))
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(f"{folder}: cannot be written: {error.strerror}", "copy the responses to a writable directory")
