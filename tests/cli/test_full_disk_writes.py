"""A disk that fills up at any write of any verb: done all the same, or words and the remedy; nothing is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from full_disk import FullDisk
from study_files import study_of, write_study_files
from verbs import Bench, Command, Said

from tunelab.config.yaml_text import dump_yaml

WORDS = "no space is left on the disk"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = write_study_files(tmp_path_factory.mktemp("study"))
    tree = study_of(files, arms={"base": {"tuned": False}, "lora": {}}, seeds=[0]).model_dump(mode="json")
    tree["recipe"]["train"] |= {"steps": 2, "save_every": 1}
    tree["recipe"]["evaluate"] |= {"limit": 2, "max_new_tokens": 1}
    (files / "study.yaml").write_text(dump_yaml(tree), encoding="utf-8")
    return files / "study.yaml"


def words_of(verb: str, bench: Bench, study: Path) -> list[object]:
    """A command that writes into run/, the working directory or the cache."""
    rows = ["--model", bench.model, "--data", bench.rows, "data.template=plain", "data.held_out=6"]
    few = ["--limit", "2", "--max-new-tokens", "2"]
    return {
        "train": ["train", *rows, "train.steps=2", "train.save_every=1", "train.device=cpu", "--out", "new"],
        "prepare": ["prepare", *rows],
        "eval": ["eval", "run", *few],
        "compare": ["compare", "run", "--out", "compared"],
        "generate": ["generate", "run", "--file", bench.rows, *few, "--out", "answers.jsonl"],
        "merge": ["merge", "run", "--out", "merged"],
        "quantize": ["quantize", bench.model, "--precision", "nf4", "--out", "quantized"],
        "export peft": ["export", "run", "--to", "peft", "--out", "peft"],
        "export gguf": ["export", "run", "--to", "gguf", "--out", "gguf"],
        "study": ["study", "run", study, "--out", "made"],
    }[verb]


VERBS = ("train", "prepare", "eval", "compare", "generate", "merge", "quantize", "export peft", "export gguf", "study")
# Of these a disk fills up while they write, in `make test-slow` alone.
SLOW_TO_FILL = ("prepare", "generate", "merge")


class Tried:
    """A verb on a disk that is full from a write on, and again with room: each time in an empty directory."""

    def __init__(self, verb: str, bench: Bench, study: Path, tunelab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        self.words, self.bench, self.tunelab, self.monkeypatch = (
            words_of(verb, bench, study),
            bench,
            tunelab,
            monkeypatch,
        )
        self.verb, self.here = verb, Path.cwd()
        run = Path(shutil.copytree(bench.lora, self.here / "prepared"))
        if verb == "compare":
            assert tunelab("eval", run, "--limit", "2", "--max-new-tokens", "2").code == 0
        code, self.writes = self._on_disk(0)
        assert code.code == 0, code.err
        self.complete = names(self.here)

    def _on_disk(self, number: int) -> tuple[Said, int]:
        for path in self.here.iterdir():
            if path.name != "prepared":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.here / "prepared", self.here / "run")
        with self.monkeypatch.context() as patch:
            disk = FullDisk(patch, self.here, number)
            said = self.tunelab(*self.words)
        return said, disk.writes

    def fills_up_at(self, number: int) -> None:
        """Check what is left, and that the same command (or the one that its hint names) completes with room."""
        said, _ = self._on_disk(number)
        where = f"{self.verb}, write {number} of {self.writes}: {said.err}"
        assert "Traceback" not in said.err and "a file: no space" not in said.err, where
        before = contents(self.here / "prepared")
        now = contents(self.here / "run")
        changed = {name for name, content in before.items() if now.get(name) != content}
        # An evaluation that is complete is in the model card, whatever the disk does afterwards.
        assert changed <= {name for name in before if self.verb == "eval" and name.endswith("README.md")}, where
        assert all(now.get(name) for name in changed), f"lost: {where}"
        if said.code == 0:
            assert names(self.here) >= self.complete - optional(self.complete), f"not complete: {where}"
            return
        assert WORDS in said.err + said.out, where
        assert "hint: " in said.err or "job" in said.err, where
        again = self.tunelab(*self.words)
        if again.code != 0 and "tunelab train --resume" in again.err:
            again = self.tunelab("train", "--resume", "new")
        elif again.code != 0 and "--overwrite" in again.err:
            again = self.tunelab(*self.words, "--overwrite")
        assert again.code == 0, f"{where}\nagain: {again.err}"
        assert names(self.here) >= self.complete - optional(self.complete), f"not complete: {where}"
        assert not [path for path in self.here.rglob(".*.tmp") if "cache" not in path.parts], f"halves: {where}"


def names(folder: Path) -> set[str]:
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {name for name in found if not name.endswith(".tmp")}


def optional(found: set[str]) -> set[str]:
    """What a cache holds may be missing."""
    return {name for name in found if name.startswith("cache/")}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "verb",
    ["train", "eval", "export gguf", *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW_TO_FILL)],
)
def test_a_disk_that_fills_up(
    verb: str, bench: Bench, study: Path, tunelab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample: a write in the middle."""
    tried = Tried(verb, bench, study, tunelab, monkeypatch)
    tried.fills_up_at(tried.writes // 2)


#: Of a verb's writes, evenly spread: a study has about 300.
MOST = 8


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_that_fills_up_at_any_write(
    verb: str, bench: Bench, study: Path, tunelab: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = Tried(verb, bench, study, tunelab, monkeypatch)
    step = max(1, tried.writes // MOST)
    for number in {*range(1, tried.writes + 1, step), tried.writes}:
        tried.fills_up_at(number)
