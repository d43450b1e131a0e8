"""`tunelab merge`: a checkpoint that plain transformers loads, the same model within its dtype's error."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from verbs import Bench, Command

PROMPT = "Instruction: 1: red cat\nResponse:"


def logits(model: torch.nn.Module, tokenizer: object) -> torch.Tensor:
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])  # type: ignore[operator]
    with torch.no_grad():
        return model(ids).logits.float()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own reading
def test_the_merged_checkpoint_is_base_plus_adapter_in_plain_transformers(tunelab: Command, bench: Bench) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said = tunelab("merge", bench.lora, "--out", "merged")
    assert said.code == 0, said.err
    tokenizer = AutoTokenizer.from_pretrained("merged")
    merged = logits(AutoModelForCausalLM.from_pretrained("merged"), tokenizer)
    base = AutoModelForCausalLM.from_pretrained(bench.model)
    untuned = logits(base, tokenizer)
    adapted = logits(PeftModel.from_pretrained(base, bench.lora / "adapter"), tokenizer)
    assert torch.allclose(merged, adapted, rtol=0, atol=1e-4 * float(adapted.abs().max()))
    assert not torch.allclose(merged, untuned, rtol=0, atol=1e-2 * float(adapted.abs().max()))
    assert not list(Path("merged").glob("adapter*")) and not list(Path("merged").glob("*.bin"))


def test_it_says_how_far_the_two_are_apart(tunelab: Command, bench: Bench) -> None:
    said = tunelab("merge", bench.lora, "--out", "merged")
    assert said.cells["merged checkpoint"] == ["merged"] and said.cells["dtype"] == ["fp32"]
    assert float(said.cells["KL from the trained model"][0].split()[0]) < 1e-6
    assert said.cells["changed tokens"] == ["0.00 %"] and said.cells["improvement kept"][0] in (
        "100.0 %",
        "no improvement",
    )
    found = re.search(r"outputs of (\d+) layers differ by at most (\S+) of the largest \(tolerance 1e-05\)", said.err)
    assert found and int(found[1]) > 1 and 0 <= float(found[2]) <= 1e-5
    assert "rounded to fp32: KL from base + adapter " in said.err


def test_all_ways_side_by_side(tunelab: Command, bench: Bench) -> None:
    said = tunelab("merge", bench.lora, "--compare")
    assert said.code == 0, said.err
    assert {"fp32", "bf16", "fp16", "nf4", "fp4", "int8"} <= set(said.cells) and "mxfp4" not in said.cells
    assert "Left out: mxfp4, in which other programs could not load this model (--format mxfp4 says why)." in said.err
    assert said.cells["format"][0] == "size" and said.cells["fp32"][0] != said.cells["bf16"][0]
    assert all(re.fullmatch(r"[\d.,]+ [KMG]iB", said.cells[name][0]) for name in ("fp32", "bf16", "int8", "nf4"))
    assert len({len(said.cells[name][2].partition(".")[2]) for name in ("fp32", "bf16", "nf4")}) == 1, "same decimals"
    assert "Recommended: --format fp32\n" in said.err and "completion tokens of held-out rows" in said.err
    assert "(4,096 at most); `tunelab eval` measures the perplexity on all of them." in said.err
    assert (bench.lora / "merges.json").exists()


@pytest.mark.parametrize(("dtype", "written"), [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")])
def test_the_dtype_is_what_was_asked_for(dtype: str, written: str, tunelab: Command, bench: Bench) -> None:
    from safetensors import safe_open

    said = tunelab("merge", bench.lora, "--out", "merged", "--format", dtype)
    assert said.code == 0 and said.cells["dtype"] == [dtype]
    assert json.loads(Path("merged/config.json").read_text())["dtype"] == written
    with safe_open("merged/model.safetensors", "pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {f"torch.{written}"}  # noqa: SIM118


def test_merged_weights_can_be_measured_and_score_as_the_run_does(tunelab: Command, bench: Bench) -> None:
    assert tunelab("merge", bench.lora, "--out", "merged").code == 0
    tuned = tunelab("eval", bench.recipe, "--adapter", bench.lora / "adapter", "--out", "a").cells
    merged = tunelab("eval", bench.recipe, "--model", "merged", "--out", "b").cells
    assert merged["completion perplexity"][0] == tuned["completion perplexity"][1]


def test_a_full_run_has_nothing_to_merge(tunelab: Command, bench: Bench) -> None:
    said = tunelab("merge", bench.full, "--out", "merged")
    assert said.code == 1 and said.out == ""
    assert f"error: {bench.full}: full fine-tuning, there is no adapter to merge\n" in said.err
    assert f"hint: use {bench.full}/model as it is" in said.err and not Path("merged").exists()


def test_what_exists_is_not_overwritten(tunelab: Command, bench: Bench) -> None:
    Path("merged").mkdir()
    said = tunelab("merge", bench.lora, "--out", "merged")
    assert said.code == 2 and "error: merged: exists already\nhint: choose another directory with --out\n" in said.err
    assert list(Path("merged").iterdir()) == []


def test_a_run_without_a_result_is_refused(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    run = tmp_path / "begun"
    run.mkdir()
    (run / "recipe.yaml").write_bytes((bench.lora / "recipe.yaml").read_bytes())
    said = tunelab("merge", run, "--out", "merged")
    assert said.code == 1 and f"error: {run}: no trained adapter; the run is new\n" in said.err
    said = tunelab("merge", "nowhere", "--out", "merged")
    assert said.code == 1 and "error: nowhere: no run there (no recipe.yaml)\n" in said.err


def test_wrong_uses(tunelab: Command, bench: Bench) -> None:
    for words, message in (
        ([bench.lora], "give either --out DIR or --compare"),
        (["--out", "merged"], "RUN: missing"),
        ([bench.lora, "--out", "merged", "--format", "int3"], "no format named 'int3' to merge into"),
    ):
        said = tunelab("merge", *words)
        assert said.code == 2 and message in said.err and not Path("merged").exists()
