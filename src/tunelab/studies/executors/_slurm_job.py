"""A cell as a Slurm job: what submitit pickles, and how it handles Slurm's warning, preemption and cancellation."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from tunelab.errors import Interrupted
from tunelab.records.cells import read_cell
from tunelab.studies.executors._executor import job_log

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

#: Seconds that a job waits after SIGTERM for what follows: Slurm's warning, or its kill.
PATIENCE_S = 600.0
#: Seconds until a record written by another node is visible here (NFS caches for up to a minute).
RECORD_S = 90.0


@dataclass(frozen=True)
class CellJob:
    """Runs one cell as a Slurm job. Pickled as this class's name, a path, keys and permissions; all else is on disk.

    Before the time limit (and, if the cluster sends user signals, before a preemption) Slurm sends the signal that
    submitit requested. submitit alone would exit at once and lose the steps since the last checkpoint; here the
    training first saves, as on Ctrl-C, and then submitit requeues the job. Work that cannot save (loading, or an
    evaluation, whose responses are already on disk) exits at once.

    SIGTERM precedes both a preemption and the kill of `scancel`, and the two look the same: a training saves, and then
    waits for what follows, so that a cancelled job is never requeued.

    Args:
        folder: the study's directory, absolute, on a shared disk.
        key: the cell's key.
        needs: key of the training that ends before this job starts; "" = none.
        allowed: the code that the study was started with (allowed_code.py).
    """

    folder: str
    key: str
    needs: str = ""
    allowed: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> str:
        """Run or resume the cell.

        Returns:
            "done" or "failed"; details are in the cell's record.

        Raises:
            Interrupted: SIGTERM came, and no warning after it.
            SystemExit: the job is requeued (raised by submitit).
        """
        import submitit

        warning = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        queue_again = signal.getsignal(warning)
        warned = threading.Event()

        def stop(number: int, frame: FrameType | None) -> None:
            if warned.is_set():
                return
            warned.set()
            # SIGTERM makes a training save and stop (interrupt.py); a second SIGINT would abort the saving.
            at_once = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            signal.raise_signal(signal.SIGINT if at_once else signal.SIGTERM)

        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
        signal.signal(warning, stop)
        try:
            self._see_training()
            from tunelab.studies.run_cell import run_cell

            return run_cell(self.folder, self.key, allowed=self.allowed, progress=job_log()).status
        except (Interrupted, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a warning must not interrupt the wait
            if warned.wait(PATIENCE_S) and callable(queue_again):
                queue_again(warning, None)
            raise

    def checkpoint(self) -> DelayedSubmission:
        """What to run when the job is requeued: the same, since a cell resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _see_training(self) -> None:
        """Wait until this node sees the training's record, or RECORD_S has passed (its process was killed)."""
        deadline = time.monotonic() + RECORD_S
        while self.needs and time.monotonic() < deadline:
            record = read_cell(Path(self.folder), self.needs)
            if record is not None and record.status != "waiting":
                return
            time.sleep(1)
