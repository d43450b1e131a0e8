"""What is read of a run's manifest: values of other types, and keys that are missing, are damage, and named."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from tunelab.config.types import shown
from tunelab.errors import RunError

_REMEDY = "the file is damaged: restore it, or train again"

#: pydantic's kinds of errors -> what was expected, in words.
_EXPECTED = {
    "dict_type": "an object",
    "list_type": "a list",
    "too_short": "a list of one or more",
    "string_type": "text",
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "a positive number",
}


class _Rows(TypedDict, total=False):
    sha256: str
    kept: int
    targets: int


class _Data(TypedDict, total=False):
    sources: list[dict[str, Any]]
    train: _Rows
    held_out: _Rows
    validation: _Rows


class _Digest(TypedDict, total=False):
    sha256: str
    parameters: int
    trainable: int


class _Model(TypedDict, total=False):
    fingerprint: str
    digest: _Digest


class _Environment(TypedDict, total=False):
    processor: str
    libraries: dict[str, Any]


class _Session(TypedDict, total=False):
    environment: _Environment
    threads: int
    gpu: str | None


class _Compute(TypedDict, total=False):
    threads: int
    gpu: str | None


class _Trained(TypedDict, total=False):
    steps: int
    targets: int
    training_seconds: FiniteFloat
    tokens_per_second: FiniteFloat


class _Manifest(TypedDict, total=False):
    status: str
    sessions: Annotated[list[_Session], Field(min_length=1)]
    code: dict[str, Any]
    compute: _Compute
    data: _Data
    model: _Model
    recipe: dict[str, Any]
    resolved: dict[str, Any]
    seeds: dict[str, Any]
    steps: Annotated[int, Field(gt=0)]
    trained: _Trained
    held_out_loss_before: FiniteFloat | None
    held_out_loss_after: FiniteFloat | None
    validation_loss_before: FiniteFloat | None
    validation_loss_after: FiniteFloat | None
    peak_gpu_bytes: int | None
    peak_resident_bytes: int
    start_resident_bytes: int | None


_MANIFEST = TypeAdapter(_Manifest)


def check_manifest(tree: dict[str, Any], file: Path) -> None:
    """Check the types of what is read of a manifest; what is missing is named where it is read.

    Raises:
        RunError: a value has another type.
    """
    try:
        _MANIFEST.validate_python(tree, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part not in ("float", "int", "str", "none"))
        expected = _EXPECTED.get(first["type"], first["msg"])
        raise RunError(f"{file}: {place} is {shown(first['input'])}, expected {expected}", _REMEDY) from None


class _Object(dict[str, Any]):
    """An object in a manifest: a key that is read and missing is damage, and named."""

    file: Path

    def __missing__(self, key: str) -> Any:
        raise RunError(f"{self.file}: lacks {key}", _REMEDY)


def with_known_keys(tree: Any, file: Path) -> Any:
    """The tree with objects that tell which key they lack."""
    if isinstance(tree, list):
        return [with_known_keys(one, file) for one in tree]
    if not isinstance(tree, dict):
        return tree
    found = _Object({key: with_known_keys(value, file) for key, value in tree.items()})
    found.file = file
    return found
