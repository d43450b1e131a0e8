"""Answering prompts: answered as evaluation answers them, and resumable."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import forked
from sampled import sampled
from tiny import recipe

from tunelab.answering.answer import Answer
from tunelab.answering.generate import open_responder
from tunelab.answering.held_out_evaluation import evaluate
from tunelab.answering.responder import Responder
from tunelab.cli.main import main
from tunelab.config import load_recipe
from tunelab.data.prompts import as_prompts, read_prompts
from tunelab.errors import DataError, Interrupted, ModelError, RunError, UsageError
from tunelab.inference.sampling import Decoding
from tunelab.records.answers import read_answers
from tunelab.records.responses import ResponseFile, read_responses
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune

SHORT = Decoding(max_new_tokens=6)
ASKED = ["1: red cat", "blue", "7: sun moon one two up down", "one", "two dog"]


@pytest.fixture(scope="module")
def run(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("generate")
    return finetune(recipe(models["llama"], rows, folder / "run", data__held_out=6, train__steps=3))


@pytest.fixture(scope="module")
def tuned(run: Run) -> Responder:
    return open_responder(run)


def collected(stream: Generator[str, None, Answer]) -> tuple[list[str], Answer]:
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return pieces, end.value


def texts(answers: list[Answer]) -> list[str]:
    return [answer.text for answer in sorted(answers, key=lambda answer: answer.item)]


# Answers.


def test_answers_are_those_of_evaluation(run: Run, rows: Path, tuned: Responder) -> None:
    evaluate(run, max_new_tokens=6)
    (path,) = run.evaluations.glob("tuned-*/responses.jsonl")
    expected = {record["reference"]: record["token_ids"] for record in read_responses(path)[1]}
    by_line = {f"{n:06d}": json.loads(line)["completion"] for n, line in enumerate(rows.read_text().splitlines(), 1)}
    ours = {by_line[answer.item]: list(answer.token_ids) for answer in tuned.answer(read_prompts(rows), SHORT)}
    assert len(expected) == 6 and expected == {reference: ours[reference] for reference in expected}


def test_arms_and_adapters(run: Run, models: dict[str, Path], tuned: Responder, rows: Path) -> None:
    def answers(responder: Responder) -> list[tuple[int, ...]]:
        made = sorted(responder.answer(ASKED, SHORT), key=lambda answer: answer.item)
        return [answer.token_ids for answer in made]

    base = answers(open_responder(run, arm="base"))
    assert base != answers(tuned)
    name = str(models["llama"])
    assert answers(open_responder(model=name, template="plain")) == base
    with_adapter = open_responder(model=name, adapter=run.adapter, template="plain")
    assert answers(with_adapter) == answers(tuned)
    assert with_adapter.header(SHORT) == {**tuned.header(SHORT), "dtype": with_adapter.header(SHORT)["dtype"]}
    without = open_responder(model=name, adapter=run.adapter, arm="base", template="plain")
    assert (without.arm, answers(without)) == ("base", base)


def test_a_model_is_asked_in_the_wording_that_chat_would_take(run: Run, models: dict[str, Path]) -> None:
    model = str(models["llama"])
    assert open_responder(model=model).recipe.data.template == "alpaca"
    assert open_responder(model=model, adapter=run.adapter).recipe.data.template == "plain"
    assert open_responder(model=model, adapter=run.adapter, template="alpaca").recipe.data.template == "alpaca"
    changed = open_responder(model=model, adapter=run.adapter, changes=["data.template=alpaca-short"])
    assert changed.recipe.data.template == "alpaca-short"


def test_a_run_of_all_weights(models: dict[str, Path], rows: Path, tmp_path: Path, tuned: Responder) -> None:
    settings: dict[str, Any] = {"method": "full", "train__steps": 2, "train__dtype": "bf16"}
    run = finetune(recipe(models["llama"], rows, tmp_path / "run", **settings))
    ours, base = open_responder(run), open_responder(run, arm="base")
    assert texts(list(ours.answer(ASKED, SHORT))) != texts(list(base.answer(ASKED, SHORT)))
    assert ours.header(SHORT)["weights"] == run.manifest["weights_after"] and "model" not in ours.header(SHORT)
    assert (base.header(SHORT)["arm"], base.header(SHORT)["dtype"]) == ("base", "bf16")
    stream = ours.stream("blue", SHORT)
    next(stream)
    assert not torch.is_autocast_enabled("cpu") and torch.is_grad_enabled(), "the caller's own code is left alone"
    stream.close()


@pytest.mark.parametrize("decoding", [SHORT, Decoding(max_new_tokens=20, temperature=1.0, seed=3)])
def test_streamed_is_answered(decoding: Decoding, tuned: Responder) -> None:
    pieces, answer = collected(tuned.stream(ASKED[0], decoding))
    assert len(pieces) > 1 and "".join(pieces) == answer.text
    assert answer == next(iter(tuned.answer(ASKED[:1], decoding)))


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        ([" ", "red"], ["red"]),
        ([" red", " cat"], ["red", " cat"]),
        (["red"], ["red"]),
        ([" "], []),
        ([" ", " a"], [" a"]),
    ],
)
def test_the_template_s_space_before_an_answer_is_not_shown(
    made: list[str], shown: list[str], tuned: Responder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunelab.inference import engine

    def fake(*arguments: Any, **named: Any) -> Generator[str, None, engine.Generation]:
        yield from made
        return engine.Generation(0, (1, 2), "".join(made), "stop", 5)

    monkeypatch.setattr(engine, "stream", fake)
    pieces, answer = collected(tuned.stream("x"))
    assert pieces == shown and answer == Answer("000001", "".join(shown), (1, 2), "stop", 5)
    raw = dataclasses.replace(tuned, raw=True)
    assert collected(raw.stream("x"))[1].text == "".join(made)


# Files of answers.


def stopped_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when `count` answers are in the file."""
    real = ResponseFile.append

    def append(self: ResponseFile, record: dict[str, Any]) -> Any:
        if len(self) == count:
            raise KeyboardInterrupt
        return real(self, record)

    monkeypatch.setattr(ResponseFile, "append", append)


@pytest.mark.parametrize(("kept", "temperature"), sampled([0, 1, 5, 11], [0.0, 1.2]))
def test_killed_and_started_again_it_holds_the_same_answers(
    kept: int, temperature: float, tuned: Responder, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, decoding = read_prompts(rows)[:12], Decoding(max_new_tokens=5, temperature=temperature, seed=4)
    whole = tuned.answer_into(tmp_path / "whole.jsonl", prompts, decoding, micro_batch_tokens=200)
    path = tmp_path / "deep" / "answers.jsonl"
    with monkeypatch.context() as patch:
        stopped_after(kept, patch)
        with pytest.raises(Interrupted, match=rf"interrupted; {kept} of 12 answers are in .*answers.jsonl") as caught:
            tuned.answer_into(path, prompts, decoding, micro_batch_tokens=200)
    assert caught.value.hint == "run the same command again to resume"
    before = path.read_bytes()
    assert len(before.splitlines()) == kept
    path.write_bytes(before + b'{"item": "0000')  # as a kill in the middle of a line leaves it
    told: list[tuple[int, int | None]] = []
    again = tuned.answer_into(
        path,
        prompts,
        decoding,
        micro_batch_tokens=200,
        progress=lambda stage, done, total, detail="": told.append((done, total)),
    )
    assert again == whole == tuned.answer_into(path, prompts, decoding), "a third time nothing is made"
    assert told == [(number, 12) for number in range(kept, 13)]
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [json.loads(line)["item"] for line in path.read_bytes().splitlines()] == [one.item for one in prompts]
    assert set(before.splitlines()) <= set(path.read_bytes().splitlines())


def answer_until_killed(words: list[str]) -> None:
    """The command, killed in the middle of writing the fourth answer. For a child of its own."""
    real = ResponseFile.append

    def append(self: ResponseFile, record: dict[str, Any]) -> Any:
        if len(self) == 3:
            self._file.write(b'{"item": "0000')
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, record)

    ResponseFile.append = append  # type: ignore[method-assign, assignment]
    main(words)


def test_a_process_that_was_killed_leaves_a_file_to_go_on_with(
    run: Run, rows: Path, tuned: Responder, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    words = ["generate", str(run.path), "--file", str(rows), "--out", str(path), "--max-new-tokens", "6"]
    _, status = os.waitpid(forked(lambda: answer_until_killed(words)), 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    before = path.read_bytes()
    assert len(before.splitlines()) == 3 + 1 and before.endswith(b'{"item": "0000')
    tuned.answer_into(path, read_prompts(rows), SHORT)
    tuned.answer_into(tmp_path / "whole.jsonl", read_prompts(rows), SHORT)
    assert set(before.splitlines()[:-1]) <= set(path.read_bytes().splitlines())
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_file_of_something_else_is_refused(run: Run, tuned: Responder, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    tuned.answer_into(path, ASKED, SHORT)
    before = path.read_bytes()
    header, records = read_answers(path)
    assert header == tuned.header(SHORT) and header["decoding"]["stop_token_ids"] == [256]
    assert {"item", "prompt", "prompt_hash", "text", "token_ids", "stop_reason", "prompt_tokens"} == records[0].keys()
    with pytest.raises(RunError, match=r"made with another model .*\n  decoding.seed: 0 in the file, 1 now"):
        tuned.answer_into(path, ASKED, dataclasses.replace(SHORT, seed=1))
    with pytest.raises(
        RunError, match=r"(?s)adapter: .* in the file, absent now.*arm: \"tuned\" in the file, \"base\" now"
    ):
        open_responder(run, arm="base").answer_into(path, ASKED, SHORT)
    with pytest.raises(RunError, match=r'template: "plain" in the file, null now'):
        open_responder(run, raw=True).answer_into(path, ASKED, SHORT)
    with pytest.raises(RunError, match="item '000002' was answered for a different prompt"):
        tuned.answer_into(path, [ASKED[0], "another", *ASKED[2:]], SHORT)
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_written(tuned: Responder, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with open(path, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunError, match=r"answers.jsonl: another process is writing it"):
            tuned.answer_into(path, ASKED, SHORT)
    with pytest.raises(UsageError, match="is a directory"):
        tuned.answer_into(tmp_path, ASKED, SHORT)
    tuned.answer_into(path, ASKED, SHORT)
    lines = path.read_text().splitlines(keepends=True)
    first = json.loads(lines[0])
    del first["text"]
    path.write_text(json.dumps(first) + "\n")
    with pytest.raises(RunError, match=rf"item '{first['item']}' has no 'text': not an answer"):
        tuned.answer_into(path, ASKED, SHORT)


# What is asked for.


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "no model to answer with"),
        ({"model": "gpt2", "arm": "best"}, "no arm named 'best'"),
        ({"model": "gpt2", "arm": "tuned"}, "gpt2 has no tuned arm"),
        ({"run": "x", "model": "gpt2"}, "a run answers with its own model and template; model gpt2 cannot change it"),
        ({"run": "x", "adapter": "a", "template": "chat"}, "adapter a, template chat cannot change it"),
        ({"run": "x", "changes": ["train.dtype=bf16"]}, "changes train.dtype=bf16 cannot change it"),
        ({"model": "gpt2", "changes": ["train.dtyp=bf16"]}, r"train.dtyp: .*"),
    ],
)
def test_wrong_uses(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_responder(**asked)


def test_what_is_not_there(run: Run, models: dict[str, Path], tmp_path: Path, tuned: Responder) -> None:
    with pytest.raises(RunError, match="no run there"):
        open_responder(tmp_path)
    with pytest.raises(UsageError, match="no template named 'plane'; did you mean 'plain'"):
        open_responder(model=str(models["llama"]), template="plane").encode(as_prompts(["x"]))
    with pytest.raises(ModelError, match="this tokenizer has no chat template"):
        open_responder(model=str(models["llama"]), template="chat").encode(as_prompts(["x"]))
    with pytest.raises(ModelError, match="no adapter found"):
        next(open_responder(model=str(models["llama"]), adapter=tmp_path, template="plain").answer(["x"]))
    with pytest.raises(UsageError, match="micro_batch_tokens is 0, expected a positive integer"):
        next(tuned.answer(["x"], micro_batch_tokens=0))


def test_prompts_that_leave_no_room_are_named_before_anything_is_loaded(run: Run, tmp_path: Path) -> None:
    fresh = open_responder(run)
    with pytest.raises(
        DataError, match=r"2 of 3 prompts .*\n  prompt 1: \d+ tokens, but the model's context is 128: no"
    ):
        fresh.answer_into(tmp_path / "out.jsonl", ["x" * 200, "fine", "y" * 128])
    with pytest.raises(DataError, match="1 of 1 prompts"):
        next(fresh.stream("x" * 200))
    assert "model" not in fresh.__dict__ and not (tmp_path / "out.jsonl").exists()
    wording = len(fresh.encode(as_prompts(["x"]))[0]) - 1
    longest = "x" * (127 - wording)
    assert [len(ids) for ids in fresh.encode(as_prompts([longest]))] == [127]
    (answer,) = fresh.answer([longest])
    assert (answer.prompt_tokens, len(answer.token_ids)) == (127, 1)
    with pytest.raises(DataError, match="prompt 1: 128 tokens, but the model's context is 128"):
        fresh.encode(as_prompts([longest + "x"]))


def test_an_unfinished_run_is_refused(run: Run, tmp_path: Path) -> None:
    unfinished = Run(tmp_path / "run")
    unfinished.path.mkdir()
    unfinished.recipe_file.write_text(run.recipe_file.read_text())
    unfinished.update_manifest(status="interrupted")
    with pytest.raises(RunError, match="the run is interrupted, not finished") as caught:
        open_responder(unfinished.path)
    assert caught.value.hint == f"tunelab train --resume {unfinished.path}"


def test_changes_reach_the_recipe(models: dict[str, Path]) -> None:
    ours = open_responder(model=str(models["llama"]), changes=["train.dtype=bf16", "data.template=plain"])
    assert (ours.recipe.train.dtype, ours.recipe.data.template, ours.arm) == ("bf16", "plain", "base")
    assert ours.recipe.data.sources == load_recipe(None, ["data=alpaca", "model=x"]).data.sources
    assert open_responder(model=str(models["llama"])).recipe.data.template == "alpaca"
