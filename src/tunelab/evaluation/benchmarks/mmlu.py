"""MMLU: 14,042 four-choice exam questions on 57 subjects, scored by likelihood.

Paper: Hendrycks et al. 2021, Measuring Massive Multitask Language Understanding (ICLR; arXiv 2009.03300).

Two protocols, named after what they follow:

    lm-eval   EleutherAI/lm-evaluation-harness 0.4, lm_eval/tasks/mmlu/default: "... (with answers) about virology."
              with one space, the question stripped, the first dev rows as examples; micro average. Prompts are
              byte-identical to the harness's, also at 0 shots, where the header stays.
    original  hendrycks/test, evaluate.py: two spaces after "about", the question as it is; micro and macro average.
              If a prompt is too long, the original drops whole examples; here it is truncated on the left, and counted.

They also differ in one category: anatomy is STEM in the harness, "other" in the original's categories.py. Choices are
text in both; the original's pandas turns "None" into nan and "0.50" into 0.5 (10 prompts), which is not reproduced.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
    Scored,
)
from tunelab.evaluation.multiple_choice import (
    LETTERS,
    accuracy,
    by_cluster,
    choice_facts,
    clustered_accuracy,
    doubts,
    grade_choice,
    macro_accuracy,
)
from tunelab.evaluation.probabilities import probability_scores

Protocol = Literal["lm-eval", "original"]

BENCHMARK = Benchmark(
    kind="likelihood",
    metric="accuracy",
    chance=0.25,
    cluster="subject",
    source="Hendrycks et al. 2021 (arXiv 2009.03300); EleutherAI/lm-evaluation-harness, tasks/mmlu; hendrycks/test",
    licence="MIT",
    hub=HubFiles("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", ("all/test-*.parquet", "all/dev-*.parquet")),
    size=14_042,
)

CHOICES = (" A", " B", " C", " D")
COLUMNS = ("question", "choice0", "choice1", "choice2", "choice3", "answer")

#: Category of each subject (lm-eval's) and its number of test questions, in alphabetical order. Benchmarks number
#: the test questions from 0 to 14,041 in this order.
SUBJECTS: dict[str, tuple[str, int]] = {
    "abstract_algebra": ("stem", 100),
    "anatomy": ("stem", 135),
    "astronomy": ("stem", 152),
    "business_ethics": ("other", 100),
    "clinical_knowledge": ("other", 265),
    "college_biology": ("stem", 144),
    "college_chemistry": ("stem", 100),
    "college_computer_science": ("stem", 100),
    "college_mathematics": ("stem", 100),
    "college_medicine": ("other", 173),
    "college_physics": ("stem", 102),
    "computer_security": ("stem", 100),
    "conceptual_physics": ("stem", 235),
    "econometrics": ("social_sciences", 114),
    "electrical_engineering": ("stem", 145),
    "elementary_mathematics": ("stem", 378),
    "formal_logic": ("humanities", 126),
    "global_facts": ("other", 100),
    "high_school_biology": ("stem", 310),
    "high_school_chemistry": ("stem", 203),
    "high_school_computer_science": ("stem", 100),
    "high_school_european_history": ("humanities", 165),
    "high_school_geography": ("social_sciences", 198),
    "high_school_government_and_politics": ("social_sciences", 193),
    "high_school_macroeconomics": ("social_sciences", 390),
    "high_school_mathematics": ("stem", 270),
    "high_school_microeconomics": ("social_sciences", 238),
    "high_school_physics": ("stem", 151),
    "high_school_psychology": ("social_sciences", 545),
    "high_school_statistics": ("stem", 216),
    "high_school_us_history": ("humanities", 204),
    "high_school_world_history": ("humanities", 237),
    "human_aging": ("other", 223),
    "human_sexuality": ("social_sciences", 131),
    "international_law": ("humanities", 121),
    "jurisprudence": ("humanities", 108),
    "logical_fallacies": ("humanities", 163),
    "machine_learning": ("stem", 112),
    "management": ("other", 103),
    "marketing": ("other", 234),
    "medical_genetics": ("other", 100),
    "miscellaneous": ("other", 783),
    "moral_disputes": ("humanities", 346),
    "moral_scenarios": ("humanities", 895),
    "nutrition": ("other", 306),
    "philosophy": ("humanities", 311),
    "prehistory": ("humanities", 324),
    "professional_accounting": ("other", 282),
    "professional_law": ("humanities", 1534),
    "professional_medicine": ("other", 272),
    "professional_psychology": ("social_sciences", 612),
    "public_relations": ("social_sciences", 110),
    "security_studies": ("social_sciences", 245),
    "sociology": ("social_sciences", 201),
    "us_foreign_policy": ("social_sciences", 100),
    "virology": ("other", 166),
    "world_religions": ("humanities", 171),
}

#: The original's names of the categories.
ORIGINAL_CATEGORIES = {
    "stem": "STEM",
    "humanities": "humanities",
    "social_sciences": "social sciences",
    "other": "other (business, health, misc.)",
}


class Options(BenchmarkOptions):
    """Options of MMLU."""

    protocol: Protocol = Field("lm-eval", description="Whose prompts and averages: lm-eval, or original (the paper's).")
    shots: int = Field(5, ge=0, le=5, description="Few-shot examples: the subject's first dev rows.")


@dataclass(frozen=True, slots=True)
class Question:
    """A row of MMLU.

    Attributes:
        subject: "virology".
        number: its row index in the subject's file, from 0.
        question: as in the file.
        choices: four texts.
        answer: index of the right one, 0 to 3.
    """

    subject: str
    number: int
    question: str
    choices: tuple[str, ...]
    answer: int


def items(folder: Path, options: Options) -> list[Item]:
    """All test questions in the files' order (subjects in alphabetical order).

    Args:
        folder: with dev/SUBJECT_dev.csv and test/SUBJECT_test.csv, with a header row (question, choice0, ..., answer)
            or without (the original release: question, A, B, C, D, letter); or the hub's all/test-*.parquet and
            all/dev-*.parquet.
        options: protocol and shots.

    Raises:
        DataError: there are no such files, a row is bad, or a subject has fewer examples than shots.
    """
    tests = read_questions(folder, "test")
    worked = read_questions(folder, "dev") if options.shots else {}
    built = []
    for subject, questions in tests.items():
        examples = few_shot_part(folder, subject, worked.get(subject, []), options.protocol, options.shots)
        built += [item(question, examples, options.protocol) for question in questions]
    return built


def item(question: Question, examples: str, protocol: Protocol) -> Item:
    """The item of a question with the given few-shot part."""
    return Item(
        id=f"{question.subject}/{question.number}",
        question=question_text(question, protocol),
        target=question.answer,
        examples=examples,
        choices=CHOICES,
        cluster=question.subject,
    )


def few_shot_part(folder: Path, subject: str, worked: Sequence[Question], protocol: Protocol, shots: int) -> str:
    """Header and few-shot examples of a subject, each followed by a blank line.

    Raises:
        DataError: there are not enough dev rows.
    """
    if len(worked) < shots:
        raise DataError(
            f"{folder}: {subject} has {len(worked)} dev rows, expected {shots} for {shots}-shot prompts",
            "add the dev files, or use fewer shots",
        )
    # The original puts a space before each word of the subject, including the first: two spaces after "about".
    space = "  " if protocol == "original" else " "
    name = subject.replace("_", " ")
    header = f"The following are multiple choice questions (with answers) about{space}{name}.\n\n"
    return header + "".join(f"{question_text(row, protocol)} {LETTERS[row.answer]}\n\n" for row in worked[:shots])


def question_text(question: Question, protocol: Protocol) -> str:
    """A question with its choices, up to and including "Answer:"."""
    text = question.question if protocol == "original" else question.question.strip()
    choices = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
    return "\n".join((text, *choices, "Answer:"))


def grade(response: Response, options: BenchmarkOptions) -> dict[str, float]:
    """accuracy (1.0 or 0.0), the chosen letter's index, whether there was a tie, and the values of probabilities.py.

    Raises:
        DataError: the response does not have one to four choices and a target from 0 to 3.
    """
    return grade_choice(response)


def summarise(graded: Sequence[Graded], options: Options) -> Scored:
    """Accuracy (micro) with both errors, by subject and by category; with `original` also the mean over subjects; and
    the scores of probabilities.py.

    Raises:
        DataError: there are no responses.
    """
    protocol = {"protocol": options.protocol, "shots": options.shots}
    scores = [accuracy(graded, protocol), clustered_accuracy(graded, protocol, "subject")]
    warnings = doubts(graded, scores, 0.25)
    if options.protocol == "original":
        scores.append(macro_accuracy(graded, protocol, "subject"))
    scores += probability_scores(graded, protocol)
    subjects = by_cluster(graded)
    groups = {f"category {name}": part for name, part in by_category(graded, options.protocol).items()}
    groups |= {f"subject {subject}": subjects[subject] for subject in sorted(subjects)}
    return Scored(
        scores=scores,
        groups={name: [accuracy(part, protocol)] for name, part in groups.items()},
        warnings=warnings,
        facts={"subjects": len(subjects), "chance": BENCHMARK.chance, **choice_facts(graded)},
    )


def by_category(graded: Sequence[Graded], protocol: Protocol) -> dict[str, list[Graded]]:
    """Responses by the category of their subject, with the protocol's names; unknown subjects are left out."""
    parts: dict[str, list[Graded]] = {}
    for one in graded:
        subject = one.response.cluster
        if subject not in SUBJECTS:
            continue
        category = SUBJECTS[subject][0]
        if protocol == "original":
            category = ORIGINAL_CATEGORIES["other" if subject == "anatomy" else category]
        parts.setdefault(category, []).append(one)
    return {name: parts[name] for name in sorted(parts)}


def read_questions(folder: Path, split: Literal["test", "dev"]) -> dict[str, list[Question]]:
    """Questions of a split by subject; subjects in alphabetical order, questions in file order.

    Raises:
        DataError: there are no files for it, or a row is bad.
    """
    folder = Path(folder)
    suffix = f"_{split}.csv"
    if files := sorted((folder / split).glob(f"*{suffix}")):
        return {path.name.removesuffix(suffix): _read_csv(path, path.name.removesuffix(suffix)) for path in files}
    if files := sorted([*folder.glob(f"all/{split}-*.parquet"), *folder.glob(f"{split}-*.parquet")]):
        subjects: dict[str, list[Question]] = {}
        for path, row, values in parquet_rows(files, ("question", "subject", "choices", "answer")):
            known = subjects.setdefault(str(values["subject"]), [])
            texts = (values["question"], *(values["choices"] or ()))
            known.append(make_question(path, row, str(values["subject"]), len(known), texts, values["answer"]))
        return dict(sorted(subjects.items()))
    raise DataError(
        f"{folder}: has no {split} questions of MMLU: neither {split}/SUBJECT{suffix} nor all/{split}-*.parquet",
        "give the folder with dev/ and test/, or omit it to use the hub",
    )


def parquet_rows(files: Sequence[Path], columns: Sequence[str]) -> Iterator[tuple[Path, int, Mapping[str, Any]]]:
    """(file, row from 1, values by column) of parquet files; includes columns that were not requested.

    Raises:
        DataError: a file cannot be read or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet

    for path in files:
        try:
            table = pyarrow.parquet.read_table(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{path}: cannot be read as parquet: {error}", "download the file again") from error
        if missing := [column for column in columns if column not in table.column_names]:
            raise DataError(f"{path}: has no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
        for row, values in enumerate(table.to_pylist(), start=1):
            yield path, row, values


def make_question(path: Path, row: int, subject: str, number: int, texts: Sequence[Any], answer: Any) -> Question:
    """A question from its texts (question, four choices) and its answer, an index from 0 to 3 or a letter.

    Raises:
        DataError: names file and row, what is wrong and what was expected.
    """
    if len(texts) != 5 or not all(isinstance(text, str) for text in texts) or not texts[0].strip():
        raise DataError(
            f"{path}: row {row}: {len(texts)} texts {tuple(texts)!r:.80}: expected a question and four choices"
        )
    places = {**{str(place): place for place in range(4)}, **{letter: place for place, letter in enumerate("ABCD")}}
    if isinstance(answer, bool) or str(answer).strip() not in places:
        raise DataError(f"{path}: row {row}: the answer is {answer!r}, expected 0 to 3 or A to D")
    return Question(subject, number, texts[0], tuple(texts[1:]), places[str(answer).strip()])


def _read_csv(path: Path, subject: str) -> list[Question]:
    """Rows of one subject. Nothing is converted: the choices "None" and "NA" stay text."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8: {error}") from error
    first = 1 if rows and tuple(rows[0]) == COLUMNS else 0
    questions: list[Question] = []
    for row, cells in enumerate(rows[first:], start=first + 1):
        if len(cells) != len(COLUMNS):
            raise DataError(f"{path}: row {row} has {len(cells)} cells, expected {len(COLUMNS)}: {', '.join(COLUMNS)}")
        questions.append(make_question(path, row, subject, len(questions), cells[:5], cells[5]))
    if not questions:
        raise DataError(f"{path}: contains no questions")
    return questions


_ITEM = Item(
    id="astronomy/0",
    question="Which planet is nearest to the sun?\nA. Venus\nB. Mercury\nC. Mars\nD. None\nAnswer:",
    target=1,
    examples="The following are multiple choice questions (with answers) about astronomy.\n\n",
    choices=CHOICES,
    cluster="astronomy",
)


def example_response(item: Item, *log_probabilities: float) -> Response:
    """A response to an example item with these log-probabilities of its choices."""
    return Response(
        item=item.id,
        prompt_hash="",
        question=item.question,
        target=item.target,
        cluster=item.cluster,
        choices=item.choices,
        log_probabilities=log_probabilities,
        choice_tokens=(1,) * len(item.choices),
    )


EXAMPLE = Example(
    item=_ITEM,
    right=example_response(_ITEM, -2.0, -0.5, -3.0, -4.0),
    wrong=example_response(_ITEM, -0.5, -2.0, -3.0, -4.0),
)
