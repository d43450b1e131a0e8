"""This machine: cells one by one, or one per GPU in parallel, each in its own process.

If a process is killed (usually out of memory), only its own cell fails.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tunelab.errors import Interrupted
from tunelab.progress import Progress, named
from tunelab.records.cells import Cell, read_cell
from tunelab.studies.executors._executor import count_option, lost
from tunelab.studies.run_cell import run_cell

OPTIONS = {"workers": "jobs in parallel; default: one per GPU, or 1 without a GPU"}


def run_cells(folder: Path, cells: Sequence[Cell], options: Mapping[str, str], progress: Progress) -> None:
    """Run the cells; in this process if they run one at a time.

    Raises:
        UsageError: workers is not a positive integer.
        Interrupted: Ctrl-C; the worker processes have stopped.
    """
    gpus = _gpus()
    workers = count_option(options, "workers", max(1, len(gpus)))
    if workers > 1:
        _run_at_once(folder, cells, workers, gpus, progress)
        return
    for number, cell in enumerate(cells, 1):
        run_cell(folder, cell.key, progress=named(progress, f"{number}/{len(cells)}"))


def _gpus() -> list[str]:
    """Ids of the GPUs that this process may use, for CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def _run_at_once(folder: Path, cells: Sequence[Cell], workers: int, gpus: Sequence[str], progress: Progress) -> None:
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    waiting, places = list(cells), [gpus[number % len(gpus)] if gpus else "" for number in range(workers)]
    running: dict[str, tuple[BaseProcess, Cell, str]] = {}
    try:
        while waiting or running:
            progress(f"{len(cells)} jobs", len(cells) - len(waiting) - len(running), len(cells), _titles(running))
            open_keys = {cell.key for cell in waiting} | set(running)
            for cell in [cell for cell in waiting if cell.needs not in open_keys][: len(places)]:
                place = places.pop(0)
                process: BaseProcess = context.Process(
                    target=_work, args=(folder, cell.key, place, workers), name=cell.title
                )
                process.start()
                waiting.remove(cell)
                running[cell.key] = (process, cell, place)
            wait([process.sentinel for process, _, _ in running.values()])
            for key, (process, cell, place) in list(running.items()):
                if not process.is_alive():
                    del running[key]
                    places.append(place)
                    _check_end(folder, cell, process)
    finally:
        # Ctrl-C reached them as well; a training saves on either signal.
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join()
    progress(f"{len(cells)} jobs", len(cells), len(cells))


def _check_end(folder: Path, cell: Cell, process: BaseProcess) -> None:
    record = read_cell(folder, cell.key)
    if record is not None and record.status != "waiting" and process.exitcode == 0:
        return
    if process.exitcode == 0:
        raise Interrupted(f"{cell.title}: stopped; finished work is kept", "run the same command to resume")
    code = process.exitcode or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    lost(folder, cell, f"its process {how}" + ("; likely out of memory" if code == -9 else ""))


def _titles(running: Mapping[str, tuple[BaseProcess, Cell, str]]) -> str:
    return "; ".join(cell.title for _, cell, _ in running.values())


def _work(folder: Path, key: str, gpu: str, workers: int) -> None:
    """Run a cell in a worker process. Sets the GPU before torch is imported, and its share of CPU threads."""
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    try:
        run_cell(folder, key)
    except (Interrupted, KeyboardInterrupt):
        return
