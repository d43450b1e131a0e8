"""Promise: torch gets the cores that this process may use, and its threads do not hold cores that others need."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tunelab import cpu

#: The function itself: in a test there are none (conftest.py).
HAS_BF16_PRODUCTS = cpu.has_bf16_products


def made(root: Path, **files: str) -> Path:
    """A root folder with proc/self/cgroup and files below sys/fs/cgroup; "__" stands for "/"."""
    for name, text in files.items():
        path = root / ("proc/self/cgroup" if name == "own" else f"sys/fs/cgroup/{name.replace('__', '/')}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"own": "0::/\n", "cpu.max": "max 100000\n"}, 8),
        ({"own": "0::/\n", "cpu.max": "250000 100000\n"}, 3),
        ({"own": "0::/\n", "cpu.max": "20000 100000\n"}, 1),
        ({"own": "0::/\n", "cpu.max": "6400000 100000\n"}, 8),
        ({"own": "0::/job/step\n", "job__cpu.max": "200000 100000\n", "job__step__cpu.max": "max 100000\n"}, 2),
        ({"own": "0::/not/visible\n", "cpu.max": "400000 100000\n"}, 4),
        ({"own": "4:cpu:/a\n", "cpu__a__cpu.cfs_quota_us": "150000\n", "cpu__a__cpu.cfs_period_us": "50000\n"}, 3),
        ({"own": "4:cpu,cpuacct:/\n", "cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"}, 8),
        ({"own": "4:memory:/a\n", "cpu.max": "nonsense\n"}, 8),
    ],
)  # fmt: skip
def test_a_quota_limits_the_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert cpu.usable_cores(made(tmp_path, **files)) == cores


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, 9000),
        ({"own": "0::/\n", "memory.max": "max\n", "memory.current": "5\n"}, 9000),
        ({"own": "0::/\n", "memory.max": "7000\n", "memory.current": "1000\n"}, 6000),
        ({"own": "0::/\n", "memory.max": "99000\n", "memory.current": "1000\n"}, 9000),
        ({"own": "0::/\n", "memory.max": "1000\n", "memory.current": "1500\n"}, 0),
        (
            {"own": "0::/a/b\n", "a__memory.max": "7000\n", "a__memory.current": "5000\n",
             "a__memory.stat": "anon 3000\ninactive_file 2000\n"}, 4000,
        ),
        (
            {"own": "4:memory:/a\n", "memory__a__memory.limit_in_bytes": "7000\n",
             "memory__a__memory.usage_in_bytes": "6000\n", "memory__a__memory.stat": "total_inactive_file 500\n"}, 1500,
        ),
    ],
)  # fmt: skip
def test_a_limit_of_memory_leaves_less(
    files: dict[str, str], left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=9000))
    assert cpu.available_memory(made(tmp_path, **files)) == left


def test_an_affinity_limits_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert cpu.usable_cores(made(tmp_path, own="0::/\n", **{"cpu.max": "400000 100000\n"})) == 2


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("model name : one\nflags\t\t: fpu avx512f avx512_bf16\nbogomips : 1\n", True),
        ("flags : fpu amx_tile amx_bf16\n", True),
        ("Features : fp asimd bf16\n", True),
        ("flags : fpu avx2 avx512f\n", False),
        ("model name : avx512_bf16\n", False),
        (None, False),
    ],
)
def test_bf16_products_are_what_the_flags_say(text: str | None, has: bool, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(text)
    assert HAS_BF16_PRODUCTS(tmp_path) is has


def test_the_defaults_are_set_where_the_user_set_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    environment: dict[str, str] = {}
    cpu.set_thread_defaults(environment, cores=8)
    assert environment == {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
    cpu.set_thread_defaults(environment, cores=2)
    assert environment["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    environment = {name: "ACTIVE", "OMP_NUM_THREADS": "7"}
    cpu.set_thread_defaults(environment, cores=2)
    assert environment == {name: "ACTIVE", "OMP_NUM_THREADS": "7"}


def test_every_command_sets_them_before_torch_is_loaded() -> None:
    code = (
        "import os, sys; from tunelab.cli.main import main; main(['--version']);"
        "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    kept = {name: value for name, value in os.environ.items() if name not in cpu.WAITING}
    done = subprocess.run([sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1000 False"


def test_what_was_set_of_pythons_collector_is_restored() -> None:
    before = gc.get_threshold()
    with pytest.raises(ValueError, match="x"), cpu.collecting_rarely():
        assert gc.get_threshold() != before
        raise ValueError("x")
    assert gc.get_threshold() == before
