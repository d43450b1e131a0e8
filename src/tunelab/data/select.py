"""Which examples are used: seeded samples, splits by group, and mixtures by weight.

Every random choice is an order by SHA-256 of seed, purpose and index. It is the same on every platform, Python and
library version, and needs no generator whose stream could change.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import TypeVar

from tunelab.data.messages import Example
from tunelab.errors import DataError, UsageError

T = TypeVar("T")

#: What examples are split off for.
HELD_OUT, VALIDATION = "held out", "validation"
FEWER = {HELD_OUT: "hold out fewer", VALIDATION: "set a lower data.validation"}


def sample(examples: Sequence[T], size: int, seed: int, purpose: str = "sample") -> list[T]:
    """`size` examples without replacement, each subset equally likely, in the order of `examples`.

    The order of the file is kept because the loader decides the order of training. With one seed a smaller sample is
    part of a larger one, so that 400 rows can be compared with the 800 that contain them.

    Args:
        purpose: another text gives an independent sample with the same seed.

    Raises:
        UsageError: size is not positive.
        DataError: size is more than there are.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"size is {size!r}, expected a positive integer")
    if size > len(examples):
        raise DataError(
            f"a sample of {size:,} was requested, but there are {len(examples):,} examples", "request fewer"
        )
    chosen = _shuffled(range(len(examples)), seed, purpose)[:size]
    return [examples[index] for index in sorted(chosen)]


def sample_source(examples: Sequence[T], size: int, seed: int, number: int) -> list[T]:
    """A sample of one of several sources, independent of those of the others: parallel files, say translations, would
    otherwise give the same prompts.

    Args:
        number: of the source, from 0.

    Raises:
        UsageError, DataError: as sample().
    """
    return sample(examples, size, seed, f"source {number}" if number else "sample")


def are_sampled_apart(sizes: Sequence[int | None]) -> bool:
    """Whether a source after the first is sampled. Earlier versions, which gave all sources one order, chose others."""
    return any(size is not None for size in sizes[1:])


def split(
    examples: Sequence[Example], held_out: int | float, validation: int | float, seed: int
) -> tuple[list[Example], list[Example], list[Example]]:
    """Training, held-out and validation examples, each in order; no group is in two of them.

    The held-out ones are those of a split without validation examples, which are then split off the rest.

    Args:
        held_out, validation: as in split_held_out(); a share is of all examples.

    Raises:
        UsageError, DataError: as split_held_out().
    """
    rest, measured = split_held_out(examples, held_out, seed)
    count = wanted_count(len(examples), validation, VALIDATION)
    train, chosen = split_held_out(rest, count, seed, purpose=VALIDATION)
    return train, measured, chosen


def split_held_out(
    examples: Sequence[Example], held_out: int | float, seed: int, *, purpose: str = HELD_OUT
) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples, each in order; a group (examples with the same first prompt) is never divided.

    Groups are drawn in a seeded order; one that is larger than what is still missing is skipped. If examples are still
    missing after all of them, the smallest skipped group is taken as well (and the smallest of all is returned if
    nothing is left to train on). So the held-out split has the requested size or, if groups do not add up to it in this
    order, exceeds it by less than the size of its largest group.

    Args:
        held_out: an int is a number of examples; a float below 1 is a share of them, rounded to the nearest number, at
            least 1; 0 = none.
        purpose: what they are split off for, in messages; each gives an order of its own with the same seed.

    Returns:
        (training, held out)

    Raises:
        UsageError: held_out is negative, a float of 1 or more, or not a number.
        DataError: nothing would be left to train on, however the groups are divided.
    """
    wanted = wanted_count(len(examples), held_out, purpose)
    split_off = f"{wanted:,} {purpose.replace(' ', '-')} examples requested of {len(examples):,}"
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(example.group, []).append(index)
    if wanted >= len(examples) and wanted:
        raise DataError(f"{split_off}: nothing is left to train on", FEWER[purpose])
    chosen: set[int] = set()
    passed_over: list[list[int]] = []
    for group in _shuffled(groups.values(), seed, purpose):
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
        else:
            passed_over.append(group)
    if len(chosen) < wanted:
        smallest: list[int] = min(passed_over, key=len)
        chosen.update(smallest)
    if len(chosen) == len(examples) and wanted:
        # Everything was taken: the smallest group is returned, unless too few would then be held out.
        smallest = min(groups.values(), key=len)
        if len(examples) - len(smallest) < wanted:
            raise DataError(
                f"{split_off} with {len(groups)} distinct prompts; examples with the same prompt stay in one split: "
                "nothing is left to train on",
                f"{FEWER[purpose]}, or add examples with other prompts",
            )
        chosen.difference_update(smallest)
    sides: tuple[list[Example], list[Example]] = ([], [])
    for index, example in enumerate(examples):
        sides[index in chosen].append(example)
    return sides


def mix(parts: Sequence[tuple[str, float | None, Sequence[T]]], size: int | None, seed: int) -> list[T]:
    """Combine parts (name, weight, examples) into one list. The parts follow each other as given, each in its order.

    Weights are shares of rows: of `size` rows, a part with weight w gives size * w / (sum of weights), rounded by
    largest remainder (ties go to the earlier part), drawn as by sample(). Without `size` the total is the largest for
    which every part has enough. Without weights all parts are concatenated, and `size` is a sample of that.

    Raises:
        UsageError: no parts, some have weights and some not, or a weight or size is not positive.
        DataError: a part is empty, too small for its share (names it, what it has and what it would need), or its share
            rounds to no row.
    """
    _check_parts(parts)
    weights = [weight for _, weight, _ in parts if weight is not None]
    if not weights:
        together = [example for _, _, examples in parts for example in examples]
        return together if size is None else sample(together, size, seed)
    shares = _whole_weights(weights)
    sizes = [len(examples) for _, _, examples in parts]
    if size is None:
        counts = _largest_counts(sizes, shares)
    else:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise UsageError(f"size is {size!r}, expected a positive integer")
        counts = largest_remainder(size, shares)
    mixed: list[T] = []
    for number, ((name, weight, examples), count) in enumerate(zip(parts, counts, strict=True)):
        if count > len(examples):
            raise DataError(
                f"part {name!r} has {len(examples):,} examples; its weight {weight} needs {count:,} of {size:,} in all",
                "lower its weight or the mixture's size, or omit size to take the largest that fits",
            )
        if count == 0:
            raise DataError(
                f"part {name!r}: its weight {weight} rounds to 0 rows of {sum(counts):,}",
                "raise its weight or the size, or remove the part",
            )
        mixed += sample(examples, count, seed, f"part {number}")
    return mixed


def largest_remainder(total: int, shares: Sequence[int]) -> list[int]:
    """`total` divided in proportion to integer `shares`, as integers that add up to it (Hamilton's method).

    Every number is its exact quota rounded up or down. Of equal remainders the earlier one is rounded up.
    """
    whole = sum(shares)
    counts = [total * share // whole for share in shares]
    order = sorted(range(len(shares)), key=lambda index: (-(total * shares[index] % whole), index))
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    return counts


def _shuffled(values: Iterable[T], seed: int, purpose: str) -> list[T]:
    prefix = f"{seed}\0{purpose}\0"
    keyed = [(hashlib.sha256(f"{prefix}{index}".encode()).digest(), index, value) for index, value in enumerate(values)]
    return [value for _, _, value in sorted(keyed, key=lambda entry: entry[:2])]


def wanted_count(total: int, part: int | float, purpose: str = HELD_OUT) -> int:
    """The number of `total` examples that a count, or a share below 1, asks for.

    Raises:
        UsageError: it is neither.
    """
    name = purpose.replace(" ", "_")
    if isinstance(part, bool) or not isinstance(part, int | float) or not part >= 0:
        raise UsageError(f"{name} is {part!r}, expected a number of rows, or a share below 1", "write 100 or 0.05")
    if isinstance(part, int):
        return part
    if not part < 1:
        raise UsageError(
            f"{name} is {part!r}: a share must be below 1, a number of rows an integer", "write 100 or 0.05"
        )
    # Fraction: the share as written (0.05), not its nearest binary number.
    return max(1, math.floor(Fraction(repr(part)) * total + Fraction(1, 2))) if part else 0


def _check_parts(parts: Sequence[tuple[str, float | None, Sequence[T]]]) -> None:
    if not parts:
        raise UsageError("a mixture has no parts", "name at least one source")
    if len({weight is None for _, weight, _ in parts}) > 1:
        without = ", ".join(repr(name) for name, weight, _ in parts if weight is None)
        raise UsageError(f"some parts have weights, and {without} has none", "give every part a weight, or none")
    for name, weight, examples in parts:
        if weight is not None and not (math.isfinite(weight) and weight > 0):
            raise UsageError(f"part {name!r} has weight {weight}, expected a number above 0", "remove unwanted parts")
        if not examples:
            raise DataError(f"part {name!r} has no examples", "remove it")


def _whole_weights(weights: Sequence[float]) -> list[int]:
    """Integers in exactly the proportion of the weights as written (0.7 : 0.2 : 0.1 is 7 : 2 : 1)."""
    exact = [Fraction(repr(float(weight))) for weight in weights]
    scale = math.lcm(*(value.denominator for value in exact))
    return [int(value * scale) for value in exact]


def _largest_counts(sizes: Sequence[int], shares: Sequence[int]) -> list[int]:
    """Counts of the largest mixture for which every part has enough.

    A part with n rows and share s of S never gives more than it has where total <= n * S / s, and always where its
    quota rounded down is above n. Between these the largest remainder decides (not monotonically), so totals are tried.
    """
    whole = sum(shares)
    highest = min(((size + 1) * whole - 1) // share for size, share in zip(sizes, shares, strict=True))
    lowest = min(size * whole // share for size, share in zip(sizes, shares, strict=True))
    for total in range(min(highest, sum(sizes)), lowest, -1):
        counts = largest_remainder(total, shares)
        if all(count <= size for count, size in zip(counts, sizes, strict=True)):
            return counts
    return largest_remainder(lowest, shares)
