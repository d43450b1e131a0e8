"""Prompts of MMLU are the references' to the byte, files of three kinds are read, scores are what they should be."""

from __future__ import annotations

import csv
import hashlib
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import pytest

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Graded
from tunelab.evaluation.benchmarks import mmlu
from tunelab.evaluation.benchmarks.mmlu import Options

# SHA-256 over all 14,042 prompts, a zero byte after each. "lm-eval": made by lm_eval 0.4.13 itself as
# harness_prompts() below does it, for all subjects in alphabetical order (106 s). "original": made by evaluate.py's
# gen_prompt and format_example (hendrycks/test) on tables in which every cell is text.
GOLDEN = {
    ("lm-eval", 0): "0a3c2e3b34a08e5c6a36e9b11b02e4bf29e12ecf74656efa637b0a34fa674004",
    ("lm-eval", 5): "e615053d5ed037dcf108fb4fa85df27e5fa45928938a6c4b8f51e9fce3141fb9",
    ("original", 0): "c1a73f2c1a7c31b5c12c2e82d697ac56a7f8073273dfb66ba6955797dcfd3598",
    ("original", 5): "15467e13b594b90ab45f76eb1b335f8d93ec56be51b37c5924c55c87fd9c5983",
}

DEV = [["1+1? ", "1", "2", "3", "4", 1], ["Sum of nothing?", "None", "0", "NA", "0.50", 1]]
TEST = [[" 2+2?\n", "4", "None", "NA", "0.50", 0], ["3+3?", "5", "6 ", "7", "8", 1], ["4+4?", "7", "9", "6", "8", 3]]


def write_table(path: Path, rows: list[list[Any]], header: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow(mmlu.COLUMNS)
        writer.writerows(rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_table(tmp_path / "dev" / "abstract_algebra_dev.csv", DEV)
    write_table(tmp_path / "test" / "abstract_algebra_test.csv", TEST)
    write_table(tmp_path / "dev" / "virology_dev.csv", DEV)
    write_table(tmp_path / "test" / "virology_test.csv", TEST[:1])
    return tmp_path


def answered(item: mmlu.Item, place: int) -> Graded:
    values = [-2.0] * 4
    values[place] = -1.0
    response = mmlu.example_response(item, *values)
    return Graded(response, mmlu.grade(response, Options()))


def test_a_prompt_of_lm_eval_to_the_byte(folder: Path) -> None:
    first = mmlu.items(folder, Options(shots=2))[0]
    assert first.prompt == (
        "The following are multiple choice questions (with answers) about abstract algebra.\n\n"
        "1+1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n"
        "Sum of nothing?\nA. None\nB. 0\nC. NA\nD. 0.50\nAnswer: B\n\n"
        "2+2?\nA. 4\nB. None\nC. NA\nD. 0.50\nAnswer:"
    )
    assert first.question == "2+2?\nA. 4\nB. None\nC. NA\nD. 0.50\nAnswer:"
    assert (first.id, first.cluster, first.target) == ("abstract_algebra/0", "abstract_algebra", 0)
    assert first.choices == (" A", " B", " C", " D")


def test_a_prompt_of_the_original_to_the_byte(folder: Path) -> None:
    first = mmlu.items(folder, Options(protocol="original", shots=1))[0]
    assert first.prompt == (
        "The following are multiple choice questions (with answers) about  abstract algebra.\n\n"
        "1+1? \nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n"
        " 2+2?\n\nA. 4\nB. None\nC. NA\nD. 0.50\nAnswer:"
    )


def test_without_shots_the_header_stays_and_no_dev_file_is_needed(folder: Path) -> None:
    for path in (folder / "dev").iterdir():
        path.unlink()
    made = mmlu.items(folder, Options(shots=0))
    assert [item.examples for item in made][-1] == (
        "The following are multiple choice questions (with answers) about virology.\n\n"
    )
    assert [item.id for item in made] == [*(f"abstract_algebra/{n}" for n in range(3)), "virology/0"]


@pytest.mark.parametrize("protocol, shots", list(GOLDEN))
def test_all_prompts_are_the_references(
    shared_data: Path, protocol: Literal["lm-eval", "original"], shots: int
) -> None:
    began = time.process_time()
    made = mmlu.items(shared_data / "mmlu", Options(protocol=protocol, shots=shots))
    digest = hashlib.sha256()
    for item in made:
        digest.update(item.prompt.encode() + b"\0")
    assert time.process_time() - began < 10
    assert len(made) == len({item.id for item in made}) == 14_042
    assert digest.hexdigest() == GOLDEN[protocol, shots]


def harness_prompts(folder: Path, subject: str, shots: int, limit: int) -> list[str]:
    """Prompts that lm-evaluation-harness makes of the first questions of a subject, from its own task files."""
    import datasets
    import yaml
    from lm_eval import tasks
    from lm_eval.api.task import ConfigurableTask

    def rows(split: str) -> datasets.Dataset:
        with (folder / split / f"{subject}_{split}.csv").open(encoding="utf-8", newline="") as file:
            return datasets.Dataset.from_list(
                [
                    {
                        "question": row["question"],
                        "choices": [row[f"choice{place}"] for place in range(4)],
                        "answer": int(row["answer"]),
                    }
                    for row in csv.DictReader(file)
                ]
            )

    own = Path(str(tasks.__file__)).parent / "mmlu" / "default"
    settings: dict[str, Any] = {}
    for name in ("_default_template_yaml", f"mmlu_{subject}.yaml"):
        settings |= yaml.safe_load((own / name).read_text(encoding="utf-8"))
    settings.pop("include")
    splits = {split: rows(split) for split in ("dev", "test")}
    task = ConfigurableTask(config={**settings, "custom_dataset": lambda **_: splits, "num_fewshot": shots})
    documents = list(task.test_docs())[:limit]
    return [str(task.fewshot_context(document, num_fewshot=shots)) for document in documents]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shots", [0, 5])
def test_prompts_are_those_of_the_harness_that_is_installed(shared_data: Path, shots: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("lm_eval", reason="lm_eval is not installed (tunelab[peers])")
    folder = shared_data / "mmlu"
    for subject in ("formal_logic", "electrical_engineering"):
        ours = [item.prompt for item in mmlu.items(folder, Options(shots=shots)) if item.cluster == subject]
        assert ours[:40] == harness_prompts(folder, subject, shots, 40)


def test_the_subjects_are_those_of_the_files(shared_data: Path) -> None:
    tests = mmlu.read_questions(shared_data / "mmlu", "test")
    assert {name: len(rows) for name, rows in tests.items()} == {name: n for name, (_, n) in mmlu.SUBJECTS.items()}
    assert list(tests) == list(mmlu.SUBJECTS)


def test_files_without_header_and_with_letters_are_the_same(folder: Path, tmp_path: Path) -> None:
    expected = mmlu.items(folder, Options(shots=2))
    for split, rows in (("dev", DEV), ("test", TEST)):
        lettered = [[*row[:5], "ABCD"[row[5]]] for row in rows]
        write_table(tmp_path / "old" / split / f"abstract_algebra_{split}.csv", lettered, header=False)
    assert mmlu.items(tmp_path / "old", Options(shots=2)) == expected[:3]


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def test_the_hubs_parquet_is_the_same(folder: Path, tmp_path: Path) -> None:
    for split in ("dev", "test"):
        read = mmlu.read_questions(folder, "dev" if split == "dev" else "test")
        # Another order of the subjects than the alphabet's, as a shard may have it.
        rows = [row for subject in ("virology", "abstract_algebra") for row in read[subject]]
        columns = {
            "question": [row.question for row in rows],
            "subject": [row.subject for row in rows],
            "choices": [list(row.choices) for row in rows],
            "answer": [row.answer for row in rows],
        }
        write_parquet(tmp_path / "hub" / "all" / f"{split}-00000-of-00001.parquet", columns)
    assert mmlu.items(tmp_path / "hub", Options(shots=2)) == mmlu.items(folder, Options(shots=2))


def test_bad_files_are_refused(folder: Path, tmp_path: Path) -> None:
    table = folder / "test" / "virology_test.csv"
    with pytest.raises(DataError, match="abstract_algebra has 2 dev rows, expected 3 for 3-shot prompts"):
        mmlu.items(folder, Options(shots=3))
    for rows, message in (
        ([["q", "a", "b", "c", 0]], r"virology_test\.csv: row 2 has 5 cells, expected 6: question, choice0"),
        ([["q", "a", "b", "c", "d", 4]], r"row 2: the answer is '4', expected 0 to 3 or A to D"),
        ([[" ", "a", "b", "c", "d", 0]], r"row 2: 5 texts .*: expected a question and four choices"),
        ([], r"virology_test\.csv: contains no questions"),
    ):
        write_table(table, rows)
        with pytest.raises(DataError, match=message):
            mmlu.items(folder, Options(shots=0))
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"virology_test\.csv: cannot be read as CSV in UTF-8"):
        mmlu.items(folder, Options(shots=0))
    with pytest.raises(DataError, match=r"has no test questions of MMLU: neither test/SUBJECT_test\.csv nor all/test-"):
        mmlu.items(tmp_path / "nowhere", Options())


def test_bad_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "all" / "test-0.parquet"
    write_parquet(path, {"question": ["q"], "choices": [["a"]], "answer": [0]})
    with pytest.raises(DataError, match=r"test-0\.parquet: has no column subject; it has question, choices, answer"):
        mmlu.items(tmp_path, Options(shots=0))
    write_parquet(path, {"question": ["q"], "subject": ["s"], "choices": [["a"]], "answer": [0]})
    with pytest.raises(DataError, match=r"row 1: 2 texts .*expected a question and four choices"):
        mmlu.items(tmp_path, Options(shots=0))
    path.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"test-0\.parquet: cannot be read as parquet"):
        mmlu.items(tmp_path, Options(shots=0))


def test_scores_of_both_protocols(folder: Path) -> None:
    made = mmlu.items(folder, Options(shots=0))
    graded = [answered(item, place) for item, place in zip(made, (0, 1, 0, 0), strict=True)]
    scored = mmlu.summarise(graded, Options())
    assert [(score.name, score.value, score.n) for score in scored.scores[:2]] == [
        ("accuracy", 0.75, 4),
        ("accuracy_clustered", 0.75, 4),
    ]
    assert [score.name for score in scored.scores[2:]] == ["log_probability", "brier", "calibration_error"]
    assert scored.scores[0].protocol == {"protocol": "lm-eval", "shots": 5, "error": "items independent"}
    assert scored.scores[1].protocol["error"] == "clustered by subject"
    assert {name: part[0].value for name, part in scored.groups.items()} == {
        "category other": 1.0,
        "category stem": pytest.approx(2 / 3),
        "subject abstract_algebra": pytest.approx(2 / 3),
        "subject virology": 1.0,
    }
    assert scored.facts["subjects"] == 2
    macro = mmlu.summarise(graded, Options(protocol="original")).scores[2]
    assert (macro.name, macro.value) == ("accuracy_macro", pytest.approx(5 / 6))
    assert macro.error is None  # one of the subjects has a single item


def test_categories_differ_between_the_protocols() -> None:
    item = mmlu.Item("anatomy/0", "q", 0, choices=mmlu.CHOICES, cluster="anatomy")
    other = mmlu.Item("my_own/0", "q", 0, choices=mmlu.CHOICES, cluster="my_own")
    graded = [answered(item, 0), answered(other, 0)]
    assert list(mmlu.summarise(graded, Options()).groups) == ["category stem", "subject anatomy", "subject my_own"]
    original = mmlu.summarise(graded, Options(protocol="original")).groups
    assert next(iter(original)) == "category other (business, health, misc.)"


def test_the_example_is_graded() -> None:
    assert mmlu.grade(mmlu.EXAMPLE.right, Options())["accuracy"] == 1.0
    assert mmlu.grade(mmlu.EXAMPLE.wrong, Options())["accuracy"] == 0.0
