"""Read other tools' response files, so that they are graded and scored like tunelab's own.

Known formats, recognized by content and not by file name:

    prompt and response     one {"prompt": ..., "response": ...} per line, as IFEval's authors write and read them
                            (google-research/instruction_following_eval, README.md). Lines have no item and no
                            target: both come from the benchmark's own files, looked up by prompt.
    lm-evaluation-harness   samples_TASK_DATE.jsonl, written with --log_samples (EleutherAI/lm-evaluation-harness,
                            lm_eval/loggers/evaluation_tracker.py, save_results_samples). A line carries the document
                            of the item, so nothing else is needed. `arguments` is a mapping of mappings, in files
                            before version 0.4.3 a list of lists; numbers are stored as text.

A file is read completely and never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Item, Response
from tunelab.evaluation.benchmark_files import benchmark_files
from tunelab.evaluation.harness_samples import (
    ARC,
    ARC_SETS,
    benchmark_of_sample,
    combined,
    first_repeat,
    response_of_sample,
    shots_of_sample,
)

PROMPT_AND_RESPONSE = "prompt and response"
HARNESS_SAMPLES = "lm-evaluation-harness"
KNOWN_FORMS = (
    'known formats: files that tunelab wrote; lines of {"prompt", "response"} (IFEval\'s own); samples_*.jsonl of '
    "lm-evaluation-harness for IFEval, GSM8K, MMLU, tinyMMLU, TruthfulQA, HellaSwag, ARC and WinoGrande"
)
NAMED = 5  # ids or prompts listed in a warning before "and N more"


@dataclass(frozen=True)
class Line:
    """One line of a file, with its location for messages."""

    file: Path
    number: int
    value: Mapping[str, Any]

    @property
    def place(self) -> str:
        return f"{self.file}: line {self.number}"


@dataclass(frozen=True)
class ForeignResponses:
    """The content of another tool's file.

    Args:
        responses: in the order of the file.
        lines: the line of each response.
        warnings: what could not be used or is missing, one sentence each.
    """

    responses: list[Response]
    lines: list[Line]
    warnings: list[str] = field(default_factory=list)


def form_of(line: Line) -> str:
    """PROMPT_AND_RESPONSE or HARNESS_SAMPLES.

    Raises:
        DataError: neither; lists the known formats.
    """
    value = line.value
    if isinstance(value.get("doc"), Mapping) and "resps" in value:
        return HARNESS_SAMPLES
    if isinstance(value.get("prompt"), str) and "response" in value:
        return PROMPT_AND_RESPONSE
    keys = ", ".join(sorted(value)[:12]) or "no keys"
    raise DataError(f"{line.place}: unknown response format (the line has {keys})", KNOWN_FORMS)


def benchmark_of(line: Line) -> str:
    """Name of the benchmark of a line in a known format; lines of prompt and response belong to IFEval.

    Raises:
        DataError: unknown format, or samples of a task that no benchmark here reads.
    """
    if form_of(line) == PROMPT_AND_RESPONSE:
        return "ifeval"
    name = benchmark_of_sample(line.value["doc"])
    if name is None:
        keys = ", ".join(sorted(line.value["doc"])[:12])
        raise DataError(f"{line.place}: samples of an unsupported task (its documents have {keys})", KNOWN_FORMS)
    return _arc_set(line) if name == ARC else name


def _arc_set(line: Line) -> str:
    """The set that the file's name says: samples_arc_easy_DATE.jsonl."""
    named = [one for one in ARC_SETS if one in line.file.name]
    if len(named) != 1:
        raise DataError(
            f"{line.place}: a sample of ARC, but of which set? Both have the same documents",
            f"say it with --as {' or --as '.join(ARC_SETS)}",
        )
    return named[0]


def _is_of(line: Line, benchmark: str) -> bool:
    """Whether a sample is one of the benchmark's; ARC's sets cannot be told apart, so that the benchmark says which."""
    if benchmark in ARC_SETS and form_of(line) == HARNESS_SAMPLES:
        return benchmark_of_sample(line.value["doc"]) == ARC
    return benchmark_of(line) == benchmark


def shots_of(lines: Sequence[Line], benchmark: str) -> int | None:
    """Number of few-shot examples in the prompts of samples, if it can be counted.

    The minimum over all lines: a question may itself contain the text that marks an example.
    """
    if form_of(lines[0]) != HARNESS_SAMPLES:
        return None
    counts = [shots_of_sample(benchmark, line.value) for line in lines]
    known = [count for count in counts if count is not None]
    return min(known, default=None)


def read_foreign(lines: Sequence[Line], benchmark: str, module: ModuleType, options: Any) -> ForeignResponses:
    """Responses of the lines of a file (or of several files of one tool), all in one format.

    Args:
        lines: at least one.
        benchmark: name of the benchmark whose items they answer.
        module: its module.
        options: its Options; `data` is the folder with its files, which the format prompt and response needs
            (otherwise the hub is used).

    Raises:
        DataError: a line has another format or lacks something, an item is answered twice, or nothing matches.
    """
    form = form_of(lines[0])
    for line in lines:
        if form_of(line) != form:
            raise DataError(f"{line.place}: is of the format {form_of(line)}, the lines before of {form}", KNOWN_FORMS)
    if form == HARNESS_SAMPLES:
        return _harness_samples(lines, benchmark)
    return _by_prompt(lines, benchmark, module, options)


def _harness_samples(lines: Sequence[Line], benchmark: str) -> ForeignResponses:
    """One response per document: a task with several filters has one line for each, with the same responses."""
    found: dict[str, tuple[Response, Line]] = {}
    first_filter = {line.file: line.value.get("filter") for line in reversed(lines)}
    for line in lines:
        if line.value.get("filter") != first_filter[line.file]:
            continue
        if not _is_of(line, benchmark):
            named = benchmark_of(line)
            raise DataError(f"{line.place}: a sample of {named}, expected {benchmark}", "give files of one benchmark")
        try:
            response = response_of_sample(benchmark, line.value)
        except DataError as error:
            raise DataError(f"{line.place}: {error.message}", error.hint) from error
        _add(found, response, line)
    kept = [line for _, line in found.values()]
    warnings = _null_answers(first_repeat(line.value) for line in kept)
    return ForeignResponses([response for response, _ in found.values()], kept, warnings)


def _add(found: dict[str, tuple[Response, Line]], response: Response, line: Line) -> None:
    if response.item in found:
        before, place = found[response.item]
        both = combined(before, response)
        if both is None:
            raise DataError(
                f"{line.place}: answers item {response.item!r}, as {place.place} does",
                "two evaluations are mixed; keep one response per item",
            )
        found[response.item] = both, place
    else:
        found[response.item] = response, line


def _by_prompt(lines: Sequence[Line], benchmark: str, module: ModuleType, options: Any) -> ForeignResponses:
    """Assign lines of prompt and response to the items with these prompts."""
    try:
        folder = benchmark_files(module.BENCHMARK, options.data, name=benchmark)
    except DataError as error:
        raise DataError(
            f"{lines[0].file}: has only prompts and responses; the targets are in {benchmark}'s files: {error.message}",
            error.hint,
        ) from error
    items: list[Item] = module.items(folder, options)
    by_prompt = {_normal(text): item for item in items for text in (item.prompt, item.question)}
    found: dict[str, tuple[Response, Line]] = {}
    unknown: list[Line] = []
    for line in lines:
        text = line.value["response"]
        if not isinstance(text, str | None):
            raise DataError(f"{line.place}: 'response' is not text", 'expected {"prompt": "...", "response": "..."}')
        item = by_prompt.get(_normal(line.value["prompt"]))
        if item is None:
            unknown.append(line)
            continue
        _add(found, Response(item.id, "", item.question, item.target, item.cluster, text or ""), line)
    if not found:
        raise DataError(
            f"{lines[0].file}: none of its {len(lines)} prompts is one of {benchmark}'s {len(items)} in {options.data}",
            "choose another benchmark with --as NAME, or another folder with NAME.data=FOLDER",
        )
    responses, kept = [one for one, _ in found.values()], [line for _, line in found.values()]
    warnings = _unmatched(benchmark, lines, unknown, items, responses)
    return ForeignResponses(responses, kept, [*_null_answers(line.value["response"] for line in kept), *warnings])


def _null_answers(answers: Iterable[Any]) -> list[str]:
    values = list(answers)
    if not (nulls := values.count(None)):
        return []
    return [f"{nulls} of {len(values)} responses are null and count as empty answers"]


def _unmatched(
    benchmark: str, lines: Sequence[Line], unknown: list[Line], items: list[Item], responses: list[Response]
) -> list[str]:
    warnings = []
    if unknown:
        named = _some([f"line {line.number} ({line.value['prompt'][:60]!r})" for line in unknown])
        warnings.append(f"{len(unknown)} of {len(lines)} prompts are not {benchmark}'s and were left out: {named}")
    answered = {response.item for response in responses}
    missing = [item.id for item in items if item.id not in answered]
    if missing:
        warnings.append(f"{len(missing)} of {benchmark}'s {len(items)} items have no response here: {_some(missing)}")
    return warnings


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _normal(prompt: str) -> str:
    """A prompt without surrounding white space, which tools strip or add."""
    return prompt.strip()
