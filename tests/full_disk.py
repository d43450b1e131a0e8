"""A disk that fills up while a command writes: every write from one on fails, as the system would let it fail."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import safetensors.torch
from safetensors import SafetensorError


class FullDisk:
    """Lets the k-th write below a directory and all later ones fail with "no space left"; the k-th writes a half.

    A write is what takes room on a disk: a new file or directory, bytes that leave a buffer, a sync (where a network's
    disk first says that it is full), a file of tensors.

    Args:
        number: of the first write that fails; 0 = none, they are counted.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, below: Path, number: int = 0) -> None:
        self.writes, self.number, self.below = 0, number, str(below.resolve()) + os.sep
        self._open, self._mkdir, self._sync = builtins.open, os.mkdir, os.fsync
        self._tensors = safetensors.serialize_file
        for module in (builtins, io):
            monkeypatch.setattr(module, "open", self._opened)
        monkeypatch.setattr(os, "mkdir", self._made)
        monkeypatch.setattr(os, "fsync", self._synced)
        for module in (safetensors.torch, safetensors.numpy):
            monkeypatch.setattr(module, "serialize_file", self._serialized)

    def fails(self) -> bool:
        """Count one write; whether it fails."""
        self.writes += 1
        return 0 < self.number <= self.writes

    def _concerns(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(os.fspath(path)).startswith(self.below)

    def _made(self, path: Any, *arguments: Any, **more: Any) -> None:
        if self._concerns(path) and not os.path.exists(path) and self.fails():
            raise no_space(path)
        self._mkdir(path, *arguments, **more)

    def _synced(self, descriptor: int) -> None:
        if self.fails():
            raise no_space()
        self._sync(descriptor)

    def _serialized(self, tensors: Any, file: Any, metadata: Mapping[str, str] | None = None) -> None:
        if self.fails():
            with self._open(file, "wb") as half:
                half.write(bytes(100))
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        self._tensors(tensors, file, metadata)

    def _opened(self, file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **more: Any) -> Any:
        if not self._concerns(file) or not set(mode) & set("wax+"):
            return self._open(file, mode, buffering, *arguments, **more)
        if not os.path.exists(file) and self.fails():
            raise no_space(file)
        raw = _Raw(self, file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *arguments, **more)  # type: ignore[arg-type]


class _Raw(io.FileIO):
    """A file on that disk."""

    def __init__(self, disk: FullDisk, file: Any, mode: str) -> None:
        self._disk = disk
        super().__init__(file, mode)

    def write(self, content: Any) -> int:
        if not self._disk.fails():
            return super().write(content)
        if self._disk.writes == self._disk.number:
            super().write(memoryview(content)[: len(memoryview(content)) // 2])
        raise no_space()


def no_space(path: Any = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *([] if path is None else [os.fspath(path)]))
