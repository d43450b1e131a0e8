"""`--backend vllm` (a stand-in): responses are those of tunelab's engine, kept apart; what it lacks is refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from own_benchmarks import OwnBenchmarks, write_benchmarks
from verbs import Bench, Command
from vllm_stand_in import VERSION, Calls, stand_in

from tunelab.answering.benchmark_responses import BenchmarkSettings, generate_benchmarks
from tunelab.answering.generate import open_responder
from tunelab.answering.vllm_responder import on_vllm
from tunelab.errors import UsageError
from tunelab.inference import vllm_backend
from tunelab.records.responses import read_responses


@pytest.fixture
def own(tmp_path: Path) -> OwnBenchmarks:
    return write_benchmarks(tmp_path / "own")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return stand_in(monkeypatch)


def writing(own: OwnBenchmarks) -> list[str]:
    return ["--benchmarks", str(own.writing), f"writing.data={own.data}", "--limit", "6"]


def stored(folder: Path, arm: str) -> dict[str | None, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Backend -> header and records in the items' order, without what must differ: the backend and the hashes."""
    found = {}
    for path in folder.glob(f"writing-{arm}-*/responses.jsonl"):
        header, records = read_responses(path)
        backend = header.pop("backend", None)
        rows = [{key: value for key, value in one.items() if key != "prompt_hash"} for one in records]
        found[backend] = header, sorted(rows, key=lambda one: str(one["item"]))
    return found


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_runs_responses_are_those_of_our_engine(
    kind: str, tunelab: Command, bench: Bench, own: OwnBenchmarks, calls: Calls, tmp_path: Path
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(getattr(bench, kind), run, ignore=shutil.ignore_patterns("evaluations"))
    ours = tunelab("eval", run, *writing(own))
    assert ours.code == 0 and not calls.loaded, ours.err
    theirs = tunelab("eval", run, *writing(own), "--backend", "vllm")
    assert theirs.code == 0, theirs.err
    assert theirs.out == ours.out
    for arm in ("base", "tuned"):
        found = stored(run / "evaluations", arm)
        assert set(found) == {None, f"vllm {VERSION}"}
        assert found[None] == found[f"vllm {VERSION}"]
    names = [str(bench.model), str(bench.model if kind == "lora" else run / "model")]
    assert [one["model"] for one in calls.loaded] == names
    assert [one["dtype"] for one in calls.loaded] == ["float32"] * 2
    assert [one["tokenizer"] for one in calls.loaded] == [str(run / "tokenizer")] * 2
    paths = [request.lora_path if request else None for _, _, request in calls.asked]
    assert paths == [None, str(run / "adapter") if kind == "lora" else None]


def test_adapter_and_precision_are_passed_on(
    tunelab: Command, bench: Bench, own: OwnBenchmarks, calls: Calls, tmp_path: Path
) -> None:
    words = [*writing(own), "--adapter", bench.lora / "adapter", "--arm", "tuned", "--precision", "nf4"]
    said = tunelab("generate", bench.model, *words, "train.dtype=fp32", "--backend", "vllm")
    assert said.code == 0, said.err
    (loaded,) = calls.loaded
    assert loaded["quantization"] == loaded["load_format"] == "bitsandbytes"
    assert loaded["enable_lora"] and loaded["max_lora_rank"] == 8
    ((header, records),) = stored(tmp_path / "evaluations", "tuned").values()
    assert header["precision"] == "nf4" and "adapter" in header and len(records) == 6
    ours = tunelab("generate", bench.model, *words, "train.dtype=fp32")
    assert ours.code == 0
    found = list(stored(tmp_path / "evaluations", "tuned").values())
    assert len(found) == 2 and found[0] == found[1]


def test_pickled_weights_never_reach_it(
    tunelab: Command, bench: Bench, own: OwnBenchmarks, calls: Calls, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(bench.model, tmp_path / "pickled"))
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    said = tunelab("generate", model, *writing(own), "--backend", "vllm")
    assert said.code == 1 and "no safetensors weights" in said.err and not calls.loaded, said.err


def test_an_interrupted_one_goes_on_where_it_was(
    tunelab: Command, bench: Bench, own: OwnBenchmarks, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_backend, "BATCH", 2)
    words = ["generate", bench.model, *writing(own), "--backend", "vllm"]
    whole = tunelab(*words, "--out", "whole")
    assert whole.code == 0 and [len(prompts) for prompts, _, _ in calls.asked] == [2, 2, 2]
    calls.interrupt_at = 4
    stopped = tunelab(*words)
    assert stopped.code == 130 and "2 of 6 responses are in" in stopped.err
    calls.interrupt_at = None
    again = tunelab(*words)
    assert again.code == 0 and [len(prompts) for prompts, _, _ in calls.asked] == [2, 2, 2, 2, 2, 2]
    (path,) = tmp_path.glob("evaluations/writing-base-*/responses.jsonl")
    assert path.read_bytes() == (tmp_path / "whole" / path.parent.name / path.name).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--micro-batch-tokens", "100"], "micro_batch_tokens applies to tunelab's engine; vllm batches by itself"),
        (["--precision", "int8"], "precision int8: vLLM cannot quantize"),
        (["--precision", "nf4", "precision.skip=[down_proj]"], "vLLM cannot leave down_proj unquantized"),
        (["--precision", "nf4", "precision.options.double_quantization=false"], "always quantizes the scales too"),
    ],
)
def test_what_it_cannot_do_is_refused(
    words: list[str], message: str, tunelab: Command, bench: Bench, own: OwnBenchmarks, calls: Calls, tmp_path: Path
) -> None:
    said = tunelab("eval", bench.model, *writing(own), "--backend", "vllm", *words)
    assert said.code == 2 and message in said.err, said.err
    assert "omit" in said.err and not calls.loaded and not (tmp_path / "evaluations").exists()


def test_likelihoods_run_on_our_engine(tunelab: Command, bench: Bench, own: OwnBenchmarks, calls: Calls) -> None:
    words = ["--benchmarks", f"{own.choices},{own.writing}", f"choices.data={own.data}", f"writing.data={own.data}"]
    said = tunelab("eval", bench.model, *words, "--backend", "vllm")
    assert said.code == 2 and "choices: scored by likelihood, which needs tunelab's engine, not vllm" in said.err
    responder = on_vllm(open_responder(model=str(bench.model)))
    with pytest.raises(UsageError, match="vLLM generates answers only: no likelihoods"):
        _ = responder.model


def test_where_it_is_not_installed(
    tunelab: Command, bench: Bench, own: OwnBenchmarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    said = tunelab("eval", bench.model, *writing(own), "--backend", "vllm")
    assert said.code == 2 and "--backend vllm: vLLM cannot be imported" in said.err
    assert 'pip install "tunelab[vllm]"' in said.err


def test_an_unknown_backend(bench: Bench, own: OwnBenchmarks) -> None:
    settings = BenchmarkSettings(options={"writing": {"data": str(own.data)}}, backend="vlm")
    with pytest.raises(UsageError, match="no backend named 'vlm'"):
        generate_benchmarks(bench.model, [str(own.writing)], settings)


@pytest.mark.parametrize("words", [["eval"], ["generate", "--prompt", "x"]])
def test_the_flag_needs_on(words: list[str], tunelab: Command, bench: Bench) -> None:
    said = tunelab(*words, bench.lora, "--backend", "vllm")
    assert said.code == 2 and "--backend needs --benchmarks" in said.err


def test_a_base_with_new_tokens_is_refused(bench: Bench, calls: Calls) -> None:
    responder = open_responder(model=str(bench.model), changes=['model.new_tokens=["<x>"]'])
    with pytest.raises(UsageError, match="no embeddings of its new tokens") as caught:
        on_vllm(responder)
    assert "tunelab merge" in caught.value.hint
