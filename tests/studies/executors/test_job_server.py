"""The process that jobs without GPUs are forked from: what it imports, what ends it, and what jobs take from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path

import pytest

from tunelab.studies.executors import here

#: A job that says what it has from the server, after the server was asked to stop as a process group is.
PROGRAM = """
import json, os, signal, sys
from tunelab.studies.executors import here

def job(sending):
    import statistics
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    sending.send({"file": statistics.__file__, "path": os.environ.get("PYTHONPATH"), "server": os.getppid(),
                  "blocked": sorted(blocked)})

def result():
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=job, args=(sending,))
    process.start()
    sending.close()
    found = receiving.recv()
    process.join()
    return found

if __name__ == "__main__":
    here._IMPORTS[:] = ["tunelab.units"]  # it imports statistics
    context = here._context([])
    first = result()
    os.kill(first["server"], signal.SIGINT)
    os.kill(first["server"], signal.SIGTERM)
    own = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    print(json.dumps({"first": first, "second": result(), "path": os.environ.get("PYTHONPATH"), "blocked": own}))
"""


@pytest.mark.skipif(sys.platform != "linux" or sys.version_info < (3, 11), reason="jobs are not forked from a server")
def test_the_server_takes_no_module_of_the_working_directory_and_no_signal(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "statistics.py").write_text("print('this file ran')\n", encoding="utf-8")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    source = str(Path(here.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        cwd=tmp_path / "data",
        env={**os.environ, "PYTHONPATH": source},
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "this file ran" not in done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert "statistics.py" in found["first"]["file"] and str(tmp_path) not in found["first"]["file"]
    assert found["second"]["server"] == found["first"]["server"], "the same server, although it was signalled"
    assert found["first"]["blocked"] == [2, 15], "until the job takes them"
    assert (found["path"], found["blocked"]) == (source, []), "of this process, nothing is changed"


@pytest.mark.parametrize(("given", "threads"), [("3,1", 3), (None, 1)])
def test_a_job_has_the_environment_and_threads_of_its_study(
    given: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    before, threads_before = dict(os.environ), torch.get_num_threads()
    found = {}

    def run_cell(*arguments: object, **more: object) -> None:
        found.update(environment=dict(os.environ), threads=torch.get_num_threads())

    monkeypatch.setattr(here, "run_cell", run_cell)
    monkeypatch.setattr(here, "usable_cores", lambda: 2)
    environment = {"HOME": "/home/of-this-study", **({"OMP_NUM_THREADS": given} if given else {})}
    os.environ["OF_AN_EARLIER_STUDY"] = "1"
    try:
        here._work(Path("study"), "train-1", "", 2, {}, environment, Pipe()[1])
    finally:
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads(threads_before)
    assert found == {
        "environment": {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"} | environment,
        "threads": threads,
    }
