"""A run's directory; the only module that knows its file layout.

recipe.yaml        the resolved recipe: every key, defaults filled in
manifest.json      what ran: versions, hardware, hashes, counts, cost, outcome
metrics.jsonl      one line per step and per evaluation
checkpoints/       for resuming; `best/` has the weights of the best evaluation
start/             the adapter that training started from, if it was not a new one
adapter/ | model/  the result: a PEFT adapter, or a transformers checkpoint
tokenizer/         the tokenizer used for the rows, with the chat template they were rendered in
compared_rows.safetensors  held-out rows as tokens: a merge or a rounded model is measured on them
evaluations/       responses and scores of `tunelab eval`
trackers/          local files of W&B and TensorBoard
"""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelab.config import Recipe, load_recipe
from tunelab.errors import RunError, TunelabError
from tunelab.files import (
    as_path,
    named_failures,
    read_json,
    read_json_lines,
    truncate_file,
    write_json_atomically,
    write_text_atomically,
)
from tunelab.notebook import data_frame, html_table, loss_figure
from tunelab.records.manifest_values import check_manifest, with_known_keys
from tunelab.records.old_format import stamped, unstamped
from tunelab.records.trained_with import check_unedited
from tunelab.units import format_loss

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


#: What a run's directory contains besides the recipe and the manifest, which are removed last.
CONTENTS = (
    "metrics.jsonl",
    "compared_rows.safetensors",
    "lint.json",
    "checkpoints",
    "adapter",
    "start",
    "model",
    "tokenizer",
    "evaluations",
    "trackers",
)

#: Kinds of records in metrics.jsonl besides "train": the rows that a loss was measured on.
HELD_OUT, VALIDATION = "held-out", "validation"

#: The kind of record that has the load of a mixture's experts, and no loss.
EXPERTS = "experts"


@dataclass(frozen=True)
class Run:
    """A run directory. The object holds only the path; everything else is read from disk on access."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter; missing after full fine-tuning."""
        return self.path / "adapter"

    @property
    def start(self) -> Path:
        """The adapter that training started from (adapter.from), a copy; missing if it was a new one."""
        return self.path / "start"

    @property
    def model(self) -> Path:
        """The trained weights; missing if an adapter was trained."""
        return self.path / "model"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def compared_rows(self) -> Path:
        """Rows as tokens for comparing forms of the model; missing in runs of before."""
        return self.path / "compared_rows.safetensors"

    @property
    def lint_file(self) -> Path:
        """What the data checks found."""
        return self.path / "lint.json"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def trackers(self) -> Path:
        return self.path / "trackers"

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest on disk; empty if the run has not started."""
        content: dict[str, Any] = with_known_keys(
            unstamped(self._stored_manifest(), self.manifest_file)[0], self.manifest_file
        )
        return content

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe of the run; a format 1 recipe is returned with the current names.

        Raises:
            ConfigError: the file was edited and is no longer valid.
            RunError: the file was edited and is no longer what the run was started with; or a later version of tunelab
                wrote the run.
        """
        manifest, version = unstamped(self._stored_manifest(), self.manifest_file)
        recipe = load_recipe(self.recipe_file, old_names=version == 1, is_asked=False)
        check_unedited(self.recipe_file, recipe, manifest.get("recipe", {}))
        return recipe

    def _stored_manifest(self) -> dict[str, Any]:
        if not self.manifest_file.exists():
            return {}
        stored = read_json(self.manifest_file)
        check_manifest(stored, self.manifest_file)
        return stored

    @property
    def status(self) -> str:
        """ "running", "finished", "stopped early", "interrupted", "failed", or "new"."""
        return str(self.manifest.get("status", "new"))

    @property
    def is_done(self) -> bool:
        return self.status in ("finished", "stopped early")

    @property
    def peak_memory(self) -> tuple[int, int | None]:
        """Peak bytes of a finished training: the accelerator's, or the process's and how much of that it had before
        the model was loaded (None = unknown, or an accelerator's)."""
        manifest = self.manifest
        if manifest["peak_gpu_bytes"]:
            return manifest["peak_gpu_bytes"], None
        return manifest["peak_resident_bytes"], manifest.get("start_resident_bytes")

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Records of metrics.jsonl: all losses, or those of one kind ("train", "validation", "held-out", "experts").

        Raises:
            RunError: a record has no step or no loss, or one that is no finite number.
        """
        records, _ = read_json_lines(self.metrics_file)
        for number, record in enumerate(records, 1):
            if not isinstance(record, dict) or not (
                record.get("kind") == EXPERTS or all(_is_finite(record.get(name)) for name in ("step", "loss"))
            ):
                raise RunError(
                    f"{self.metrics_file}: record {number} has no step and loss, both finite numbers",
                    "the file is damaged: restore it, or train again",
                )
        return [one for one in records if one.get("kind") == kind or (kind is None and one.get("kind") != EXPERTS)]

    def __repr__(self) -> str:
        about = ", ".join(f"{name} {value}" for name, value in self._summary() if name != "path")
        return f"Run({str(self.path)!r}: {about})"

    def _repr_html_(self) -> str:
        return html_table("", ("run", self.path.name), self._summary())

    def _summary(self) -> list[tuple[str, str]]:
        """What to show of the run, by name; never raises: a damaged run is shown too."""
        try:
            manifest, recipe = self.manifest, self.recipe if self.recipe_file.exists() else None
        except (TunelabError, ValueError, OSError) as error:
            return [("path", str(self.path)), ("status", f"unreadable ({type(error).__name__})")]
        shown = [("path", str(self.path)), ("status", self.status)]
        if recipe is not None:
            precision = "" if recipe.precision.name == "none" else f" over {recipe.precision.name}"
            shown += [("model", recipe.model.name), ("method", recipe.method + precision)]
        if "steps" in manifest:
            shown.append(("steps", f"{manifest['steps']:,}"))
        before, after = manifest.get("held_out_loss_before"), manifest.get("held_out_loss_after")
        if before is not None and after is not None:
            shown.append(("held-out loss", f"{format_loss(before)} -> {format_loss(after)}"))
        return shown

    def to_frame(self) -> pandas.DataFrame:
        """metrics.jsonl as a data frame: one row per logged step and per evaluation.

        Raises:
            UsageError: pandas is not installed.
        """
        return data_frame(self.metrics())

    def plot_loss(self) -> Figure:
        """Training loss over steps, and that on validation or held-out rows, as a matplotlib figure.

        Raises:
            UsageError: no training step was logged yet.
        """
        return loss_figure(self.path.name, self.metrics())

    def update_manifest(self, **entries: Any) -> None:
        """Set entries of the manifest, replacing existing ones of the same name."""
        # The format version stays: it also covers the recipe, which is not rewritten.
        write_json_atomically(self.manifest_file, {**self._stored_manifest(), **entries})

    def keep_metrics_up_to(self, step: int) -> None:
        """Drop metrics of steps after `step` and a torn last line: those steps will run again."""
        if not self.metrics_file.exists():
            return
        records, length = read_json_lines(self.metrics_file)
        truncate_file(self.metrics_file, length)
        kept = [record for record in records if int(record.get("step", 0)) <= step]
        if len(kept) < len(records):
            write_text_atomically(self.metrics_file, "".join(json.dumps(record) + "\n" for record in kept))

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl and flush it."""
        with named_failures(self.metrics_file), open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record), allow_nan=False) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for writing: a second process is refused. A killed process releases the lock.

        Raises:
            RunError: another process has the lock.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.path}: another process is writing this run", "wait for it, or stop it") from None
            yield


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def new_run(path: Path, recipe: str, *, overwrite: bool = False) -> Run:
    """Start a run in an empty directory, or in one whose run failed before its first checkpoint: nothing is lost.

    Args:
        overwrite: remove a run that is there, with its evaluations.

    Raises:
        RunError: the directory contains a run that is not to be removed, or other files.
    """
    run = Run(path)
    _check_free(run, overwrite)
    with run.locked():
        _check_free(run, overwrite)  # again: of two processes that start here at once, the second finds the first's run
        if run.recipe_file.exists() and overwrite:
            _remove(run)
        for stale in (run.manifest_file, run.metrics_file):
            stale.unlink(missing_ok=True)
        write_text_atomically(run.recipe_file, recipe)
        write_json_atomically(run.manifest_file, stamped({}))
    return run


def _check_free(run: Run, overwrite: bool) -> None:
    """Raises RunError if a directory has a run that may not be replaced, or other files."""
    path = run.path
    if run.recipe_file.exists():
        failed_early = run.status == "failed" and not any(run.checkpoints.glob("step-*"))
        if overwrite:
            _check_is_only_a_run(run)
        elif not failed_early:
            use = f"evaluate it ({eval_command(path)})" if run.is_done else f"resume it ({resume_command(path)})"
            raise RunError(
                f"{path}: already contains a run ({run.status})",
                f"{use}, replace it with --overwrite, or choose another directory with --out",
            )
    elif path.exists() and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise RunError(f"{path}: the directory is not empty and is not a run", "choose another directory with --out")


def _check_is_only_a_run(run: Run) -> None:
    others = sorted(
        entry.name
        for entry in run.path.iterdir()
        if not entry.name.startswith(".") and entry.name not in (*CONTENTS, "recipe.yaml", "manifest.json")
    )
    if others or not run.manifest_file.exists():
        what = f"contains files that are not a run's: {', '.join(others[:5])}" if others else "is not a run"
        raise RunError(
            f"{run.path}: {what}; nothing was removed", "move them away, or choose another directory with --out"
        )


def _remove(run: Run) -> None:
    """Remove a run's files; a kill meanwhile leaves a directory that can still be recognized as a run."""
    for name in CONTENTS:
        _remove_file_or_folder(run.path / name)
    run.manifest_file.unlink()
    run.recipe_file.unlink()


def remove_weights(run: Run) -> None:
    """Remove everything but the records of a run: its recipe, manifest and metrics stay."""
    for name in CONTENTS:
        place = run.path / name
        if place != run.metrics_file:
            _remove_file_or_folder(place)


def remove_checkpoints(run: Run) -> None:
    """Remove what a run would be resumed from; a finished one has its result apart from that. Of a link, the link."""
    _remove_file_or_folder(run.checkpoints)


def _remove_file_or_folder(place: Path) -> None:
    """Remove what is there, if anything is, also while another process does; what a link points to stays."""
    with suppress(FileNotFoundError):
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()


def eval_command(path: Path | str) -> str:
    """The shell command that evaluates a run."""
    return f"tunelab eval {shlex.quote(str(path))}"


def resume_command(path: Path | str) -> str:
    """The shell command that resumes a run."""
    return f"tunelab train --resume {shlex.quote(str(path))}"


def check_finished(run: Run) -> None:
    """Raises RunError if the run is not finished; the hint is the command that finishes it."""
    if not run.is_done:
        raise RunError(f"{run.path}: the run is {run.status}, not finished", resume_command(run.path))


def open_run(path: Run | Path | str) -> Run:
    """Open an existing run.

    Raises:
        RunError: this directory is not a run.
    """
    run = path if isinstance(path, Run) else Run(as_path(path, "run"))
    path = run.path
    if not run.recipe_file.exists():
        raise RunError(f"{path}: no run there (no recipe.yaml)", "give the directory that `tunelab train` printed")
    return run


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
