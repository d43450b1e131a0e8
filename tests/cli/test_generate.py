"""`tunelab generate`: answers streamed, written as JSON lines, or kept in a file that is gone on with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from verbs import Bench, Command

from tunelab.answering.generate import open_responder
from tunelab.answering.responder import Responder
from tunelab.errors import RunError
from tunelab.inference import engine
from tunelab.inference.sampling import Decoding
from tunelab.records.answers import read_answers
from tunelab.records.responses import ResponseFile

FEW = ("--max-new-tokens", "5")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"q{n}", "prompt": f"{n}: red {'cat ' * n}"}) + "\n" for n in range(6)))
    return path


def test_one_prompt_is_streamed(tunelab: Command, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tunelab("generate", bench.lora, "--prompt", "1: red", *FEW)
    (answer,) = open_responder(bench.lora).answer(["1: red"], Decoding(max_new_tokens=5))
    assert (said.code, said.out) == (0, answer.text + "\n")
    assert said.err == ("" if answer.stop_reason == "stop" else CUT)
    written: list[str] = []
    monkeypatch.setattr("tunelab.cli._answers.print", lambda *text, **how: written.append("".join(text)), raising=False)
    tunelab("generate", bench.lora, "--prompt", "1: red", *FEW)
    assert len(written) > 2 and "".join(written[:-1]) == answer.text


CUT = "the answer was cut off at 5 tokens; raise --max-new-tokens\n"


def test_several_prompts_come_in_their_order(tunelab: Command, bench: Bench) -> None:
    asked = ["1: red", "longer, so that it is answered first", "3: blue"]
    said = tunelab("generate", bench.lora, *(word for text in asked for word in ("--prompt", text)), *FEW)
    answers = sorted(open_responder(bench.lora).answer(asked, Decoding(max_new_tokens=5)), key=lambda one: one.item)
    assert said.code == 0 and said.out == "".join(f"{answer.text}\n" for answer in answers)
    assert [line for line in said.err.splitlines() if line.startswith("prompt")] == [f"prompt {n}:" for n in (1, 2, 3)]


def test_arms_sampling_stops_and_raw(tunelab: Command, bench: Bench) -> None:
    def out(*words: object) -> str:
        said = tunelab("generate", *words, *FEW)
        assert said.code == 0, said.err
        return said.out

    asked = ("--prompt", "1: red")
    tuned, base = out(bench.lora, *asked), out(bench.lora, *asked, "--arm", "base")
    plain = ("--template", "plain", "train.dtype=fp32")  # the run's own; auto depends on the machine
    assert tuned != base == out("--model", bench.model, *plain, *asked)
    assert out("--model", bench.model, "--adapter", bench.lora / "adapter", *plain, *asked) == tuned
    assert out(bench.lora, *asked, "--raw") not in (tuned, base)
    warm = ("--temperature", "1.5", "--top-p", "0.9", "--top-k", "50", "--min-p", "0.01", "--repetition-penalty", "1.1")
    drawn = out(bench.lora, *asked, *warm, "--seed", "1")
    assert drawn == out(bench.lora, *asked, *warm, "--seed", "1") != out(bench.lora, *asked, *warm, "--seed", "2")
    third = tuned[2]
    assert out(bench.lora, *asked, "--stop", third, "--stop", "never said") == tuned[: tuned.index(third)] + "\n"


def test_a_model_answers_in_the_precision_that_is_given(tunelab: Command, bench: Bench, prompts: Path) -> None:
    """It was refused, while hints said to set it."""
    plain = ("--model", bench.model, "--template", "plain", "train.dtype=fp32")
    said = tunelab("generate", *plain, "--precision", "nf4", "--file", prompts, "--out", "nf4.jsonl", *FEW)
    assert said.code == 0, said.err
    (settings,) = Path().glob("nf4*settings*")
    assert "nf4" in json.loads(settings.read_text())["precision"]
    said = tunelab("generate", bench.lora, "--precision", "nf4", "--prompt", "red?", *FEW)
    assert said.code == 2 and "changes precision.name=nf4 cannot change it" in said.err


def test_a_file_is_answered_as_json_lines(tunelab: Command, bench: Bench, prompts: Path) -> None:
    said = tunelab("generate", bench.lora, "--file", prompts, *FEW)
    lines = [json.loads(line) for line in said.out.splitlines()]
    assert said.code == 0 and said.err == ""
    assert sorted(line["item"] for line in lines) == [f"q{n}" for n in range(6)]
    kept = tunelab(
        "generate", bench.lora, "--file", prompts, "--out", "deep/answers.jsonl", *FEW, "--micro-batch-tokens", "99"
    )
    told = "6 answers: deep/answers.jsonl; settings: deep/answers.jsonl.settings.json\n"
    assert (kept.code, kept.out, kept.err) == (0, "", told)
    settings, records = read_answers(Path("deep/answers.jsonl"))
    assert settings["arm"] == "tuned" and settings["decoding"]["max_new_tokens"] == 5
    assert {record["item"]: (record["prompt"], record["text"]) for record in records} == {
        line["item"]: (line["prompt"], line["text"]) for line in lines
    }


def test_answers_are_in_the_prompts_order_and_other_programs_read_them(
    tunelab: Command, bench: Bench, prompts: Path
) -> None:
    import datasets
    import pandas

    assert tunelab("generate", bench.lora, "--file", prompts, "--out", "answers.jsonl", *FEW).code == 0
    asked = [json.loads(line)["prompt"] for line in prompts.read_text().splitlines()]
    table = pandas.read_json("answers.jsonl", lines=True)
    assert list(table["item"]) == [f"q{n}" for n in range(6)] and list(table["prompt"]) == asked
    read = datasets.load_dataset("json", data_files="answers.jsonl", split="train", cache_dir="cache")
    assert read["prompt"] == asked and list(read["text"]) == list(table["text"])


def test_prompts_of_several_turns_keep_them_all(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Red?"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"instruction": "Sort.", "input": "b, a"}}\n{json.dumps({"messages": turns})}\n')
    assert tunelab("generate", bench.lora, "--file", path, "--out", "answers.jsonl", *FEW).code == 0
    first, second = map(json.loads, Path("answers.jsonl").read_text().splitlines())
    assert first["prompt"] == "Sort.\n\nb, a" and first["messages"] == [{"role": "user", "content": "Sort.\n\nb, a"}]
    assert second["prompt"] == "Red?" and second["messages"] == turns


def test_a_limit_answers_the_first_prompts_and_more_may_follow(tunelab: Command, bench: Bench, prompts: Path) -> None:
    words = ("generate", bench.lora, "--file", prompts, "--out", "answers.jsonl", *FEW)
    assert tunelab(*words, "--limit", "2").err.startswith("2 answers: ")
    few = Path("answers.jsonl").read_text()
    assert [json.loads(line)["item"] for line in few.splitlines()] == ["q0", "q1"]
    assert tunelab(*words).code == 0
    whole = Path("answers.jsonl").read_text()
    assert whole.startswith(few) and len(whole.splitlines()) == 6
    assert tunelab(*words, "--limit", "2").code == 0
    assert Path("answers.jsonl").read_text() == whole, "answers to other prompts stay"


def test_answers_without_their_settings_are_refused(tunelab: Command, bench: Bench, prompts: Path) -> None:
    words = ("generate", bench.lora, "--file", prompts, "--out", "answers.jsonl", *FEW)
    assert tunelab(*words).code == 0
    Path("answers.jsonl.settings.json").write_text("{")
    assert "error: answers.jsonl.settings.json: not JSON: " in tunelab(*words).err
    Path("answers.jsonl.settings.json").unlink()
    said = tunelab(*words)
    assert said.code == 1 and "answers.jsonl: its settings file answers.jsonl.settings.json is missing" in said.err
    assert "hint: restore it, or choose another output file" in said.err
    with pytest.raises(RunError, match=r"nowhere\.jsonl: no answers"):
        read_answers(Path("nowhere.jsonl"))


def test_a_file_with_its_settings_in_the_first_line_is_resumed(tunelab: Command, bench: Bench, prompts: Path) -> None:
    words = ("generate", bench.lora, "--file", prompts, "--out", "answers.jsonl", *FEW)
    assert tunelab(*words).code == 0
    path, settings = Path("answers.jsonl"), Path("answers.jsonl.settings.json")
    whole = path.read_text()
    header = json.dumps(json.loads(settings.read_text()))
    old = [{key: value for key, value in json.loads(line).items() if key != "prompt"} for line in whole.splitlines()]
    path.write_text("".join(f"{line}\n" for line in (header, *map(json.dumps, (old[4], old[1])))))
    settings.unlink()
    assert tunelab(*words).code == 0
    assert path.read_text() == whole and settings.exists()


def test_ctrl_c_keeps_what_was_made(
    tunelab: Command, bench: Bench, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("generate", bench.lora, "--file", prompts, *FEW)
    whole = tunelab(*words, "--out", "whole.jsonl")
    assert whole.code == 0
    real = ResponseFile.append

    def append(self: ResponseFile, record: dict[str, Any]) -> Any:
        if len(self) == 4:
            raise KeyboardInterrupt
        return real(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(ResponseFile, "append", append)
        stopped = tunelab(*words, "--out", "answers.jsonl")
    assert (stopped.code, stopped.out) == (130, "")
    again = shlex.join(["tunelab", *map(str, words), "--out", "answers.jsonl"])
    assert stopped.err == (
        "error: interrupted; 4 of 6 answers are in answers.jsonl\n"
        f"hint: run the same command again to resume: {again}\n"
    )
    assert tunelab(*words, "--out", "answers.jsonl").err.startswith("6 answers: answers.jsonl; ")
    assert Path("answers.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_ctrl_c_without_a_file(tunelab: Command, bench: Bench, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, real_stream = engine.generate, engine.stream

    def interrupted(*arguments: Any, **named: Any) -> Any:
        made = real(*arguments, **named)
        yield next(made)
        raise KeyboardInterrupt

    def stream(*arguments: Any, **named: Any) -> Any:
        yield next(real_stream(*arguments, **named))
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "generate", interrupted)
    monkeypatch.setattr(engine, "stream", stream)
    said = tunelab("generate", bench.lora, "--file", prompts, *FEW)
    assert said.code == 130 and len(said.out.splitlines()) == 1
    assert "interrupted; 1 of 6 answers were written\nhint: with --out FILE, the same command resumes" in said.err
    said = tunelab("generate", bench.lora, "--prompt", "1: red", *FEW)
    assert said.code == 130 and len(said.out) > 1 and said.out.endswith("\n") and said.err == "interrupted\n"


def test_bad_lines_are_told_at_once_and_nothing_is_written(
    tunelab: Command, bench: Bench, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Responder, "model", property(lambda self: pytest.fail("weights were loaded")))
    with open(prompts, "a") as file:
        file.write('{"text": "x"}\n{"prompt": \n')
    said = tunelab("generate", bench.lora, "--file", prompts, "--out", "answers.jsonl")
    assert said.code == 1 and said.out == "" and not Path("answers.jsonl").exists()
    assert "2 of 8 prompts cannot be used" in said.err
    assert (
        f'{prompts} line 7: expected {{"prompt": "..."}}, ' in said.err and f"{prompts} line 8: broken JSON" in said.err
    )


def test_another_decoding_is_refused(tunelab: Command, bench: Bench, prompts: Path) -> None:
    words = ("generate", bench.lora, "--file", prompts, "--out", "answers.jsonl")
    assert tunelab(*words, *FEW).code == 0
    said = tunelab(*words, "--max-new-tokens", "4")
    assert said.code == 1 and "decoding.max_new_tokens: 5 in the file, 4 now" in said.err


def test_what_the_tokenizer_cannot_spell_is_told_once(tunelab: Command, shared_data: Path, tmp_path: Path) -> None:
    model = ("--model", shared_data / "models/tinystories656k", "--template", "alpaca")
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Go (now)"}\n{"prompt": "Stay"}\n{"prompt": "Caf\u00e9 (red)"}\n')
    own = "the prompt template's own # is not in the tokenizer's vocabulary and dropped from every prompt\n"
    users = "5 characters are not in the tokenizer's vocabulary and dropped from 2 of 3 prompts: ( (2), ) (2), é (1)\n"
    for words in ((), ("--out", "a.jsonl")):
        said = tunelab("generate", *model, "--file", path, *words, *FEW)
        assert said.code == 0 and said.err.endswith(users + own) and said.err.count("vocabulary") == 2
    said = tunelab("generate", *model, "--prompt", "Go", "--prompt", "(", *FEW)
    assert "1 character is not in the tokenizer's vocabulary and dropped from 1 of 2 prompts: (\n" in said.err
    raw = tunelab("generate", *model[:2], "--raw", "--prompt", "Go # on", *FEW)
    assert "dropped from 1 of 1 prompts: #\n" in raw.err and own not in raw.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN"], "give either --prompt TEXT or --file PROMPTS.jsonl"),
        (["RUN", "--prompt", "x", "--file", "y"], "give either --prompt TEXT or --file PROMPTS.jsonl"),
        (["RUN", "--prompt", "x", "--out", "y"], "--out needs --file"),
        (["RUN", "--prompt", "x", "--limit", "3"], "--limit needs --file or --benchmarks"),
        (["RUN", "--file", "x", "--limit", "0"], "--limit is 0, expected a positive integer"),
        (["--prompt", "x"], "no model to answer with"),
        (["nowhere", "--prompt", "x"], "nowhere: no such run"),
        (["RUN", "red", "--prompt", "x"], "two runs: "),
        (["RUN", "--prompt", "x", "--model", "m"], "model m cannot change it"),
        (["RUN", "--prompt", "x", "train.dtype=bf16"], "changes train.dtype=bf16 cannot change it"),
        (["RUN", "--prompt", "x", "--top-p", "0"], "top_p is 0.0, expected"),
        (["RUN", "--prompt", "x", "--prompt", "y", "--micro-batch-tokens", "0"], "micro_batch_tokens is 0, expected"),
        (["RUN", "--prompt", "x", "--max-new-tokens", "many"], "--max-new-tokens is 'many', expected an integer"),
        (["RUN", "--prompt", "x", "--arm", "best"], "--arm is 'best', expected one of base, tuned"),
    ],
)
def test_wrong_uses(words: list[str], message: str, tunelab: Command, bench: Bench) -> None:
    said = tunelab("generate", *[str(bench.lora) if word == "RUN" else word for word in words])
    assert said.code == 2 and said.out == "" and message in said.err


WITH_TOOLS = (
    "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}{% for turn in messages %}<|im_start|>"
    "{{ turn.role + turn.content }}{% for call in turn.tool_calls or [] %}{{ call.function.name }}{% endfor %}"
    "<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)


def test_prompts_with_tools(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"name": "look", "arguments": {}}]}
    turns = [{"role": "user", "content": "red"}, call, {"role": "tool", "content": "cat", "tool_call_id": "a"}]
    lines = [{"messages": turns, "tools": [{"name": "look"}]}, {"prompt": "blue"}]
    (tmp_path / "tools.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    asked = ("--file", tmp_path / "tools.jsonl")
    (tmp_path / "short.jinja").write_text(WITH_TOOLS, encoding="utf-8")
    named = ("--model", bench.model, f"data.chat_template={tmp_path / 'short.jinja'}", "model.new_tokens=template")
    said = tunelab("generate", *named, *asked, "--out", tmp_path / "answers.jsonl", "--max-new-tokens", "2")
    assert said.code == 0, said.err
    first, second = map(json.loads, (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines())
    assert [tool["function"]["name"] for tool in first["tools"]] == ["look"] and second["tools"] == []
    assert first["messages"][2] == {"role": "tool", "content": "cat", "tool_call_id": "a"}
    raw, plain = (tunelab("generate", bench.lora, how, *asked) for how in ("--raw", "--arm=base"))
    assert raw.code == plain.code == 1
    assert "line 1: has a system message, an input, tools or several turns, which raw text" in raw.err
    assert "line 1: the plain template has no place for tools" in plain.err
