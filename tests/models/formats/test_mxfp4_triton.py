"""MXFP4's kernels by triton's interpreter, and compiled for GPUs that are not there. tests/gpu runs them on one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.formats.triton_driver import CASES

from tunelab.errors import ModelError
from tunelab.models.formats import _mxfp4_triton as kernels

DRIVER = Path(__file__).with_name("triton_driver.py")
HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="needs triton, which is not installed here")

CODES, SCALES = torch.zeros(5, 48, dtype=torch.uint8), torch.zeros(5, 3, dtype=torch.uint8)


def driven(mode: str, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(DRIVER), mode],
        capture_output=True, text=True, timeout=200, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str]:
    """What the driver said of each case."""
    return driven("interpret", TRITON_INTERPRET="1")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The instructions of each kernel, compute capability and shape."""
    return driven("compile", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path_factory.mktemp("triton")))


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("case", CASES)
def test_interpreted(case: str, interpreted: dict[str, str]) -> None:
    assert interpreted[case] == ""


@pytest.mark.slow
@needs_triton
def test_the_interpreter_counts_as_a_device(interpreted: dict[str, str]) -> None:
    assert interpreted["available"] == "True"


@pytest.mark.slow
@needs_triton
def test_compiled_kernels_keep_subnormal_numbers(compiled: dict[str, list[str]]) -> None:
    assert len(compiled) == 12
    for name, instructions in compiled.items():
        assert any(one.startswith("mul.f32") or one.startswith("mul.rn.f32") for one in instructions), name
        assert not [one for one in instructions if "ftz" in one], f"{name}: 2^-127 and 0.5 x 2^-126 would become 0"


@pytest.mark.slow
@needs_triton
def test_compiled_dequantisation_is_one_pass_of_wide_accesses(compiled: dict[str, list[str]]) -> None:
    for name in (name for name in compiled if name.startswith("dequantize 4096")):
        moved = {one for one in compiled[name] if one.startswith(("ld.global", "st.", "ld.shared"))}
        assert moved == {"ld.global.b32", "ld.global.b8", "st.global.v4.b32"}, name


@pytest.mark.slow
@needs_triton
def test_compiled_products_read_sixteen_bytes_at_a_time(compiled: dict[str, list[str]]) -> None:
    for name, instructions in compiled.items():
        if name.startswith("multiply 1 4096"):
            assert "ld.global.v4.b32" in instructions, name
        if name.startswith("multiply 2 4096"):
            kind = "bf16.bf16" if "bf16" in name else "f16.f16"
            assert "cp.async.cg.shared.global" in instructions, name
            assert f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.f32" in instructions, name


@pytest.mark.slow
def test_importing_needs_no_triton() -> None:
    code = "import sys; sys.modules['triton'] = None; import tunelab.models.formats._mxfp4_triton"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    """is_available() that remembers nothing, in a process that does not interpret."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
    kernels.is_available.cache_clear()
    yield monkeypatch
    kernels.is_available.cache_clear()


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_available_from_ampere_on(capability: tuple[int, int], expected: bool, fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert kernels.is_available(torch.device("cuda", 0)) is expected


def test_not_available_on_the_cpu_or_without_triton(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert kernels.is_available(torch.device("cpu")) is False
    fresh.setattr(importlib.util, "find_spec", lambda name: None)
    assert kernels.is_available(torch.device("cuda", 0)) is False
    fresh.setenv("TRITON_INTERPRET", "1")
    kernels.is_available.cache_clear()
    assert kernels.is_available(torch.device("cpu")) is False


@given(
    programs=st.integers(1, 2000),
    row_blocks=st.integers(1, 2000),
    step=st.sampled_from([4, 8, 16]),
    processors=st.integers(1, 200),
)
def test_parts_cover_a_row_once_and_none_is_empty(programs: int, row_blocks: int, step: int, processors: int) -> None:
    parts, part_blocks = kernels._parts(programs, row_blocks, step, processors)
    assert parts >= 1 and part_blocks % step == 0
    assert (parts - 1) * part_blocks < row_blocks <= parts * part_blocks
    assert parts == 1 or (parts * programs <= 4 * processors and part_blocks >= 4 * step)


def test_rows_are_summed_in_parts_where_the_weight_is_narrow() -> None:
    assert kernels._parts(programs=128, row_blocks=128, step=8, processors=132) == (4, 32)
    assert kernels._parts(programs=448, row_blocks=128, step=8, processors=132) == (1, 128)
    assert kernels._parts(programs=1, row_blocks=4, step=8, processors=132) == (1, 8)


def test_no_rows_are_no_product() -> None:
    product = kernels.multiply_few(torch.zeros(0, 96, dtype=torch.bfloat16), CODES, SCALES, (5, 96))
    assert product.shape == (0, 5) and product.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("codes", "scales", "message"),
    [
        (CODES[:4], SCALES, r"a weight \(5, 96\) in mxfp4: codes is \(4, 48\), torch.uint8, expected \(5, 48\)"),
        (CODES, SCALES[:, :2], r"scales is \(5, 2\), torch.uint8, expected \(5, 3\), torch.uint8"),
        (CODES, SCALES.float(), r"scales is \(5, 3\), torch.float32, expected \(5, 3\), torch.uint8"),
    ],
)
def test_packed_tensors_of_another_shape_are_refused(codes: torch.Tensor, scales: torch.Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        kernels.dequantize(codes, scales, (5, 96), torch.bfloat16)
    with pytest.raises(ModelError, match=message):
        kernels.multiply_few(torch.zeros(1, 96, dtype=torch.bfloat16), codes, scales, (5, 96))


def test_dtypes_that_are_not_meant_are_refused() -> None:
    with pytest.raises(ModelError, match=r"cannot be dequantized to torch\.float64, expected bfloat16, float16 or"):
        kernels.dequantize(CODES, SCALES, (5, 96), torch.float64)
    with pytest.raises(ModelError, match=r"x is torch\.float32, expected bfloat16 or float16"):
        kernels.multiply_few(torch.zeros(1, 96), CODES, SCALES, (5, 96))


@pytest.mark.parametrize("shape", [(17, 96), (1, 95), (96,), (1, 1, 96)])
def test_activations_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"x is \(.*\), expected \(16 or fewer, 96\)"):
        kernels.multiply_few(torch.zeros(shape, dtype=torch.bfloat16), CODES, SCALES, (5, 96))
