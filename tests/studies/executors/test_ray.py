"""Cells on Ray: a cluster of this machine for the whole file; a killed worker is replaced, and its cell goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from study_files import study_of, write_study_files

from tunelab.config.study import Study
from tunelab.errors import Interrupted, RunError, UsageError
from tunelab.records.cells import Cell, keep_study, known_cells, read_cell
from tunelab.records.runs import Run
from tunelab.studies.executors import ray as on_ray
from tunelab.studies.executors._ray_cluster import connected
from tunelab.studies.executors._ray_files import Parcel, lay_out, packed_files, packed_folder
from tunelab.studies.executors._ray_task import Outcome, _lay_out_what_is_missing, _results, work
from tunelab.studies.run_cell import RESOLVED
from tunelab.studies.run_study import run_study
from tunelab.studies.study_report import study_report
from tunelab.training.checkpoint import CheckpointStore


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="needs ray (pip install tunelab[ray]), which is not installed")
    with connected("local") as ray:
        yield ray
    assert not ray.is_initialized()


def small_study(files: Path, steps: int = 6, **changes: Any) -> Study:
    recipe = study_of(files).recipe
    longer = {**recipe, "train": {**recipe["train"], "steps": steps}}
    return study_of(
        files, **({"seeds": [0], "recipe": longer, "arms": {"base": {"tuned": False}, "lora": {}}} | changes)
    )


def trains(folder: Path) -> int | None:
    """The process that holds a run of the study which has a checkpoint; None where there is none."""
    for checkpoint in folder.glob("runs/*/checkpoints/step-*"):
        lock = str(checkpoint.parents[1] / ".lock")
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if lock in [os.readlink(one) for one in (process / "fd").iterdir()]:
                    return int(process.name)
            except OSError:
                continue
    return None


def signalled_when_it_trains(folder: Path, number: int, whom: int | None = None) -> threading.Thread:
    """Sends a signal to the process that trains, or to another one at that moment."""

    def send() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if process := trains(folder):
                os.kill(whom or process, number)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_report_is_the_same(cluster: Any, files: Path, tmp_path: Path) -> None:
    study = small_study(files, steps=80)
    run_study(study, tmp_path / "here")
    said: list[tuple[int, int | None, str]] = []
    thread = signalled_when_it_trains(tmp_path / "ray", signal.SIGKILL)
    cells = run_study(
        study,
        Path(os.path.relpath(tmp_path / "ray")),
        executor="ray",
        progress=lambda stage, done, total, detail="": said.append((done, total, detail)),
    )
    thread.join()
    assert {cell.title: cell.error for cell in cells if cell.status != "done"} == {}
    assert "lora, seed 0: training: its worker died, retry 1 of 3" in {detail for _, _, detail in said}
    assert said[-1] == (3, 3, "lora, seed 0: held-out: ended")
    (run,) = [Run(one) for one in (tmp_path / "ray" / "runs").iterdir()]
    assert len(run.manifest["sessions"]) > 1, "it went on from its checkpoint"
    here, there = study_report(tmp_path / "here"), study_report(tmp_path / "ray")
    assert (here.scores, here.comparisons) == (there.scores, there.comparisons)
    assert [one.points for one in here.curves] == [one.points for one in there.curves]
    assert not list((tmp_path / "ray").glob(".ray-*")), "the marker is gone"
    assert cluster.is_initialized(), "a connection that was there stays"


@pytest.mark.slow
def test_ctrl_c_lets_a_training_save(cluster: Any, files: Path, tmp_path: Path) -> None:
    thread = signalled_when_it_trains(tmp_path, signal.SIGINT, whom=os.getpid())
    with pytest.raises(Interrupted, match="the study was stopped; finished work is kept"):
        run_study(small_study(files, 2000, arms={"lora": {}}, questions=[]), tmp_path, executor="ray")
    thread.join()
    assert trains(tmp_path) is None, "nothing is left running"
    (run,) = [Run(one) for one in (tmp_path / "runs").iterdir()]
    assert run.status == "interrupted"


class CrashedError(Exception):
    """As Ray tells of a worker that died."""


class RefusedError(CrashedError):
    """As Ray tells of an exception in a task."""


class Inline:
    """Ray without processes: what is put is the thing itself, and a task's end is what was last told to it."""

    exceptions = SimpleNamespace(RayError=CrashedError, RayTaskError=RefusedError)
    put = staticmethod(lambda thing: thing)
    told: Any = None

    def get(self, reference: object) -> Any:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


def tasks_of(study: Study, folder: Path, retries: int = 3) -> on_ray._Tasks:
    """The study's cells on nodes that do not see its directory: its marker has another content there."""
    keep_study(study, folder)
    (folder / ".ray-0").write_text("this disk", encoding="utf-8")
    cells = known_cells(study, folder)
    orders = {one.key: on_ray._order(study, folder, one, ".ray-0", "another disk", 0.0) for one in cells}
    return on_ray._Tasks(Inline(), None, folder, orders, retries, cells, len(cells))  # type: ignore[arg-type]


def end(tasks: on_ray._Tasks, cell: Cell, how: Outcome | Exception) -> Cell | None:
    """A task of this cell has ended; gives the cell's record."""
    if cell in tasks.waiting:
        tasks.waiting.remove(cell)
    tasks.running["task"] = cell
    tasks.ray.told = how  # type: ignore[attr-defined]
    tasks._take("task")
    return read_cell(tasks.folder, cell.key)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process as a node with a scratch disk of its own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    return tmp_path / "node"


def test_nodes_without_the_directory_get_files_and_send_what_they_made(
    files: Path, tmp_path: Path, node: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, folder = small_study(files), tmp_path / "study"
    run_study(study, tmp_path / "here")
    tasks = tasks_of(study, folder)
    capsys.readouterr()
    for cell in list(tasks.waiting):
        assert work(tasks.orders[cell.key]) == Outcome("elsewhere")
        end(tasks, cell, Outcome("elsewhere"))
        assert cell.key in tasks.far and cell in tasks.waiting, "it goes again, with files"
        record = end(tasks, cell, work(tasks.orders[cell.key], *tasks._parcels(cell)))
        assert record is not None and (record.status, record.error) == ("done", "")
    assert "lora, seed 0: training: 6/6  in 0:00:" in capsys.readouterr().err, "the worker's log says how far it is"
    assert not list(node.rglob("*.json")), "the node keeps nothing of a cell that is done"
    assert not list(folder.glob("runs/*/checkpoints")), "checkpoints of finished trainings stay behind"
    here, there = study_report(tmp_path / "here"), study_report(folder)
    assert (here.scores, here.comparisons) == (there.scores, there.comparisons)
    assert [one.points for one in here.curves] == [one.points for one in there.curves]


def test_a_training_that_was_stopped_comes_back_and_goes_on_elsewhere(
    files: Path, tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tasks_of(small_study(files, arms={"lora": {}}, questions=[]), tmp_path / "study")
    training = tasks.waiting[0]
    order = tasks.orders[training.key]

    def save_and_ask_to_stop(*arguments: Any, **more: Any) -> Any:
        saved = save(*arguments, **more)
        os.kill(os.getpid(), signal.SIGTERM)
        return saved

    save = CheckpointStore.save
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", save_and_ask_to_stop)
        outcome = work(order, *tasks._parcels(training))
    assert outcome.how == "stopped"
    end(tasks, training, outcome)
    assert training in tasks.waiting and tasks.last.endswith("its worker died, retry 1 of 3")
    shutil.rmtree(node / f"tunelab-{os.getuid()}")
    record = end(tasks, training, work(order, *tasks._parcels(training)))
    assert record is not None and record.status == "done"
    assert len(Run(tasks.folder / record.folder).manifest["sessions"]) == 2


def test_nodes_that_do_not_see_the_directory_share_what_the_first_job_resolved(
    files: Path, tmp_path: Path, node: Path
) -> None:
    recipe = study_of(files).recipe
    auto = {**recipe, "train": {**recipe["train"], "dtype": "auto"}}
    study = study_of(files, seeds=[0, 1], recipe=auto, arms={"lora": {}}, questions=[])
    tasks = tasks_of(study, tmp_path)
    first, second = [cell for cell in tasks.waiting if not cell.benchmark]
    end(tasks, first, work(tasks.orders[first.key], *tasks._parcels(first)))
    assert json.loads((tmp_path / RESOLVED).read_text()) == {"train.dtype": "fp32"}
    assert RESOLVED in tasks._parcels(second)[0].files
    other = Outcome("ran", parcels=(Parcel("", {RESOLVED: b'{"train.dtype": "bf16"}'}),))
    end(tasks, second, other)
    assert second in tasks.waiting and tasks.last == (
        'lora, seed 1: training: ran with {"train.dtype": "bf16"}, the study\'s first job with '
        '{"train.dtype": "fp32"}; it starts again'
    )
    record = end(tasks, second, other)
    assert record is not None and record.status == "failed" and record.error.startswith("ran with {")
    assert json.loads((tmp_path / RESOLVED).read_text()) == {"train.dtype": "fp32"}, "the first job's stays"


@pytest.mark.parametrize("removes", [True, False])
def test_checkpoints_come_back_where_a_study_keeps_them(files: Path, tmp_path: Path, removes: bool) -> None:
    keep_study(small_study(files, remove_checkpoints=removes), tmp_path)
    (tmp_path / "runs/train-a/checkpoints/step-00000006").mkdir(parents=True)
    (tmp_path / "runs/train-a/checkpoints/step-00000006/weights.safetensors").write_bytes(b"x")
    cell = Cell("train-a", "lora", 0, "", status="done", folder="runs/train-a")
    packed, _ = _results(tmp_path, cell.key, Outcome("ran"), cell)
    assert list(packed.files) == ([] if removes else ["checkpoints/step-00000006/weights.safetensors"])


def test_what_a_node_has_of_a_cell_stays_there(tmp_path: Path, node: Path) -> None:
    def laid(manifest: bytes, key: str) -> bytes:
        _lay_out_what_is_missing([Parcel("runs/train-1", {"manifest.json": manifest})], node, key)
        return (node / "runs/train-1/manifest.json").read_bytes()

    assert laid(b"older", "train-1") == b"older"
    assert laid(b"newer", "train-1") == b"older", "its own training, which may stand further"
    assert laid(b"newer", "held-out-1") == b"newer", "another training of the same name is not evaluated in its place"
    (node / "runs/train-1/evaluations").mkdir()
    laid(b"newer", "held-out-1")
    assert (node / "runs/train-1/evaluations").exists(), "what was evaluated of the same one is kept"


def test_workers_that_die_too_often_cost_their_own_cell(files: Path, tmp_path: Path) -> None:
    tasks = tasks_of(small_study(files), tmp_path, retries=1)
    base, training, _ = list(tasks.waiting)
    assert end(tasks, training, CrashedError("gone")) is None and tasks.waiting[0] == training
    record = end(tasks, training, Outcome("stopped"))
    assert record is not None and record.status == "failed"
    assert record.error == "its worker died 2 times; last error: it was stopped (often out of memory)"
    assert training not in tasks.waiting and base in tasks.waiting
    record = end(tasks, base, RefusedError("trace\nModuleNotFoundError: No module named 'tunelab'"))
    assert record is not None and record.error == "Ray could not run it: ModuleNotFoundError: No module named 'tunelab'"


def test_a_node_that_cannot_run_a_cell_says_why(files: Path, tmp_path: Path, node: Path) -> None:
    tasks = tasks_of(small_study(files), tmp_path)
    base, training, _ = list(tasks.waiting)
    assert {Path(path).name for path in tasks.orders[base.key].paths} == {"model", "rows.jsonl"}
    blind = replace(tasks.orders[base.key], paths=("/not/there",))
    record = end(tasks, base, work(blind, Parcel("", {})))
    assert record is not None and record.status == "failed"
    assert "does not see /not/there; models and data must be on every node" in record.error
    old = work(replace(tasks.orders[training.key], version="0.0.1"))
    assert old.how == "refused" and "the driver has 0.0.1" in old.error


def test_the_tokenizer_has_as_many_threads_as_the_task_has_cores(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = tasks_of(small_study(files), tmp_path)
    order = replace(next(iter(tasks.orders.values())), version="0.0.1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for given, expected in (("", "3"), ("2", "2")):
        monkeypatch.setenv("RAYON_NUM_THREADS", given)
        if not given:
            monkeypatch.delenv("RAYON_NUM_THREADS")
        work(order)
        assert os.environ["RAYON_NUM_THREADS"] == expected


def test_files_are_packed_and_laid_out_again(tmp_path: Path) -> None:
    run = tmp_path / "from/runs/a"
    (run / "checkpoints/step-2").mkdir(parents=True)
    (run / "adapter").mkdir()
    for name in ("checkpoints/step-2/state", "adapter/weights", ".lock"):
        (run / name).write_bytes(name.encode() + b"\xff")
    parcel = packed_folder(tmp_path / "from", "runs/a", without=("checkpoints",))
    assert parcel == Parcel("runs/a", {"adapter/weights": b"adapter/weights\xff"})
    (tmp_path / "to/runs/a").mkdir(parents=True)
    (tmp_path / "to/runs/a/stale").touch()
    lay_out(parcel, tmp_path / "to")
    assert [one.name for one in (tmp_path / "to").rglob("*") if one.is_file()] == ["weights"]
    (tmp_path / "from/study.json").write_text("{}")
    single = packed_files(tmp_path / "from", ["study.json", "cells/none.json"])
    assert single == Parcel("", {"study.json": b"{}"})
    lay_out(single, tmp_path / "to")
    assert (tmp_path / "to/study.json").read_text() == "{}" and (tmp_path / "to/runs/a").exists()
    for bad in (Parcel("../a", {}), Parcel("a", {"../../b": b""}), Parcel("", {"/b": b""})):
        with pytest.raises(RunError, match="a node sent a file outside the study"):
            lay_out(bad, tmp_path / "to")


def test_wrong_options(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, value in [("cpus_per_cell", "0"), ("max_retries", "-1")]:
        with pytest.raises(UsageError, match=f"option {name}={value}: expected a positive integer"):
            on_ray.read_settings({name: value})
    for value in ("1.5", "-1", "one", ""):
        with pytest.raises(UsageError, match=f"option gpus_per_cell={value}: expected an integer, or a fraction"):
            on_ray.read_settings({"gpus_per_cell": value})
    given = {"address": "auto", "gpus_per_cell": "0.5", "max_retries": "0"}
    assert on_ray.read_settings(given) == on_ray.Settings("auto", 0.5, 1, 0)
    assert on_ray.read_settings({}) == on_ray.Settings(None, None, 1, 3)
    with pytest.raises(UsageError, match="ray has no option 'gpus'"):
        run_study(study_of(files), tmp_path, executor="ray", options={"gpus": "1"})


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="Ray is not installed") as caught, connected(None):
        pass
    assert caught.value.hint == "pip install tunelab[ray]"


@pytest.mark.slow
def test_no_such_cluster(cluster: Any, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small_study(files)
    with pytest.raises(UsageError, match="this machine does not have 1 CPU and 64 GPU"):
        run_study(study, tmp_path, executor="ray", options={"gpus_per_cell": "64"})
    with pytest.raises(UsageError, match="address=auto: this process is already connected to Ray"):
        run_study(study, tmp_path, executor="ray", options={"address": "auto"})
    monkeypatch.setattr(cluster, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "shutdown", lambda: None)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"no Ray cluster answers at {address}") as caught:
            run_study(study, tmp_path, executor="ray", options={"address": address})
    assert "ray start --head" in caught.value.hint
    with pytest.raises(UsageError, match="Ray at nonsense: "):
        run_study(study, tmp_path, executor="ray", options={"address": "nonsense"})
