"""The cache of converted GGUF files and of digests: what was lost or damaged there is made anew, never trusted."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import pytest
import torch
from gguf_models import gguf_model, rounded
from tiny import tiny_tokenizer

from tunelab.errors import UsageError
from tunelab.models.gguf import reading
from tunelab.models.gguf.reading import local_model
from tunelab.models.load import load_config, load_model, load_tokenizer, weights_digest
from tunelab.publishing.gguf_file import write_gguf


def written(path: Path) -> Path:
    write_gguf(rounded(gguf_model("qwen3")), tiny_tokenizer(), path, kind="BF16")
    return path


@pytest.mark.parametrize("lost", ["model-00001.safetensors", "tokenizer.json", "config.json"])
def test_a_converted_checkpoint_that_lost_a_file_is_made_anew(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))
    file = written(tmp_path / "m.gguf")
    folder = Path(local_model(str(file)))
    known = (folder / lost).read_bytes()
    for damage in (b"", known[:100]):
        (folder / lost).unlink()
        if damage:
            (folder / lost).write_bytes(damage)
        assert local_model(str(file)) == str(folder) and (folder / lost).read_bytes() == known


@pytest.mark.parametrize("damage", ["", "sha256", "0" * 63 + "g", "\x00" * 64])
def test_a_damaged_digest_in_the_cache_is_made_anew(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty one stood for any file: another model would have been taken for a run's base."""
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    file = tmp_path / "model.safetensors"
    digests = weights_digest(tmp_path), reading.gguf_digest(file)
    kept = list((tmp_path / "cache/digests").iterdir())
    assert len(kept) == 2 and digests[1] == hashlib.sha256(b"weights").hexdigest()
    for one in kept:
        one.write_text(damage)
    assert (weights_digest(tmp_path), reading.gguf_digest(file)) == digests
    assert {one.read_text().strip() for one in kept} == {digests[0].removeprefix("sha256:"), digests[1]}
    monkeypatch.setattr(reading, "file_sha256", lambda _: pytest.fail("read again"))
    assert reading.gguf_digest(file) == digests[1]


def test_a_gguf_file_holds_no_code_to_trust(tmp_path: Path) -> None:
    file = written(tmp_path / "m.gguf")
    said = r"model\.trust_remote_code: .*m\.gguf is a GGUF file, which holds no code"
    for load in (load_config, load_tokenizer, partial(load_model, dtype=torch.float32)):
        with pytest.raises(UsageError, match=said) as caught:
            load(str(file), trust_remote_code=True)
        assert caught.value.hint == "omit it"
