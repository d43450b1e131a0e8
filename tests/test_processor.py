"""Whether the processor has bfloat16 products, from what the system says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunelab.processor import has_bf16_products


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("Features\t: fp asimd bf16", True),  # Arm
        ("flags\t\t: fpu avx512f avx512_vnni", False),
        ("model name\t: avx512_bf16", False),
    ],
)
def test_flags_of_cpuinfo_decide(line: str, expected: bool, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\nbogomips\t: 5000\n", encoding="utf-8")
    assert has_bf16_products(cpuinfo) is expected


def test_unknown_is_no(tmp_path: Path) -> None:
    assert has_bf16_products(tmp_path / "missing") is False
