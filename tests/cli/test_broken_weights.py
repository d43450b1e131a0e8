"""Weights that are NaN or infinite are refused by the tensor's name, whichever verb opens them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file
from verbs import Bench, Command

PROMPT = ("--prompt", "1: red", "--max-new-tokens", "3")


def broken(folder: Path, tensor: str, value: float, *, copy_to: Path) -> Path:
    """A copy of a folder whose weight file has one weight that is no number."""
    shutil.copytree(folder, copy_to)
    (file,) = copy_to.rglob("*.safetensors") if not (copy_to / "adapter").is_dir() else copy_to.glob("adapter/*.saf*")
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(tensor))
    tensors[name].view(-1)[5] = value
    save_file(tensors, file, metadata={"format": "pt"})
    return copy_to


@pytest.mark.parametrize("tensor", ["layers.1.mlp.up_proj.weight", "embed_tokens.weight", "norm.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model(tensor: str, value: float, tunelab: Command, bench: Bench) -> None:
    base = broken(bench.model, tensor, value, copy_to=Path("base"))
    commands: list[tuple[object, ...]] = [
        ("generate", "--model", base, "--raw", *PROMPT),
        ("chat", "--model", base),
        ("quantize", base, "--precision", "nf4", "--out", "out"),
        ("train", bench.recipe, f"model.name={base}", "out=out"),
        ("train", bench.recipe, f"model.name={base}", "out=out", "precision=int8"),
        ("train", bench.recipe, f"model.name={base}", "out=out", "method=full"),
    ]
    for words in commands:
        said = tunelab(*words)
        assert said.code == 1 and tensor.removesuffix(".weight") in said.err, (words, said.err)
        assert "NaN" in said.err and "use another checkpoint" in said.err, (words, said.err)
        assert not said.out and not Path("out/adapter").exists()


def test_an_adapter(tunelab: Command, bench: Bench) -> None:
    run = broken(bench.lora, "up_proj.lora_B.weight", float("nan"), copy_to=Path("run"))
    commands: list[tuple[object, ...]] = [
        ("eval", run),
        ("generate", run, *PROMPT),
        ("generate", "--model", bench.model, "--adapter", run / "adapter", "--raw", *PROMPT),
        ("chat", run),
        ("merge", run, "--out", "out"),
        ("merge", run, "--compare"),
        *(("export", run, "--to", to, "--out", "out") for to in ("hf", "peft", "gguf")),
    ]
    for words in commands:
        said = tunelab(*words)
        assert said.code == 1 and ".up_proj.lora_B.weight: 1 of " in said.err, (words, said.err)
        assert "weights are NaN or infinite (float32)" in said.err and not Path("out").exists()


def test_weights_of_full_fine_tuning(tunelab: Command, bench: Bench) -> None:
    run = Path("run")
    shutil.copytree(bench.full, run)
    shutil.rmtree(run / "model")
    broken(bench.full / "model", "down_proj.weight", float("-inf"), copy_to=run / "model")
    commands: list[tuple[object, ...]] = [
        ("eval", run),
        ("generate", run, *PROMPT),
        *(("export", run, "--to", to, "--out", "out") for to in ("hf", "gguf")),
    ]
    for words in commands:
        said = tunelab(*words)
        assert said.code == 1 and ".mlp.down_proj.weight: 1 of 1,536 weights are NaN" in said.err, (words, said.err)
        assert not Path("out").exists()


def test_stored_codes_and_the_adapter_beside_them(tunelab: Command, bench: Bench) -> None:
    assert tunelab("quantize", bench.model, "--precision", "int8", "--out", "few").code == 0
    tree = yaml.safe_load(bench.recipe.read_text(encoding="utf-8"))
    Path("few.yaml").write_text(yaml.safe_dump(tree | {"precision": "int8", "out": "out"}), encoding="utf-8")
    broken(Path("few"), "up_proj.SCB", float("nan"), copy_to=Path("bad"))
    said = tunelab("train", "few.yaml", "model.name=bad")
    assert said.code == 1 and ".mlp.up_proj.scales: 1 of 48 weights are NaN or infinite (float32)" in said.err
