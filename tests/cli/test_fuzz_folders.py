"""Damaged and odd adapters, runs and studies: whatever one of their files contains, a command ends with words.

As test_fuzz.py does for recipes, models and rows; `make test` holds a sample of each kind.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from fuzzing import BYTES, PATHS, SAMPLE, TREES, as_json, changed_copy, ends_in_words, mutated, place_of
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.answering.held_out_evaluation import evaluate
from tunelab.config.questions import HELD_OUT
from tunelab.config.study import parse_study
from tunelab.studies.run_study import run_study
from tunelab.training.finetune import finetune

FEW = ("--limit", 1, "--max-new-tokens", 1)


@pytest.fixture(scope="module")
def place(models: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place with a run, stopped at its last step but one, and a study, too."""
    with place_of(models["llama"], rows, tmp_path_factory.mktemp("fuzz")) as folder:
        tree = tiny.recipe(folder / "model", folder / "rows.jsonl", folder / "run", data__held_out=4, train__steps=2)
        tree["train"]["save_every"] = 1
        evaluate(finetune(tree), limit=1, max_new_tokens=1)
        del tree["out"]
        tree["evaluate"] = {"limit": 1, "max_new_tokens": 1}
        arms = {"base": {"tuned": False}, "lora": {}}
        study = {"title": "s", "recipe": tree, "arms": arms, "seeds": [0], "benchmarks": {HELD_OUT: {}}}
        (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
        cells = run_study(parse_study(study), folder / "study")
        assert [cell.status for cell in cells] == ["done"] * 3
        yield folder


def changed_file(place: Path, source: str, draw: Any) -> contextlib.AbstractContextManager[Path]:
    """A copy of a folder in which one of its files has lost its end, holds something else, or has one odd value."""
    files = sorted(path for path in (place / source).rglob("*") if path.is_file() and path.name != ".lock")
    file = draw(st.sampled_from(files))
    whole = file.read_bytes()
    content = draw(
        st.one_of(
            BYTES,
            st.integers(0, len(whole)).map(lambda end: whole[:end]),
            st.builds(odd, st.just(file), PATHS, TREES),
        )
    )
    return changed_copy(place, source, str(file.relative_to(place / source)), content)


def odd(file: Path, path: list[float], value: Any) -> bytes:
    """The file's JSON, JSON Lines or YAML with one place set to `value`; of others the last bytes are reversed."""
    if file.suffix == ".json":
        return as_json(mutated(json.loads(file.read_text()), path, value))
    if file.suffix == ".jsonl":
        first, *others = file.read_bytes().splitlines(keepends=True)
        return as_json(mutated(json.loads(first), path, value)) + b"\n" + b"".join(others)
    if file.suffix == ".yaml":
        tree = mutated(yaml.safe_load(file.read_text()), path, value)
        return yaml.dump(tree, allow_unicode=False).encode("utf-8", "surrogatepass")
    content = file.read_bytes()
    return content[:-8] + content[-8:][::-1]


def an_adapter(place: Path, draw: Any) -> None:
    with changed_file(place, "run/adapter", draw) as adapter:
        words = ("--adapter", adapter, "--template", "plain", "--prompt", "red", "--max-new-tokens", 1)
        ends_in_words(place, "generate", "--model", place / "model", *words)


def a_run(place: Path, draw: Any) -> None:
    with changed_file(place, "run", draw) as run:
        out = run.parent / "out"
        commands: dict[str, tuple[object, ...]] = {
            "eval": ("eval", run, *FEW),
            "generate": ("generate", run, "--prompt", "red", "--max-new-tokens", 1),
            "merge": ("merge", run, "--out", out, "--force"),
            "resume": ("train", "--resume", run),
            "compare": ("compare", run),
            "export": ("export", run, "--to", "peft", "--out", out),
        }
        ends_in_words(place, *commands[draw(st.sampled_from(sorted(commands)))])


def a_study(place: Path, draw: Any) -> None:
    with changed_file(place, "study", draw) as study:
        again = ("study", "run", place / "study.yaml", "--out", study)
        ends_in_words(place, *draw(st.sampled_from([("report", study), again])))


KINDS: dict[str, Callable[[Path, Any], None]] = {
    function.__name__: function for function in (an_adapter, a_run, a_study)
}


@pytest.mark.parametrize("kind", KINDS)
@SAMPLE
@given(data=st.data())
def test_a_sample_ends_in_words(kind: str, place: Path, data: st.DataObject) -> None:
    KINDS[kind](place, data.draw)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
@settings(SAMPLE, max_examples=60)
@given(data=st.data())
def test_more_end_in_words(kind: str, place: Path, data: st.DataObject) -> None:
    KINDS[kind](place, data.draw)


def test_what_is_changed_is_a_copy(place: Path) -> None:
    with changed_copy(place, "run", "manifest.json", b"") as run:
        assert run != place / "run" and not (run / "manifest.json").read_bytes()
    assert not run.exists() and (place / "run" / "manifest.json").read_bytes()
    shutil.rmtree(place / "here" / "cache", ignore_errors=True)
