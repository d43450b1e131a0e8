"""The same recipes by one process and by two, under gloo on the CPU, as torchrun would start them.

    python ranks_driver.py FOLDER KIND... [stopped]

The heavy imports happen once; every process is a fork: of the script, or of a process that calls main(). What each
raised is returned, and printed by the script; the tests read the runs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from tiny import model_folder, recipe, rows_file

from tunelab.training.finetune import finetune, resume


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(ranks: int, work: Callable[[int], Any]) -> list[str]:
    """Run `work(rank)` in so many processes of one group; what each raised, or ""."""
    port, children = free_port(), []
    for rank in range(ranks):
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            said = ""
            AcceleratorState._reset_state(reset_partial_state=True)  # the forked process may have used one of its own
            if ranks > 1:
                os.environ |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                }  # fmt: skip
            try:
                work(rank)
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writer, said.encode())
            os._exit(0)
        os.close(writer)
        children.append((child, reader))
    said = []
    for child, reader in children:
        with os.fdopen(reader, "rb") as pipe:
            said.append(pipe.read().decode())
        os.waitpid(child, 0)
    return said


def stopping(rank: int) -> Callable[..., None]:
    """A progress that sends rank 1, and it alone, a SIGINT after step 2."""

    def progress(stage: str, done: int, total: int | None, detail: str = "") -> None:
        if rank == 1 and stage == "training" and done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


# eps: the gradient of GPT-2's key biases is zero but for rounding, which AdamW would blow up to full steps.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("llama", {"data__held_out": 5, "train__eval_every": 2}),
    "sharded": ("llama", {"data__held_out": 5, "train__eval_every": 2, "train__sharding": "full"}),
    "sharded gpt2": ("gpt2", {"data__held_out": 3, "train__sharding": "full", "adapter__dropout": 0.0}),
    "sharded, checkpointing": (
        "phi3",
        {"train__sharding": "full", "train__activation_checkpointing": True, "train__batch_size": 16},
    ),
    "sharded, one row": ("llama", {"train__batch_size": 1, "data__held_out": 1, "train__sharding": "full"}),
    "full": ("gpt2", {"method": "full", "train__lr": 1e-3, "train__eps": 1e-4}),
    "few": ("phi3", {"train__batch_size": 1, "data__held_out": 1}),
    "all": ("llama", {"train__packing": False, "data__loss_on": "all", "train__activation_checkpointing": True}),
}


def main(folder: Path, kinds: Sequence[str]) -> dict[str, list[str]]:
    rows = rows_file(folder / "rows.jsonl")
    said: dict[str, list[str]] = {}
    for kind in (one for one in kinds if one in KINDS):
        family, changes = KINDS[kind]
        model = model_folder(folder / family, family)
        for ranks in (1, 2):
            own = changes if ranks > 1 else {**changes, "train__sharding": "none"}  # one process has nothing to share
            made = recipe(model, rows, folder / f"{kind}-{ranks}", **own)
            said[f"{kind}-{ranks}"] = together(ranks, lambda rank, made=made: finetune(made))
    if "stopped" in kinds:
        of = "sharded" if "sharded" in kinds else "lora"
        made = recipe(folder / "llama", rows, folder / "stopped", **KINDS[of][1])
        said["stopped"] = together(2, lambda rank: finetune(made, progress=stopping(rank)))
        said["resumed"] = together(2, lambda rank: resume(folder / "stopped"))
        said["again"] = together(2, lambda rank: finetune(made))
    return said


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2:])))
