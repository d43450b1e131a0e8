"""What the tests of damaged and odd files share: odd values, a place to run commands in, and what each must end in."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tunelab.cli.main import main

LONGEST_RUN = 10.0  # seconds
SAMPLE = settings(max_examples=8, derandomize=True, suppress_health_check=list(HealthCheck), deadline=None)
WHOLE = settings(max_examples=300, suppress_health_check=list(HealthCheck), deadline=None)

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 3, 7, 2**31, 2**63, 2**64, 10**30]),
    st.sampled_from([0.0, -0.0, 1.5, -3.2, 1e-320, 1e300, float("inf"), float("nan")]),
    st.sampled_from(
        ["", "x", "1e-5", "../x", "/", "~", "\0", "{{ 1 }}", "é\u2028", "\ud800", "a" * 5000, "auto", "chat"]
    ),
    st.integers(),
    st.text(max_size=20),
)
TREES = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
BYTES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"null", b"[]", b"{}", b"5", b'"x"', b"\xff\xfe", b"[" * 5000, b'{"a":' * 3000, bytes(64), b"9" * 5000]
    ),
)


@contextlib.contextmanager
def place_of(model: Path, rows: Path, folder: Path) -> Iterator[Path]:
    """A directory with a model, rows, and the directory `here`, from which commands are run."""
    shutil.copytree(model, folder / "model")
    shutil.copy(rows, folder / "rows.jsonl")
    (folder / "here").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNELAB_CACHE", str(folder / "here" / "cache"))
        patch.setenv("HOME", str(folder))
        patch.setenv("MPLCONFIGDIR", str(folder / "here" / "matplotlib"))  # a report's plots: its cache of fonts
        patch.chdir(folder / "here")
        yield folder


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """What is in a directory, apart from `here`."""
    found = {}
    for path in folder.rglob("*"):
        if "here" not in path.relative_to(folder).parts:
            state = path.lstat()
            found[str(path)] = state.st_mtime_ns, state.st_size
    return found


def ends_in_words(place: Path, *words: object) -> None:
    """Run a command line; it succeeds, or says what is wrong."""
    before, began = listing(place), time.monotonic()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    said = err.getvalue()
    assert time.monotonic() - began < LONGEST_RUN, f"{time.monotonic() - began:.0f} s"
    assert code in (0, 1, 2), said
    assert "Traceback" not in said and "defect of tunelab" not in said, said
    assert code == 0 or "error: " in said, said
    assert listing(place) == before, "something was written outside"
    shutil.rmtree(place / "here" / "cache", ignore_errors=True)


def prepare(place: Path, model: Path, data: Path, *more: object) -> None:
    common = ("data.template=plain", "data.held_out=0", "data.on_bad_row=skip", "train.device=cpu")
    ends_in_words(place, "prepare", "--model", model, "--data", data, *common, *more)


@contextlib.contextmanager
def changed_copy(place: Path, source: str, name: str, content: bytes) -> Iterator[Path]:
    """A copy of a folder of the place, in `here`, with one file of other content."""
    with tempfile.TemporaryDirectory(dir=place / "here") as folder:
        copy = Path(shutil.copytree(place / source, Path(folder) / source))
        (copy / name).write_bytes(content)
        yield copy


def mutated(tree: Any, path: list[float], value: Any) -> Any:
    """The tree with one place set to `value`: each number chooses a branch."""
    if not path or not isinstance(tree, dict | list) or not tree:
        return value
    if isinstance(tree, list):
        at = int(path[0] * len(tree)) % len(tree)
        return [mutated(one, path[1:], value) if index == at else one for index, one in enumerate(tree)]
    name = sorted(tree)[int(path[0] * len(tree)) % len(tree)]
    return {**tree, name: mutated(tree[name], path[1:], value)}


PATHS = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()
