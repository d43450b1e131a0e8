"""What a second run repeats bit for bit of the records in metrics.jsonl: all but the fields of time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunelab.training.throughput import TIMING_FIELDS

#: Missing without a GPU.
ON_A_GPU = {"peak_gpu_bytes"}


def repeatable(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without TIMING_FIELDS, each of which every training step must have."""
    for record in records:
        assert set(TIMING_FIELDS) - ON_A_GPU <= record.keys() or record["kind"] != "train", record
    return [{name: value for name, value in record.items() if name not in TIMING_FIELDS} for record in records]
