"""`adapter.from`: an adapter is trained further as it is; what does not fit it is refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from repeatable import repeatable
from tiny import model_folder, recipe

from tunelab.config import as_recipe, load_recipe
from tunelab.errors import Interrupted, ModelError, RunError, UsageError
from tunelab.models.adapters import load_adapter
from tunelab.models.digest import adapter_hash, weights_hash
from tunelab.models.load import load_model
from tunelab.preparation.start import with_start
from tunelab.records.runs import Run
from tunelab.training.checkpoint import trainable_weights
from tunelab.training.finetune import finetune, resume
from tunelab.training.loop import TrainingLoop

FIRST = {"adapter": {"rank": 2, "alpha": 6, "targets": ["q_proj", "up_proj"], "use_rslora": True}}


@pytest.fixture(scope="module")
def first(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run whose adapter is not the default one."""
    folder = tmp_path_factory.mktemp("first")
    return finetune(recipe(models["llama"], rows, folder / "run", train__steps=2, data__held_out=4, **FIRST))


def further(first: Run, rows: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A recipe that trains it further."""
    tree = recipe(Path(first.recipe.model.name), rows, out, train__steps=2, data__held_out=4, train__save_every=1)
    tree["adapter"] = {"from": str(first.path), **changes.pop("adapter", {})}
    return {**tree, **changes}


def test_it_starts_where_the_adapter_ended_and_resumes_to_the_bit(
    first: Run, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(first.path, moved)
    said: list[str] = []
    whole = finetune(further(first, rows, tmp_path / "whole"), notify=said.append)
    adapter = whole.recipe.adapter
    assert (adapter.rank, adapter.alpha, adapter.use_rslora) == (2, 6, True)
    assert adapter.targets == ("q_proj", "up_proj")
    base = load_model(first.recipe.model.name, dtype=torch.float32)
    stored = trainable_weights(load_adapter(base, first.adapter, dropout=0.0))
    assert weights_hash(stored) == whole.manifest["weights_before"] == first.manifest["weights_after"]
    assert whole.manifest["held_out_loss_before"] == first.manifest["held_out_loss_after"]
    path, digest = str(first.path.resolve()), adapter_hash(first.adapter)
    assert whole.manifest["adapter"]["from"] == {"path": path, "sha256": digest}
    assert f"training starts from the adapter {first.path} (rank 2, alpha 6)" in said
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_any_process", lambda self, flag: True)
        with pytest.raises(Interrupted):
            finetune(further(Run(moved), rows, tmp_path / "half"))
    shutil.rmtree(moved)  # the run keeps a copy
    half = resume(tmp_path / "half")
    assert half.manifest["weights_after"] == whole.manifest["weights_after"] != whole.manifest["weights_before"]
    assert repeatable(half.metrics()) == repeatable(whole.metrics())
    half.update_manifest(status="interrupted")
    (half.start / "adapter_config.json").write_text("{}")
    with pytest.raises(RunError, match="start: not the adapter that the run started from"):
        resume(half.path)


def asked(first: Run, **changes: Any) -> Any:
    tree = further(first, Path("rows.jsonl"), Path("out"), **changes)
    return as_recipe(tree)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"rank": 16}, r"adapter\.rank is 16, but the adapter in .*/adapter has 2"),
        ({"alpha": 32}, r"adapter\.alpha is 32\.0, but the adapter in .* has 6\.0"),
        ({"use_dora": True}, r"adapter\.use_dora is True"),
        ({"targets": "attention"}, r"adapter\.targets is attention, but the adapter in .* has \('q_proj', "),
        ({"layers": [0]}, r"adapter\.layers is \(0,\), but the adapter in .* has None"),
    ],
)
def test_another_rank_or_other_layers_are_refused(first: Run, adapter: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        with_start(asked(first, adapter=adapter))
    assert refused.value.hint.startswith(f"omit adapter.{next(iter(adapter))}")


def test_what_is_equal_or_only_a_default_is_no_conflict(first: Run) -> None:
    found = with_start(asked(first, adapter={"rank": 2, "alpha": 6, "dropout": 0.1}))
    assert (found.adapter.dropout, found.adapter.rank) == (0.1, 2)
    written_out = as_recipe(asked(first), {"train.lr": 1e-3})
    assert with_start(written_out).adapter.rank == 2
    again = with_start(found)
    assert again == found == load_recipe(None, [], found.model_dump(mode="json"))


def test_another_base_is_refused(first: Run, models: dict[str, Path], tmp_path: Path) -> None:
    other = model_folder(tmp_path / "other", "llama", seed=8)
    with pytest.raises(ModelError, match=r"adapter: trained on .*llama, which is not .*other \(its weights differ\)"):
        with_start(asked(first, model=str(other)))
    plain = tmp_path / "plain"
    shutil.copytree(first.adapter, plain)
    with pytest.raises(ModelError, match=r"plain: trained on .*llama, which is not .*other") as refused:
        with_start(_of(plain, other))
    assert "or merge it (tunelab merge RUN, or PEFT's merge_and_unload)" in refused.value.hint
    assert with_start(_of(plain, models["llama"])).adapter.rank == 2
    config = json.loads((plain / "adapter_config.json").read_text())
    (plain / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "gpt2"}))
    with pytest.raises(ModelError, match=r"plain: trained on gpt2, which is not distilgpt2"):
        with_start(_of(plain, Path("distilgpt2")))


def _of(adapter: Path, model: Path) -> Any:
    return as_recipe({"model": str(model), "data": "rows.jsonl", "adapter": {"from": str(adapter)}})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa': its base is not the model"),
        ({"bias": "all"}, "bias is set in adapter_config.json, so it is more than LoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices is set"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', and only LORA is supported"),
    ],
)
def test_adapters_that_are_more_than_lora(first: Run, changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    shutil.copytree(first.adapter, tmp_path / "a")
    config = json.loads((first.adapter / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({**config, **changed}))
    with pytest.raises(ModelError, match=message) as caught:
        with_start(_of(tmp_path / "a", Path(first.recipe.model.name)))
    is_merged = message.endswith("is set")
    assert ("merge it" in caught.value.hint and "adapter.also_train" in caught.value.hint) == is_merged


def test_places_without_an_adapter(first: Run, tmp_path: Path) -> None:
    model = Path(first.recipe.model.name)
    with pytest.raises(UsageError, match=r"adapter\.from: none does not exist"):
        with_start(_of(Path("none"), model))
    with pytest.raises(ModelError, match="no adapter found"):
        with_start(_of(tmp_path, model))
    full = tmp_path / "full"
    (full / "model").mkdir(parents=True)
    shutil.copy(first.recipe_file, full)
    with pytest.raises(UsageError, match="full is full fine-tuning and has no adapter") as refused:
        with_start(_of(full, model))
    assert refused.value.hint == f"train it further as model={full / 'model'}"
    (full / "model").rmdir()
    with pytest.raises(UsageError, match="full has no trained adapter yet; the run is new"):
        with_start(_of(full, model))


def test_a_run_that_began_with_a_format_s_error_needs_that_format(first: Run, tmp_path: Path) -> None:
    run, model = tmp_path / "run", Path(first.recipe.model.name)
    shutil.copytree(first.path, run)
    text = first.recipe_file.read_text().replace("init: zero", "init: loftq").replace("name: none", "name: nf4")
    (run / "recipe.yaml").write_text(text)
    Run(run).update_manifest(recipe={})
    with pytest.raises(ModelError, match=r"began with the error of nf4 .* does not have") as refused:
        with_start(_of(run, model))
    assert refused.value.hint == "set precision=nf4"
    stored = tmp_path / "stored"
    shutil.copytree(model, stored)
    (stored / "loftq_init").mkdir()
    with pytest.raises(ModelError, match="its codes need the adapter in loftq_init"):
        with_start(_of(first.path, stored))
