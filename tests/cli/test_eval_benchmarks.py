"""`tunelab eval --benchmarks`: a table a benchmark with a column an arm, where files lie, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from own_benchmarks import OwnBenchmarks, write_benchmarks
from verbs import Bench, Command

from tunelab.records.responses import read_responses

VALUE = re.compile(r"[\d.,]+ ± [\d.,]+|[\d.]+ \([\d.]+ to [\d.]+\)")


@pytest.fixture
def own(tmp_path: Path) -> OwnBenchmarks:
    return write_benchmarks(tmp_path / "own")


@pytest.fixture
def run(bench: Bench, tmp_path: Path) -> Path:
    shutil.copytree(bench.lora, tmp_path / "copy", ignore=shutil.ignore_patterns("evaluations"))
    return tmp_path / "copy"


def on(own: OwnBenchmarks, *names: str) -> list[str]:
    paths = ",".join(str(getattr(own, name)) for name in names)
    return ["--benchmarks", paths, *(f"{name}.data={own.data}" for name in names)]


def test_a_run_is_measured_beside_its_base(tunelab: Command, own: OwnBenchmarks, run: Path) -> None:
    said = tunelab("eval", run, *on(own, "choices", "writing"), "--limit", "8", "choices.shots=1")
    assert said.code == 0, said.err
    assert said.cells["choices"] == said.cells["writing"] == ["base", "tuned", "unit", "better"]
    rows = [line for line in said.out.splitlines() if line.startswith("right")]
    assert len(rows) == 2 and all(len(VALUE.findall(row)) == 2 for row in rows)
    assert "warning: base, tuned: made for a test" in said.err
    assert f"choices base: 8 items, prompted without a template; scores: {run}/evaluations/choices-base-" in said.err
    cut = r"writing tuned: 8 items, prompted as one user turn in the template plain; \d answers hit the token limit"
    assert re.search(cut, said.err)
    found = sorted(path.relative_to(run).as_posix() for path in run.glob("evaluations/*/responses.jsonl"))
    assert [re.sub(r"-[0-9a-f]{8}/", "/", path) for path in found] == [
        f"evaluations/{name}-{arm}/responses.jsonl" for name in ("choices", "writing") for arm in ("base", "tuned")
    ]
    for path in run.glob("evaluations/*/"):
        assert said.err.count(str(path / "scores.json").removeprefix(str(run))) == 1
    assert said.err.endswith("\n± is one standard error over items\n") and said.err.count("one standard error") == 1
    header, records = read_responses(next(run.glob("evaluations/choices-base-*/responses.jsonl")))
    assert header["benchmark_options"]["shots"] == 1 and len(records) == 8
    again = tunelab("eval", run, *on(own, "choices", "writing"), "--limit", "8", "choices.shots=1")
    assert again.out == said.out


def test_one_arm_alone_and_its_wording(tunelab: Command, own: OwnBenchmarks, run: Path) -> None:
    said = tunelab("eval", run, *on(own, "choices"), "--arm", "tuned", "--limit", "4", "--chat-template")
    assert said.code == 0 and said.cells["choices"] == ["tuned", "unit", "better"]
    assert "choices tuned: 4 items, prompted as one user turn in the template plain" in said.err
    said = tunelab("eval", run, *on(own, "writing"), "--arm", "base", "--limit", "4", "--no-chat-template")
    assert said.code == 0 and "writing base: 4 items, prompted without a template" in said.err


def test_a_model_by_name_or_flag(tunelab: Command, own: OwnBenchmarks, bench: Bench, tmp_path: Path) -> None:
    words = [*on(own, "writing"), "--limit", "3", "--max-new-tokens", "5", "--micro-batch-tokens", "200"]
    by_name = tunelab("eval", bench.model, *words, "train.dtype=fp32")
    assert by_name.code == 0, by_name.err
    assert by_name.cells["writing"] == ["base", "unit", "better"]
    (path,) = tmp_path.glob("evaluations/writing-base-*/responses.jsonl")
    assert all(record["answer_tokens"] <= 5 for record in read_responses(path)[1])
    by_flag = tunelab("eval", "--model", bench.model, *words, "--out", "there")
    assert by_flag.out == by_name.out and len(list(tmp_path.glob("there/writing-base-*"))) == 1


def test_adapter_and_precision(tunelab: Command, own: OwnBenchmarks, bench: Bench, tmp_path: Path) -> None:
    words = [*on(own, "choices"), "--limit", "3", "--adapter", bench.lora / "adapter", "--precision", "int8"]
    said = tunelab("eval", bench.model, *words)
    assert said.code == 0, said.err
    assert said.cells["choices"] == ["base", "tuned", "unit", "better"]
    headers = [read_responses(path)[0] for path in sorted(tmp_path.glob("evaluations/*/responses.jsonl"))]
    assert [header["precision"] for header in headers] == ["int8", "int8"]
    assert [header["arm"] for header in headers if "adapter" in header] == ["tuned"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no run or model given"),
        (["RUN", "MODEL"], "several: "),
        (["RUN", "--model", "gpt2"], "several: "),
        (["RUN", "--out", "x"], "a run stores its own responses"),
        (
            ["RUN", "--precision", "nf4"],
            "a run is evaluated with its own model and template; precision.name=nf4 cannot",
        ),
        (["RUN", "--limit", "0"], "limit is 0, expected 1 or more"),
        (["RUN", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["RUN", "--data", "alpaca", "--seed", "1"], "--data, --seed cannot be used with --benchmarks"),
        (["RUN", "ifeval.mode=exact"], "options of ifeval are given, but only writing is evaluated"),
        (["RUN", "writing.shoots=1"], "writing.shoots: unknown option"),
        (["MODEL", "--arm", "tuned"], "has no tuned arm"),
        (["MODEL", "trian.dtype=bf16"], "trian: unknown key"),
        (["recipe.yaml"], "recipe.yaml: is a recipe, not a model"),
    ],
)
def test_wrong_uses(words: list[str], message: str, tunelab: Command, bench: Bench, own: OwnBenchmarks) -> None:
    places = {"RUN": str(bench.lora), "MODEL": str(bench.model)}
    said = tunelab("eval", *[places.get(word, word) for word in words], *on(own, "writing"))
    assert said.code == 2 and said.out == "" and message in said.err, said.err
    assert any(remedy in said.err for remedy in ("hint: ", "known: ", "did you mean", "positive integer", "at least 1"))


def test_a_model_without_a_chat_template(tunelab: Command, bench: Bench, own: OwnBenchmarks) -> None:
    said = tunelab("eval", bench.model, *on(own, "writing"), "--chat-template")
    assert said.code == 1 and "has no chat template" in said.err and "--template alpaca" in said.err


@pytest.mark.parametrize("words", [["--arm", "base"], ["--chat-template"]])
def test_flags_of_benchmarks_need_on(words: list[str], tunelab: Command, bench: Bench) -> None:
    said = tunelab("eval", bench.lora, *words)
    assert said.code == 2 and "needs --benchmarks" in said.err


def test_scores_are_stored_as_they_are_shown(tunelab: Command, own: OwnBenchmarks, run: Path) -> None:
    said = tunelab("eval", run, *on(own, "choices"), "--arm", "base")
    (stored,) = run.glob("evaluations/choices-base-*/scores.json")
    score = json.loads(stored.read_text())["scores"][0]
    assert float(said.cells["right"][0].split()[0]) == pytest.approx(score["value"], abs=0.01)


def test_alpacaeval_leaves_what_its_judge_reads(tunelab: Command, run: Path, tmp_path: Path) -> None:
    (tmp_path / "alpaca_eval.json").write_text(json.dumps([{"instruction": "Red?"}, {"instruction": "Blue?"}]))
    words = ["--benchmarks", "alpacaeval", f"alpacaeval.data={tmp_path / 'alpaca_eval.json'}", "--max-new-tokens", "4"]
    said = tunelab("eval", run, *words)
    assert said.code == 0, said.err
    for arm, name in (("base", r"[\w-]+-base"), ("tuned", r"[\w-]+-tuned-[0-9a-f]{8}")):
        (made,) = run.glob(f"evaluations/alpacaeval-{arm}-*/model_outputs.json")
        rows = json.loads(made.read_text(encoding="utf-8"))
        assert [row["instruction"] for row in rows] == ["Red?", "Blue?"]
        assert all(re.fullmatch(name, row["generator"]) for row in rows)


def test_real_benchmarks_run_end_to_end(tunelab: Command, shared_data: Path) -> None:
    names = {name: name for name in ("mmlu", "ifeval", "gsm8k", "truthfulqa")} | {"tinymmlu": "mmlu"}
    words = [f"{name}.data={shared_data / folder}" for name, folder in names.items()]
    model = shared_data / "models/tinystories656k"
    said = tunelab("eval", model, "--benchmarks", ",".join(names), "--limit", "4", "--max-new-tokens", "4", *words)
    assert said.code == 0, said.err
    for name in names:
        assert said.cells[name][0] == "base" and f"{name} base: 4 items" in said.err
