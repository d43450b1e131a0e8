"""What trackers left on this machine, read back: W&B's log of records, Trackio's database, TensorBoard's events."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Begins a script whose process may speak to this machine alone.
LOCAL_ONLY = """
import socket, sys
connect = socket.socket.connect

def local_only(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
        print("network:", address, file=sys.stderr)
        raise OSError("no network in this test")
    return connect(self, address)

socket.socket.connect = local_only
"""


@dataclass
class Logged:
    """One session of a run: (step, values) in the order in which they were logged."""

    id: str
    name: str
    group: str
    job_type: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    exit_code: int | None = None


def wandb_sessions(folder: Path) -> list[Logged]:
    """Every offline session below a folder, the oldest first."""
    logs = sorted(folder.rglob("*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [_wandb_session(path) for path in logs]


def _wandb_session(path: Path) -> Logged:
    from wandb.proto.wandb_internal_pb2 import Record

    session = Logged("", "", "")
    for content in _leveldb_records(path.read_bytes()):
        record: Any = Record.FromString(content)
        if record.HasField("run"):
            run = record.run
            session.id, session.name, session.group = run.run_id, run.display_name, run.run_group
            session.job_type = run.job_type
            session.config |= {one.key: json.loads(one.value_json) for one in run.config.update}
        if record.HasField("history"):
            values = {one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in record.history.item}
            session.history.append((record.history.step.num, values))
        if record.HasField("exit"):
            session.exit_code = record.exit.exit_code
    return session


def _leveldb_records(content: bytes) -> Iterator[bytes]:
    """Records of a LevelDB log (leveldb doc/log_format.md) behind W&B's own 7 bytes: blocks of 32 KiB, each record or
    part of one behind a checksum of 4 bytes, a length of 2 and a type of 1 (1 whole, 2 first, 3 middle, 4 last)."""
    at, parts = 7, []
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def trackio_runs(folder: Path, project: str) -> list[Logged]:
    """Every run of a project in Trackio's database."""
    with closing(sqlite3.connect(folder / f"{project}.db")) as connection:
        configs = connection.execute("select run_id, run_name, config from configs").fetchall()
        metrics = connection.execute("select run_id, step, metrics from metrics order by id").fetchall()
    runs = {}
    for identity, name, text in configs:
        config = json.loads(text)
        runs[identity] = Logged(identity, name, config["_Group"], config=config)
    for identity, step, values in metrics:
        runs[identity].history.append((step, json.loads(values)))
    return list(runs.values())


def tensorboard_run(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    """Of one log directory: each figure's (step, value), and each text."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events: Any = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in tags["scalars"]}
    texts = {
        tag.removesuffix("/text_summary"): make_ndarray(events.Tensors(tag)[-1].tensor_proto).item().decode()
        for tag in tags["tensors"]
    }
    return scalars, texts
