"""A finished run's adapter or model, with its card, on the Hugging Face hub."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelab.errors import ModelError, RunError, UsageError
from tunelab.files import file_sha256, read_json
from tunelab.hub import is_reachable
from tunelab.models.finite import check_files_finite
from tunelab.notebook import shown_in_notebooks
from tunelab.preparation.base import base_on_hub
from tunelab.progress import Progress
from tunelab.publishing.export import check_no_links
from tunelab.publishing.hub_upload import check_access, check_repository, hub_failures, upload
from tunelab.publishing.merge import merge
from tunelab.records.runs import Run, check_finished, open_run
from tunelab.report.model_card import CARD, HubBase, model_card
from tunelab.version import __version__

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

ADAPTER_CONFIG = "adapter_config.json"

#: Begins the name of a merged model's directory in its run.
_TEMPORARY = ".push-"


@dataclass(frozen=True)
class Pushed:
    """What was pushed, or would be.

    Args:
        repository: "owner/name".
        url, commit: on the hub; "" = nothing was sent (`dry_run`).
        files: name in the repository -> bytes.
        card: the text of README.md.
        notices: what could not be checked, in sentences.
    """

    repository: str
    url: str
    commit: str
    files: dict[str, int]
    card: str
    notices: tuple[str, ...] = ()


def push(
    run: Run | Path | str,
    repository: str,
    *,
    merged: bool = False,
    format: str = "auto",
    base: str | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
    progress: Progress = shown_in_notebooks,
) -> Pushed:
    """Push a finished run's adapter, or its whole model, with its model card, in one commit.

    Args:
        repository: "owner/name" of a model on the hub; created if there is none.
        merged: the adapter merged into its base, in `format`, as merge() does; full fine-tuning gives one model anyway.
        base: "owner/name" of the base on the hub, where the run was trained on a folder.
        private: of a repository that is created.
        revision: a branch of the repository; None = the main one.
        message: of the commit.
        dry_run: send nothing, and need no token.

    Raises:
        UsageError: a wrong name; or an adapter whose base is a folder, without `base`.
        RunError: the run is not finished; there is no token or no network; or the hub refuses.
        ModelError: `base` is another model; or merging loses too much.
    """
    run = open_run(run)
    check_finished(run)
    check_repository(repository)
    is_adapter = not merged and run.adapter.exists()
    if format != "auto" and (is_adapter or run.model.exists()):
        raise UsageError(f"--format {format} is for an adapter that is merged", "add --merged, or omit it")
    known = _base(run, base, is_adapter)
    if not dry_run:
        check_access()
    progress("pushing", 0, 3, "preparing")
    found, notices = _looked_up(run, known)
    with _folder(run, is_adapter, format, progress) as folder:
        merge_file = folder / "merge.json"
        of_merge = read_json(merge_file) if merge_file.exists() else None
        card = str(model_card(run, base=found if found.name else None, merged=of_merge, name=repository))
        files = _files(folder, card, found)
        sizes = {name: len(one) if isinstance(one, bytes) else one.stat().st_size for name, one in files.items()}
        done = Pushed(repository, "", "", sizes, card, notices)
        if not dry_run:
            progress("pushing", 1, 3, "uploading")
            said = message or f"{'Adapter' if is_adapter else 'Model'} and card of tunelab {__version__}"
            url, commit = upload(repository, files, message=said, private=private, revision=revision)
            done = replace(done, url=url, commit=commit)
    progress("pushing", 3, 3)
    return done


def _base(run: Run, given: str | None, is_adapter: bool) -> HubBase:
    """The run's base on the hub; its name is "" if it has none and needs none.

    Raises:
        UsageError: it needs one; or another one is given.
    """
    name, commit = base_on_hub(run)
    if given is not None:
        check_repository(given)
        if name and given != name:
            raise UsageError(f"--base {given}: {run.path} was trained on {name}", "omit --base")
        return HubBase(given, commit)
    if is_adapter and not name:
        raise UsageError(
            f"{run.path}: its base is a folder on this machine, so nobody else could load the adapter",
            "say where the base is on the hub: --base OWNER/NAME; or push a model that needs none: --merged",
        )
    return HubBase(name, commit)


def _looked_up(run: Run, base: HubBase) -> tuple[HubBase, tuple[str, ...]]:
    """The base with what the hub says of it, and what could not be checked.

    Raises:
        RunError: the hub has no such model.
        ModelError: its weights are not those of the run's base.
    """
    if not base.name:
        return base, ()
    unseen = f"{base.name}: the hub was not asked; its license is not stated, and its weights were not compared"
    if not is_reachable():
        return base, (unseen,)
    from huggingface_hub import HfApi

    with hub_failures(base.name):
        info = HfApi().model_info(base.name, revision=base.commit, files_metadata=True)
    license = info.card_data.get("license") if info.card_data else None
    found = replace(base, license=license if isinstance(license, str) else "")
    if base.commit is not None:
        return found, ()
    if not _is_base(run, info):
        return found, (f"{base.name}: its weights could not be compared with those of the run's base",)
    return replace(found, commit=info.sha), ()


def _is_base(run: Run, info: ModelInfo) -> bool:
    """Whether a model on the hub has the very weight files of the run's local base; False = it cannot be known.

    Raises:
        ModelError: they differ.
    """
    folder = Path(run.manifest["model"].get("path") or "")
    own = {file.name: file for file in sorted(folder.glob("*.safetensors"))}
    hashes = {one.rfilename: one.lfs.sha256 for one in info.siblings or () if one.lfs and one.rfilename in own}
    if not own or set(hashes) != set(own):
        return False
    for name, file in own.items():
        if file_sha256(file) != hashes[name]:
            raise ModelError(
                f"--base {info.id}: {name} is not that of the run's base",
                "name the model that the base is a copy of; or push a model that needs none: --merged without --base",
            )
    return True


@contextmanager
def _folder(run: Run, is_adapter: bool, format: str, progress: Progress) -> Iterator[Path]:
    """The folder with what is pushed; a merged model is in a temporary one."""
    if is_adapter or run.model.exists():
        folder = run.adapter if is_adapter else run.model
        check_files_finite(folder)
        yield folder
        return
    with run.locked():
        for killed in run.path.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(killed)
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=run.path) as temporary:
            target = Path(temporary) / "merged"
            _merge(run, target, format, progress)
            yield target


def _merge(run: Run, target: Path, format: str, progress: Progress) -> None:
    """Merge, with the remedies that a push has."""
    try:
        merge(run, target, format=format, progress=progress)
    except ModelError as error:
        hint = "push the adapter, which loses nothing; or another --format (tunelab merge RUN --compare shows them)"
        raise ModelError(error.message, hint) from error
    except RunError as error:
        where = f"tunelab merge {shlex.quote(str(run.path))} --compare --base PATH, which the run remembers"
        raise RunError(error.message, error.hint.replace("--base PATH", where)) from error


def _files(folder: Path, card: str, base: HubBase) -> dict[str, Path | bytes]:
    """Name in the repository -> file or content; card and adapter_config.json are those for the hub."""
    check_no_links(folder)
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    files[CARD] = card.encode()
    if ADAPTER_CONFIG in files:
        config: dict[str, Any] = read_json(folder / ADAPTER_CONFIG)
        config |= {"base_model_name_or_path": base.name, "revision": base.commit}
        files[ADAPTER_CONFIG] = (json.dumps(config, indent=2) + "\n").encode()
    return dict(sorted(files.items()))
