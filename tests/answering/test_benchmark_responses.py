"""Benchmarks asked of models and runs: what is stored, what resumes to the same bytes, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own_benchmarks import OwnBenchmarks, write_benchmarks
from tiny import CONTEXT, model_folder, recipe, tiny_tokenizer

import tunelab
from tunelab.answering.benchmark_items import evenly_limited, items_hash, load_benchmarks
from tunelab.answering.benchmark_responses import (
    BenchmarkSettings,
    evaluate_benchmarks,
    generate_benchmarks,
)
from tunelab.answering.generate import open_responder, subject_of
from tunelab.answering.responder import Responder
from tunelab.errors import ConfigError, DataError, Interrupted, ModelError, RunError, UsageError
from tunelab.evaluation.benchmark import Item, Response
from tunelab.inference.row import Generation
from tunelab.inference.sampling import Decoding
from tunelab.models.load import load_model
from tunelab.records.responses import ResponseFile, held, read_responses
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> OwnBenchmarks:
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="module")
def run(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return finetune(recipe(models["llama"], rows, folder / "run", train__steps=3))


@pytest.fixture
def settings(own: OwnBenchmarks, tmp_path: Path) -> Callable[..., BenchmarkSettings]:
    """Settings with the files of the benchmarks that are named; without names of both."""

    def made(*benchmarks: str, **given: Any) -> BenchmarkSettings:
        options = {name: own.options[name] for name in benchmarks or ("choices", "writing")}
        return BenchmarkSettings(**{"options": options, "out": tmp_path / "out", **given})

    return made


def names(own: OwnBenchmarks) -> list[str]:
    return [str(own.choices), str(own.writing)]


def read(path: Path) -> tuple[dict[str, Any], list[Response]]:
    header, records = read_responses(path)
    return header, [Response.from_json(record) for record in records]


# What is stored.


def test_log_probabilities_are_the_model_s_own(
    own: OwnBenchmarks, models: dict[str, Path], settings: Callable[..., BenchmarkSettings]
) -> None:
    (stored,) = generate_benchmarks(
        str(models["gpt2"]), [str(own.choices)], settings("choices", limit=6, micro_batch_tokens=70)
    )
    header, responses = read(stored.path)
    assert stored.template is None and header["template"] is None and (stored.count, stored.truncated) == (6, 0)
    (loaded,) = load_benchmarks([str(own.choices)], {"choices": own.options["choices"]})
    prompts = {item.id: item.prompt for item in loaded.items}
    model, tokenizer = load_model(str(models["gpt2"]), dtype=torch.float32), tiny_tokenizer()
    for response in responses:
        prompt = tokenizer(prompts[response.item])["input_ids"]
        assert response.prompt_tokens == len(prompt)
        for choice, found, count in zip(
            response.choices, response.log_probabilities, response.choice_tokens, strict=True
        ):
            ids = tokenizer(prompts[response.item] + choice)["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            expected = [logits[place - 1, ids[place]].item() for place in range(len(prompt), len(ids))]
            assert (count, found) == (len(expected), pytest.approx(sum(expected), abs=1e-4))


def test_answers_are_those_of_generate(
    own: OwnBenchmarks, models: dict[str, Path], settings: Callable[..., BenchmarkSettings]
) -> None:
    (stored,) = generate_benchmarks(str(models["llama"]), [str(own.writing)], settings("writing"))
    header, responses = read(stored.path)
    (loaded,) = load_benchmarks([str(own.writing)], {"writing": own.options["writing"]})
    responder = open_responder(model=str(models["llama"]), raw=True)
    decoding = Decoding(max_new_tokens=12, stop_strings=("\n",))
    expected = {
        int(answer.item) - 1: answer for answer in responder.answer([one.prompt for one in loaded.items], decoding)
    }
    assert {one.item: one.text for one in responses} == {
        item.id: expected[place].text for place, item in enumerate(loaded.items)
    }
    assert stored.cut == sum(one.stop_reason == "length" for one in responses) > 0
    assert all(one.answer_tokens <= 12 and one.target and one.question.endswith(" is") for one in responses)
    assert header["decoding"]["stop_strings"] == ["\n"] and header["decoding"]["temperature"] == 0


def test_what_the_template_puts_before_an_answer_is_no_part_of_it(
    own: OwnBenchmarks, run: Run, monkeypatch: pytest.MonkeyPatch, settings: Callable[..., BenchmarkSettings]
) -> None:
    made = [Generation(index, (1, 2), " red", "stop", 9) for index in range(2)]
    monkeypatch.setattr(Responder, "generations", lambda *given: iter(made))
    (plain,) = generate_benchmarks(run, [str(own.writing)], settings("writing", limit=2, arms=("tuned",)))
    assert plain.template == "plain" and [one.text for one in read(plain.path)[1]] == ["red", "red"]
    raw = settings("writing", limit=2, arms=("tuned",), in_template=False)
    assert [one.text for one in read(generate_benchmarks(run, [str(own.writing)], raw)[0].path)[1]] == [" red", " red"]


def test_prompts_that_lost_their_beginning_are_counted(
    own: OwnBenchmarks, models: dict[str, Path], settings: Callable[..., BenchmarkSettings]
) -> None:
    options = {"choices": {**own.options["choices"], "shots": 12}}
    (stored,) = generate_benchmarks(str(models["gpt2"]), [str(own.choices)], settings(options=options, limit=4))
    assert stored.truncated == 4
    assert all(one.truncated_tokens > 0 and one.prompt_tokens < CONTEXT for one in read(stored.path)[1])


def test_the_header_says_what_was_asked_of_whom(
    own: OwnBenchmarks, run: Run, settings: Callable[..., BenchmarkSettings]
) -> None:
    options = {"choices": {**own.options["choices"], "shots": 1}}
    base, tuned = generate_benchmarks(run, [str(own.choices)], settings(options=options, limit=5))
    headers = {one.arm: read(one.path)[0] for one in (base, tuned)}
    assert list(headers) == ["base", "tuned"]
    header = headers["tuned"]
    (loaded,) = load_benchmarks([str(own.choices)], options)
    assert header["benchmark"] == str(own.choices)
    assert header["benchmark_options"] == {"shots": 1, "order": "as it is"}, "where the files lie is left out"
    assert header["items_sha256"] == items_hash(loaded.items)
    assert (header["limit"], header["items"], header["arm"]) == (5, 5, "tuned")
    assert header["adapter"].startswith("sha256:") and header["model"].startswith("sha256:")
    assert (header["precision"], header["dtype"], header["template"]) == ("none", "fp32", None)
    assert header["decoding"] == {"method": "likelihood of the choices"}
    assert header["tunelab"] == tunelab.__version__
    assert set(header) - set(headers["base"]) == {"adapter"}
    assert tuned.path.parent.parent == run.evaluations and tuned.path.parent.name.startswith("choices-tuned-")


def test_scores_of_both_arms(own: OwnBenchmarks, run: Run, settings: Callable[..., BenchmarkSettings]) -> None:
    scores = evaluate_benchmarks(run.path, names(own), settings(limit=8))
    assert [one.benchmark for one in scores] == ["choices", "writing"]
    for one in scores:
        assert list(one.arms) == ["base", "tuned"]
        for arm, scored in one.arms.items():
            responses = read(one.responses[arm].path)[1]
            right = [
                max(zip(r.log_probabilities, r.choices, strict=True))[1].strip() == r.target
                if r.choices
                else r.target in r.text
                for r in responses
            ]
            assert scored.scored.scores[0].value == pytest.approx(sum(right) / 8)
            assert json.loads((one.responses[arm].path.parent / "scores.json").read_text())["scores"]
    tuned_alone = evaluate_benchmarks(run.path, names(own)[:1], settings("choices", arms=("tuned",)))
    assert list(tuned_alone[0].arms) == ["tuned"]


def test_an_adapter_on_a_model_is_measured_beside_it_as_its_run_is(
    own: OwnBenchmarks, run: Run, models: dict[str, Path], settings: Callable[..., BenchmarkSettings]
) -> None:
    given = settings(adapter=run.adapter, changes=("train.device=cpu",))
    of_model = generate_benchmarks(str(models["llama"]), names(own), given)
    of_run = generate_benchmarks(run, names(own), settings())
    assert [(one.benchmark, one.arm) for one in of_model] == [(one.benchmark, one.arm) for one in of_run]
    for ours, theirs in zip(of_model, of_run, strict=True):
        assert ours.template == theirs.template == (None if ours.benchmark == "choices" else "plain")
        for a, b in zip(read(ours.path)[1], read(theirs.path)[1], strict=True):
            assert (a.text, a.log_probabilities) == (b.text, b.log_probabilities)


# Limits.


def test_a_limit_is_taken_evenly_over_clusters(own: OwnBenchmarks) -> None:
    (loaded,) = load_benchmarks([str(own.choices)], {"choices": own.options["choices"]})
    clusters = [item.cluster for item in loaded.items]
    assert clusters[:10] == ["a"] * 10 and set(clusters[10:]) == {"b", "c"}
    kept = evenly_limited(loaded.items, 7)
    assert [item.cluster for item in kept].count("a") == 3 and len(kept) == 7
    assert [item.id for item in kept] == ["i0", "i1", "i2", "i10", "i11", "i12", "i13"]
    assert [item.id for item in evenly_limited(loaded.items, 2)] == ["i0", "i10"]
    assert evenly_limited(loaded.items, None) == evenly_limited(loaded.items, 99) == loaded.items
    (writing,) = load_benchmarks([str(own.writing)], {"writing": own.options["writing"]}, 3)
    assert [item.id for item in writing.items] == ["i0", "i1", "i2"], "without clusters the first"


def test_the_items_hash_covers_all_that_is_asked_and_graded() -> None:
    item = Item("1", "q", {"answer": 1}, "e", (" a", " b"), "c")
    changes: list[dict[str, Any]] = [
        {"id": "2"}, {"question": "p"}, {"target": {"answer": 2}}, {"examples": "f"}, {"choices": (" a",)}
    ]  # fmt: skip
    hashes = {items_hash([dataclasses.replace(item, **change)]) for change in [{}, *changes]}
    assert len(hashes) == 1 + len(changes) and items_hash([item, item]) not in hashes
    assert items_hash([item]) == items_hash([dataclasses.replace(item)])


# Going on.


@pytest.mark.parametrize("name", ["choices", "writing"])
def test_cut_anywhere_and_asked_again_it_is_the_same_file(
    name: str, own: OwnBenchmarks, models: dict[str, Path], settings: Callable[..., BenchmarkSettings]
) -> None:
    given = settings(name, micro_batch_tokens=140)
    (stored,) = generate_benchmarks(str(models["gpt2"]), [str(getattr(own, name))], given)
    whole = stored.path.read_bytes()
    for share in (0, 0.3, 0.77, 0.999):
        stored.path.write_bytes(whole[: int(share * len(whole))])
        (again,) = generate_benchmarks(str(models["gpt2"]), [str(getattr(own, name))], given)
        assert again == stored and stored.path.read_bytes() == whole, share


def test_nothing_is_made_twice(
    own: OwnBenchmarks, run: Run, monkeypatch: pytest.MonkeyPatch, settings: Callable[..., BenchmarkSettings]
) -> None:
    first = generate_benchmarks(run, names(own), settings(limit=3))
    monkeypatch.setattr(ResponseFile, "append", lambda self, record: pytest.fail("a response was made again"))
    assert generate_benchmarks(run, names(own), settings(limit=3)) == first


def test_ctrl_c_keeps_what_was_made(
    own: OwnBenchmarks,
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    settings: Callable[..., BenchmarkSettings],
) -> None:
    real, made = ResponseFile.append, []

    def stopped(self: ResponseFile, record: dict[str, Any]) -> Any:
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(record)
        return real(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(ResponseFile, "append", stopped)
        with pytest.raises(Interrupted, match=r"interrupted; 4 of 20 responses are in .*responses\.jsonl"):
            generate_benchmarks(str(models["gpt2"]), names(own)[:1], settings("choices"))
    (stored,) = generate_benchmarks(str(models["gpt2"]), names(own)[:1], settings("choices"))
    assert [one.item for one in read(stored.path)[1]][:4] == [record["item"] for record in made]


def test_a_file_of_another_model_is_refused(
    own: OwnBenchmarks, models: dict[str, Path], settings: Callable[..., BenchmarkSettings]
) -> None:
    (gpt2,) = generate_benchmarks(str(models["gpt2"]), names(own)[:1], settings("choices"))
    (llama,) = generate_benchmarks(str(models["llama"]), names(own)[:1], settings("choices"))
    assert gpt2.path != llama.path
    gpt2.path.write_bytes(llama.path.read_bytes())
    with pytest.raises(RunError, match=r"(?s)was made with another model .*model: \"sha256:"):
        generate_benchmarks(str(models["gpt2"]), names(own)[:1], settings("choices"))


def test_a_second_process_is_refused(
    own: OwnBenchmarks, models: dict[str, Path], settings: Callable[..., BenchmarkSettings]
) -> None:
    (stored,) = generate_benchmarks(str(models["gpt2"]), names(own)[:1], settings("choices"))
    with held(stored.path), pytest.raises(RunError, match="another process is writing it"):
        generate_benchmarks(str(models["gpt2"]), names(own)[:1], settings("choices"))


# Refusals.


def test_options_are_checked_all_at_once(own: OwnBenchmarks) -> None:
    wrong = {"choices": {"shotz": 1, "order": "x"}, "writing": {"shots": "many"}}
    with pytest.raises(ConfigError, match=r"(?s)3 problems.*choices\.shotz: unknown option.*'shots'") as caught:
        load_benchmarks(names(own), wrong)
    assert [problem.path for problem in caught.value.problems] == ["choices.order", "choices.shotz", "writing.shots"]


def test_what_cannot_be_asked_is_refused(own: OwnBenchmarks, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no benchmark is named"):
        load_benchmarks([])
    with pytest.raises(UsageError, match="no benchmark named 'mmul'; did you mean 'mmlu'"):
        load_benchmarks(["mmul"])
    with pytest.raises(UsageError, match="choices is named twice"):
        load_benchmarks([str(own.choices)] * 2)
    with pytest.raises(UsageError, match="options of writing are given, but only choices is evaluated"):
        load_benchmarks([str(own.choices)], own.options)
    with pytest.raises(UsageError, match="limit is 0, expected 1 or more"):
        load_benchmarks([str(own.choices)], {}, 0)
    folder = write_benchmarks(tmp_path)
    path = folder.data / "items.jsonl"
    path.write_text(path.read_text().replace('"i3"', '"i2"'))
    with pytest.raises(DataError, match="writing: two items have the id 'i2'"):
        load_benchmarks([str(folder.writing)], {"writing": {"data": str(folder.data)}})
    path.write_text("")
    with pytest.raises(DataError, match="writing: its files contain no items"):
        load_benchmarks([str(folder.writing)], {"writing": {"data": str(folder.data)}})


def test_who_cannot_be_asked_is_refused(
    own: OwnBenchmarks, run: Run, tmp_path: Path, settings: Callable[..., BenchmarkSettings]
) -> None:
    with pytest.raises(RunError, match=r"neither a run \(no recipe.yaml\) nor a model"):
        subject_of(tmp_path)
    with pytest.raises(UsageError, match=r"x\.yaml: is a recipe, not a model"):
        subject_of("x.yaml")
    assert subject_of(run) == (run, None) and subject_of("gpt2") == (None, "gpt2")
    with pytest.raises(UsageError, match=r"its own model and template; alpaca, train\.dtype=bf16 cannot change it"):
        generate_benchmarks(run, names(own), settings(template="alpaca", changes=("train.dtype=bf16",)))
    with pytest.raises(UsageError, match="micro_batch_tokens is 0"):
        generate_benchmarks(run, names(own), settings(micro_batch_tokens=0))


def test_scores_are_finite_numbers(own: OwnBenchmarks, run: Run, settings: Callable[..., BenchmarkSettings]) -> None:
    (one,) = evaluate_benchmarks(run, names(own)[:1], settings("choices", arms=("base",)))
    assert all(math.isfinite(value) for r in read(one.responses["base"].path)[1] for value in r.log_probabilities)


def test_a_template_is_demanded_of_a_model_without_one(
    own: OwnBenchmarks, models: dict[str, Path], settings: Callable[..., BenchmarkSettings], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"has no chat template") as caught:
        generate_benchmarks(str(models["gpt2"]), names(own), settings(in_template=True))
    assert "--template alpaca" in caught.value.hint
    assert CONTEXT == 128
    model_folder(tmp_path / "gpt2", "gpt2", n_positions=512)
    stored = generate_benchmarks(str(tmp_path / "gpt2"), names(own), settings(template="alpaca", limit=2))
    assert [one.template for one in stored] == ["alpaca", "alpaca"]
    raw = generate_benchmarks(str(tmp_path / "gpt2"), names(own), settings(in_template=False, limit=2))
    assert [one.template for one in raw] == [None, None]
