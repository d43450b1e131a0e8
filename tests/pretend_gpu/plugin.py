"""A pytest plugin, for a session of its own: every test runs on the pretend GPU.

    PYTHONPATH=src:tests python -m pytest -p pretend_gpu.plugin tests/gpu

The session ends with the lines where the host would have waited for the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pretend_gpu import flash_attention
from pretend_gpu.cuda_functions import pretend
from pretend_gpu.device import SEEN, PretendGpu

pretend()


@pytest.fixture(autouse=True)
def _on_pretend_gpu() -> Iterator[None]:
    with PretendGpu():
        yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for (what, where), count in SEEN.waits.most_common(30):
        terminalreporter.write_line(f"waits: {count:6d} {what:18s} {where}")
    terminalreporter.write_line(f"calls of FlashAttention: {len(flash_attention.CALLS)}")
