"""What the data checks found in a study's rows, for the caveats of its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def data_check_sentences(found: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    """One sentence for all trainings with the same findings.

    Args:
        found: a training's name in the report ("lora, seed 1") -> `data.checks` of its manifest; None in older runs.
    """
    groups: dict[str, list[str]] = {}
    for name, checks in found.items():
        if said := _said(checks or {}):
            groups.setdefault(said, []).append(name)
    for said, names in groups.items():
        which = "" if len(names) == len(found) else f" of {', '.join(names)}"
        yield f"The data checks found in the rows{which}: {said}. `tunelab lint` shows them."


def _said(checks: Mapping[str, Any]) -> str:
    """ "duplicates (12 rows), no-end-token (400 rows, an error that was allowed)"; "" if nothing was found."""
    errors = [f"{name} ({count:,} rows, an error that was allowed)" for name, count in checks.get("errors", {}).items()]
    return ", ".join([*errors, *(f"{name} ({count:,} rows)" for name, count in checks.get("warnings", {}).items())])
