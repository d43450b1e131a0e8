"""tinyMMLU: 100 MMLU questions, chosen to estimate the accuracy on all 14,042 to about two points.

Paper: Maia Polo et al. 2024, tinyBenchmarks: evaluating LLMs with fewer examples (arXiv 2402.14992); repository
felipemaiapolo/tinyBenchmarks. Prompts follow EleutherAI/lm-evaluation-harness's task tinyMMLU
(lm_eval/tasks/tinyBenchmarks): the column `input_formatted` if the hub's files are used; if the items are selected
from MMLU's own files, header, examples and question follow MMLU (protocol lm-eval).

The plain accuracy on the 100 items is not an estimate of MMLU: items represent different numbers of others. With the
authors' parameter file (option `parameters`), the estimates irt, p-IRT and gp-IRT are reported too (item_response.py).
In the authors' test on the Open LLM Leaderboard their mean error is 0.024, 0.016 and 0.016 (repository's README).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from tunelab.errors import DataError
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
from tunelab.evaluation.benchmarks.mmlu import (
    CHOICES,
    SUBJECTS,
    Question,
    by_category,
    example_response,
    few_shot_part,
    item,
    make_question,
    parquet_rows,
    question_text,
    read_questions,
)
from tunelab.evaluation.item_response import estimate_accuracy, load_parameters
from tunelab.evaluation.multiple_choice import (
    accuracy,
    by_cluster,
    choice_facts,
    clustered_accuracy,
    doubts,
    grade_choice,
)
from tunelab.evaluation.probabilities import probability_scores
from tunelab.files import parse_json

BENCHMARK = Benchmark(
    kind="likelihood",
    metric="accuracy",
    chance=0.25,
    cluster="subject",
    source="Maia Polo et al. 2024 (arXiv 2402.14992); felipemaiapolo/tinyBenchmarks; lm-evaluation-harness, tinyMMLU",
    licence="MIT",
    # None: no commit is known for certain; items are recognized by their text, so a different file is rejected.
    hub=HubFiles("tinyBenchmarks/tinyMMLU", None, ("all/test-*.parquet",)),
    size=100,
)

#: The items in their authors' order, "index:digest": the index among MMLU's 14,042 test questions (subjects in
#: alphabetical order), and the first digits of the SHA-256 of question and choices (see digest()).
ITEMS = """
5629:2240ca3d0e 9456:dceffa8d8d 635:39b1891512 9585:d85fd39d91 4472:010ed6aa78 8442:f4f60ff1c9
12226:1847ffbac7 10050:4abe48eb0b 457:982d08b1c9 9884:b30487d5bb 12984:4c3dff7009 10369:34fe02770b
4846:2c185521aa 28:5fc7d0db7d 132:201ad96ad2 5909:6e6a65e3b3 10163:1b79d60ee2 1202:0f3dfc3f64
11604:1523f138eb 3573:abcc22bbd1 9285:46bbe52dd8 13772:d1084b8872 2236:449dcef83a 3048:ea047bcafb
12436:330d44971a 8708:a27d702453 2997:403605341d 12421:3128a67a0b 8994:25de0c058b 1738:e94e08bed3
12962:5f5612255e 2693:7bc312e09e 9095:96754114c4 3597:b9d68ce562 7928:84625de2c7 2020:d6acec755e
13357:d2a57090b6 485:481400b66e 1678:d012d91184 5590:7369b2167b 13883:dae9bdea8d 8772:a17a5f633c
11854:db01af1953 13561:2b43f57582 1168:e6da648e3e 9523:f9b23aa723 754:1be95151bb 1072:32bf4520da
4843:812ce6432c 12462:ba28632531 3646:e10bfb7cc6 8949:121062782f 11331:13decc794b 3766:b45d0fbde5
10399:596ac7d9b4 6632:a1b64bd2cc 6556:8d38e4f144 6555:ac200c5b86 11728:ded1ecc57c 7061:6a9b10d496
8667:2e2f6d2150 13080:c28343d1e4 11694:73c663f8a1 4981:b522c782cc 6590:3d44883252 7305:8085073661
202:31a1af621f 6394:7798920912 1520:f69a9dc87f 1056:623795d358 5937:857d6933c5 2068:4dacef59ee
6253:e7e83a9902 4775:eaa7a1f9ea 9954:f97c818b98 11174:80496c7313 3889:4b676de49b 7393:21b9ee6779
213:20ba464144 9979:fba668ea93 2458:af7b1446cc 12372:912ff169aa 10267:5100fe005b 2248:f576116086
4956:6ac196b7f1 13662:7d333eefdb 10297:96d665c445 12112:1fdc010a0e 9645:b83e6bd26c 6400:64680f3c54
10250:4e461bfade 6512:2b4c818b49 7685:6daac331f7 11703:51a64b1cbe 3311:161675f5d7 895:7ebdf25bfd
12393:7741ac488d 2505:4602934d86 3098:fbe1e89d67 4755:0efd9dbfd1
"""
PLACE_OF_DIGEST = {digest: int(place) for place, digest in (entry.split(":") for entry in ITEMS.split())}

#: A file with this name has items that stand in for tinyMMLU's where those are not at hand, as in a smoke test. Only
#: it is exempt from the check that the items are the 100. Their subjects, and so their ids, begin with the prefix.
STAND_INS, STAND_IN = "stand_ins.jsonl", "stand_in_"

#: Mean absolute error of each estimate against the accuracy on all of MMLU, over models (repository's README).
PUBLISHED_ERROR = {"irt": 0.024, "p_irt": 0.016, "gp_irt": 0.016}


class Options(BenchmarkOptions):
    """Options of tinyMMLU."""

    shots: Literal[0, 5] = Field(5, description="Few-shot examples before each question: 5 as in the paper, or 0.")
    parameters: str | None = Field(None, description="tinyBenchmarks.pkl or an .npz: IRT parameters of MMLU's items.")


def items(folder: Path, options: Options) -> list[Item]:
    """The 100 items in their authors' order.

    Args:
        folder: contains the hub's all/test-*.parquet with the column input_formatted; or *mmlu*.jsonl with question,
            choices and answer, and MMLU's dev/ if shots > 0; or MMLU's own files (benchmark mmlu); or stand_ins.jsonl
            with rows that only stand in for the 100, each with a subject, and dev/ if shots > 0.
        options: shots.

    Raises:
        DataError: the files are missing, a row is bad or not one of the 100, or some of the 100 are missing.
    """
    folder = Path(folder)
    if (folder / STAND_INS).exists():
        return _stand_in_items(folder, options)
    files = sorted([*folder.glob("all/test-*.parquet"), *folder.glob("test-*.parquet")])
    rows = list(parquet_rows(files, ("question", "choices", "answer")))
    if any("input_formatted" in values for _, _, values in rows):
        formatted = _recognised(rows)
        return [_formatted_item(folder, *formatted[place], options) for place in _places()]
    if not files and (tables := sorted(folder.glob("*mmlu*.jsonl"))):
        chosen = {place: question for place, (question, _) in _recognised(_json_rows(tables[0])).items()}
    else:
        chosen = _from_mmlu(folder)
    worked = read_questions(folder, "dev") if options.shots else {}
    built = []
    for place in _places():
        question = chosen[place]
        examples = few_shot_part(folder, question.subject, worked.get(question.subject, []), "lm-eval", options.shots)
        built.append(item(question, examples, "lm-eval"))
    return built


def _stand_in_items(folder: Path, options: Options) -> list[Item]:
    """Items under ids that no item of MMLU has ("stand_in_animals/0")."""
    worked = read_questions(folder, "dev") if options.shots else {}
    built = []
    for path, row, values in _json_rows(folder / STAND_INS):
        subject = STAND_IN + str(values.get("subject"))
        texts = (values["question"], *values["choices"])
        question = make_question(path, row, subject, row - 1, texts, values["answer"])
        examples = few_shot_part(folder, subject, worked.get(subject, []), "lm-eval", options.shots)
        built.append(item(question, examples, "lm-eval"))
    return built


def digest(texts: Iterable[str]) -> str:
    """Hash that identifies an item: question and choices, with each run of white space as one space."""
    return hashlib.sha256("\n".join(" ".join(text.split()) for text in texts).encode()).hexdigest()[:10]


def subject_and_number(place: int) -> tuple[str, int]:
    """Convert an index among MMLU's test questions to a subject and a row index; subjects in alphabetical order."""
    number = place
    for subject, (_, count) in SUBJECTS.items():
        if number < count:
            return subject, number
        number -= count
    raise DataError(f"MMLU has no test question {place}: expected 0 to {place - number - 1}")


def grade(response: Response, options: BenchmarkOptions) -> dict[str, float]:
    """accuracy (1.0 or 0.0), the chosen letter's index, whether there was a tie, and the values of probabilities.py.

    Raises:
        DataError: the response does not have one to four choices and a target from 0 to 3.
    """
    return grade_choice(response)


def summarise(graded: Sequence[Graded], options: Options) -> Scored:
    """Accuracy on the items with both errors; with a parameter file also the three estimates of MMLU's accuracy; and
    the scores of probabilities.py.

    Raises:
        DataError: there are no responses, or the parameter file cannot be used.
    """
    without = "accuracy of 100 items, no IRT estimate: no parameter file"
    estimate = "accuracy of 100 items, no estimate of MMLU" if options.parameters else without
    if any(str(one.response.cluster).startswith(STAND_IN) for one in graded):
        estimate = "accuracy of stand-ins, which are not tinyMMLU's items"
    protocol = {"protocol": "lm-eval", "shots": options.shots, "estimate": estimate}
    scores = [accuracy(graded, protocol), clustered_accuracy(graded, protocol, "subject")]
    warnings = doubts(graded, scores, 0.25)
    subjects = len(by_cluster(graded))
    facts: dict[str, Any] = {"subjects": subjects, "chance": BENCHMARK.chance, **choice_facts(graded)}
    if options.parameters:
        estimates, doubted, ability = _estimates(graded, options.parameters, options.shots)
        scores += estimates
        warnings += doubted
        facts["ability"] = ability
    scores += probability_scores(graded, protocol)
    parts = by_category(graded, "lm-eval").items()
    groups = {f"category {name}": [accuracy(part, protocol)] for name, part in parts}
    return Scored(scores=scores, groups=groups, warnings=warnings, facts=facts)


def _estimates(graded: Sequence[Graded], path: str, shots: int) -> tuple[list[Score], list[str], list[float]]:
    """The three estimates, warnings about them, and the fitted ability."""
    parameters = load_parameters(path, "mmlu")
    names = ["{}/{}".format(*subject_and_number(int(place))) for place in parameters.anchors]
    expected = {"{}/{}".format(*subject_and_number(place)) for place in _places()}
    if strange := set(names) ^ expected:
        raise DataError(
            f"{path}: {len(expected - strange)} of its {len(names)} anchors are among tinyMMLU's 100 items:"
            " the parameters are for other items",
            "use the table `mmlu` of the authors' published tinyBenchmarks.pkl",
        )
    answers = {one.response.item: float(one.values["accuracy"]) for one in graded}
    if missing := expected - set(answers):
        return [], [f"no IRT estimate: {len(missing)} of the 100 items, each representing many, were not answered"], []
    found = estimate_accuracy(np.array([answers[name] for name in names]), parameters)
    digest_of_file = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    scores = []
    for name, one in (("irt", found.irt), ("p_irt", found.p_irt), ("gp_irt", found.gp_irt)):
        protocol = {
            "protocol": "lm-eval",
            "shots": shots,
            "estimate": f"{name} of the accuracy on MMLU",
            "error": "of the 100 answers; item parameters and choice of items taken as exact",
            "published_mean_absolute_error": PUBLISHED_ERROR[name],
            "parameters": digest_of_file,
        }
        scores.append(Score(f"accuracy_{name}", one.value, one.error, one.n, "0-1", True, protocol))
    undetermined = "the answers do not determine an ability (nearly all right or all wrong): IRT errors are unknown"
    return scores, [undetermined] if found.irt.error is None else [], found.ability.theta.tolist()


def _places() -> list[int]:
    return list(PLACE_OF_DIGEST.values())


def _from_mmlu(folder: Path) -> dict[int, Question]:
    """The 100 items by index, from MMLU's files. Raises DataError if a file is not the published one."""
    tests = read_questions(folder, "test")
    chosen = {}
    for expected, place in PLACE_OF_DIGEST.items():
        subject, number = subject_and_number(place)
        questions = tests.get(subject, [])
        found = questions[number] if number < len(questions) else None
        if found is None or digest((found.question, *found.choices)) != expected:
            raise DataError(
                f"{folder}: question {number} of {subject} is not tinyMMLU's: expected MMLU's test files as published",
                "give MMLU's complete files in the original order, or tinyMMLU's own",
            )
        chosen[place] = found
    return chosen


def _recognised(rows: Iterable[tuple[Path, int, Mapping[str, Any]]]) -> dict[int, tuple[Question, Mapping[str, Any]]]:
    """Rows by MMLU index, recognized by their text. Raises DataError for other rows, and for missing ones."""
    found: dict[int, tuple[Question, Mapping[str, Any]]] = {}
    path = Path()
    for path, row, values in rows:
        texts = (values["question"], *(values["choices"] or ()))
        read = make_question(path, row, "", 0, texts, values["answer"])
        place = PLACE_OF_DIGEST.get(digest(texts))
        if place is None or place in found:
            what = "not one of tinyMMLU's 100 items" if place is None else "a duplicate"
            raise DataError(f"{path}: row {row} is {what}: {read.question!r:.60}", "give tinyMMLU's own file")
        subject, number = subject_and_number(place)
        found[place] = (Question(subject, number, read.question, read.choices, read.answer), values)
    if len(found) < len(PLACE_OF_DIGEST):
        raise DataError(f"{path}: has {len(found)} of tinyMMLU's 100 items", "give the complete file")
    return found


def _json_rows(path: Path) -> Iterable[tuple[Path, int, Mapping[str, Any]]]:
    for row, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}: row {row} is not JSON: {error}") from error
        if not isinstance(values, dict) or (missing := {"question", "choices", "answer"} - set(values)):
            lacking = ", ".join(sorted(missing)) if isinstance(values, dict) else "everything: it is not an object"
            raise DataError(f"{path}: row {row} lacks {lacking}", "expected question, choices and answer")
        if not isinstance(values["choices"], list):
            raise DataError(f"{path}: row {row}: choices is {values['choices']!r:.60}, expected a list of four texts")
        yield path, row, values


def _formatted_item(folder: Path, question: Question, values: Mapping[str, Any], options: Options) -> Item:
    """An item with the hub's exact 5-shot prompt, split at the start of the question."""
    if not options.shots:
        return item(question, few_shot_part(folder, question.subject, [], "lm-eval", 0), "lm-eval")
    prompt = values.get("input_formatted")
    if not isinstance(prompt, str) or not prompt:
        raise DataError(f"{folder}: {question.subject}/{question.number} has no input_formatted: expected its prompt")
    own = question_text(question, "lm-eval")
    # If the hub's question text differs, no prefix is shared and the prompt stays as it is.
    examples = prompt.removesuffix(own) if prompt.endswith(own) else ""
    return Item(
        id=f"{question.subject}/{question.number}",
        question=prompt[len(examples) :],
        target=question.answer,
        examples=examples,
        choices=CHOICES,
        cluster=question.subject,
    )


_ITEM = Item(
    id="high_school_statistics/0",
    question="A fair coin is tossed. What is the probability of heads?\nA. 1/2\nB. 1/3\nC. 1/4\nD. None\nAnswer:",
    target=0,
    examples="The following are multiple choice questions (with answers) about high school statistics.\n\n",
    choices=CHOICES,
    cluster="high_school_statistics",
)

EXAMPLE = Example(
    item=_ITEM,
    right=example_response(_ITEM, -0.5, -2.0, -3.0, -4.0),
    wrong=example_response(_ITEM, -2.0, -0.5, -3.0, -4.0),
)
