"""Combinations of parameters: a sample for `make test`, all of them for `make test-slow`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest


def sampled(*axes: Sequence[Any]) -> list[Any]:
    """All combinations of the axes' values, for pytest.mark.parametrize.

    `make test` has as many of them as bring every value of every axis once; the others are marked slow.
    """
    kept = {tuple(place % len(axis) for axis in axes) for place in range(max(map(len, axes)))}
    return [
        pytest.param(
            *(axis[number] for axis, number in zip(axes, numbers, strict=True)),
            marks=() if numbers in kept else pytest.mark.slow,
        )
        for numbers in itertools.product(*(range(len(axis)) for axis in axes))
    ]
