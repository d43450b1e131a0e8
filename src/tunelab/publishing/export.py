"""Exporting a run: a finished run in, a model that another program loads out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import PreTrainedModel

from tunelab.config import Recipe
from tunelab.errors import RunError, UsageError
from tunelab.files import as_path, check_is_new, directory_written_atomically, read_json, write_json_atomically
from tunelab.models.finite import check_files_finite
from tunelab.models.gguf.settings import file_context
from tunelab.models.gguf.tokenizer import composes
from tunelab.models.load import load_model
from tunelab.notebook import shown_in_notebooks
from tunelab.preparation.base import (
    base_name,
    base_on_hub,
    own_recipe,
    run_tokenizer,
    trained_recipe,
    trained_weights,
)
from tunelab.preparation.published import published_tokenizer
from tunelab.preparation.rows import row_encoder
from tunelab.progress import Progress
from tunelab.publishing.gguf_file import check_gguf, write_gguf
from tunelab.publishing.merge import NOT_MEASURED, merge, merged_model
from tunelab.publishing.modelfile import modelfile, prompt_start
from tunelab.records.runs import Run, check_finished, open_run

Target = Literal["hf", "peft", "compressed-tensors", "gguf", "ollama"]
GgufKind = Literal["F16", "BF16", "Q8_0"]

GGUF_NAME = "model.gguf"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        path: a directory.
        files: its contents.
        checked: how the result was verified.
    """

    path: Path
    files: tuple[str, ...]
    checked: str


def export(
    run: Run | Path | str,
    out: Path | str,
    *,
    to: Target,
    kind: GgufKind = "F16",
    base: Path | str | None = None,
    force: bool = False,
    progress: Progress = shown_in_notebooks,
) -> Exported:
    """Write a finished run's model in the form that another program loads, to a new directory.

    Args:
        to: "hf" = a transformers checkpoint, the adapter merged as merge() does by default; "peft" = the adapter alone;
            "compressed-tensors" = merged and stored in MXFP4; "gguf" = for llama.cpp; "ollama" = that and a Modelfile.
        kind: of a GGUF file's matrices.
        base: the folder where the run's base is now, if it moved.
        force: as for merge().

    Raises:
        RunError: the run is not finished, or has no adapter where one is needed.
        UsageError: `out` exists, or there is no such target.
        ModelError: what was written is not the model; or merging loses too much; or the format cannot store the model.
    """
    run = open_run(run)
    target = as_path(out, "out")
    if to not in get_args(Target):
        raise UsageError(f"no export to {to!r}", f"known: {', '.join(get_args(Target))}")
    if kind not in get_args(GgufKind):
        raise UsageError(f"no dtype {kind!r} of a GGUF file", f"known: {', '.join(get_args(GgufKind))}")
    check_finished(run)
    check_is_new(target)
    if to == "peft":
        return _adapter(run, target)
    if to in ("gguf", "ollama"):
        return _gguf(run, base, target, kind, to == "ollama", progress)
    if to == "hf" and run.model.exists():
        return _own_weights(run, target)
    format = "mxfp4" if to == "compressed-tensors" else "auto"
    merged = merge(run, target, format=format, base=base, force=force, progress=progress)
    measured = "measured on held-out rows (merge.json)" if merged.quality else NOT_MEASURED
    what = f"layers compared with base + adapter; {measured}" if merged.check else measured
    return Exported(target, _files(target), what)


def _adapter(run: Run, target: Path) -> Exported:
    if not run.adapter.exists():
        raise RunError(f"{run.path}: full fine-tuning, there is no adapter", "export with --to hf")
    check_files_finite(run.adapter)
    with directory_written_atomically(target) as folder:
        _copy(run.adapter, folder)
        published_tokenizer(run_tokenizer(run), own_recipe(run)).save_pretrained(folder)
        named = _name_base(run, folder / "adapter_config.json")
    return Exported(target, _files(target), f"a copy of the run's adapter{named}")


def _name_base(run: Run, config: Path) -> str:
    """Name a base that is a folder without its path, which is nobody else's; returns what to say of it."""
    name, _ = base_on_hub(run)
    if name:
        return ""
    folder = base_name(run)
    write_json_atomically(config, read_json(config) | {"base_model_name_or_path": folder})
    return f"; adapter_config.json names the base {folder}, without the path to it"


def _own_weights(run: Run, target: Path) -> Exported:
    check_files_finite(run.model)
    with directory_written_atomically(target) as folder:
        _copy(run.model, folder)
        published_tokenizer(run_tokenizer(run), own_recipe(run)).save_pretrained(folder)
    return Exported(target, _files(target), "a copy of the run's weights")


def check_no_links(source: Path) -> None:
    """Check that no link in a folder of a run points to elsewhere: what it points to would be published.

    Raises:
        RunError: one does.
    """
    for path in source.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(source.resolve()):
            raise RunError(f"{path}: is a link to {path.resolve()}, outside the folder", "put the file in its place")


def _copy(source: Path, folder: Path) -> None:
    """Copy what is in a folder of a run; errors as check_no_links()."""
    check_no_links(source)
    shutil.copytree(source, folder, dirs_exist_ok=True)


def _gguf(
    run: Run, base: Path | str | None, target: Path, kind: GgufKind, with_modelfile: bool, progress: Progress
) -> Exported:
    recipe = trained_weights(run) if run.model.exists() else trained_recipe(run, base)
    tokenizer = run_tokenizer(run)
    progress("exporting", 0, 3, "loading")
    model = _dense(run, recipe, tokenizer)
    with directory_written_atomically(target) as folder:
        path = folder / GGUF_NAME
        encoder = row_encoder(tokenizer, recipe)
        template, stops = encoder.template, encoder.stop_token_ids()
        if with_modelfile:
            context = file_context(type(model).__name__, model.config)
            text = modelfile(GGUF_NAME, template, tokenizer, context=context, stop_token_ids=stops)
            (folder / "Modelfile").write_text(text, encoding="utf-8")
        progress("exporting", 1, 3, "writing")
        write_gguf(
            model,
            published_tokenizer(tokenizer, recipe),
            path,
            kind=kind,
            name=run.path.name,
            start=prompt_start(template, tokenizer),
            stop_token_ids=stops,
        )
        progress("exporting", 2, 3, "verifying")
        tensors = check_gguf(model, path, kind)
    progress("exporting", 3, 3)
    composed = "; llama.cpp does not compose characters: text that is not NFC gets other tokens"
    checked = f"{tensors} tensors read back and compared" + composed * composes(tokenizer)
    return Exported(target, _files(target), checked)


def _dense(run: Run, recipe: Recipe, tokenizer: Any) -> PreTrainedModel:
    """The run's dense model: over a quantized base, with the dequantized weights."""
    if run.model.exists():
        return load_model(str(run.model), dtype=torch.float32)
    into = "dequantised" if recipe.precision.name != "none" else "fp32"
    model, _, _ = merged_model(recipe, run, tokenizer, into)
    return model


def _files(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name for path in folder.iterdir()))
