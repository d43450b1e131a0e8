"""What tunelab did not raise itself, in words."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from tunelab.errors import DataError, ModelError
from tunelab.failures import SYSTEM_ERRORS, explained, in_words, sentence


@pytest.mark.parametrize("number", SYSTEM_ERRORS)
def test_what_the_system_refuses_names_the_file_and_the_remedy(number: int) -> None:
    said = in_words(OSError(number, os.strerror(number), "/somewhere/file"))
    meaning, remedy = SYSTEM_ERRORS[number]
    assert (said.message, said.hint, said.exit_code) == (f"/somewhere/file: {meaning}", remedy, 1)


def test_a_full_disk_is_known_through_a_rust_library_and_through_what_caused_it() -> None:
    said = in_words(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert said.message == "a file: no space is left on the disk"
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "x.bin")
        except OSError as error:
            raise ValueError("cannot save") from error
    except ValueError as error:
        assert in_words(error).message == "x.bin: no space is left on the disk"


def test_a_directory_that_cannot_be_copied_is_named(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "x.bin").touch()

    def full(source: str, copy: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(shutil.Error) as caught:
        shutil.copytree(tmp_path / "from", tmp_path / "to", copy_function=full)
    assert in_words(caught.value).message == f"{tmp_path / 'to' / 'x.bin'}: no space is left on the disk"


def test_another_failure_of_the_system_keeps_its_sentence() -> None:
    said = in_words(FileNotFoundError(errno.ENOENT, "No such file or directory", "gone"))
    assert said.message == "gone: No such file or directory"


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError("Unable to allocate 3 TiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."),
    ],
)
def test_lack_of_memory_is_said_with_what_needs_less(failure: Exception) -> None:
    said = in_words(failure)
    assert said.message.startswith("out of memory: ") and "lower train.micro_batch_tokens" in said.hint


def test_a_sentence_is_one_line_and_short() -> None:
    assert sentence(ValueError("")) == "ValueError"
    assert sentence(ValueError("\n  first:\n second\n third")) == "ValueError: first: second"
    assert len(sentence(KeyError("x" * 1000))) < 330


def test_a_block_s_failure_is_about_what_it_reads() -> None:
    with (
        pytest.raises(DataError, match=r"^rows.py: KeyError: 'text'$") as caught,
        explained("rows.py", DataError, "fix it"),
    ):
        raise KeyError("text")
    assert caught.value.hint == "fix it" and isinstance(caught.value.__cause__, KeyError)


def test_a_deliberate_error_and_a_full_disk_pass_a_block(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^own words$"), explained("x", DataError):
        raise ModelError("own words")
    with pytest.raises(IsADirectoryError), explained("x", DataError):
        tmp_path.read_text()
