"""`tunelab quantize`: a checkpoint in few bits; runs train on it as on the dense model quantised while it loads."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from verbs import Bench, Command


def test_a_quantised_checkpoint_is_trained_on_without_the_original(tunelab: Command, bench: Bench) -> None:
    said = tunelab("quantize", bench.model, "--precision", "nf4", "--out", "few")
    assert said.code == 0, said.err
    assert said.cells["precision"] == ["nf4, 14 layers"]
    assert 4.1 < float(said.cells["bits per weight in these layers"][0]) < 4.5  # the tiny layers' scales weigh more
    tree = yaml.safe_load(bench.recipe.read_text(encoding="utf-8"))
    found = {}
    for name, model in (("dense", str(bench.model)), ("few", "few")):
        tree |= {"model": model, "precision": "nf4", "out": name + "-run"}
        Path(name + ".yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        assert tunelab("train", name + ".yaml").code == 0
        found[name] = json.loads(Path(name + "-run/manifest.json").read_text(encoding="utf-8"))
        assert found[name]["model"]["digest"]["modules"]["QuantizedLinear"] == 14
    assert found["dense"]["weights_after"] == found["few"]["weights_after"]
    # Every verb takes such a run.
    assert tunelab("eval", "few-run", "--limit", "3").code == 0
    assert tunelab("generate", "few-run", "--prompt", "1: red", "--max-new-tokens", "3").code == 0
    assert tunelab("merge", "few-run", "--out", "merged").cells["format"] == ["dequantised"]


def test_options_of_a_format(tunelab: Command, bench: Bench) -> None:
    words = ["precision.options.double_quantization=false", "precision.skip=[down_proj]"]
    said = tunelab("quantize", bench.model, *words, "--precision", "nf4", "--out", "few")
    assert said.code == 0 and said.cells["precision"] == ["nf4, 12 layers"]
    assert said.cells["bits per weight in these layers"] == ["4.500"]
    written = json.loads(Path("few/config.json").read_text(encoding="utf-8"))["quantization_config"]
    assert written["bnb_4bit_use_double_quant"] is False
    assert "model.layers.0.mlp.down_proj" in written["llm_int8_skip_modules"]


def test_loftq_in_turns_is_trained_on_from_its_own_adapter(tunelab: Command, bench: Bench) -> None:
    said = tunelab("quantize", bench.model, "--precision", "nf4", "--out", "few", "--loftq-rank", "4")
    assert said.code == 0, said.err
    tree = yaml.safe_load(bench.recipe.read_text(encoding="utf-8"))
    tree |= {"model": "few", "precision": "nf4", "out": "run", "adapter": {"rank": 4, "init": "loftq"}}
    Path("few.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert tunelab("train", "few.yaml").code == 0
    assert tunelab("eval", "run", "--limit", "2").code == 0
    said = tunelab("train", "few.yaml", "adapter.init=zero", "out=zero")
    assert said.code == 1 and "few: its codes need the adapter in loftq_init" in said.err
    assert "set adapter.init=loftq" in said.err


def test_wrong_uses(tunelab: Command, bench: Bench) -> None:
    Path("there").mkdir()
    for words, message in (
        (["--precision", "nf4", "--out", "there"], "there: exists already"),
        (["--precision", "none", "--out", "few"], "precision none does not quantize"),
        (["--precision", "nf3", "--out", "few"], "expected one of none, fp4, int8, mxfp4, nf4, or a .py file"),
        (["--precision", "nf4", "--out", "few", "precision.options.scale=1"], "nf4 has no option 'scale'"),
        (["--out", "few"], "--precision: missing"),
        (["--precision", "nf4", "--out", "few", "--loftq-rank", "0"], "LoftQ with rank 0, 5 alternations"),
    ):
        said = tunelab("quantize", bench.model, *words)
        assert said.code == 2 and message in said.err, said.err
        assert not Path("few").exists()
