"""A processor that multiplies in bf16, or one that does not, whatever the tests run on."""

from __future__ import annotations

import pytest

from tunelab import cpu


def with_bf16_products(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    """`train.dtype: auto` as on such a processor."""
    monkeypatch.setattr(cpu, "has_bf16_products", lambda *root: has)
