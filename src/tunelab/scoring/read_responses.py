"""Read a response file: ours by its header, other tools' by their content (evaluation/foreign_responses.py)."""

from __future__ import annotations

import codecs
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tunelab import plugins
from tunelab.errors import ConfigError, Problem, RunError, TunelabError
from tunelab.evaluation.benchmark import BenchmarkOptions, Response
from tunelab.evaluation.benchmark_files import benchmark_files
from tunelab.evaluation.foreign_responses import (
    HARNESS_SAMPLES,
    KNOWN_FORMS,
    Line,
    benchmark_of,
    form_of,
    read_foreign,
    shots_of,
)
from tunelab.files import DuplicateKeyError, parse_json
from tunelab.records.evaluation_files import RESPONSES
from tunelab.records.responses import read_responses

ANNOTATIONS = "annotations.json"  # alpaca_eval's name for its judge's results
JUDGED = "alpacaeval"
SAMPLES = "samples_*.jsonl"  # lm-evaluation-harness's file names, one file per task
EDITED = "the file was edited or damaged; restore it, or evaluate again"
_RESPONSE = TypeAdapter(Response)
NO_RESPONSES = "the evaluation was killed right at the start, or wrote to another place"


@dataclass(frozen=True)
class ReadResponses:
    """The content of a file: one location ("FILE: line 3") per response, and warnings about the file itself."""

    benchmark: str
    module: ModuleType
    options: BenchmarkOptions
    header: dict[str, Any]
    responses: list[Response]
    places: list[str]
    items: int | None
    warnings: list[str] = field(default_factory=list)
    prompts: str = ""  # for other tools: what is known about their prompts
    is_ours: bool = False


def response_files(path: Path) -> list[Path]:
    """The files to read: one, or all samples of a folder."""
    if not path.is_dir():
        if not path.exists():
            raise RunError(
                f"{path}: no such file", "give a file of responses, or the folder that holds responses.jsonl"
            )
        return [path]
    for name in (RESPONSES, ANNOTATIONS):
        if (path / name).exists():
            return [path / name]
    samples = sorted(path.glob(SAMPLES))
    if not samples:
        raise RunError(f"{path}: contains no {RESPONSES}, {SAMPLES} or {ANNOTATIONS}", NO_RESPONSES)
    return samples


def read_lines(files: Sequence[Path], most: int | None = None) -> tuple[list[Line], Path | None]:
    """All complete lines of the files (or the first `most` of each), and the file whose last line is torn.

    A last line without newline counts if it is complete: other tools end their files that way.
    """
    found: list[Line] = []
    torn = None
    for file in files:
        raw = file.read_bytes().splitlines(keepends=True)
        for number, line in enumerate(raw[:most], 1):
            if line.startswith(codecs.BOM_UTF8):
                raise RunError(
                    f"{file}: line {number} begins with a byte-order mark", "an editor added it: save as plain UTF-8"
                )
            try:
                value = parse_json(line)
            except DuplicateKeyError as error:
                raise RunError(f"{file}: line {number}: {error}", "the file was edited or damaged") from None
            except ValueError as error:
                if number == len(raw) and number > 1:
                    torn = file
                    continue
                hint = KNOWN_FORMS if number == 1 else "the file was edited or damaged"
                raise RunError(f"{file}: line {number} is not JSON", hint) from error
            if not isinstance(value, dict):
                raise RunError(f"{file}: line {number} is {type(value).__name__}, expected a JSON object", KNOWN_FORMS)
            found.append(Line(file, number, value))
    if not found:
        raise RunError(f"{files[0]}: is empty", NO_RESPONSES)
    return found, torn


def is_header(value: Mapping[str, Any]) -> bool:
    return not {"item", "doc", "prompt", "response"} & set(value) and bool(
        {"benchmark", "model", "decoding"} & set(value)
    )


def benchmark_named_by(first: Line) -> str:
    """For our own files the benchmark in the header, for another tool's the one recognized from its lines."""
    if not is_header(first.value):
        return benchmark_of(first)
    name = first.value.get("benchmark")
    if not isinstance(name, str):
        raise RunError(
            f"{first.file}: its header names no benchmark",
            "answers to held-out rows are scored by `tunelab eval RUN`; --as NAME scores a file as a benchmark's",
        )
    return name


def lines_of_one_benchmark(path: Path, lines: list[Line], benchmark: str | None) -> list[Line]:
    """The lines of a folder that belong to one benchmark; all lines of a single file."""
    if not path.is_dir():
        return lines
    by_name: dict[str, list[Line]] = {}
    for line in lines:
        by_name.setdefault(benchmark_of(line), []).append(line)
    if benchmark is None and len(by_name) > 1:
        raise RunError(
            f"{path}: contains samples of several benchmarks: {', '.join(sorted(by_name))}",
            "choose one with --as NAME, or give the files",
        )
    if benchmark is not None and benchmark not in by_name:
        raise RunError(f"{path}: contains no samples of {benchmark}, only of {', '.join(sorted(by_name))}")
    return by_name[benchmark] if benchmark is not None else lines


def read_our_file(file: Path, name: str, module: ModuleType, given: Mapping[str, Any]) -> ReadResponses:
    header, records = read_responses(file)
    _check_header(file, header, len(records))
    recorded = dict(header.get("benchmark_options") or {})
    options = checked_options(module, plugins.label(name), {**recorded, **given})
    responses = []
    for number, record in enumerate(records, 2):
        try:
            responses.append(Response.from_json(record))
        except TunelabError as error:
            raise RunError(f"{file}: line {number}: {error.message}", error.hint) from error
        if problem := _problem(record):
            raise RunError(f"{file}: line {number}: {problem}", EDITED)
    places = [f"{file}: line {number}" for number in range(2, len(responses) + 2)]
    _check_items(responses, places, module, options)
    warnings = [
        f"{plugins.label(name)}.{key} is {getattr(options, key)!r} here; the responses were made with {recorded[key]!r}"
        for key in given
        if key in recorded and getattr(options, key) != recorded[key]
    ]
    items = header.get("items")
    count = items if isinstance(items, int) else None
    # Another tool's, which score_file() wrote in our form, say so in their header.
    prompts = header.get("prompts", "")
    return ReadResponses(
        *(name, module, options, header, responses, places, count, warnings), prompts=prompts, is_ours=not prompts
    )


def _check_header(file: Path, header: Mapping[str, Any], records: int) -> None:
    options, items = header.get("benchmark_options"), header.get("items")
    if not isinstance(options, Mapping | None):
        raise RunError(f"{file}: line 1: benchmark_options is {options!r}, expected an object", EDITED)
    if items is not None and (isinstance(items, bool) or not isinstance(items, int)):
        raise RunError(f"{file}: line 1: items is {items!r}, expected the number of items", EDITED)
    if items is not None and records > items:
        raise RunError(f"{file}: line {items + 2}: a response beyond the {items} items of line 1", EDITED)


def _problem(record: Mapping[str, Any]) -> str:
    """The first value of another type than a response's, or a number that is not finite; "" = none."""
    try:
        _RESPONSE.validate_json(json.dumps(record), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return "a number is NaN or infinite" if not _is_finite(record) else ""


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _check_items(responses: Sequence[Response], places: Sequence[str], module: ModuleType, options: Any) -> None:
    """Check that the benchmark has every item, where its files are here (NAME.data=FOLDER).

    Raises:
        RunError: it lacks one; names the line.
    """
    if options.data is None or not Path(options.data).exists():
        return
    known = {item.id for item in module.items(benchmark_files(module.BENCHMARK, options.data), options)}
    for response, place in zip(responses, places, strict=True):
        if response.item not in known:
            raise RunError(f"{place}: item {response.item!r} is not one of the {len(known)} in {options.data}", EDITED)


def read_foreign_lines(lines: list[Line], name: str, module: ModuleType, given: Mapping[str, Any]) -> ReadResponses:
    form, shots = form_of(lines[0]), shots_of(lines, name)
    given, warnings = dict(given), []
    if shots is not None and "shots" not in given and "shots" in module.Options.model_fields:
        try:
            checked_options(module, name, {"shots": shots})
            given["shots"] = shots
        except ConfigError as error:
            warnings.append(f"the prompts have {shots} few-shot examples: {error.problems[0].message}")
    options = checked_options(module, plugins.label(name), given)
    read = read_foreign(lines, name, module, options)
    prompts = f"made by another tool, not checked here ({form}" + ("" if shots is None else f", {shots} shots") + ")"
    header = {"benchmark": name, "prompts": prompts, "files": sorted({line.file.name for line in lines})}
    places = [line.place for line in read.lines]
    if form == HARNESS_SAMPLES:
        _check_items(read.responses, places, module, options)
    warnings += read.warnings
    return ReadResponses(name, module, options, header, read.responses, places, None, warnings, prompts)


def checked_options(module: ModuleType, name: str, values: Mapping[str, Any]) -> BenchmarkOptions:
    """Validate a benchmark's options given by name.

    Raises:
        ConfigError: lists every problem at once.
    """
    try:
        options: BenchmarkOptions = module.Options(**values)
    except ValidationError as error:
        known = list(module.Options.model_fields)
        problems = []
        for one in error.errors():
            key = ".".join(map(str, one["loc"])) or "options"
            if one["type"] == "extra_forbidden":
                near = difflib.get_close_matches(key, known, n=1)
                meant = f"did you mean {near[0]!r}? " if near else ""
                problems.append(Problem(f"{name}.{key}", "unknown option", f"{meant}known: {', '.join(known)}"))
            else:
                problems.append(Problem(f"{name}.{key}", f"{one['msg']}, got {one['input']!r}"))
        raise ConfigError(f"options of {name}", problems) from error
    return options


def benchmark_of_file(path: Path) -> str:
    """Name of the benchmark of a response file or folder, from its first line.

    Raises:
        RunError: there are no responses, or the header names no benchmark.
        DataError: another tool's file in an unknown format.
    """
    files = response_files(Path(path))
    if files[0].name == ANNOTATIONS:
        return JUDGED
    lines, _ = read_lines(files[:1], 1)
    return benchmark_named_by(lines[0])
