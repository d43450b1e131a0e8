"""This machine: cells one by one, or one per GPU in parallel, each in its own process.

If a process is killed (usually out of memory), only its own cell fails.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from tunelab.allowed_code import Allowed, allowed_code, own_module_path
from tunelab.cpu import usable_cores
from tunelab.errors import Interrupted
from tunelab.progress import Progress, named
from tunelab.records.cells import Cell, read_cell
from tunelab.studies.executors._executor import count_option, lost
from tunelab.studies.run_cell import run_cell

#: What jobs import, once, in the process that theirs are forked from.
_IMPORTS = [
    "tunelab.studies.run_cell",
    "tunelab.training.finetune",
    "tunelab.answering.held_out_evaluation",
    "tunelab.answering.benchmark_responses",
]

#: Signals that stop jobs.
_STOPS = (signal.SIGINT, signal.SIGTERM)

OPTIONS = {"workers": "jobs in parallel; default: one per GPU, or 1 without a GPU"}


@dataclass(frozen=True)
class _Running:
    """A cell in a process of its own.

    Args:
        place: id of its GPU; "" = none.
        reports: what the process reports of its progress.
    """

    process: BaseProcess
    cell: Cell
    place: str
    reports: Connection

    def pass_on(self, progress: Progress) -> None:
        """Give the reports that have come to `progress`."""
        try:
            while self.reports.poll():
                progress(*self.reports.recv())
        except EOFError:  # the process has ended
            return


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
        run_cell(folder, cell, progress=named(progress, f"{number}/{len(cells)}"))


def _gpus() -> list[str]:
    """Ids of the GPUs that this process may use, for CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def _run_at_once(folder: Path, cells: Sequence[Cell], workers: int, gpus: Sequence[str], progress: Progress) -> None:
    context = _context(gpus)
    waiting, places = list(cells), [gpus[number % len(gpus)] if gpus else "" for number in range(workers)]
    running: dict[str, _Running] = {}
    try:
        while waiting or running:
            progress(f"{len(cells)} jobs", len(cells) - len(waiting) - len(running), len(cells), _titles(running))
            open_keys = {cell.key for cell in waiting} | set(running)
            for cell in [cell for cell in waiting if cell.needs not in open_keys][: len(places)]:
                place = places.pop(0)
                running[cell.key] = _started(context, folder, cell, place, workers)
                waiting.remove(cell)
            wait([source for one in running.values() for source in (one.process.sentinel, one.reports)])
            for key, one in list(running.items()):
                one.pass_on(progress)
                if not one.process.is_alive():
                    del running[key]
                    places.append(one.place)
                    _check_end(folder, one.cell, one.process)
    finally:
        # Ctrl-C reached them as well; a training saves on either signal.
        for one in running.values():
            one.process.terminate()
        for one in running.values():
            one.process.join()
    progress(f"{len(cells)} jobs", len(cells), len(cells))


def _context(gpus: Sequence[str]) -> SpawnContext | ForkServerContext:
    """How jobs' processes start. Without GPUs they are forked from a server that has imported torch and transformers,
    which takes longer than a small job; CUDA and macOS's frameworks do not survive a fork, and before Python 3.11 a
    server imports from the working directory.
    """
    if gpus or sys.platform != "linux" or not hasattr(sys.flags, "safe_path"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTS)
    with _as_server_needs():
        forkserver.ensure_running()
    # An interruption while the server imports leaves this process to it, not a job that runs without its study.
    first = context.Process(target=os.getpid)
    first.start()
    first.join()
    return context


@contextmanager
def _as_server_needs() -> Iterator[None]:
    """What the server inherits: this process's modules, and no signal that ends it. Jobs take signals (_work)."""
    resource_tracker.ensure_running()  # it would unblock signals
    before, mask = dict(os.environ), signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    os.environ.update(own_module_path())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _started(context: SpawnContext | ForkServerContext, folder: Path, cell: Cell, place: str, workers: int) -> _Running:
    reports, sending = context.Pipe(duplex=False)
    process = context.Process(
        target=_work,
        args=(folder, cell, place, workers, allowed_code(), dict(os.environ), sending),
        name=cell.title,
    )
    process.start()
    sending.close()  # the process has the only end that is open
    return _Running(process, cell, place, reports)


def _check_end(folder: Path, cell: Cell, process: BaseProcess) -> None:
    record = read_cell(folder, cell.key)
    if record is not None and record.status != "waiting" and process.exitcode == 0:
        return
    if process.exitcode == 0:
        raise Interrupted(f"{cell.title}: stopped; finished work is kept", "run the same command to resume")
    code = process.exitcode or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    lost(folder, cell, f"its process {how}" + ("; likely out of memory" if code == -9 else ""))


def _titles(running: Mapping[str, _Running]) -> str:
    return "; ".join(one.cell.title for one in running.values())


def _work(
    folder: Path,
    cell: Cell,
    gpu: str,
    workers: int,
    allowed: Allowed,
    environment: Mapping[str, str],
    sending: Connection,
) -> None:
    """Run a cell in a worker process. Sets the GPU before CUDA is used, and its share of CPU threads."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    # The server may be that of an earlier study.
    os.environ.clear()
    os.environ.update(environment)
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    share = str(max(1, usable_cores() // workers))
    os.environ.setdefault("OMP_NUM_THREADS", share)
    os.environ.setdefault("RAYON_NUM_THREADS", share)  # of tokenizers
    _use_threads(os.environ["OMP_NUM_THREADS"])

    def report(stage: str, done: int, total: int | None, detail: str = "") -> None:
        with suppress(BrokenPipeError):  # the study's process was killed: this job still saves its work
            sending.send((stage, done, total, detail))

    try:
        run_cell(folder, cell, allowed=allowed, progress=report)
    except (Interrupted, KeyboardInterrupt):
        return


def _use_threads(setting: str) -> None:
    """Use as many threads as OMP_NUM_THREADS says, which OpenMP read when the server imported torch: "2", "2,1"."""
    import torch

    if (threads := setting.split(",")[0].strip()).isdecimal() and int(threads):
        torch.set_num_threads(int(threads))
