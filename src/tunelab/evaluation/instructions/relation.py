"""Compare a count with the bound in an instruction."""

from __future__ import annotations

RELATIONS = ("less than", "at least")


def holds(count: int, relation: str, bound: int) -> bool:
    """Whether `count` is "less than" or "at least" `bound`; the registry rejects any other relation."""
    return count < bound if relation == RELATIONS[0] else count >= bound
