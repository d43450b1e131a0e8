"""Other tools' files: recognised by what they hold, read as responses, refused by line where they cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tunelab import plugins
from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Response
from tunelab.evaluation.foreign_responses import Line, benchmark_of, form_of, read_foreign, shots_of

IFEVAL_ROWS: list[dict[str, Any]] = [
    {"key": 7, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {"key": 8, "prompt": "Shout.", "instruction_id_list": ["change_case:english_capital"], "kwargs": [{}]},
    {"key": 9, "prompt": "Whisper.", "instruction_id_list": ["change_case:english_lowercase"], "kwargs": [{}]},
]
SHOUTED = "THIS IS A SENTENCE IN PLAIN ENGLISH AND ALL OF IT IS SHOUTED"
MMLU = {"question": "Why?", "subject": "virology", "choices": ["None", "b", "c", "d"], "answer": 1}
TRUTHFUL = {
    "question": "Is it?",
    "mc1_targets": {"choices": ["No.", "Yes.", "Often."], "labels": [1, 0, 0]},
    "mc2_targets": {"choices": ["No.", "Never.", "Yes.", "Often."], "labels": [1, 1, 0, 0]},
}


SWAG = {"query": "Tea: A", "choices": [" It boils.", "b", "c", "d"], "gold": 1, "activity_label": "Tea"}
GRANDE = {"sentence": "Ann met Bo and _ smiled.", "option1": "Ann", "option2": "Bo", "answer": "2"}
ARC = {"question": "Why?", "choices": {"text": ["so", "no"], "label": ["A", "B"]}, "answerKey": "B"}


def module(name: str) -> ModuleType:
    return plugins.load("evaluation/benchmarks", name)


def lines(values: list[dict[str, Any]], file: str = "f.jsonl") -> list[Line]:
    return [Line(Path(file), number, value) for number, value in enumerate(values, 1)]


def generated(number: int, doc: dict[str, Any], text: str | None, **more: Any) -> dict[str, Any]:
    """A sample as lm-evaluation-harness 0.4.13 writes it: tuples as lists, numbers as text."""
    arguments = {"gen_args_0": {"arg_0": doc.get("prompt", ""), "arg_1": {"until": []}}}
    return {"doc_id": number, "doc": doc, "arguments": arguments, "resps": [[text]], "filter": "none", **more}


def compared(
    number: int, doc: dict[str, Any], choices: list[str], values: list[float], context: str = ""
) -> dict[str, Any]:
    arguments = {f"gen_args_{place}": {"arg_0": context, "arg_1": text} for place, text in enumerate(choices)}
    resps = [[[str(value), "False"]] for value in values]
    return {"doc_id": number, "doc": doc, "arguments": arguments, "resps": resps, "filter": "none"}


def read(name: str, values: list[dict[str, Any]], **options: Any) -> Any:
    one = module(name)
    return read_foreign(lines(values), name, one, one.Options(**options))


def write_ifeval(folder: Path) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in IFEVAL_ROWS)
    (folder / "input_data.jsonl").write_text(text, encoding="utf-8")
    return folder


def values_of(name: str, response: Response) -> dict[str, Any]:
    found: dict[str, Any] = module(name).grade(response, module(name).Options())
    return found


def test_prompts_find_their_items_and_what_does_not_fit_is_named(tmp_path: Path) -> None:
    values = [
        {"prompt": "Shout. \n", "response": SHOUTED},
        {"prompt": "Unknown prompt", "response": "x"},
        {"prompt": "No commas.", "response": "a, b", "instruction_id_list": ["en:punctuation:no_comma"]},
    ]
    found = read("ifeval", values, data=str(write_ifeval(tmp_path)))
    assert [(one.item, one.text, one.question) for one in found.responses] == [
        ("8", SHOUTED, "Shout."),
        ("7", "a, b", "No commas."),
    ]
    assert [line.number for line in found.lines] == [1, 3]
    assert found.warnings == [
        "1 of 3 prompts are not ifeval's and were left out: line 2 ('Unknown prompt')",
        "1 of ifeval's 3 items have no response here: 9",
    ]
    assert [values_of("ifeval", one)["prompt_strict"] for one in found.responses] == [1.0, 0.0]


def test_many_missing_items_are_named_in_part(tmp_path: Path) -> None:
    rows = [{**IFEVAL_ROWS[0], "key": number, "prompt": f"prompt {number}"} for number in range(9)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "input_data.jsonl").write_text(text, encoding="utf-8")
    found = read("ifeval", [{"prompt": "prompt 0", "response": ""}], data=str(tmp_path))
    assert found.warnings == ["8 of ifeval's 9 items have no response here: 1, 2, 3, 4, 5 and 3 more"]


def test_prompts_need_the_benchmarks_own_files(tmp_path: Path) -> None:
    values = [{"prompt": "p", "response": "r"}]
    with pytest.raises(DataError, match=r"f\.jsonl: has only prompts and responses.*: ifeval") as caught:
        read("ifeval", values)  # conftest.py keeps the hub away
    assert "ifeval.data=FOLDER" in caught.value.hint
    with pytest.raises(DataError, match=r"f\.jsonl: none of its 1 prompts is one of ifeval's 3 in "):
        read("ifeval", values, data=str(write_ifeval(tmp_path)))
    with pytest.raises(DataError, match="line 1: 'response' is not text"):
        read("ifeval", [{"prompt": "Shout.", "response": 5}], data=str(tmp_path))
    with pytest.raises(DataError, match=r"line 2: answers item '8', as f\.jsonl: line 1 does"):
        read("ifeval", [{"prompt": "Shout.", "response": "A"}] * 2, data=str(tmp_path))


def test_null_is_an_empty_answer_and_is_counted(tmp_path: Path) -> None:
    write_ifeval(tmp_path)
    values = [{"prompt": "Shout.", "response": None}, {"prompt": "No commas.", "response": "A"}]
    found = read("ifeval", values, data=str(tmp_path))
    assert [one.text for one in found.responses] == ["", "A"]
    assert found.warnings[0] == "1 of 2 responses are null and count as empty answers"
    doc = {**IFEVAL_ROWS[0], "kwargs": [{}]}
    found = read("ifeval", [generated(0, doc, None)])
    assert found.responses[0].text == "" and found.warnings == ["1 of 1 responses are null and count as empty answers"]


def test_ifeval_samples() -> None:
    kwargs = [{"num_words": 2, "relation": "at least", "keywords": None}]
    doc = {**IFEVAL_ROWS[0], "instruction_id_list": ["length_constraints:number_words"], "kwargs": kwargs}
    (response,) = read("ifeval", [generated(0, doc, "two words")]).responses
    assert response.item == "7" and response.question == "No commas." and response.text == "two words"
    expected = [{"num_words": 2, "relation": "at least"}]
    assert response.target == {"instruction_id_list": ["length_constraints:number_words"], "kwargs": expected}
    assert values_of("ifeval", response)["prompt_strict"] == 1.0


def test_gsm8k_samples_have_a_line_for_each_filter_and_are_read_once() -> None:
    docs = [{"question": f"{n}?", "answer": f"so\n#### {n}"} for n in (3, 4)]
    texts = ["it is #### 3", "maybe 4"]
    values = [
        generated(number, doc, text, filter=name)
        for name in ("strict-match", "flexible-extract")
        for number, (doc, text) in enumerate(zip(docs, texts, strict=True))
    ]
    found = read("gsm8k", values)
    assert [one.item for one in found.responses] == ["0", "1"] and [line.number for line in found.lines] == [1, 2]
    graded = [values_of("gsm8k", one) for one in found.responses]
    assert [(one["exact_strict"], one["exact_flexible"]) for one in graded] == [(1.0, 1.0), (0.0, 1.0)]
    with pytest.raises(DataError, match=r"f\.jsonl: line 5: answers item '0', as f\.jsonl: line 1 does"):
        read("gsm8k", [*values, values[0]])


@pytest.mark.parametrize("older", [False, True])
def test_mmlu_samples(older: bool) -> None:
    value = compared(17, MMLU, [" A", " B", " C", " D"], [-3.0, -0.25, -4.5, -9.0], "Q\nAnswer: A\n\nWhy?\nAnswer:")
    if older:  # before 0.4.3: arguments as a list of lists, numbers as numbers
        value["arguments"] = [["Q\nAnswer: A\n\nWhy?\nAnswer:", f" {letter}"] for letter in "ABCD"]
        value["resps"] = [[[-3.0, False]], [[-0.25, True]], [[-4.5, False]], [[-9.0, False]]]
    (response,) = read("mmlu", [value]).responses
    assert response == Response(
        "virology/17", "", "Why?", 1, "virology",
        choices=(" A", " B", " C", " D"), log_probabilities=(-3.0, -0.25, -4.5, -9.0),
    )  # fmt: skip
    assert values_of("mmlu", response)["accuracy"] == 1.0
    assert shots_of(lines([value]), "mmlu") == 1


def test_shots_are_counted_where_they_can_be() -> None:
    gsm8k = generated(0, {"question": "3?", "answer": "#### 3"}, "")
    gsm8k["arguments"]["gen_args_0"]["arg_0"] = "Question: a\nAnswer: #### 1\n\n" * 2 + "Question: 3?\nAnswer:"
    mentions = json.loads(json.dumps(gsm8k).replace("3?", "what does Question: mean?"))
    assert shots_of(lines([mentions, gsm8k]), "gsm8k") == 2
    gsm8k["arguments"]["gen_args_0"]["arg_0"] = [{"role": "user"}]
    assert shots_of(lines([gsm8k]), "gsm8k") is None
    assert shots_of(lines([generated(0, IFEVAL_ROWS[0], "")]), "ifeval") is None
    assert shots_of(lines([{"prompt": "p", "response": "r"}]), "ifeval") is None


def test_truthfulqa_samples_of_one_task_or_both() -> None:
    mc1 = compared(5, TRUTHFUL, [" No.", " Yes.", " Often."], [-1.0, -2.0, -3.0])
    mc2 = compared(5, TRUTHFUL, [" No.", " Never.", " Yes.", " Often."], [-1.0, -1.0, -1.0, -1.0])
    alone = [read("truthfulqa", [value]).responses[0] for value in (mc1, mc2)]
    of_mc1 = values_of("truthfulqa", alone[0])
    assert of_mc1["mc1"] == 1.0 and set(of_mc1) == {"mc1", "log_probability", "brier", "confidence"}
    assert values_of("truthfulqa", alone[1]) == {"mc2": pytest.approx(0.5)}
    for both in ([mc1, mc2], [mc2, mc1]):
        (response,) = read("truthfulqa", both).responses
        of_both = values_of("truthfulqa", response)
        assert (of_both["mc1"], of_both["mc2"]) == (1.0, pytest.approx(0.5))
        assert len(response.choices) == 7 and response.item == "5"
    with pytest.raises(DataError, match="line 2: answers item '5'"):
        read("truthfulqa", [mc1, mc1])
    with pytest.raises(DataError, match="line 1: its continuations are neither the choices of mc1_targets"):
        read("truthfulqa", [compared(5, TRUTHFUL, [" No."], [-1.0])])


def test_tinymmlu_samples_are_found_by_their_text(shared_data: Path) -> None:
    text = (shared_data / "tinybenchmarks/sixcat_tiny_mmlu.jsonl").read_text(encoding="utf-8")
    row = json.loads(text.splitlines()[0])
    doc = {**row, "subject": "unknown here", "input_formatted": "..."}
    value = compared(0, doc, [" A", " B", " C", " D"], [-1.0, -1.5, -2.0, -3.0])
    (response,) = read("tinymmlu", [value]).responses
    ids = [item.id for item in module("tinymmlu").items(shared_data / "mmlu", module("tinymmlu").Options())]
    assert response.item == ids[0] and response.cluster == ids[0].split("/")[0] and response.target == row["answer"]


def test_a_question_that_is_none_of_tinymmlus_is_refused() -> None:
    doc = {**MMLU, "input_formatted": "..."}
    with pytest.raises(DataError, match=r"line 1: its question is not one of tinyMMLU's 100 items: 'Why\?'"):
        read("tinymmlu", [compared(0, doc, [" A", " B", " C", " D"], [-1.0] * 4)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_id": None}, "line 1: 'doc_id' is None, expected the index of the document"),
        ({"resps": [["text"]]}, r"line 1: 'resps' has no log-probabilities: expected \[\[\[log-probability"),
        ({"resps": []}, "line 1: 'resps' has no log-probabilities"),
        ({"resps": [[["nan", "False"]]]}, "line 1: 'resps' has no log-probabilities"),
        ({"resps": [[["-1", "False"]]]}, "line 1: 1 log-probabilities for 4 choices: expected one of each"),
        ({"arguments": {}}, "line 1: 'arguments' has no continuations"),
        ({"arguments": {"gen_args_0": {"arg_0": "x"}}}, "line 1: 'arguments' has no continuations"),
        ({"doc": {**MMLU, "answer": "x"}}, "line 1: its document is not one of mmlu's: ValueError"),
    ],
)
def test_samples_that_lack_something_are_refused(changes: dict[str, Any], message: str) -> None:
    value = compared(0, MMLU, [" A", " B", " C", " D"], [-1.0, -2.0, -3.0, -4.0])
    with pytest.raises(DataError, match=message):
        read("mmlu", [{**value, **changes}])


@pytest.mark.parametrize("resps", [[], [[]], [["a"], ["b"]], [[["-1", "False"]]], None])
def test_samples_without_a_generated_text_are_refused(resps: Any) -> None:
    with pytest.raises(DataError, match=r"line 1: 'resps' has no generated text: expected \[\[text\]\]"):
        read("ifeval", [{**generated(0, IFEVAL_ROWS[0], ""), "resps": resps}])


def test_what_is_not_known_is_refused_with_the_forms_that_are() -> None:
    (line,) = lines([{"instruction": "x", "output": "y"}])
    with pytest.raises(DataError, match=r"line 1: unknown response format \(the line has instruction, out") as caught:
        form_of(line)
    assert "prompt" in caught.value.hint and "samples_*.jsonl of lm-evaluation-harness" in caught.value.hint
    (line,) = lines([generated(0, {"question": "x", "answer": "no mark"}, "y")])
    with pytest.raises(DataError, match=r"samples of an unsupported task \(its documents have answer, question"):
        benchmark_of(line)
    mixed = [generated(0, IFEVAL_ROWS[0], "x"), {"prompt": "p", "response": "r"}]
    with pytest.raises(DataError, match="line 2: is of the format prompt and response, the lines before of lm-eval"):
        read("ifeval", mixed)
    with pytest.raises(DataError, match="line 1: a sample of ifeval, expected mmlu"):
        read("mmlu", mixed[:1])


def test_each_benchmarks_documents_are_told_apart() -> None:
    docs = {"ifeval": IFEVAL_ROWS[0], "mmlu": MMLU, "tinymmlu": {**MMLU, "input_formatted": ""}}
    docs |= {"truthfulqa": TRUTHFUL, "gsm8k": {"question": "q", "answer": "#### 3"}}
    docs |= {"hellaswag": SWAG, "winogrande": GRANDE}
    for name, doc in docs.items():
        assert benchmark_of(lines([generated(0, doc, "")])[0]) == name
    assert benchmark_of(lines([{"prompt": "p", "response": "r"}])[0]) == "ifeval"


def test_samples_that_compare_endings_have_the_items_of_the_benchmark() -> None:
    (swag,) = read("hellaswag", [compared(3, SWAG, ["  It boils.", " b", " c", " d"], [-3, -1, -2, -4])]).responses
    assert (swag.item, swag.target, swag.choices[0]) == ("3", 1, "  It boils.")
    (grande,) = read("winogrande", [compared(0, GRANDE, [" smiled."] * 2, [-3, -1])]).responses
    assert (grande.question, grande.target, grande.choices) == ("Ann met Bo and ", 1, ("Ann", "Bo"))
    (arc,) = read("arc_challenge", [compared(2, ARC, [" so", " no"], [-3, -1])]).responses
    assert (arc.item, arc.question, arc.target) == ("2", "Question: Why?\nAnswer:", 1)


def test_arcs_sets_are_told_apart_by_the_files_name_or_by_the_user() -> None:
    sample = compared(2, ARC, [" so", " no"], [-3, -1])
    assert benchmark_of(lines([sample], "samples_arc_easy_2025.jsonl")[0]) == "arc_easy"
    with pytest.raises(DataError, match="line 1: a sample of ARC, but of which set"):
        benchmark_of(lines([sample])[0])
    with pytest.raises(DataError, match="line 1: a sample of mmlu, expected arc_easy"):
        read("arc_easy", [compared(0, MMLU, [" A"], [-1])])


def test_shots_of_tasks_that_compare_endings() -> None:
    context = "Making tea: A.\n\nMaking tea: B.\n\nMaking tea: C"
    assert shots_of(lines([compared(3, SWAG, [" a"], [-1], context)]), "hellaswag") == 2
    context = "Question: a\nAnswer: b\n\nQuestion: Why?\nAnswer:"
    assert shots_of(lines([compared(3, ARC, [" a"], [-1], context)]), "arc_easy") == 1


def test_files_that_lm_evaluation_harness_writes_itself_are_read(tmp_path: Path) -> None:
    trackers = pytest.importorskip("lm_eval.loggers.evaluation_tracker")
    tracker = trackers.EvaluationTracker(output_path=str(tmp_path))
    tracker.general_config_tracker.model_name_sanitized = "model"
    tracker.date_id = "2025-01-01"
    arguments = [("Why?\nAnswer:", f" {letter}") for letter in "ABCD"]
    resps = [[(-1.5, False)], [(-0.25, True)], [(-3.0, False)], [(-4.0, False)]]
    sample = {"doc_id": 3, "doc": MMLU, "target": 1, "arguments": arguments, "resps": resps, "filter": "none"}
    tracker.save_results_samples("mmlu_virology", [{**sample, "filtered_resps": [one[0] for one in resps]}])
    (file,) = tmp_path.rglob("samples_mmlu_virology_2025-01-01.jsonl")
    values = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    (response,) = read("mmlu", values).responses
    assert response.item == "virology/3" and response.log_probabilities == (-1.5, -0.25, -3.0, -4.0)
    assert response.choices == (" A", " B", " C", " D")
