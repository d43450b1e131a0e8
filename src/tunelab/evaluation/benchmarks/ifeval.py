"""IFEval: 541 prompts with instructions that code can verify ("no commas", "at least 300 words").

Zhou et al., "Instruction-Following Evaluation for Large Language Models" (arXiv 2311.07911). Verdicts follow
google-research/google-research, instruction_following_eval; prompt and answer length follow
lm-evaluation-harness, tasks/ifeval. A verdict is strict (the answer as it is) or loose (one of eight variants passes:
with and without asterisks, first line and last line). Both are reported per prompt (every instruction of the
prompt was followed; `prompt_strict` is the headline metric) and per instruction, with errors clustered by
prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tunelab.data.sources._source import Row, column, kind_of, text
from tunelab.errors import BadRow, DataError
from tunelab.evaluation.benchmark import (
    Benchmark,
    BenchmarkOptions,
    Example,
    Graded,
    HubFiles,
    Item,
    Response,
    Score,
    Scored,
)
from tunelab.evaluation.benchmarks._rows import find_files, read_rows
from tunelab.evaluation.benchmarks._scores import cut_warnings, is_cut, mean_score, truncated_warnings
from tunelab.evaluation.instructions import punkt
from tunelab.evaluation.instructions.registry import DETECTS_LANGUAGE, NEEDS_PUNKT, Mode, bind, draws_letter
from tunelab.statistics.standard_errors import clustered_mean_with_error

BENCHMARK = Benchmark(
    kind="generate",
    metric="prompt_strict",
    chance=None,
    cluster=None,
    source="arXiv 2311.07911; google-research/google-research instruction_following_eval; lm-evaluation-harness ifeval",
    licence="Apache-2.0",
    hub=HubFiles("google/IFEval", "966cd89545d6b6acfd7638bc708b98261ca58e84", ("ifeval_input_data.jsonl",)),
    max_new_tokens=1280,
    chat=True,
    size=541,
)

FILES = ("input_data.jsonl", "ifeval_input_data.jsonl")  # names in google-research and on the hub

# None for an instruction = it cannot be verified (punkt's data is missing).
Verdicts = list[float | None]


class Options(BenchmarkOptions):
    mode: Mode = Field(
        "exact",
        description="exact = deterministic verdicts; reference = random wherever the original scorer is.",
    )


def items(folder: Path, options: Options) -> list[Item]:
    """Items of the folder's input_data.jsonl or ifeval_input_data.jsonl, in file order; an item's id is its key.

    Raises:
        DataError: the file is missing or unreadable, or a key occurs twice.
        BadRow: a row is bad; names file and row.
    """
    files = find_files(folder, FILES)
    found = read_rows(files, _item)
    if len(ids := {item.id for item in found}) < len(found):
        again = next(item.id for place, item in enumerate(found) if item.id in {one.id for one in found[:place]})
        raise DataError(f"{files[0]}: {len(found)} prompts but {len(ids)} keys: {again} occurs twice")
    return found


def grade(response: Response, options: Options) -> dict[str, Any]:
    """The response's verdicts: 1.0 = followed, 0.0 = not, None = not verifiable because punkt's data is missing.

    `instruction_strict` and `instruction_loose` have one value per instruction; `prompt_strict` and `prompt_loose` are
    1.0 if all were followed. A prompt with an unverifiable instruction is None even if another
    one failed: counting only the failures of such prompts would bias the score down.

    Raises:
        DataError: the response's target has an unknown instruction or invalid arguments; names the item.
    """
    strict = _verdicts(response, options.mode, [response.text])
    loose = _verdicts(response, options.mode, loose_variants(response.text))
    return {
        "prompt_strict": _all(strict),
        "prompt_loose": _all(loose),
        "instruction_strict": strict,
        "instruction_loose": loose,
    }


def summarise(graded: Sequence[Graded], options: Options) -> Scored:
    """Scores (0-1) of prompts, and of instructions also by family ("keywords") and by type ("keywords:existence").

    facts: number of answers cut off or empty, prompts truncated, instructions not verified; and the keys
    of items whose verdict is random in the original: `random_letter_keys` (it counts a random letter in place of
    "#"), `language_detection_keys` (its language detection is unseeded).

    Raises:
        DataError: there is nothing to score, or no prompt whose instructions can all be verified.
    """
    if not graded:
        raise DataError("ifeval: there are no responses to score")
    missing = sorted({name for name, verdict, _ in _flat(graded, "instruction_strict") if verdict is None})
    # Scores without some instructions are not comparable, so the protocol records it.
    protocol = {"mode": options.mode, **({"ungraded": missing} if missing else {})}
    if all(one.values["prompt_strict"] is None for one in graded):
        raise DataError("ifeval: every prompt has an instruction that needs punkt, which is missing", punkt.COMMAND)
    scores = []
    for name in ("prompt_strict", "prompt_loose"):
        told = [one.values[name] for one in graded if one.values[name] is not None]
        scores.append(mean_score(name, told, protocol))
    scores += _instruction_scores(graded, protocol, "")
    groups: dict[str, list[Score]] = {}
    types = sorted({name for name, verdict, _ in _flat(graded, "instruction_strict") if verdict is not None})
    for group in sorted({name.partition(":")[0] for name in types} | set(types)):
        groups[group] = _instruction_scores(graded, protocol, group)
    facts = _facts(graded, options)
    return Scored(scores, groups, _warnings(graded, missing, facts), facts)


def loose_variants(text: str) -> list[str]:
    """The eight texts of the loose verdict, in the original's order; the first is the text itself."""
    lines = text.split("\n")
    parts = ["\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1])]
    return [text, text.replace("*", ""), *parts, *(part.replace("*", "") for part in parts)]


def _verdicts(response: Response, mode: Mode, texts: list[str]) -> Verdicts:
    """For each instruction, whether any of the texts follows it. An empty text follows nothing."""
    texts = [text for text in texts if text.strip()]
    if mode == "exact":
        texts = list(dict.fromkeys(texts))  # in reference mode a duplicate text would get two chances
    verdicts: Verdicts = []
    try:
        for name, kwargs in _instructions(response.target):
            follows = bind(name, kwargs, mode)
            if name in NEEDS_PUNKT and not punkt.is_available():
                verdicts.append(None)
            else:
                verdicts.append(float(any(follows(text) for text in texts)))
    except DataError as error:
        raise DataError(f"ifeval item {response.item}: {error.message}", error.hint) from None
    return verdicts


def _instructions(target: Any) -> list[tuple[str, dict[str, Any]]]:
    """Ids and arguments in a target."""
    names = target.get("instruction_id_list") if isinstance(target, dict) else None
    kwargs = target.get("kwargs") if isinstance(target, dict) else None
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise DataError("expected instruction_id_list, a list of instruction ids", 'such as ["punctuation:no_comma"]')
    if not (isinstance(kwargs, list) and len(kwargs) == len(names) and all(isinstance(one, dict) for one in kwargs)):
        raise DataError(
            f"expected kwargs, a list of {len(names)} objects", "one for each instruction, in the same order"
        )
    return list(zip(map(_plain, names), kwargs, strict=True))


def _plain(name: str) -> str:
    """An instruction's id; multilingual versions put the language in front ("en:keywords:existence")."""
    return name.removeprefix("en:")


def _item(row: Row) -> Item:
    key = column(row, "key")
    if type(key) not in (int, str):
        raise BadRow(f"column 'key' is {kind_of(key)}, expected an integer or text")
    try:
        instructions = _instructions(dict(row))
        for name, kwargs in instructions:
            bind(name, kwargs)
    except DataError as error:
        raise BadRow(error.message, error.hint) from None
    # The hub's rows have all possible arguments, most of them null.
    target = {
        "instruction_id_list": [name for name, _ in instructions],
        "kwargs": [{key: value for key, value in kwargs.items() if value is not None} for _, kwargs in instructions],
    }
    return Item(str(key), text(row, "prompt"), target)


def _all(verdicts: Verdicts) -> float | None:
    return None if None in verdicts else float(all(verdicts))


def _flat(graded: Iterable[Graded], values: str) -> list[tuple[str, float | None, str]]:
    """(instruction id, verdict, item) for every instruction."""
    return [
        (_plain(name), verdict, one.response.item)
        for one in graded
        for name, verdict in zip(one.response.target["instruction_id_list"], one.values[values], strict=True)
    ]


def _instruction_scores(graded: Sequence[Graded], protocol: Mapping[str, Any], group: str) -> list[Score]:
    """Strict and loose score of a type or a family of instructions ("" = all)."""
    scores = []
    for value in ("instruction_strict", "instruction_loose"):
        told = [
            (verdict, item)
            for name, verdict, item in _flat(graded, value)
            if verdict is not None and group in ("", name, name.partition(":")[0])
        ]
        found = clustered_mean_with_error((verdict for verdict, _ in told), (item for _, item in told))
        scores.append(Score(value, found.value, found.error, found.n, "0-1", higher_is_better=True, protocol=protocol))
    return scores


def _facts(graded: Sequence[Graded], options: Options) -> dict[str, Any]:
    letters, languages = [], []
    for one in graded:
        instructions = _instructions(one.response.target)
        if any(draws_letter(name, kwargs) for name, kwargs in instructions):
            letters.append(one.response.item)
        if any(name in DETECTS_LANGUAGE for name, _ in instructions):
            languages.append(one.response.item)
    return {
        "mode": options.mode,
        "answers_cut": sum(is_cut(one.response) for one in graded),
        "answers_empty": sum(not one.response.text.strip() for one in graded),
        "prompts_truncated": sum(one.response.truncated_tokens > 0 for one in graded),
        "instructions_ungraded": sum(verdict is None for _, verdict, _ in _flat(graded, "instruction_strict")),
        "random_letter_keys": letters,
        "language_detection_keys": languages,
    }


def _warnings(graded: Sequence[Graded], missing: Sequence[str], facts: Mapping[str, Any]) -> list[str]:
    found = cut_warnings(graded) + truncated_warnings(graded)
    if missing:
        found.append(
            f"{facts['instructions_ungraded']} instructions ({', '.join(missing)}) and their prompts were left out, "
            f"because nltk's {punkt.DATA} data was not found; to get it: {punkt.COMMAND}"
        )
    drawn = {*facts["random_letter_keys"], *facts["language_detection_keys"]}
    if facts["mode"] == "reference" and drawn:
        found.append(f"mode reference: the verdicts of {len(drawn)} prompts are random and may differ next time")
    return found


_PROMPT = "Tell me in at least five words what rain is. Do not use commas."
_TARGET = {
    "instruction_id_list": ["length_constraints:number_words", "punctuation:no_comma"],
    "kwargs": [{"num_words": 5, "relation": "at least"}, {}],
}
EXAMPLE = Example(
    Item("rain", _PROMPT, _TARGET),
    right=Response("rain", "", _PROMPT, _TARGET, text="Rain is water that falls from clouds.", stop_reason="stop"),
    wrong=Response("rain", "", _PROMPT, _TARGET, text="Rain, water.", stop_reason="stop"),
)
