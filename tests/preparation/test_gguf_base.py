"""A GGUF file as the base of every command: what it is exported from, with its hash in the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import with_merges
from gguf_models import rounded
from tiny import recipe, tiny_model

from tunelab.cli.main import main
from tunelab.errors import RunError
from tunelab.models.gguf.reading import gguf_digest
from tunelab.models.load import load_model, load_tokenizer
from tunelab.models.precision import weight_format
from tunelab.preparation.base import trained_recipe
from tunelab.publishing.gguf_file import write_gguf
from tunelab.publishing.merge import merge
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune


@pytest.fixture(scope="module")
def bases(tmp_path_factory: Any) -> tuple[Path, Path]:
    """A model's folder, and the GGUF file that was written of it."""
    folder: Path = tmp_path_factory.mktemp("gguf")
    model, tokenizer = rounded(tiny_model("llama", intermediate_size=44)), with_merges()
    model.save_pretrained(folder / "folder")
    tokenizer.save_pretrained(folder / "folder")
    write_gguf(model, tokenizer, folder / "base.gguf", kind="BF16")
    return folder / "folder", folder / "base.gguf"


@pytest.fixture(scope="module")
def tuned(bases: tuple[Path, Path], rows: Path, tmp_path_factory: Any) -> tuple[list[str], list[Run]]:
    """What training said, and the runs on both."""
    said: list[str] = []
    out = tmp_path_factory.mktemp("runs")
    runs = [finetune(recipe(base, rows, out / base.name, train__steps=2), notify=said.append) for base in bases]
    return said, runs


def test_training_on_a_file_is_training_on_its_folder(tuned: tuple[list[str], list[Run]], bases: Any) -> None:
    said, (folder, file) = tuned
    losses = [
        [json.loads(line)["loss"] for line in run.metrics_file.read_text().splitlines()] for run in (folder, file)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    assert sum("BF16 matrices, dequantized; dense bfloat16 weights from here on" in sentence for sentence in said) == 1
    known = file.manifest["model"]
    digest = f"sha256:{gguf_digest(bases[1])}"
    assert (known["name"], known["path"]) == (str(bases[1]), str(bases[1].resolve()))
    assert known["fingerprint"] == known["weights_sha256"] == digest == f"sha256:{known['config_sha256']}"


def test_a_run_on_a_file_is_merged_and_its_base_may_move(
    tuned: tuple[list[str], list[Run]], bases: tuple[Path, Path], tmp_path: Path
) -> None:
    run, file = tuned[1][1], bases[1]
    folder, merged = merge(tuned[1][0], tmp_path / "of-folder").path, merge(run, tmp_path / "of-file").path
    configs = [json.loads((place / "config.json").read_text()) for place in (folder, merged)]
    differing = {key for key in configs[0].keys() | configs[1].keys() if configs[0].get(key) != configs[1].get(key)}
    assert differing <= {
        "dtype",
        "bos_token_id",
        "pad_token_id",
        "eos_token_id",
        "initializer_range",
        "transformers_version",
    }
    template = load_tokenizer(str(folder)).chat_template
    assert load_tokenizer(str(merged)).chat_template == template
    moved = file.rename(tmp_path / "moved.gguf")
    try:
        with pytest.raises(RunError, match="its base is no longer at"):
            trained_recipe(run)
        other = tmp_path / "other.gguf"
        write_gguf(tiny_model("llama", intermediate_size=36), with_merges(), other)
        with pytest.raises(RunError, match=r"other\.gguf: its weights differ"):
            trained_recipe(run, other)
        assert trained_recipe(run, moved).model.name == str(moved.resolve())
    finally:
        moved.rename(file)
        trained_recipe(run, file)


def test_a_file_is_quantized_as_its_folder_is(bases: tuple[Path, Path]) -> None:
    ids = torch.arange(40)[None]
    loaded = [load_model(str(base), dtype=torch.float32, form=weight_format("nf4", {})) for base in bases]
    with torch.no_grad():
        assert torch.equal(loaded[0](ids).logits, loaded[1](ids).logits)


VERBS = {
    "generate": ["--template", "plain", "--prompt", "the thin man", "--max-new-tokens", "8"],
    "inspect": ["--data", "ROWS", "--template", "plain", "--rows", "1"],
    "eval": ["--data", "ROWS", "--template", "plain", "--limit", "4", "--max-new-tokens", "4", "--out", "OUT"],
}


@pytest.mark.parametrize(
    "verb", ["generate", *(pytest.param(verb, marks=pytest.mark.slow) for verb in list(VERBS)[1:])]
)
def test_commands_give_what_they_give_for_the_folder(
    verb: str, bases: tuple[Path, Path], rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for base in bases:
        known = {"ROWS": str(rows), "OUT": str(tmp_path / base.name)}
        assert main([verb, "--model", str(base), *(known.get(word, word) for word in VERBS[verb])]) == 0
        shown.append(capsys.readouterr())
        assert (f"{base}: GGUF with" in shown[-1].err) == (base.suffix == ".gguf")
    assert shown[0].out == shown[1].out
