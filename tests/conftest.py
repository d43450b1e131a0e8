"""Every test runs without network, without a GPU where it does not ask for one, and with a cache of its own."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Set before anything imports transformers, datasets or wandb: they read these once, when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "offline"
# The models are tiny: threads would wait for each other longer than they work. TUNELAB_TEST_THREADS=2 tries two, here
# and in every process that a test starts.
os.environ["OMP_NUM_THREADS"] = os.environ.get("TUNELAB_TEST_THREADS", "1")
os.environ["TUNELAB_CACHE"] = tempfile.mkdtemp(prefix="tunelab-test-cache-")
atexit.register(shutil.rmtree, os.environ["TUNELAB_CACHE"], ignore_errors=True)

# What a test writes need not outlast a power cut. Tests of what a crash leaves put their own in its place.
os.fsync = lambda fd: None

# Importing torch and transformers makes millions of objects that stay: by Python's default, looking for garbage among
# them takes a third of the time in which the tests are collected.
gc.set_threshold(100_000, 20, 20)
# At its end the interpreter collects everything (nanobind reports what stays as leaks).
atexit.register(gc.unfreeze)

# An example that takes long on a busy machine is no failure.
settings.register_profile("tunelab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tunelab")

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data and tokenizers beside the repository (../shared/data); the test is skipped where there are none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data beside the repository (real data and tokenizers), which is not there")
    return SHARED_DATA


@pytest.fixture(scope="module", autouse=True)
def _what_is_loaded_stays() -> None:
    """Leave what is alive by now out of garbage collections: accelerate runs one after every training, and traversing
    the modules of torch and transformers would take half of a tiny model's training time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a tiny model and its tokenizer for each family, made once."""
    from tiny import FAMILIES, model_folder

    root = tmp_path_factory.mktemp("models")
    return {family: model_folder(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 24 rows."""
    from tiny import rows_file

    return rows_file(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device. torch is imported only if there is such a test."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU: torch.cuda.is_available() is false"))
