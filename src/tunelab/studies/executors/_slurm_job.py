"""A cell as a job of Slurm's: what submitit pickles, and what it does when Slurm warns, preempts or cancels it."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from tunelab.errors import Interrupted
from tunelab.records.cells import read_cell

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

#: Seconds that a job which Slurm sent SIGTERM waits for what follows: Slurm's warning, or its kill.
PATIENCE_S = 600.0
#: Seconds after which a record that another node wrote is seen here (NFS keeps what it knew for up to a minute).
RECORD_S = 90.0


@dataclass(frozen=True)
class CellJob:
    """Runs one cell where Slurm puts it. Pickled as this class's name, a path and a key; all else is on the disk.

    Before the time is over (and, where the cluster sends user signals, at a preemption) Slurm sends the signal that
    submitit asked for. submitit alone would leave at once and lose the steps since the last checkpoint; here the
    training is first told to save, as by Ctrl-C, and submitit puts the job back into the queue after that. Work that
    cannot be told (loading, an evaluation, whose responses are on the disk already) is left at once.

    SIGTERM comes before a preemption as before `scancel`'s kill, and nothing tells which: a training saves, and then
    waits for what follows, so that a cancelled job is never queued again.

    Args:
        folder: the study's directory, absolute, on a disk that the node sees too.
        key: the cell's.
        needs: key of the training that has ended before this job starts; "" = none.
    """

    folder: str
    key: str
    needs: str = ""

    def __call__(self) -> str:
        """Run the cell, go on with it where it was stopped.

        Returns:
            "done" or "failed"; the cell's record says more.

        Raises:
            Interrupted: SIGTERM came and nothing after it.
            SystemExit: the job is queued again (submitit's).
        """
        import submitit

        warning = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        queue_again = signal.getsignal(warning)
        warned = threading.Event()

        def stop(number: int, frame: FrameType | None) -> None:
            if warned.is_set():
                return
            warned.set()
            # SIGTERM asks a training (interrupt.py), where a second SIGINT would break off its saving.
            at_once = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            signal.raise_signal(signal.SIGINT if at_once else signal.SIGTERM)

        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        signal.signal(warning, stop)
        try:
            self._see_training()
            from tunelab.studies.run_cell import run_cell

            return run_cell(self.folder, self.key).status
        except (Interrupted, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a warning during the wait must not break it off
            if warned.wait(PATIENCE_S) and callable(queue_again):
                queue_again(warning, None)
            raise

    def checkpoint(self) -> DelayedSubmission:
        """What runs when the job is queued again: the same, as a cell goes on where it stood."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _see_training(self) -> None:
        """Wait until this node sees how the training ended, or there is no record of it (its process was killed)."""
        deadline = time.monotonic() + RECORD_S
        while self.needs and time.monotonic() < deadline:
            record = read_cell(Path(self.folder), self.needs)
            if record is not None and record.status != "waiting":
                return
            time.sleep(1)
