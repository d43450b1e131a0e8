"""Locate a benchmark's files: in a given folder, or downloaded once from the hub into its cache."""

from __future__ import annotations

from pathlib import Path

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Benchmark


def benchmark_files(benchmark: Benchmark, data: str | None, *, name: str = "NAME") -> Path:
    """The folder with a benchmark's files.

    Args:
        benchmark: names the repository, commit and files.
        data: a local folder (or file, if the benchmark reads one) to use instead of the hub.
        name: the benchmark's name, for hints.

    Raises:
        DataError: the folder does not exist or the hub cannot be reached; the hint says how to give a folder.
    """
    if data is not None:
        path = Path(data).expanduser()
        if not path.exists():
            raise DataError(f"{name}.data={data}: no such folder", "give the folder that holds the benchmark's files")
        return path
    hub = benchmark.hub
    if hub is None:
        raise DataError(f"{name}: its files are not on the hub", f"give the folder that holds them: {name}.data=FOLDER")
    from httpx import HTTPError
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    where = f"{name}: {hub.repository}@{hub.revision or 'main'}"
    silenced = not are_progress_bars_disabled()
    if silenced:
        disable_progress_bars()  # the library prints nothing
    try:
        folder = snapshot_download(
            hub.repository, repo_type="dataset", revision=hub.revision, allow_patterns=list(hub.patterns)
        )
    except errors.GatedRepoError as error:
        raise DataError(
            f"{where}: is gated: its owner asks you to accept terms first",
            f"accept them at its page on the hub, log in with `hf auth login`, or give {name}.data=FOLDER",
        ) from error
    except (OSError, ValueError, HTTPError, errors.RevisionResolutionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{where}: cannot be fetched, and is not in the cache: {first}",
            f"go online (and unset HF_HUB_OFFLINE), or give a folder with its files: {name}.data=FOLDER",
        ) from error
    finally:
        if silenced:
            enable_progress_bars()
    return Path(folder)
