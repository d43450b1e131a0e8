"""Exports: what another program loads is the run's model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from logits import compare_logits
from peft import PeftModel
from rounding import assert_same_but_for_rounding
from tiny import FAMILIES, recipe
from transformers import AutoModelForCausalLM

from tunelab.errors import Interrupted, ModelError, RunError, UsageError
from tunelab.models.adapters import load_adapter
from tunelab.models.load import load_model
from tunelab.models.merge import dequantize_layers, logits_of
from tunelab.models.precision import weight_format
from tunelab.publishing.export import export
from tunelab.publishing.merge import merge
from tunelab.publishing.quantize import quantize
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune

ROWS = [[72, 101, 108, 108, 111], [250, 3, 4, 5, 6, 7, 8]]


@pytest.fixture(scope="module")
def runs(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run over NF4 of each family."""
    root = tmp_path_factory.mktemp("runs")
    changes = {"precision": "nf4", "data__held_out": 4}
    return {family: finetune(recipe(models[family], rows, root / family, **changes)) for family in FAMILIES}


@pytest.fixture(scope="module")
def full(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("full") / "run"
    return finetune(recipe(models["llama"], rows, out, method="full", train__lr=1e-3))


def trained(models: dict[str, Path], family: str, run: Run) -> list[torch.Tensor]:
    base = load_model(str(models[family]), dtype=torch.float32, form=weight_format("nf4"))
    return logits_of(load_adapter(base, run.adapter), ROWS)


def check_without_paths(folder: Path, models: dict[str, Path], run: Run) -> None:
    """No file that leaves says where base and run were on this machine."""
    for file in folder.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        found = [place for place in (models["llama"].parent, run.path.parent) if str(place).encode() in content]
        assert not found, file


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_loads_the_merged_model(
    family: str, models: dict[str, Path], runs: dict[str, Run], tmp_path: Path
) -> None:
    done = export(runs[family], tmp_path / "hf", to="hf")
    assert "model.safetensors" in done.files and "tokenizer.json" in done.files
    check_without_paths(done.path, models, runs[family])
    plain = AutoModelForCausalLM.from_pretrained(done.path)
    expected = trained(models, family, runs[family])
    assert compare_logits(expected, logits_of(plain, ROWS)).passed


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own reading
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_loads_the_adapter_on_the_dense_model(
    family: str, models: dict[str, Path], runs: dict[str, Run], tmp_path: Path
) -> None:
    done = export(runs[family], tmp_path / "peft", to="peft")
    base = load_model(str(models[family]), dtype=torch.float32, form=weight_format("nf4"))
    dequantize_layers(base)  # the dense model with the weights that the codes stand for: an ordinary one
    adapted = PeftModel.from_pretrained(base, done.path)
    expected = trained(models, family, runs[family])
    assert compare_logits(expected, logits_of(adapted, ROWS)).passed
    config = json.loads((done.path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["fan_in_fan_out"] is (family == "gpt2")
    name = models[family].name
    assert config["base_model_name_or_path"] == name and done.checked.endswith(
        f"names the base {name}, without the path to it"
    )
    check_without_paths(done.path, models, runs[family])


def test_mxfp4_for_others(models: dict[str, Path], runs: dict[str, Run], tmp_path: Path) -> None:
    # The tiny Llama's inner width is 48, no whole number of blocks; GPT-2 has Conv1D layers.
    for family, layer in (("llama", r"mlp\.down_proj \(48 wide\)"), ("gpt2", r"attn\.c_attn \(a Conv1D\)")):
        match = rf"compressed-tensors cannot store . of .* layers in mxfp4: .*{layer}"
        with pytest.raises(ModelError, match=match):
            export(runs[family], tmp_path / "a", to="compressed-tensors")
        with pytest.raises(ModelError, match=match):
            merge(runs[family], tmp_path / "a", format="mxfp4")
        with pytest.raises(ModelError, match=match):
            quantize(models[family], tmp_path / "a", precision="mxfp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_is_loaded_by_transformers(
    family: str, models: dict[str, Path], runs: dict[str, Run], tmp_path: Path
) -> None:
    done = export(runs[family], tmp_path / "ollama", to="ollama")
    check_without_paths(done.path, models, runs[family])
    assert done.files == ("Modelfile", "model.gguf") and "tensors read back" in done.checked
    text = (done.path / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./model.gguf\n") and 'PARAMETER stop "<eos>"' in text
    alone = export(runs[family], tmp_path / "gguf", to="gguf", kind="Q8_0")
    assert alone.files == ("model.gguf",)
    assert (alone.path / "model.gguf").stat().st_size < (done.path / "model.gguf").stat().st_size


def test_a_run_that_trained_every_weight(full: Run, tmp_path: Path) -> None:
    done = export(full, tmp_path / "hf", to="hf")
    assert done.checked == "a copy of the run's weights"
    copied, own = (AutoModelForCausalLM.from_pretrained(path) for path in (done.path, full.model))
    weights, expected = copied.state_dict(), own.state_dict()
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)
    assert_same_but_for_rounding(logits_of(copied, ROWS), logits_of(own, ROWS))
    assert export(full, tmp_path / "gguf", to="gguf").files == ("model.gguf",)
    with pytest.raises(RunError, match="full fine-tuning, there is no adapter"):
        export(full, tmp_path / "peft", to="peft")
    (tmp_path / "private").write_text("a key", encoding="utf-8")
    (full.model / "notes").symlink_to(tmp_path / "private")
    with pytest.raises(RunError, match=r"notes: is a link to .*private, outside the folder"):
        export(full, tmp_path / "linked", to="hf")
    (full.model / "notes").unlink()
    assert not (tmp_path / "linked").exists()


def test_what_cannot_be_exported(full: Run, models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="there: exists already"):
        export(full, tmp_path / "there", to="hf")
    with pytest.raises(UsageError, match="no export to 'onnx'"):
        export(full, tmp_path / "out", to="onnx")  # type: ignore[arg-type]

    def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
        if stage == "training":
            raise KeyboardInterrupt

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        finetune(recipe(models["llama"], rows, tmp_path / "half"), progress=stops)
    with pytest.raises(RunError, match=r"the run is .*, not finished"):
        export(tmp_path / "half", tmp_path / "out", to="hf")
