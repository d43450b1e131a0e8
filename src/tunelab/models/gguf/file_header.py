"""What a GGUF file says and where its tensors are, read within the bounds of the file.

No count and no size in the file is trusted: nothing is read, looped over or allocated beyond the file's own bytes. The
gguf package's reader loops over whatever a damaged file states, and takes seconds for the merges of one vocabulary.
Source: the GGUF specification (ggml, docs/gguf.md), versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunelab.errors import ModelError, UsageError

Floats = npt.NDArray[np.float32]
MAGIC = b"GGUF"
VERSIONS = (2, 3)
#: Type number of a metadata value -> its format in the `struct` module.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MOST_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor in the file.

    Args:
        kind: GGUF's name of how it is stored ("Q4_K").
        shape: the outermost dimension first.
        start: its first byte in the file.
        size: its bytes.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int

    def stored(self, path: Path) -> npt.NDArray[np.uint8]:
        """Its bytes, [rows, bytes per row], mapped from the file."""
        mapped = np.memmap(path, np.uint8, "r", self.start, (self.size,))
        return mapped.reshape(*self.shape[:-1], -1) if self.size else mapped

    def values(self, path: Path) -> Floats:
        """Its values in float32, dequantized if need be."""
        import gguf

        kind = gguf.GGMLQuantizationType[self.kind]
        values: Floats = np.array(gguf.quants.dequantize(np.array(self.stored(path)), kind), dtype=np.float32)
        return values.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A file's metadata by key, and its tensors by name."""

    path: Path
    says: Mapping[str, Any]
    tensors: Mapping[str, FileTensor]


def read_header(path: Path) -> GgufFile:
    """A GGUF file's metadata and the places of its tensors; no weights are read.

    Raises:
        ModelError: it is not a GGUF file, or is damaged or truncated.
        UsageError: the gguf package is not installed.
    """
    check_installed()
    with open(path, "rb") as file:
        if file.read(4) != MAGIC:
            raise _damaged(path, "it does not begin with GGUF")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return _parsed(path, _Cursor(path, mapped))


def check_installed() -> None:
    """Raises UsageError if the gguf package is not installed."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "reading GGUF needs the package gguf, which is not installed", 'pip install "tunelab[export]"'
        ) from error


class _Cursor:
    """Reads values one after the other; nothing beyond the end."""

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self.path, self._mapped, self.place = path, mapped, len(MAGIC)
        self.end = len(mapped)

    def take(self, count: int) -> bytes:
        if count > self.end - self.place:
            raise _damaged(self.path, f"its header ends at byte {self.end:,}, in the middle of a value")
        found = self._mapped[self.place : self.place + count]
        self.place += count
        return found

    def number(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self.take(struct.calcsize(f"<{letter}")))[0]

    def text(self) -> str:
        try:
            return self.take(self.number("Q")).decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged(self.path, f"a text before byte {self.place:,} is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self._array()
        raise _damaged(self.path, f"a value before byte {self.place:,} is of the unknown type {kind}")

    def _array(self) -> list[Any]:
        kind, count = self.number("I"), self.number("Q")
        if kind in NUMBERS:
            letter = NUMBERS[kind]
            return list(struct.unpack(f"<{count}{letter}", self.take(count * struct.calcsize(f"<{letter}"))))
        if kind == STRING:
            return [self.text() for _ in range(self.bounded(count, 8))]
        raise _damaged(self.path, f"a list before byte {self.place:,} has elements of type {kind}")

    def bounded(self, count: int, least: int) -> int:
        """A count of things that take at least so many bytes each."""
        if count > (self.end - self.place) // least:
            raise _damaged(
                self.path, f"it states {count:,} entries before byte {self.place:,}, more than it has bytes for"
            )
        return count


def _parsed(path: Path, cursor: _Cursor) -> GgufFile:
    version = cursor.number("I")
    if version not in VERSIONS:
        raise _damaged(path, f"its version is {version:,}, expected 2 or 3 (little-endian)")
    tensors, keys = cursor.number("Q"), cursor.number("Q")
    says: dict[str, Any] = {}
    for _ in range(cursor.bounded(keys, 13)):
        key = cursor.text()
        if key in says:
            raise _damaged(path, f"it has the key {key!r} twice")
        says[key] = cursor.value(cursor.number("I"))
    described = [_description(path, cursor) for _ in range(cursor.bounded(tensors, 24))]
    alignment = says.get("general.alignment", 32)
    if not (isinstance(alignment, int) and 0 < alignment <= 1 << 20):
        raise _damaged(path, f"its general.alignment is {alignment!r}")
    begin = math.ceil(cursor.place / alignment) * alignment
    found: dict[str, FileTensor] = {}
    expected = begin  # tensors follow each other: one that overlaps another would have the other's bytes as weights
    for name, kind, shape, size, offset in described:
        if name in found:
            raise _damaged(path, f"it has the tensor {name!r} twice")
        if begin + offset + size > cursor.end:
            raise _damaged(path, f"tensor {name!r} ends at byte {begin + offset + size:,}, the file at {cursor.end:,}")
        if begin + offset != expected:
            raise _damaged(path, f"tensor {name!r} begins at byte {begin + offset:,}, expected {expected:,}")
        expected = begin + math.ceil((offset + size) / alignment) * alignment
        found[name] = FileTensor(name, kind, shape, begin + offset, size)
    return GgufFile(path, says, found)


def _description(path: Path, cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int, int]:
    """Name, kind, shape, bytes and offset of a tensor."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name, dimensions = cursor.text(), cursor.number("I")
    if not 0 < dimensions <= MOST_DIMENSIONS:
        raise _damaged(path, f"tensor {name!r} has {dimensions:,} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))[::-1]
    number, offset = cursor.number("I"), cursor.number("Q")
    try:
        kind = GGMLQuantizationType(number)
        block, size = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        raise ModelError(
            f"{path}: tensor {name!r} is stored as type {number}, which the gguf package does not know",
            "install a newer one: pip install -U gguf",
        ) from None
    if shape[-1] % block:
        raise _damaged(path, f"tensor {name!r} has rows of {shape[-1]:,}, {kind.name} has blocks of {block}")
    return name, kind.name, shape, math.prod(shape) // block * size, offset


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(f"{path}: cannot be read as GGUF: {why}", "download the file again")
