"""Likelihoods and predictions are those of lm-evaluation-harness's `hf` backend, on the same items and models."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from real_tokenizers import load_real_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from tunelab import plugins
from tunelab.evaluation.benchmark import Item, Response
from tunelab.evaluation.benchmark_files import benchmark_files
from tunelab.evaluation.choice_question import ChoiceQuestion
from tunelab.evaluation.choices import choice_likelihoods
from tunelab.models.adapters import add_lora, load_adapter
from tunelab.models.load import load_model

pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install lm_eval")

SUBJECTS = ("econometrics", "high_school_us_history")
MODELS = ("llama", "tinystories656k", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "phi3")))


@pytest.fixture(scope="module", params=MODELS)
def model_folder(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real small model, or a random one of each family behind a real tokenizer; 5-shot history fits none of them."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    if request.param == "tinystories656k":
        shutil.copytree(shared_data / "models/tinystories656k", folder, dirs_exist_ok=True)
        return folder
    name = {"gpt2": "gpt2", "llama": "llama2", "phi3": "phi3"}[request.param]
    (folder / "scratch").mkdir()
    tokenizer = load_real_tokenizer(name, shared_data, folder / "scratch")
    torch.manual_seed(3)
    size: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,
        "pad_token_id": 0,
    }
    small = {"vocab_size": len(tokenizer), "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
    made: Any = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**small)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**size)),
        "phi3": lambda: Phi3ForCausalLM(Phi3Config(**size)),
    }[request.param]()
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def responder_of(folder: Path) -> Any:
    from tunelab.answering.generate import open_responder

    return open_responder(model=str(folder), raw=True)


@cache
def harness_of(folder: Path) -> Any:
    """The harness's model, which the tests share and leave as it is."""
    from harness import harness_model

    return harness_model(folder)


def questions_of(folder: Path, items: Sequence[Item]) -> list[ChoiceQuestion]:
    from tunelab.answering.benchmark_prompts import choice_questions

    return choice_questions(responder_of(folder), "benchmark", items)


def ours(folder: Path, items: Sequence[Item], adapter: Path | None = None) -> list[tuple[float, ...]]:
    questions = questions_of(folder, items)
    model: Any = load_model(str(folder), dtype=torch.float32)
    if adapter is not None:
        model = load_adapter(model, adapter)
    found = {one.index: one for one in choice_likelihoods(model, questions, micro_batch_tokens=1500)}
    return [found[index].log_probabilities for index in range(len(items))]


def theirs(folder: Path, scratch: Path, data: Path, shots: int, limit: int) -> list[tuple[float, ...]]:
    from harness import evaluate_tasks, load_tasks, write_mmlu_tasks

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of datasets and the harness
        names = write_mmlu_tasks(scratch, data / "mmlu", SUBJECTS, shots)
        samples = evaluate_tasks(harness_of(folder), load_tasks(scratch, names), limit)
    rows = []
    for name in names:
        for sample in sorted(samples[name], key=lambda one: one["doc_id"]):
            rows.append(tuple(float(response[0][0]) for response in sample["resps"]))
    return rows


@cache
def all_of_mmlu(data: Path, shots: int) -> list[Item]:
    mmlu = plugins.load("evaluation/benchmarks", "mmlu")
    items: list[Item] = mmlu.items(data / "mmlu", mmlu.Options(shots=shots))
    return items


def mmlu_items(data: Path, shots: int, limit: int) -> list[Item]:
    items = all_of_mmlu(data, shots)
    return [item for subject in SUBJECTS for item in [one for one in items if one.cluster == subject][:limit]]


def tokens_of_ours(harness: Any, folder: Path, items: Sequence[Item]) -> list[tuple[float, ...]]:
    """The harness's likelihoods of the very tokens that tunelab scores."""
    questions = questions_of(folder, items)
    asked = [
        (("", ""), [*question.prompt_ids, *continuation[: len(continuation) - len(scored)]], list(scored))
        for question in questions
        for continuation, scored in zip(question.continuations, question.scored, strict=True)
    ]
    found = iter(harness._loglikelihood_tokens(asked, disable_tqdm=True))
    return [tuple(float(next(found)[0]) for _ in question.continuations) for question in questions]


def assert_agree(mine: Sequence[tuple[float, ...]], harness: Sequence[tuple[float, ...]]) -> None:
    assert len(mine) == len(harness) > 0
    for one, other in zip(mine, harness, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
        assert one.index(max(one)) == other.index(max(other))
    assert len({one.index(max(one)) for one in mine}) > 1, "all answers alike would agree by chance"


@pytest.mark.parametrize("shots", [pytest.param(0, marks=pytest.mark.slow), 5])
def test_mmlu(model_folder: Path, shots: int, shared_data: Path, tmp_path: Path) -> None:
    limit = 3
    items = mmlu_items(shared_data, shots, limit)
    if model_folder.name.startswith("tinystories"):
        # Its vocabulary joins ": " in "Answer: A". The harness then gives the model the prompt as it is tokenised
        # alone and of the choice what follows its last token: "Answer:A", which no text is. Ours is the text's own.
        assert_agree(ours(model_folder, items), tokens_of_ours(harness_of(model_folder), model_folder, items))
        return
    assert_agree(ours(model_folder, items), theirs(model_folder, tmp_path, shared_data, shots, limit))


def test_truthfulqa_whose_choices_have_many_tokens(model_folder: Path, shared_data: Path) -> None:
    truthfulqa = plugins.load("evaluation/benchmarks", "truthfulqa")
    items = truthfulqa.items(shared_data / "truthfulqa", truthfulqa.Options())[:4]
    harness = tokens_of_ours(harness_of(model_folder), model_folder, items)
    assert_agree(ours(model_folder, items), harness)


def rows_of_the_tiny_sets(data: Path, count: int) -> dict[str, list[dict[str, Any]]]:
    """Real rows of four benchmarks in the form of their hubs'; some contexts end in markup, or begin a second part."""

    def tiny(name: str) -> list[dict[str, Any]]:
        lines = (data / f"tinybenchmarks/sixcat_tiny_{name}.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:count]]

    arc = [
        {**row, "choices": {"text": row["texts"], "label": row["labels"]}, "answerKey": row["answer"]}
        for row in tiny("arc")
    ]
    hellaswag = []
    for number, row in enumerate(tiny("hellaswag")):
        first, second = (row["ctx"].rsplit(" ", 2)[0], "a Man and") if number % 3 == 0 else (row["ctx"], "")
        first += " [step]" if number % 3 == 1 else ""
        parts = {"activity_label": f"Topic {number}", "ctx_a": first, "ctx_b": second, "label": str(row["answer"])}
        hellaswag.append({**row, **parts})
    return {"arc_easy": arc, "arc_challenge": arc, "hellaswag": hellaswag, "winogrande": tiny("winogrande")}


def ending_items(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> list[Item]:
    file = {"hellaswag": "hellaswag_val.jsonl", "winogrande": "dev.jsonl"}.get(name)
    path = folder / "ours" / (file or f"{name.title().replace('_', '-').replace('Arc', 'ARC')}-Test.jsonl")
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    module = plugins.load("evaluation/benchmarks", name)
    found: list[Item] = module.items(path.parent, module.Options())
    return found


def test_benchmarks_that_compare_endings(model_folder: Path, shared_data: Path, tmp_path: Path) -> None:
    """HellaSwag, ARC, WinoGrande: the harness's requests to the byte, its likelihoods, its verdicts."""
    from harness import evaluate_tasks, load_tasks, write_ending_tasks

    rows = rows_of_the_tiny_sets(shared_data, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = write_ending_tasks(tmp_path, rows)
        harness = harness_of(model_folder)
        samples = evaluate_tasks(harness, load_tasks(tmp_path, names))
    for name in rows:
        items = ending_items(tmp_path, name, rows[name])
        found = sorted(samples[f"local_{name}"], key=lambda one: one["doc_id"])
        for item, sample in zip(items, found, strict=True):
            whole = [(item.prompt + choice, item.ending) for choice in item.choices]
            asked = whole if item.ending else [(item.prompt, choice) for choice in item.choices]
            assert [tuple(one) for one in sample["arguments"]] == asked
        if model_folder.name.startswith("tinystories"):  # as in test_mmlu
            assert_agree(ours(model_folder, items), tokens_of_ours(harness, model_folder, items))
            continue
        mine = ours(model_folder, items)
        assert_agree(mine, [tuple(float(one[0][0]) for one in sample["resps"]) for sample in found])
        module = plugins.load("evaluation/benchmarks", name)
        for item, values, sample in zip(items, mine, found, strict=True):
            answered = Response(item.id, "", item.question, item.target, choices=item.choices, log_probabilities=values)
            grades = module.grade(answered, module.Options())
            assert grades["accuracy"] == sample["acc"]
            assert grades.get("accuracy_norm") == sample.get("acc_norm")


def test_the_likelihood_of_a_text(model_folder: Path) -> None:
    """A text that fits the context, from its first token on, as the harness's rolling log-likelihood."""
    from harness import harness_model
    from lm_eval.api.instance import Instance

    from tunelab.answering.text_likelihoods import encoded_texts, text_likelihoods

    forgetting = plugins.load("evaluation/benchmarks", "forgetting")
    texts = forgetting.items(benchmark_files(forgetting.BENCHMARK, None), forgetting.Options())
    items = [replace(item, question=item.question[:150]) for item in texts[::9]]
    encoded = encoded_texts(responder_of(model_folder), "forgetting", items)
    model: Any = load_model(str(model_folder), dtype=torch.float32)
    mine = dict(text_likelihoods(model, encoded, micro_batch_tokens=400))
    asked = [Instance("loglikelihood_rolling", {}, (item.question,), number) for number, item in enumerate(items)]
    harness = harness_model(model_folder)
    # Otherwise it puts BOS before the text, and before that another one, from which it predicts the first.
    harness.add_bos_token = False
    found = harness.loglikelihood_rolling(asked, disable_tqdm=True)
    assert [mine[index] for index in range(len(items))] == pytest.approx(found, abs=1e-3)


def test_an_adapter(model_folder: Path, shared_data: Path, tmp_path: Path) -> None:
    from harness import harness_model

    adapted = add_lora(load_model(str(model_folder), dtype=torch.float32), rank=4, alpha=8)
    torch.manual_seed(5)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    items = mmlu_items(shared_data, 0, 4)
    mine = ours(model_folder, items, tmp_path / "adapter")
    adapted_harness = harness_model(model_folder, adapter=tmp_path / "adapter")
    assert_agree(mine, tokens_of_ours(adapted_harness, model_folder, items))
    assert mine != ours(model_folder, items)
