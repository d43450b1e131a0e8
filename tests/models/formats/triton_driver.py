"""What MXFP4's kernels must do, for the tests of the CPU (triton's interpreter) and of a GPU; and a script.

    python triton_driver.py interpret    every case through the interpreter, with TRITON_INTERPRET=1
    python triton_driver.py compile      what is launched, compiled for GPUs that need not be there

The interpreter is chosen when triton is imported, so either takes a process of its own. Prints JSON.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from tunelab.models.formats import _mxfp4_triton as kernels
from tunelab.models.formats.mxfp4 import Format

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

#: [out, in]: whole blocks, a last block of 13, one weight, more rows than a program takes, rows summed in parts.
SHAPES = ((5, 96), (33, 45), (3, 1), (70, 544), (6, 4200))

DEQUANTIZE = [f"dequantize {out}x{width} {dtype}" for out, width in SHAPES for dtype in DTYPES]
EVERY_CODE = [f"every code and scale {dtype}" for dtype in DTYPES]
MULTIPLY = [
    f"multiply {count} {out}x{width} {dtype}"
    for out, width in SHAPES
    for dtype in ("bf16", "fp16")
    for count in (1, 2, 16)
]
SAME_ROWS = [f"a row alone or among others {dtype}" for dtype in ("bf16", "fp16")]
CASES = [*DEQUANTIZE, *EVERY_CODE, *MULTIPLY, *SAME_ROWS]


def packed(shape: tuple[int, int], device: str) -> tuple[Tensor, Tensor]:
    """A normal weight's codes and scales. Behind the last row lies what would turn every sum into NaN."""
    generator = torch.Generator().manual_seed(shape[0] * shape[1])
    stored = Format().quantize(torch.randn(shape, generator=generator) * 0.02)
    codes = torch.cat([stored["codes"], torch.full((40, stored["codes"].shape[1]), 0x77, dtype=torch.uint8)])
    scales = torch.cat([stored["scales"], torch.full((40, stored["scales"].shape[1]), 255, dtype=torch.uint8)])
    return codes.to(device)[: shape[0]], scales.to(device)[: shape[0]]


def activations(count: int, width: int, dtype: torch.dtype, device: str) -> Tensor:
    """[count, width], with NaN in the rows behind."""
    generator = torch.Generator().manual_seed(count * width)
    rows = torch.full((count + 16, width), float("nan"), dtype=dtype)
    rows[:count] = torch.randn((count, width), generator=generator)
    return rows.to(device)[:count]


def same_bits(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape, f"{found.dtype} {tuple(found.shape)}"
    bits = torch.int32 if found.dtype == torch.float32 else torch.int16
    wrong = (found.cpu().contiguous().view(bits) != expected.cpu().contiguous().view(bits)).nonzero().tolist()
    assert not wrong, f"{len(wrong)} differ, the first at {wrong[0]}"


@contextmanager
def guarded() -> Iterator[None]:
    """What is allocated inside is followed by 64 numbers that nobody may write to."""
    allocated: list[Tensor] = []

    def make(size: tuple[int, ...], *, dtype: torch.dtype, device: Any) -> Tensor:
        numbers = torch.Size(size).numel()
        allocated.append(torch.full((numbers + 64,), 7, dtype=dtype, device=device))
        return allocated[-1][:numbers].view(size)

    with patch.object(kernels, "torch", SimpleNamespace(**vars(torch) | {"empty": make})):
        yield
    assert allocated
    assert all(bool((tensor[-64:] == 7).all()) for tensor in allocated), "written behind the output"


def check(case: str, device: str) -> None:
    """Raise an AssertionError where the kernels do not do what the case, one of CASES, says."""
    words = case.split()
    dtype = DTYPES[words[-1]]
    if case in EVERY_CODE:
        check_every_code(dtype, device)
    elif case in SAME_ROWS:
        check_same_rows(dtype, device)
    else:
        out, width = (int(number) for number in words[-2].split("x"))
        codes, scales = packed((out, width), device)
        if case in DEQUANTIZE:
            with guarded():
                found = kernels.dequantize(codes, scales, (out, width), dtype)
            on_cpu = {"codes": codes.cpu().contiguous(), "scales": scales.cpu().contiguous()}
            same_bits(found, Format().dequantize(on_cpu, (out, width), dtype))
        else:
            check_product(int(words[1]), codes, scales, (out, width), dtype)


def check_every_code(dtype: torch.dtype, device: str) -> None:
    """All bytes with all scales from 2^-127 to 2^127: subnormals, infinities where they overflow, signed zeros."""
    codes = torch.arange(256, dtype=torch.uint8).view(16, 16).repeat(255, 1)
    scales = torch.arange(255, dtype=torch.uint8).repeat_interleave(16)[:, None]
    shape = (len(codes), 32)
    expected = Format().dequantize({"codes": codes, "scales": scales}, shape, dtype)
    same_bits(kernels.dequantize(codes.to(device), scales.to(device), shape, dtype), expected)


def check_product(count: int, codes: Tensor, scales: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = activations(count, shape[1], dtype, str(codes.device))
    with guarded():
        found = kernels.multiply_few(x, codes, scales, shape)
    assert found.dtype == dtype and found.shape == (count, shape[0]), f"{found.dtype} {tuple(found.shape)}"
    on_cpu = {"codes": codes.cpu().contiguous(), "scales": scales.cpu().contiguous()}
    expected = x.cpu().float() @ Format().dequantize(on_cpu, shape, torch.float32).T
    error = float((found.cpu().float() - expected).abs().max() / expected.abs().max())
    # float16 has three bits more; the interpreter cuts bfloat16 off where a GPU rounds.
    assert error < (1e-2 if dtype == torch.bfloat16 else 1e-3), f"relative error {error}"


def check_same_rows(dtype: torch.dtype, device: str) -> None:
    """Rows come out alike in any company, once there is any: one row alone is summed in another order."""
    codes, scales = packed((6, 4200), device)
    x = activations(16, 4200, dtype, device)
    whole = kernels.multiply_few(x, codes, scales, (6, 4200))
    same_bits(kernels.multiply_few(x[:3], codes, scales, (6, 4200)), whole[:3])
    same_bits(kernels.multiply_few(x, codes, scales, (6, 4200)), whole)


def interpreted() -> dict[str, str]:
    """What is wrong with each case, by its name; empty where nothing is."""
    import numpy

    said = {"available": str(kernels.is_available(torch.device("cpu")))}
    for case in CASES:
        try:
            with numpy.errstate(all="ignore"):  # infinities are meant
                check(case, "cpu")
            said[case] = ""
        except AssertionError as error:
            said[case] = str(error)
    return said


class Recorder:
    """Stands where a kernel is launched, and keeps what it would have been launched with."""

    def __init__(self, kernel: Any, launches: list[dict[str, Any]]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **named: Any) -> None:
            values = dict(zip(self.kernel.arg_names, arguments, strict=False))
            options = {key: named.pop(key) for key in list(named) if key not in self.kernel.arg_names}
            self.launches.append({"kernel": self.kernel, "values": values, "constants": named, "options": options})

        return launch


def compiled(launch: dict[str, Any], capability: int) -> str:
    """PTX, which ptxas takes, of a launch: specialised as triton's own launcher does."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = {torch.uint8: "*u8", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
    constants = dict(launch["constants"])
    signature = dict.fromkeys(constants, "constexpr")
    aligned = {}
    for place, (name, value) in enumerate(launch["values"].items()):
        if isinstance(value, Tensor):
            signature[name] = names[value.dtype]
        elif value == 1:
            signature[name], constants[name] = "constexpr", 1
        else:
            signature[name] = "i32"
        if isinstance(value, Tensor) or value % 16 == 0:
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(
        launch["kernel"], {name: signature[name] for name in launch["kernel"].arg_names}, constants, aligned
    )
    target = GPUTarget("cuda", capability, 32)
    return str(triton.compile(source, target=target, options=launch["options"]).asm["ptx"])


def compiles() -> dict[str, list[str]]:
    """Instructions of each launch, by its name, compute capability and shape."""
    from tunelab.models.formats import _mxfp4_kernels as real

    launches: list[dict[str, Any]] = []
    names = ("dequantize_kernel", "multiply_one_kernel", "multiply_few_kernel")
    fake = SimpleNamespace(**{name: Recorder(getattr(real, name), launches) for name in names})
    sys.modules["tunelab.models.formats._mxfp4_kernels"] = fake  # type: ignore[assignment]
    import tunelab.models.formats as room

    room._mxfp4_kernels = fake  # type: ignore[attr-defined]
    said = {}
    for shape, dtype, capability in (
        ((4096, 4096), "bf16", 90),
        ((4096, 4096), "fp16", 80),
        ((33, 45), "bf16", 80),
        ((1, 1), "bf16", 80),
    ):
        layout = Format().packed_layout(shape)
        codes, scales = (torch.empty(layout[name][0], dtype=torch.uint8) for name in ("codes", "scales"))
        kernels.dequantize(codes, scales, shape, DTYPES[dtype])
        for count in (1, 2):
            kernels.multiply_few(torch.empty((count, shape[1]), dtype=DTYPES[dtype]), codes, scales, shape)
        for what, launch in zip(("dequantize", "multiply 1", "multiply 2"), launches, strict=True):
            ptx = compiled(launch, capability)
            instructions = re.findall(r"^\s*(?:@%p\d+ )?([a-z][\w.:]*)\s", ptx, re.MULTILINE)
            said[f"{what} {shape[0]}x{shape[1]} {dtype} sm_{capability}"] = sorted(set(instructions))
        launches.clear()
    return said


if __name__ == "__main__":
    warnings.filterwarnings("error", module=r"(tunelab|__main__)(\.|$)")
    print(json.dumps({"interpret": interpreted, "compile": compiles}[sys.argv[1]]()))
