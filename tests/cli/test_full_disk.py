"""A disk that is full, or a file where a directory is expected: words and a remedy, and what was done before stays."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from study_files import study_of, write_study_files
from verbs import Bench, Command, Said

from tunelab.config.yaml_text import dump_yaml


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = write_study_files(tmp_path_factory.mktemp("study"))
    small = study_of(files, arms={"base": {"tuned": False}, "lora": {}}, seeds=[0])
    (files / "study.yaml").write_text(dump_yaml(small.model_dump(mode="json")), encoding="utf-8")
    return files / "study.yaml"


def words_of(verb: str, bench: Bench, run: Path, study: Path) -> list[object]:
    """A command that writes: into `run`, the working directory or the cache."""
    train = ["--model", bench.model, "--data", bench.rows, "data.template=plain", "data.held_out=6"]
    return {
        "train": ["train", *train, "train.steps=2", "train.save_every=1", "train.device=cpu", "--out", "new/run"],
        "prepare": ["prepare", *train],
        "eval": ["eval", run],
        "score": ["score", run / "evaluations" / "held-out-tuned"],
        "compare": ["compare", run, "--out", "compared"],
        "generate": [
            "generate",
            run,
            "--file",
            bench.rows,
            "--limit",
            "2",
            "--max-new-tokens",
            "2",
            "--out",
            "a.jsonl",
        ],
        "merge": ["merge", run, "--out", "merged"],
        "quantize": ["quantize", bench.model, "--precision", "nf4", "--out", "quantized"],
        "export peft": ["export", run, "--to", "peft", "--out", "peft"],
        "export hf": ["export", run, "--to", "hf", "--out", "hf"],
        "export gguf": ["export", run, "--to", "gguf", "--out", "gguf"],
        "study": ["study", "run", study, "--out", "made"],
    }[verb]


VERBS = (
    *("train", "prepare", "eval", "compare", "generate", "merge", "quantize"),
    *("export peft", "export hf", "export gguf", "study"),
)


class FullDisk:
    """From the n-th sync on every sync fails, as on a disk that fills up (a network's disk says so only then)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.calls, self._number, self._sync = 0, number, os.fsync
        monkeypatch.setattr(os, "fsync", self._fails)

    def _fails(self, descriptor: int) -> None:
        self.calls += 1
        if self.calls >= self._number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._sync(descriptor)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_words(said: Said, *expected: str) -> None:
    assert said.code in (1, 2) and "Traceback" not in said.err, said.err
    error = said.err[said.err.index("error: ") :]
    assert any(text in error for text in expected), error
    assert "\nhint: " in error, error


def filled(
    verb: str, bench: Bench, study: Path, tunelab: Command, monkeypatch: pytest.MonkeyPatch, number: int
) -> bool:
    """Run a verb on a disk that is full from the n-th sync on, then again with room; returns whether it failed."""
    here = Path.cwd()
    run = Path(shutil.copytree(bench.lora, here / "run"))
    if verb in ("score", "compare"):
        assert tunelab("eval", run).code == 0
    before, words = contents(run), words_of(verb, bench, run, study)
    with monkeypatch.context() as patch:
        FullDisk(patch, number)
        said = tunelab(*words)
    if said.code == 0:
        return False
    if verb == "study" and "error: " not in said.err.replace("TunelabError: ", ""):
        assert "Traceback" not in said.err and "no space is left on the disk" in said.err + said.out
    else:
        assert_words(said, "no space is left on the disk")
    now = contents(run)
    assert all(now.get(name) == content for name, content in before.items()), "what was done before has changed"
    again = tunelab(*words)
    if again.code != 0 and "tunelab train --resume" in again.err:
        again = tunelab("train", "--resume", here / "new" / "run")
    assert again.code == 0, (number, said.err, again.err)
    assert not [path for path in here.rglob(".*.tmp") if "cache" not in path.parts], "halves are left"
    return True


@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_that_is_full_from_the_first_write_on(
    verb: str, bench: Bench, study: Path, tunelab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert filled(verb, bench, study, tunelab, monkeypatch, 1)


@pytest.mark.parametrize("verb", ["train", "compare", "generate", "merge", "quantize", "export peft", "study"])
def test_a_file_where_a_directory_is_expected(verb: str, bench: Bench, study: Path, tunelab: Command) -> None:
    Path("new").write_text("mine", encoding="utf-8")
    words = words_of(verb, bench, bench.lora, study)
    run = Path(shutil.copytree(bench.lora, "run"))
    if verb == "compare":
        assert tunelab("eval", run).code == 0
        words = words_of(verb, bench, run, study)
    for out in ("new", "new/deeper"):
        said = tunelab(*words[:-1], out)
        assert_words(said, "a file is where a directory is expected", "exists", "is a file", "something else")
    assert Path("new").read_text(encoding="utf-8") == "mine"


def test_a_cache_that_is_a_file(
    bench: Bench, study: Path, tunelab: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "file"))
    assert_words(tunelab(*words_of("prepare", bench, bench.lora, study)), "a file is where a directory is expected")


@pytest.fixture
def limited() -> Callable[[int], None]:
    """Sets the most bytes that a file may have, for this test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("verb", ["merge", "export hf", "quantize"])
def test_weights_that_the_system_stops_in_the_middle(
    verb: str, bench: Bench, study: Path, tunelab: Command, limited: Callable[[int], None]
) -> None:
    run = Path(shutil.copytree(bench.lora, "run"))
    words = words_of(verb, bench, run, study)
    limited(20_000)
    said = tunelab(*words)
    limited(resource.RLIM_INFINITY)
    assert_words(said, "the file would be larger than the system allows")
    assert not list(Path().glob(".*.tmp")) and not Path(str(words[-1])).exists()
    assert tunelab(*words).code == 0


def test_a_run_that_filled_the_disk_says_how_to_resume(
    bench: Bench, study: Path, tunelab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of("train", bench, bench.lora, study)
    with monkeypatch.context() as patch:
        original = os.replace

        def full(source: object, target: object) -> None:
            if "step-00000002" in str(source):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(source, target)  # type: ignore[arg-type]

        patch.setattr(os, "replace", full)
        said = tunelab(*words)
    assert_words(said, "no space is left on the disk")
    assert said.err.endswith("hint: free space there; tunelab train --resume new/run\n")
    assert tunelab("train", "--resume", "new/run").code == 0


@pytest.mark.parametrize("content", [b"", b"null", bytes(200)])
def test_damaged_rows_for_comparing_are_named(bench: Bench, tunelab: Command, content: bytes) -> None:
    run = Path(shutil.copytree(bench.lora, "run"))
    (run / "compared_rows.safetensors").write_bytes(content)
    assert_words(tunelab("merge", run, "--out", "merged"), "compared_rows.safetensors: damaged: SafetensorError")
