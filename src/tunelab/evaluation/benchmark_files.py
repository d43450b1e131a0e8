"""Find a benchmark and its files: a module by name, or a user's own file of items; a folder, or the hub's cache."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from tunelab import plugins
from tunelab.config.questions import HELD_OUT
from tunelab.errors import DataError, UsageError
from tunelab.evaluation import items_file
from tunelab.evaluation.benchmark import Benchmark, BenchmarkOptions, Item
from tunelab.hub import hub_access, why_unreachable

FOLDER = "evaluation/benchmarks"

ASSETS = Path(__file__).resolve().parents[1] / "assets"


def load_benchmark(name: str) -> ModuleType:
    """The module of a benchmark: by name, from a user's own .py file, or items_file for a .jsonl file of items.

    The .jsonl file itself is not read: scoring does not need it.

    Raises:
        UsageError: unknown benchmark, or a user's own file lacks a part of the interface, or has the name of held-out
            rows.
    """
    if plugins.label(name) == HELD_OUT:
        raise UsageError(
            f"{name}: a benchmark cannot be called {HELD_OUT}: these are a recipe's rows", "rename the file"
        )
    module = items_file if is_items_file(name) else plugins.load(FOLDER, name)
    missing = [part for part in ("BENCHMARK", "Options") if not hasattr(module, part)]
    if missing:
        raise UsageError(
            f"benchmark {name!r} lacks {', '.join(missing)}", "evaluation/benchmark.py documents the parts of one"
        )
    return module


def is_items_file(name: str) -> bool:
    """Whether a benchmark is a user's own file of items."""
    return name.endswith(".jsonl")


def read_items(name: str, module: ModuleType, options: BenchmarkOptions) -> tuple[list[Item], BenchmarkOptions]:
    """All items of a benchmark, and its options; for a file of items they hold its SHA-256.

    Raises:
        DataError: files are missing or unreadable, or there are no items.
    """
    label = plugins.label(name)
    if is_items_file(name):
        path = Path(options.data or name).expanduser()
        options = module.pinned(path, options)
        return module.items(path, options), options
    items: list[Item] = module.items(benchmark_files(module.BENCHMARK, options.data, name=label), options)
    if not items:
        raise DataError(f"{label}: its files contain no items", "check the folder that was given")
    return items, options


def benchmark_files(benchmark: Benchmark, data: str | None, *, name: str = "NAME") -> Path:
    """The folder with a benchmark's files.

    Args:
        benchmark: names the repository, commit and files.
        data: a local folder (or file, if the benchmark reads one) to use instead of the hub or of what ships.
        name: the benchmark's name, for hints.

    Raises:
        DataError: the folder does not exist or the hub cannot be reached; the hint says how to give a folder.
    """
    if data is not None:
        path = Path(data).expanduser()
        if not path.exists():
            raise DataError(f"{name}.data={data}: no such folder", "give the folder that holds the benchmark's files")
        return path
    if benchmark.shipped is not None:
        return ASSETS / benchmark.shipped
    hub = benchmark.hub
    if hub is None:
        raise DataError(f"{name}: its files are not on the hub", f"give the folder that holds them: {name}.data=FOLDER")
    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    where = f"{name}: {hub.repository}@{hub.revision or 'main'}"
    silenced = not are_progress_bars_disabled()
    if silenced:
        disable_progress_bars()  # the library prints nothing
    try:
        with hub_access():
            folder = snapshot_download(
                hub.repository, repo_type="dataset", revision=hub.revision, allow_patterns=list(hub.patterns)
            )
    except errors.GatedRepoError as error:
        raise DataError(
            f"{where}: is gated: its owner asks you to accept terms first",
            f"accept them at its page on the hub, log in with `hf auth login`, or give {name}.data=FOLDER",
        ) from error
    except (OSError, ValueError, errors.RevisionResolutionError) as error:
        first = why_unreachable() or (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{where}: cannot be fetched, and is not in the cache: {first}",
            f"go online (and unset HF_HUB_OFFLINE), or give a folder with its files: {name}.data=FOLDER",
        ) from error
    finally:
        if silenced:
            enable_progress_bars()
    return Path(folder)


def are_complete(benchmark: Benchmark, folder: Path) -> bool:
    """Whether a folder of the hub's cache has all of a benchmark's files; it may have some of them."""
    patterns = benchmark.hub.patterns if benchmark.hub else ()
    return all(any(folder.glob(pattern)) for pattern in patterns)
