"""Two processes under gloo give what one gives: losses, weights, held-out loss; and they stop together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ranks_driver
import torch
from repeatable import repeatable
from safetensors.torch import load_file
from tiny import model_folder, random_table, recipe, rows_file, tiny_model
from transformers import LlamaConfig, PreTrainedModel

from tunelab.config import parse_recipe
from tunelab.data.loader import packed_batch
from tunelab.errors import ModelError, UsageError
from tunelab.models.adapters import add_lora
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune
from tunelab.training.loss import TargetLoss
from tunelab.training.setup import make_accelerator
from tunelab.training.sharding import blocks, shard_base, shared_bytes

DRIVER = Path(ranks_driver.__file__)
ENVIRONMENT = dict(os.environ)


def driven(folder: Path, *kinds: str) -> tuple[Path, dict[str, list[str]]]:
    """The folder with the driver's runs of these kinds, and what each process of each raised.

    Its processes are forks of this one, which has imported everything. On a machine with a GPU, autograd may have
    started threads here, which a fork would lack: there they are forks of a script's.
    """
    if not torch.cuda.is_available():
        return folder, ranks_driver.main(folder, kinds)
    command = [sys.executable, str(DRIVER), str(folder), *kinds]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """Two processes of which one hears a signal, that go on, and that are started again."""
    return driven(tmp_path_factory.mktemp("ranks"), "lora", "stopped")


def weights(run: Run) -> dict[str, torch.Tensor]:
    folder = run.adapter if run.adapter.exists() else run.model
    return load_file(next(folder.glob("*.safetensors")))


def test_two_processes_are_one(tmp_path: Path) -> None:
    assert_two_processes_are_one("lora", *driven(tmp_path, "lora"))


def test_two_processes_that_share_the_base_are_one_that_has_it(tmp_path: Path) -> None:
    assert_two_processes_are_one("sharded", *driven(tmp_path, "sharded"))


@pytest.mark.slow
def test_a_sharded_run_is_resumed_to_the_bit(tmp_path: Path) -> None:
    folder, said = driven(tmp_path, "sharded", "stopped")
    assert said["stopped"] == ["Interrupted: stopped after step 2 of 6; a checkpoint was saved"] * 2
    assert said["resumed"] == ["", ""]
    resumed, whole = Run(folder / "stopped"), Run(folder / "sharded-2")
    assert repeatable(resumed.metrics()) == repeatable(whole.metrics())
    assert resumed.manifest["weights_after"] == whole.manifest["weights_after"]


def held(folder: Path, rank: int) -> None:
    """Write how many bytes of the base this process holds, of how many, and what the loss is."""
    accelerator = make_accelerator(parse_recipe(recipe(folder, folder, folder, train__sharding="full")))
    module = TargetLoss(add_lora(tiny_model("llama"), rank=4, alpha=8), layout="packed")
    shard_base(module, accelerator)
    batch = packed_batch(random_table((5, 9, 20)), range(3))
    with module.attention(), torch.no_grad():
        loss = float(module.of_batch(batch))
    (folder / f"held-{rank}.json").write_text(json.dumps([*shared_bytes(module), loss]))


@pytest.mark.slow
def test_each_process_holds_its_share_of_the_base(tmp_path: Path) -> None:
    assert ranks_driver.together(2, lambda rank: held(tmp_path, rank)) == ["", ""]
    base = tiny_model("llama")
    size = sum(parameter.nbytes for parameter in base.parameters())
    shares = [json.loads((tmp_path / f"held-{rank}.json").read_text()) for rank in range(2)]
    assert [whole for _, whole, _ in shares] == [size, size]
    assert sum(own for own, _, _ in shares) == size and max(own for own, _, _ in shares) <= 0.6 * size
    module = TargetLoss(add_lora(tiny_model("llama"), rank=4, alpha=8), layout="packed")
    with module.attention(), torch.no_grad():
        loss = float(module.of_batch(packed_batch(random_table((5, 9, 20)), range(3))))
    assert [found for _, _, found in shares] == pytest.approx([loss] * 2, rel=1e-6)


def test_one_process_has_nothing_to_share(models: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"train.sharding=full with one process: there is nothing to share out"):
        finetune(recipe(models["llama"], rows, tmp_path / "run", train__sharding="full"))
    with pytest.raises(ModelError, match="Tiny has no list of blocks to share out"):
        blocks(NoBlocks(LlamaConfig()))


class Tiny(PreTrainedModel):
    """A backbone of one layer."""

    config_class = LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.only = torch.nn.Linear(2, 2)


class NoBlocks(PreTrainedModel):
    """A model whose backbone has no list of blocks."""

    config_class = LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.inner = Tiny(config)

    def get_decoder(self) -> Tiny:
        return self.inner


@pytest.mark.slow
def test_two_processes_are_one_in_every_kind_of_run(tmp_path: Path) -> None:
    kinds = ("full", "few", "all", "sharded gpt2", "sharded, checkpointing", "sharded, one row")
    made = driven(tmp_path, *kinds)
    for kind in kinds:
        assert_two_processes_are_one(kind, *made)


def assert_two_processes_are_one(kind: str, folder: Path, said: dict[str, list[str]]) -> None:
    assert (said[f"{kind}-1"], said[f"{kind}-2"]) == ([""], ["", ""])
    one, two = (Run(folder / f"{kind}-{count}") for count in (1, 2))
    assert (one.status, two.status) == ("finished", "finished")
    assert [run.manifest["compute"]["processes"] for run in (one, two)] == [1, 2]
    first, second = repeatable(one.metrics()), repeatable(two.metrics())
    assert len(first) == len(second) >= 6
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if isinstance(a[name], float):
                assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5), name
            else:
                assert b[name] == a[name], name
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-3, atol=1e-4)
    a, b = one.manifest, two.manifest
    for name in ("held_out_loss_before", "held_out_loss_after"):
        assert b.get(name) == pytest.approx(a.get(name), rel=1e-5) if a.get(name) else b.get(name) is None
    assert b["trained"]["targets"] == a["trained"]["targets"]
    assert len(b["sessions"]) == 1, "one manifest, written by one process"


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(stopped: tuple[Path, dict[str, list[str]]]) -> None:
    folder, said = stopped
    assert said["stopped"] == ["Interrupted: stopped after step 2 of 6; a checkpoint was saved"] * 2
    assert said["resumed"] == ["", ""]
    resumed, whole = Run(folder / "stopped"), Run(folder / "lora-2")
    assert repeatable(resumed.metrics()) == repeatable(whole.metrics())
    assert resumed.manifest["weights_after"] == whole.manifest["weights_after"]


@pytest.mark.slow
def test_both_processes_hear_why_a_run_cannot_start(stopped: tuple[Path, dict[str, list[str]]]) -> None:
    _, said = stopped
    assert len(said["again"]) == 2
    assert all("already contains a run (finished)" in reason for reason in said["again"])


@pytest.mark.slow
def test_torchrun_starts_the_command(tmp_path: Path) -> None:
    made: dict[str, Any] = recipe(
        model_folder(tmp_path / "model"), rows_file(tmp_path / "rows.jsonl"), tmp_path / "run", data__held_out=4
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(made))
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--log-dir",  # else it leaves one among the machine's temporary files
        str(tmp_path / "logs"),
        "-m",
        "tunelab",
        "train",
        str(file),
    ]
    done = subprocess.run([sys.executable, *launch], capture_output=True, text=True, timeout=200, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "run")
    assert run.status == "finished"
    assert run.manifest["compute"]["processes"] == 2
    assert len(run.metrics("train")) == 6
    assert done.stdout.count("finished") == 1, "one process reports"
