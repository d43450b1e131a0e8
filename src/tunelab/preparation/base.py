"""A run's base, tokenizer and template: the very ones that it was trained with, wherever they are now.

A run names its base by its absolute place, or by its name and commit on the hub, and by the digest of its files. Every
command compares the digest before it uses the base; a base that moved is named once with --base, and remembered.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from tunelab.config import Recipe
from tunelab.data.chat_templates import is_chat
from tunelab.data.template_date import fixed_date
from tunelab.errors import RunError
from tunelab.files import file_sha256
from tunelab.models.checkpoint_files import checkpoint_folder
from tunelab.models.gguf.reading import gguf_file, gguf_origin, is_local_model, local_model
from tunelab.models.load import load_tokenizer, weights_digest
from tunelab.preparation.tokenizer import template_file
from tunelab.records.runs import Run


def base_identity(recipe: Recipe, fingerprint: str) -> dict[str, Any]:
    """What a manifest says of the recipe's model: its name, place and digests.

    Args:
        fingerprint: from models.load.model_fingerprint().

    Returns:
        `path` is None for a model from the hub, whose `fingerprint` ends with its commit. The digests of a GGUF file
        are all its own.
    """
    name, commit = recipe.model.name, _commit(fingerprint)
    folder = checkpoint_folder(name, commit or recipe.model.revision)
    place = gguf_file(name) or folder
    return {
        "name": name,
        "path": None if commit else str(place.resolve()),
        "fingerprint": fingerprint,
        "weights_sha256": weights_digest(folder),
        "config_sha256": _config_digest(folder),
    }


def trained_recipe(run: Run, base: Path | str | None = None) -> Recipe:
    """The run's recipe, with its base where it is now and its template as it was.

    Args:
        base: the folder where the base is now; remembered in the run's manifest.

    Raises:
        RunError: the base is not where the run says, or is not the one that it was trained on.
    """
    recipe, known = own_recipe(run), run.manifest.get("model")
    if known is None:  # it failed before its model was loaded
        return recipe if base is None else _placed(recipe, str(base))
    if base is not None:
        folder = Path(base)
        if not is_local_model(folder):
            raise RunError(
                f"--base {base}: no model in the folder (no config.json)", "give the folder of the run's base"
            )
        if other := differing(known, folder):
            raise _other_base(run, [(folder, other)])
        run.update_manifest(model={**known, "path": str(folder.resolve())})
        return _placed(recipe, str(folder.resolve()))
    commit = _commit(known["fingerprint"])
    if commit and not known.get("path"):
        return _placed(recipe, recipe.model.name, commit)
    places = [Path(place) for place in dict.fromkeys((known.get("path"), recipe.model.name)) if place]
    found = {place.resolve(): differing(known, place) for place in places if is_local_model(place)}
    for place, other in found.items():
        if not other:
            return _placed(recipe, str(place))
    if found:
        raise _other_base(run, list(found.items()))
    raise RunError(f"{run.path}: its base is no longer at {places[0]}", "say where it is now: --base PATH")


def own_recipe(run: Run) -> Recipe:
    """The run's recipe, for what needs no base; a chat template that the run keeps is not read from its file again.

    Raises:
        RunError: the template's file is gone, and the run does not keep its text.
    """
    recipe = run.recipe
    if recipe.data.chat_template is None:
        return recipe
    if not _kept_template(run):
        if not Path(recipe.data.chat_template).is_file():
            raise RunError(
                f"{run.path}: its chat template, {recipe.data.chat_template}, is gone, and the run keeps no copy of it",
                "restore the file, or train again with another data.chat_template and --overwrite",
            )
        return recipe
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"chat_template": None})})


def trained_weights(run: Run) -> Recipe:
    """The run's recipe with the weights that it trained in place of its base."""
    recipe = own_recipe(run)
    own = recipe.model.model_copy(update={"name": str(run.model), "revision": None})
    return recipe.model_copy(update={"model": own})


def base_name(run: Run) -> str:
    """The base's name in records: on the hub, or the last part of its place, which varies by machine."""
    name, known = run.recipe.model.name, run.manifest["model"]
    return name if _commit(known["fingerprint"]) else Path(known.get("path") or name).resolve().name


def base_on_hub(run: Run) -> tuple[str, str | None]:
    """Name and commit of the base on the hub; "" and None if it was a folder."""
    known = run.manifest["model"]
    commit = None if known.get("path") else _commit(known["fingerprint"])
    return (run.recipe.model.name, commit) if commit else ("", None)


def run_tokenizer(run: Run) -> PreTrainedTokenizerFast:
    """The run's tokenizer with the chat template that its rows were rendered with.

    Raises:
        RunError: the kept template was edited.
        UsageError: the run does not keep its template (tunelab 0.1.0 did not), and the template's file is gone.
    """
    tokenizer = load_tokenizer(str(run.tokenizer))
    kept = _kept_template(run)
    if kept is None:
        if run.recipe.data.chat_template is not None:
            tokenizer.chat_template = template_file(run.recipe.data.chat_template)
    elif template_digest(tokenizer) != kept:
        raise RunError(
            f"{run.tokenizer / 'chat_template.jinja'}: not the chat template that the run was trained with",
            "restore the file: what another template prompts with is not what the model has learned",
        )
    return tokenizer


def dated(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> str | None:
    """The date (YYYY-MM-DD) that prompts are rendered with; None if the template writes none."""
    day = fixed_date(tokenizer.chat_template) if is_chat(recipe.data.template) else None
    return None if day is None else day.isoformat()


def template_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 of a tokenizer's chat template."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def check_base_of_adapter(adapter: Path, name: str) -> None:
    """Check that a local model is the one that an adapter in a run's folder was trained on; other adapters do not say.

    Raises:
        RunError: it is another model.
    """
    run = Run(adapter.parent)
    known: dict[str, Any] = run.manifest.get("model", {}) if run.recipe_file.exists() else {}
    recorded = "weights_sha256" in known or ("fingerprint" in known and not _commit(known["fingerprint"]))
    if recorded and is_local_model(Path(name)) and (other := differing(known, Path(name))):
        raise RunError(f"{adapter}: not trained on {name} ({other} differ)", f"give its own base, {known['name']}")


def _placed(recipe: Recipe, name: str, revision: str | None = None) -> Recipe:
    update = {"name": name} | ({"revision": revision} if revision else {})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=update)})


def _commit(fingerprint: str) -> str | None:
    """The hub's commit in a fingerprint "NAME@COMMIT"; None for a folder's."""
    return None if fingerprint.startswith("sha256:") else fingerprint.rpartition("@")[2]


def differing(known: dict[str, Any], place: Path) -> str:
    """What of a model on this machine differs from a run's base; "" = nothing."""
    folder = Path(local_model(str(place)))
    weights = known.get("weights_sha256", known["fingerprint"])  # runs of before kept only the fingerprint
    if weights_digest(folder) != weights:
        return "its weights"
    config = _config_digest(folder)
    return "" if known.get("config_sha256", config) == config else "its config.json"


def _config_digest(folder: Path) -> str:
    if (origin := gguf_origin(folder)) is not None:
        return str(origin["sha256"])
    return file_sha256(folder / "config.json")


def _kept_template(run: Run) -> str | None:
    data: dict[str, Any] = run.manifest.get("data", {})
    return data.get("chat_template_sha256")


def _other_base(run: Run, found: list[tuple[Path, str]]) -> RunError:
    where = "; ".join(f"{place}: {what} differ{'s' if what.endswith('json') else ''}" for place, what in found)
    return RunError(
        f"{run.path}: not the base that it was trained on ({where})", "restore it, or say where it is now: --base PATH"
    )
