"""Cells as job arrays, with stand-ins of Slurm's commands that run jobs as processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace

import pytest
from slurm_commands import write_commands
from study_files import study_of, write_study_files

from tunelab.config.study import Study
from tunelab.errors import Interrupted, RunError, UsageError
from tunelab.progress import Progress
from tunelab.records.cells import Cell, cells_of, keep_cell, keep_study, known_cells
from tunelab.studies.executors import _slurm_job, slurm
from tunelab.studies.executors._slurm_job import CellJob
from tunelab.studies.executors._slurm_queue import how_ended, in_queue
from tunelab.studies.run_study import run_study
from tunelab.studies.study_report import study_report
from tunelab.training.interrupt import asked_to_stop

pytest.importorskip("submitit")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands on PATH; gives the directory in which they keep what they know of jobs."""
    place = write_commands(tmp_path / "bin", tmp_path / "cluster")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STAND_IN", str(place))
    for name, seconds in (("LOOK_S", 0.1), ("ASK_S", 0.2), ("RECORD_S", 0.4)):
        monkeypatch.setattr(slurm, name, seconds)
    return place


def small_study(files: Path, **changes: object) -> Study:
    """A base and LoRA: three cells."""
    return study_of(files, seeds=[0], arms={"base": {"tuned": False}, "lora": {}}, **changes)


def warned_while_it_trains(folder: Path, cluster: Path) -> threading.Thread:
    """Sends Slurm's warning to the first array's first job, once it has logged a loss."""

    def warn() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if any(one.stat().st_size for one in folder.glob("runs/*/metrics.jsonl")):
                os.kill(int((cluster / "101_0.pid").read_text()), signal.SIGUSR2)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=warn)
    thread.start()
    return thread


def sbatch_lines(cluster: Path, number: int) -> set[str]:
    text = (cluster / f"{number}.script").read_text()
    return {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}


@pytest.mark.slow
@pytest.mark.timeout(600)  # five processes import torch, one after another: minutes on a machine that is busy
def test_the_report_is_the_one_made_here_though_a_training_was_queued_again(
    files: Path, tmp_path: Path, cluster: Path
) -> None:
    recipe = study_of(files).recipe
    longer = {**recipe, "train": {**recipe["train"], "steps": 150, "save_every": 150}}
    study = small_study(files, recipe=longer, remove_checkpoints=False)
    run_study(study, tmp_path / "here")
    said: list[tuple[str, int]] = []
    thread = warned_while_it_trains(tmp_path / "there", cluster)
    cells = run_study(
        study,
        tmp_path / "there",
        executor="slurm",
        options={"partition": "gpu", "time": "1:30:00", "gpus_per_node": "2", "array_parallelism": "1"},
        progress=lambda stage, done, total, detail="": said.append((detail, done)),
    )
    thread.join()
    assert {cell.title: cell.error for cell in cells if cell.status != "done"} == {}
    here, there = study_report(tmp_path / "here"), study_report(tmp_path / "there")
    assert (here.scores, here.comparisons) == (there.scores, there.comparisons)
    assert [one.points for one in here.curves] == [one.points for one in there.curves]

    first, second = sbatch_lines(cluster, 101), sbatch_lines(cluster, 102)
    asked = {"partition=gpu", "time=90", "gpus-per-node=2", "signal=USR2@180", "requeue", "job-name=tunelab"}
    assert first >= {*asked, "array=0-1%1"} and second >= {*asked, "dependency=afterany:101_0"}
    assert not any(line.startswith("dependency") for line in first)
    assert said[-1] == ("", 3) and any("pending" in detail for detail, _ in said)
    log = (tmp_path / "there" / "slurm" / "101_0_0_log.out").read_text(encoding="utf-8")
    assert (cluster / "101_0.runs").read_text() == "||" and "Requeued job 101_0" in log
    saved = [int(one.name.rpartition("-")[2]) for one in (tmp_path / "there").glob("runs/*/checkpoints/step-*")]
    assert len(saved) == 2 and 0 < min(saved) < 150, "it was saved when it was warned, long before it would have been"


def test_a_job_that_dies_is_recorded_with_its_state_and_its_log(files: Path, tmp_path: Path, cluster: Path) -> None:
    cells = run_study(small_study(files), tmp_path / "study", executor="slurm", options={"setup": "kill -9 $$"})
    assert [cell.status for cell in cells] == ["failed"] * 3
    log = tmp_path / "study" / "slurm" / "101_0_0_log.out"
    training = next(cell for cell in cells if not cell.benchmark)
    assert training.error == f"its job 101_0 ended without a record; Slurm says OUT_OF_MEMORY; its log: {log}"
    assert log.exists()
    assert (tmp_path / "study" / "slurm" / "102_0_log.out").exists(), "the evaluation's, which has no array"


def interrupted(
    study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str] | None = None
) -> Interrupted:
    """What a study says whose waiting ends by Ctrl-C at its first pause."""

    def ctrl_c(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(Interrupted) as caught:
        patch.setattr(slurm, "time", SimpleNamespace(monotonic=time.monotonic, sleep=ctrl_c))
        run_study(study, folder, executor="slurm", options=options)
    return caught.value


def test_ctrl_c_ends_the_waiting_and_the_same_command_submits_nothing_twice(
    files: Path, tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, folder = small_study(files), tmp_path / "study"
    (cluster / "hold").touch()
    error = interrupted(study, folder, monkeypatch, {"gpus_per_node": "0", "mem_gb": "1.5", "setup": "module load a"})
    assert error.message == "stopped waiting; the jobs keep running: 101, 102"
    assert "`scancel 101 102` stops them" in error.hint and f"`tunelab report {folder}`" in error.hint
    assert not any("gpu" in line for line in sbatch_lines(cluster, 101)) and "mem=1536MB" in sbatch_lines(cluster, 101)
    assert "\nmodule load a\n" in (cluster / "101.script").read_text()
    jobs = json.loads((folder / "slurm" / "jobs.json").read_text(encoding="utf-8"))
    assert sorted(jobs.values()) == ["101_0", "101_1", "102"]
    (folder / "slurm" / "jobs.json").write_text(json.dumps(jobs | {"of-an-arm-that-was-taken-out": "99"}))

    # An evaluation's job leaves the queue: it is submitted again, to wait for the training of the earlier call.
    (cluster / "102.state").write_text("CANCELLED by 1000")
    assert interrupted(study, folder, monkeypatch).message.endswith("101, 103")
    assert "dependency=afterany:101_0" in sbatch_lines(cluster, 103)
    assert len(list(cluster.glob("*.script"))) == 3
    assert '"of-an-arm-that-was-taken-out": "99"' in (folder / "slurm" / "jobs.json").read_text(encoding="utf-8")

    def cancel(seconds: float) -> None:
        for state in cluster.glob("*.state"):
            state.write_text("CANCELLED by 1000")

    monkeypatch.setattr(slurm, "time", SimpleNamespace(monotonic=time.monotonic, sleep=cancel))
    monkeypatch.setattr(slurm, "RECORD_S", 0.0)
    cells = run_study(study, folder, executor="slurm")
    assert all("Slurm says CANCELLED by 1000" in cell.error for cell in cells) and len(cells) == 3
    assert len(list(cluster.glob("*.script"))) == 3
    assert interrupted(study, folder, monkeypatch).message.endswith("104, 105"), "failed ones are tried again"
    assert {cell.status for cell in known_cells(study, folder)} == {"waiting"}


def test_ctrl_c_before_anything_was_submitted_is_ctrl_c(
    files: Path, tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ctrl_c(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "_submit", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run_study(small_study(files), tmp_path / "study", executor="slurm")


def test_jobs_are_never_submitted_beside_ones_that_may_still_run(
    files: Path, tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, folder = small_study(files), tmp_path / "study"
    (cluster / "hold").touch()
    interrupted(study, folder, monkeypatch)
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: Socket timed out' >&2\nexit 1\n")
    with pytest.raises(RunError, match="does not say whether earlier jobs of this study still run: 101_0, 101_1, 102"):
        run_study(study, folder, executor="slurm")
    assert len(list(cluster.glob("*.script"))) == 2


def test_what_sbatch_refuses_is_said_and_the_records_stay(files: Path, tmp_path: Path, cluster: Path) -> None:
    study, folder = small_study(files), tmp_path / "study"
    keep_study(study, folder)
    cells = cells_of(study)
    keep_cell(folder, failed := Cell(**{**vars(cells[0]), "status": "failed", "error": "out of memory"}))
    with pytest.raises(UsageError, match="sbatch refused the jobs: sbatch: error: invalid partition specified: none"):
        run_study(study, folder, executor="slurm", options={"partition": "none"})
    assert known_cells(study, folder) == [failed, *cells[1:]]


def test_a_cluster_that_does_not_answer(cluster: Path, tmp_path: Path) -> None:
    assert in_queue(()) == {} and in_queue(["7_1"]) == {}, "a job that Slurm has forgotten"
    sacct = tmp_path / "bin" / "sacct"
    assert how_ended("7_1") == "state unknown (sacct has no record of it)"
    sacct.write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    assert how_ended("7_1") == "state unknown (Slurm accounting storage is disabled)"
    for name in ("sacct", "squeue"):
        (tmp_path / "bin" / name).unlink()
    assert "No such file or directory: 'sacct'" in how_ended("7_1") and in_queue(["7_1"]) is None


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("time=soon", "option time=soon: expected minutes or H:MM:SS"),
        ("time=0", "option time=0: expected minutes or H:MM:SS"),
        ("time=0:00:00", "option time=0:00:00: expected minutes or H:MM:SS"),
        ("mem_gb=lots", "option mem_gb=lots: expected a number of GB above 0"),
        ("mem_gb=0", "option mem_gb=0: expected a number of GB above 0"),
        ("gpus_per_node=-1", "option gpus_per_node=-1: expected a positive integer"),
        ("cpus_per_task=0", "option cpus_per_task=0: expected a positive integer"),
        ("partition=", "option partition= is empty"),
        ("nodes=2", "slurm has no option 'nodes'"),
    ],
)
def test_wrong_options(files: Path, tmp_path: Path, option: str, said: str) -> None:
    name, _, value = option.partition("=")
    with pytest.raises(UsageError, match=said):
        run_study(small_study(files), tmp_path, executor="slurm", options={name: value})


def test_options_as_sbatch_takes_them() -> None:
    options = {"account": "us", "qos": "low", "constraint": "a100", "cpus_per_task": "4", "time": "0:02:01"}
    found = slurm.sbatch_parameters(options)
    assert found.items() >= {"account": "us", "qos": "low", "constraint": "a100", "cpus_per_task": 4, "time": 3}.items()
    assert found["signal_delay_s"] == 45, "a short time is warned of in its last quarter"
    assert slurm.sbatch_parameters({}).items() >= {"gpus_per_node": 1, "time": 240, "signal_delay_s": 180}.items()


def test_what_must_be_there(files: Path, tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small_study(files)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        with pytest.raises(UsageError, match="needs submitit, which is not installed") as caught:
            run_study(study, tmp_path / "study", executor="slurm")
        assert "tunelab[slurm]" in caught.value.hint
    (tmp_path / "bin" / "sbatch").unlink()
    with pytest.raises(UsageError, match="this machine has no sbatch: it is not a login node of a Slurm cluster"):
        run_study(study, tmp_path / "study", executor="slurm")


@pytest.fixture
def submitit_handler() -> Iterator[list[int]]:
    """Signal handlers as submitit sets them in a job; gives the warnings that reached it. Put back afterwards."""
    came: list[int] = []

    def queue_again(number: int, frame: FrameType | None) -> None:
        came.append(number)
        sys.exit(255)

    numbers = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGUSR2, queue_again)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(0.01)


@pytest.mark.parametrize("signals", [[signal.SIGUSR2], [signal.SIGTERM, signal.SIGUSR2], [signal.SIGUSR2] * 2])
def test_a_training_saves_before_its_job_is_queued_again(
    signals: list[int], submitit_handler: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[bool] = []

    def train(folder: str, key: str, **_: object) -> None:
        with asked_to_stop() as should_stop:
            send(*signals)
            saved.append(should_stop())
        raise Interrupted("stopped")

    monkeypatch.setattr("tunelab.studies.run_cell.run_cell", train)
    with pytest.raises(SystemExit):
        CellJob("study", "train-1")()
    assert saved == [True] and submitit_handler == [signal.SIGUSR2]


def test_an_evaluation_is_left_at_once_and_queued_again(
    submitit_handler: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def evaluate(folder: str, key: str, **_: object) -> None:
        try:
            send(signal.SIGUSR2)
            raise AssertionError("it went on")
        except KeyboardInterrupt:
            send(signal.SIGUSR2)
            written.append("the seconds that it took")
            raise

    monkeypatch.setattr("tunelab.studies.run_cell.run_cell", evaluate)
    with pytest.raises(SystemExit):
        CellJob("study", "mmlu-1")()
    assert submitit_handler == [signal.SIGUSR2] and written, "a second warning breaks nothing off"


def test_a_job_says_in_its_log_how_far_it_is(
    submitit_handler: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(folder: str, key: str, *, progress: Progress, **_: object) -> Cell:
        progress("lora: training", 0, 2)
        progress("lora: training", 1, 2, "loss 2.314")
        return Cell(key, "lora", 0, "", status="done")

    monkeypatch.setattr("tunelab.studies.run_cell.run_cell", train)
    assert CellJob("study", "train-1")() == "done"
    said = capsys.readouterr()
    assert said.err.startswith("lora: training: 1/2  0:00:00 left  loss 2.314") and said.out == ""


def test_a_job_that_is_cancelled_is_not_queued_again(
    submitit_handler: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(folder: str, key: str, **_: object) -> None:
        with asked_to_stop():
            send(signal.SIGTERM)
        raise Interrupted("stopped; what was made is kept")

    monkeypatch.setattr("tunelab.studies.run_cell.run_cell", train)
    monkeypatch.setattr(_slurm_job, "PATIENCE_S", 0.1)
    with pytest.raises(Interrupted, match="what was made is kept"):
        CellJob("study", "train-1")()
    monkeypatch.setattr(_slurm_job, "PATIENCE_S", 20.0)
    threading.Timer(0.2, send, [signal.SIGUSR2]).start()
    signal.signal(signal.SIGUSR2, lambda number, frame: submitit_handler.append(number))
    with pytest.raises(Interrupted):  # the stand-in of submitit's handler comes back, which its own does not
        CellJob("study", "train-1")()
    assert submitit_handler == [signal.SIGUSR2], "a warning that follows says that it was a preemption"


def test_an_evaluation_waits_until_its_node_sees_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Cell("train-1", "lora", 0, "")
    keep_cell(tmp_path, training)
    paused: list[float] = []

    def pause(seconds: float) -> None:
        paused.append(seconds)
        keep_cell(tmp_path, Cell("train-1", "lora", 0, "", status="done"))

    monkeypatch.setattr(_slurm_job, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
    CellJob(str(tmp_path), "mmlu-1", "train-1")._see_training()
    assert paused == [1]
    keep_cell(tmp_path, training)
    monkeypatch.setattr(_slurm_job, "RECORD_S", 0.0)
    CellJob(str(tmp_path), "mmlu-1", "train-1")._see_training()
    assert paused == [1], "one that left no record is not waited for without end"
