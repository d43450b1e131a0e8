"""Convert samples of lm-evaluation-harness to responses: find the benchmark of a document and the model's output.

A line of samples_TASK_DATE.jsonl has `doc` (the row of the task), `doc_id` (its index in the task's split, from
0), `arguments` (one per request: the context and its continuation or decoding settings) and `resps` (for each request
the list of its repeats: a text, or [log-probability, is greedy]).
Source: EleutherAI/lm-evaluation-harness, lm_eval/evaluator.py (evaluate) and lm_eval/loggers/evaluation_tracker.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Response

#: Documents of ARC's two sets look the same.
ARC, ARC_SETS = "arc", ("arc_easy", "arc_challenge")

# Keys of a document by benchmark; the first match is used.
DOCUMENT_KEYS = {
    "ifeval": {"key", "prompt", "instruction_id_list", "kwargs"},
    "truthfulqa": {"question", "mc1_targets", "mc2_targets"},
    "tinymmlu": {"question", "subject", "choices", "answer", "input_formatted"},
    "mmlu": {"question", "subject", "choices", "answer"},
    "gsm8k": {"question", "answer"},
    "hellaswag": {"query", "choices", "gold", "activity_label"},
    "winogrande": {"sentence", "option1", "option2", "answer"},
    ARC: {"question", "choices", "answerKey"},
}

#: How often this text is in a context beyond the number of few-shot examples, by benchmark.
_OF_A_SHOT = {
    "mmlu": ("\nAnswer:", 1),
    "tinymmlu": ("\nAnswer:", 1),
    "gsm8k": ("Question:", 1),
    **dict.fromkeys(ARC_SETS, ("\nAnswer:", 1)),
    **dict.fromkeys(("hellaswag", "winogrande"), ("\n\n", 0)),
}


def benchmark_of_sample(document: Mapping[str, Any]) -> str | None:
    """Name of the benchmark whose documents have these keys, ARC for both its sets; None if unknown."""
    for name, keys in DOCUMENT_KEYS.items():
        if keys <= set(document) and (name != "gsm8k" or "####" in str(document["answer"])):
            return name
    return None


def response_of_sample(benchmark: str, sample: Mapping[str, Any]) -> Response:
    """The response to one document, with id and target equal to those of the benchmark's own items.

    Args:
        benchmark: result of benchmark_of_sample for the sample's document.
        sample: one line of the file.

    Raises:
        DataError: the sample lacks something or has it in another format.
    """
    number = sample.get("doc_id")
    if isinstance(number, bool) or not isinstance(number, int):
        raise DataError(f"'doc_id' is {number!r}, expected the index of the document in its split")
    try:
        return _RESPONSES[benchmark](sample["doc"], number, sample)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"its document is not one of {benchmark}'s: {type(error).__name__}: {error}") from error


def _ifeval(document: Mapping[str, Any], number: int, sample: Mapping[str, Any]) -> Response:
    # A table has one set of columns: arguments that an instruction does not take are null.
    kwargs = [{key: value for key, value in one.items() if value is not None} for one in document["kwargs"]]
    target = {"instruction_id_list": list(document["instruction_id_list"]), "kwargs": kwargs}
    return Response(str(document["key"]), "", document["prompt"], target, text=_text(sample))


def _gsm8k(document: Mapping[str, Any], number: int, sample: Mapping[str, Any]) -> Response:
    return Response(str(number), "", document["question"], document["answer"], text=_text(sample))


def _mmlu(document: Mapping[str, Any], number: int, sample: Mapping[str, Any]) -> Response:
    subject = document["subject"]
    return _likelihood(f"{subject}/{number}", document["question"], int(document["answer"]), subject, sample)


def _hellaswag(document: Mapping[str, Any], number: int, sample: Mapping[str, Any]) -> Response:
    return _likelihood(str(number), document["query"], int(document["gold"]), "", sample)


def _arc(document: Mapping[str, Any], number: int, sample: Mapping[str, Any]) -> Response:
    right = list(document["choices"]["label"]).index(document["answerKey"])
    return _likelihood(str(number), f"Question: {document['question']}\nAnswer:", right, "", sample)


def _winogrande(document: Mapping[str, Any], number: int, sample: Mapping[str, Any]) -> Response:
    """Its contexts differ and its continuations are the same: the choices are the names."""
    before, _, _ = document["sentence"].partition("_")
    read = _likelihood(str(number), before, int(document["answer"]) - 1, "", sample)
    return dataclasses.replace(read, choices=(document["option1"], document["option2"]))


def _likelihood(item: str, question: str, target: Any, cluster: str, sample: Mapping[str, Any]) -> Response:
    values, choices = _log_probabilities(sample), _continuations(sample)
    if len(values) != len(choices):
        raise DataError(f"{len(values)} log-probabilities for {len(choices)} choices: expected one of each")
    return Response(item, "", question, target, cluster, choices=choices, log_probabilities=values)


def _text(sample: Mapping[str, Any]) -> str:
    """The first answer to the only request; null is an empty one."""
    text = first_repeat(sample)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise DataError("'resps' has no generated text: expected [[text]]", "the task was not run as a generative one")
    return text


def first_repeat(sample: Mapping[str, Any]) -> Any:
    """The first answer to the only request as it is stored; () where there is not exactly one request."""
    try:
        (repeats,) = sample["resps"]
        return repeats[0]
    except (TypeError, ValueError, IndexError, KeyError):
        return ()


def _log_probabilities(sample: Mapping[str, Any]) -> tuple[float, ...]:
    """Log-probability of each choice, from [[[log-probability, is greedy]], ...]; numbers may be stored as text."""
    try:
        values = tuple(float(repeats[0][0]) for repeats in sample["resps"])
    except (TypeError, ValueError, IndexError):
        values = ()
    if not values or any(math.isnan(value) for value in values):
        raise DataError(
            "'resps' has no log-probabilities: expected [[[log-probability, is greedy]], ...], one per choice"
        )
    return values


def _continuations(sample: Mapping[str, Any]) -> tuple[str, ...]:
    """The second argument of each request."""
    found = _arguments(sample, 1)
    if not found or not all(isinstance(text, str) for text in found):
        raise DataError("'arguments' has no continuations: expected a context and a continuation per choice")
    return tuple(found)


def _arguments(sample: Mapping[str, Any], place: int) -> tuple[Any, ...]:
    """One argument of every request: {"gen_args_0": {"arg_0": context, "arg_1": " A"}, ...} or [[context, " A"]]."""
    arguments = sample.get("arguments")
    try:
        if isinstance(arguments, Mapping):
            return tuple(arguments[f"gen_args_{request}"][f"arg_{place}"] for request in range(len(arguments)))
        return tuple(pair[place] for pair in arguments or ())
    except (KeyError, TypeError, IndexError):
        return ()


def _tinymmlu(document: Mapping[str, Any], number: int, sample: Mapping[str, Any]) -> Response:
    from tunelab.evaluation.benchmarks.tinymmlu import PLACE_OF_DIGEST, digest, subject_and_number

    place = PLACE_OF_DIGEST.get(digest((document["question"], *document["choices"])))
    if place is None:
        raise DataError(f"its question is not one of tinyMMLU's 100 items: {document['question']!r:.60}")
    subject, place_in_subject = subject_and_number(place)
    item = f"{subject}/{place_in_subject}"
    return _likelihood(item, document["question"], int(document["answer"]), subject, sample)


def _truthfulqa(document: Mapping[str, Any], number: int, sample: Mapping[str, Any]) -> Response:
    """MC1 or MC2, depending on the task's choices; the lists of the other stay empty."""
    target: dict[str, Any] = {"mc1": [], "best": 0, "mc2_true": [], "mc2_false": [], "answers": "hub"}
    asked = [text.strip() for text in _continuations(sample)]
    for name in ("mc1", "mc2"):
        labelled = document[f"{name}_targets"]
        if [text.strip() for text in labelled["choices"]] != asked:
            continue
        true, false = ([place for place, label in enumerate(labelled["labels"]) if label == one] for one in (1, 0))
        if name == "mc1":
            target.update(mc1=sorted([*true, *false]), best=true[0])
        else:
            target.update(mc2_true=true, mc2_false=false)
        return _likelihood(str(number), document["question"], target, "", sample)
    raise DataError("its continuations are neither the choices of mc1_targets nor those of mc2_targets")


def combined(first: Response, second: Response) -> Response | None:
    """Merge TruthfulQA's MC1 and MC2 of one item, which are two tasks with one file each; None for anything else."""
    targets = (first.target, second.target)
    if not all(isinstance(target, dict) and {"mc1", "mc2_true"} <= set(target) for target in targets):
        return None
    if bool(first.target["mc1"]) == bool(second.target["mc1"]) or first.question != second.question:
        return None
    mc1, mc2 = (first, second) if first.target["mc1"] else (second, first)
    beyond = len(mc1.choices)
    moved = {name: [place + beyond for place in mc2.target[name]] for name in ("mc2_true", "mc2_false")}
    return dataclasses.replace(
        mc1,
        target={**mc1.target, **moved},
        choices=mc1.choices + mc2.choices,
        log_probabilities=mc1.log_probabilities + mc2.log_probabilities,
    )


def shots_of_sample(benchmark: str, sample: Mapping[str, Any]) -> int | None:
    """Number of few-shot examples in the prompt, if its format allows counting them."""
    contexts = _arguments(sample, 0)
    if benchmark not in _OF_A_SHOT or not contexts or not isinstance(contexts[0], str):
        return None
    mark, more = _OF_A_SHOT[benchmark]
    return max(0, contexts[0].count(mark) - more)


_RESPONSES: dict[str, Callable[[Mapping[str, Any], int, Mapping[str, Any]], Response]] = {
    "ifeval": _ifeval,
    "gsm8k": _gsm8k,
    "mmlu": _mmlu,
    "tinymmlu": _tinymmlu,
    "truthfulqa": _truthfulqa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    **dict.fromkeys(ARC_SETS, _arc),
}
