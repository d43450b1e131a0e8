"""The adapter that a run starts from (`adapter.from`): checked against the recipe, its settings taken over, copied."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn

from tunelab.config import AdapterSettings, Recipe
from tunelab.config.types import TARGET_WORDS
from tunelab.errors import ModelError, RunError, UsageError
from tunelab.files import directory_written_atomically
from tunelab.models.adapters import check_adapter_files, save_adapter
from tunelab.models.checkpoint_files import checkpoint_folder
from tunelab.models.digest import adapter_hash
from tunelab.models.folder_files import json_object
from tunelab.models.initialization import changes_the_base, is_kept
from tunelab.models.load import weights_digest
from tunelab.models.loftq import STORED
from tunelab.preparation.base import differing
from tunelab.records.runs import Run, resume_command

#: Our keys of what an adapter brings along -> PEFT's.
_SETTINGS = {"rank": "r", "alpha": "lora_alpha", "use_rslora": "use_rslora", "use_dora": "use_dora"}
_LAYERS = {"targets": "target_modules", "layers": "layers_to_transform", "exclude": "exclude_modules"}

#: Keys of adapter_config.json that make it something else than LoRA on the linear layers of an unchanged base.
_SOMETHING_ELSE = (
    *("modules_to_save", "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "lora_bias"),
    *("kasa_config", "monteclora_config", "velora_config", "arrow_config", "use_qalora", "use_bdlora"),
)

_MERGE_IT = "merge it (tunelab merge RUN, or PEFT's merge_and_unload), and give the result as model"

#: What trains the same next to a new adapter on the merged model.
_ANEW = {
    "modules_to_save": "; adapter.also_train trains such modules next to the new adapter",
    "trainable_token_indices": "; adapter.also_train=[embed_tokens, lm_head] trains the tokens that it brought along",
}


def with_start(recipe: Recipe) -> Recipe:
    """The recipe with the rank, alpha and layers of the adapter that it starts from; unchanged if it starts from none.

    Raises:
        UsageError: there is no such adapter; or it is a full fine-tuned model; or the recipe asks for another rank,
            alpha or other layers.
        ModelError: it is something else than LoRA, or over another base.
    """
    if recipe.adapter.from_ is None:
        return recipe
    folder = adapter_folder(Path(recipe.adapter.from_))
    config = json_object(folder / "adapter_config.json")
    _check_is_lora(folder, config)
    _check_base(folder, config, recipe)
    found = _settings(config)
    _check_said(recipe.adapter, found, folder)
    return recipe.model_copy(update={"adapter": recipe.adapter.model_copy(update=found)})


def adapter_folder(place: Path) -> Path:
    """The folder with the adapter's files: that of a run, or the place itself.

    Raises:
        UsageError: there is none.
    """
    run = Run(place)
    if not place.exists():
        raise UsageError(f"adapter.from: {place} does not exist", "give a run's folder, or one saved by PEFT")
    if run.recipe_file.exists():
        if run.model.exists():
            raise UsageError(
                f"adapter.from: {place} is full fine-tuning and has no adapter",
                f"train it further as model={run.model}",
            )
        if not run.adapter.exists():
            raise UsageError(
                f"adapter.from: {place} has no trained adapter yet; the run is {run.status}", resume_command(place)
            )
        return run.adapter
    check_adapter_files(place)
    return place


def keep_start(run: Run, recipe: Recipe) -> None:
    """Copy the adapter that the run starts from into its directory, unless it is there: a resumed run needs it."""
    if recipe.adapter.from_ is None or run.start.exists():
        return
    folder = adapter_folder(Path(recipe.adapter.from_))
    with directory_written_atomically(run.start) as fresh:
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(folder / name, fresh / name)


def keep_first(run: Run, recipe: Recipe, model: nn.Module) -> None:
    """Keep the matrices that an initialization gave the model, unless the run has them: a resumed run needs them."""
    if isinstance(model, PeftModel) and is_kept(recipe.adapter.init) and not run.start.exists():
        with directory_written_atomically(run.start) as fresh:
            save_adapter(model, fresh)


def start_identity(run: Run, recipe: Recipe) -> dict[str, Any] | None:
    """What a manifest says of the adapter that the run started from: its place and hash; None without one.

    Raises:
        RunError: the run's copy is not what it started from.
    """
    if recipe.adapter.from_ is None:
        return None
    found = {"path": str(Path(recipe.adapter.from_).resolve()), "sha256": adapter_hash(run.start)}
    known = (run.manifest.get("adapter") or {}).get("from")
    if known and known["sha256"] != found["sha256"]:
        raise RunError(
            f"{run.start}: not the adapter that the run started from", "restore it, or train again with --overwrite"
        )
    return known or found


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """An adapter's rank, alpha and layers, by the names and in the types of our keys."""
    found: dict[str, Any] = {ours: config[theirs] for ours, theirs in _SETTINGS.items() if theirs in config}
    for ours, theirs in _LAYERS.items():
        value = config.get(theirs)
        value = [value] if isinstance(value, int) or _is_word(value) else value
        found[ours] = tuple(sorted(value)) if isinstance(value, list) else value
    if isinstance(found["targets"], tuple | None):  # experts' weights too
        found["targets"] = tuple(sorted({*(found["targets"] or ()), *(config.get("target_parameters") or ())}))
    found["exclude"] = found["exclude"] or ()
    found["alpha"] = float(found["alpha"])
    return found


def _is_word(value: Any) -> bool:
    """Whether it is a name: as a recipe's `targets`, a string alone is a regular expression, but for our two words."""
    return isinstance(value, str) and value not in TARGET_WORDS and re.fullmatch(r"[\w-]+", value) is not None


def _check_said(asked: AdapterSettings, found: dict[str, Any], folder: Path) -> None:
    """Check that the recipe asks for nothing else than the adapter has. A value that it does not give is no question;
    neither is a default, where all keys are given, as in a recipe that was written out."""
    says_all = asked.model_fields_set >= AdapterSettings.model_fields.keys() - {"from_"}
    for key, value in found.items():
        own, default = getattr(asked, key), AdapterSettings.model_fields[key].default
        is_said = key in asked.model_fields_set and not (says_all and own == default)
        if is_said and own != value:
            raise UsageError(
                f"adapter.{key} is {own}, but the adapter in {folder} has {value}",
                f"omit adapter.{key}: an adapter is trained further as it is; or omit adapter.from for a new one",
            )


def _check_is_lora(folder: Path, config: dict[str, Any]) -> None:
    init = str(config.get("init_lora_weights", True)).lower()
    if changes_the_base(init) or init == "lora_ga":
        raise ModelError(
            f"{folder}: init_lora_weights is {init!r}: its base is not the model but what is left of its weights",
            "convert it with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    other = next((key for key in _SOMETHING_ELSE if config.get(key)), "")
    if config.get("bias", "none") != "none":
        other = "bias"
    if other:
        raise ModelError(
            f"{folder}: {other} is set in adapter_config.json, so it is more than LoRA",
            _MERGE_IT + _ANEW.get(other, ""),
        )


def _check_base(folder: Path, config: dict[str, Any], recipe: Recipe) -> None:
    """Check that the adapter was trained on the recipe's base, as far as it says which that was."""
    name, run = recipe.model.name, Run(folder.parent)
    corrects = ""  # the format whose error its first weights corrected
    if run.recipe_file.exists() and "model" in run.manifest:
        trained, known = run.recipe, run.manifest["model"]
        base, other = known["name"], differing(known, checkpoint_folder(name, recipe.model.revision))
        corrects = trained.precision.name if trained.adapter.init == "loftq" else ""
    else:
        base = config.get("base_model_name_or_path") or name
        other = "" if _may_be_same(base, name) else "its weights"
    if other:
        raise ModelError(
            f"{folder}: trained on {base}, which is not {name} ({other} differ{'s' if other.endswith('json') else ''})",
            f"set model={base}, or {_MERGE_IT}",
        )
    if corrects and corrects != recipe.precision.name:
        raise ModelError(
            f"{folder}: began with the error of {corrects} (adapter.init: loftq), which {name} does not have",
            f"set precision={corrects}",
        )
    if not corrects and (Path(name) / STORED).is_dir():
        raise ModelError(
            f"{name}: its codes need the adapter in {STORED}, and {folder} did not begin with that",
            "start from a run with adapter.init=loftq on this base",
        )


def _may_be_same(base: str, name: str) -> bool:
    """Whether two models may be the same: equal names on the hub, or equal weights of folders. Of a folder and a name
    nothing is known."""
    if base == name:
        return True
    if Path(base).is_dir() != Path(name).is_dir():
        return True
    return Path(base).is_dir() and weights_digest(Path(base)) == weights_digest(Path(name))
