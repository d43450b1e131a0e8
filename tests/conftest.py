"""Every test runs without network, without a GPU where it does not ask for one, and with a cache of its own."""

from __future__ import annotations

import atexit
import gc
import os
import tempfile
from pathlib import Path

import pytest
from bf16_products import with_bf16_products
from hypothesis import HealthCheck, settings
from run_cache import new_cache

# Set before anything imports transformers, datasets or wandb: they read these once, when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "offline"
# The models are tiny: threads would wait for each other longer than they work. TUNELAB_TEST_THREADS=2 tries two, here
# and in every process that a test starts.
os.environ["OMP_NUM_THREADS"] = os.environ.get("TUNELAB_TEST_THREADS", "1")
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share that of the process that starts them
    os.environ["TUNELAB_CACHE"] = str(new_cache(Path(tempfile.gettempdir())))

# What a test writes need not outlast a power cut. Tests of what a crash leaves put their own in its place.
os.fsync = lambda fd: None

# Importing torch and transformers makes millions of objects that stay: by Python's default, looking for garbage among
# them takes a third of the time in which the tests are collected.
gc.set_threshold(100_000, 20, 20)
# At its end the interpreter collects everything (nanobind reports what stays as leaks).
atexit.register(gc.unfreeze)

# An example that takes long on a busy machine is no failure. `make test` tries a sample of the examples of each
# property, `make test-slow` runs the same tests with all of them (--hypothesis-profile=thorough).
for name, examples in (("sample", 40), ("thorough", 100)):
    settings.register_profile(name, max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sample")

#: The files that take longest, in CPU time, the longest first: the short ones then fill what is left of two workers.
LONGEST = (
    # In `make test-slow`.
    "pretend_gpu/test_everything.py",
    "studies/executors/test_kills.py",
    "studies/executors/test_here.py",
    "studies/test_published_studies.py",
    "contracts/test_architectures.py",
    "training/test_killed.py",
    "studies/test_tiny_scale.py",
    "statistics/test_simulated_trainings.py",
    "training/test_quantised_training.py",
    "cli/test_kills.py",
    "studies/test_search.py",
    "cli/test_fuzz.py",
    # In `make test`.
    "inference/test_engine.py",
    "publishing/test_merge.py",
    "training/test_finetune.py",
    "evaluation/test_harness_agreement.py",
    "report/test_plots.py",
    "comparison/test_simulated_studies.py",
    "training/test_loop.py",
    "studies/test_run_study.py",
    "evaluation/test_choices.py",
    "models/test_quantized_load.py",
    "cli/test_study.py",
    "cli/test_full_disk.py",
    "answering/test_responder.py",
    "report/test_browser.py",
    "data/test_target_masks.py",
    "answering/test_benchmark_responses.py",
    "report/test_html_page.py",
    "publishing/test_gguf_file.py",
    "cli/test_generate.py",
    "invariants/test_training.py",
    "cli/test_eval.py",
    "publishing/test_published.py",
    "models/test_loftq.py",
    "publishing/test_modelfile.py",
    "scoring/test_score.py",
    "publishing/test_export.py",
    "models/test_row_attention.py",
    "evaluation/test_runner.py",
    "evaluation/instructions/test_registry.py",
    "preparation/test_base.py",
    "cli/test_demo.py",
    "training/test_checkpoint.py",
)

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data and tokenizers beside the repository (../shared/data); the test is skipped where there are none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs ../shared/data beside the repository (real data and tokenizers), which is not there")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _no_bf16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test computes in does not depend on the machine."""
    with_bf16_products(monkeypatch, False)


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


def place_of(path: Path) -> int:
    """A file's place among the longest; behind them if it is not one."""
    name = path.relative_to(Path(__file__).parent).as_posix()
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_configure(config: pytest.Config) -> None:
    """Let every other worker collect the files from the last one on, where all are: pytest rewrites the assertions of
    each file once, and workers that begin at both ends find the other half rewritten."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    if int(worker) % 2 and config.args_source == config.ArgsSource.TESTPATHS:
        config.args = [str(path) for path in sorted(Path(__file__).parent.rglob("test_*.py"), reverse=True)]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, whichever were collected first. Tests marked `gpu` are skipped where there is no CUDA
    device; torch is imported only if there is such a test."""
    items.sort(key=lambda item: (place_of(item.path), item.path))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU: torch.cuda.is_available() is false"))
