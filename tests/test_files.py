"""Files survive a kill at any moment: the old content or the new one stands there, never a half of each."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunelab import files
from tunelab.errors import RunError, UsageError

# Dies as by SIGKILL (no handler, no `finally`) before or after the n-th call of a function of `os`.
DIE = """
import os, sys
from pathlib import Path
from tunelab import files

name, number, when, target = sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
calls, original = 0, getattr(os, name)

def dying(*arguments):
    global calls
    calls += 1
    if calls == number and when == "before":
        os._exit(9)
    result = original(*arguments)
    if calls == number:
        os._exit(9)
    return result

setattr(os, name, dying)
"""
WRITE_DIRECTORY = """
with files.directory_written_atomically(target) as folder:
    (folder / "inner").mkdir()
    (folder / "inner" / "weights").write_text("new")
"""
WRITE_TEXT = 'files.write_text_atomically(target, "new")'


def killed(code: str, *arguments: object) -> int:
    """Exit code of a process that runs `code` and dies on the way: 9, or 0 if it was done before."""
    command = [sys.executable, "-c", DIE + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=200).returncode


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize(
    ("name", "number"), [("rename", 1), ("rename", 2), ("fsync", 1), ("fsync", 3), ("fsync", 4), ("mkdir", 2)]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_leaves_the_old_directory_or_the_new_one(tmp_path: Path, name: str, number: int, when: str) -> None:
    target = tmp_path / "checkpoint"
    (target / "inner").mkdir(parents=True)
    (target / "inner" / "weights").write_text("old")
    assert killed(WRITE_DIRECTORY, name, number, when, target) == 9
    files.recover_directory(target)
    after_rename = (name, number, when) in {("rename", 2, "after"), ("fsync", 4, "before"), ("fsync", 4, "after")}
    assert (target / "inner" / "weights").read_text() == ("new" if after_rename else "old")
    # The next writer is not disturbed by what the dead one left.
    with files.directory_written_atomically(target) as folder:
        (folder / "weights").write_text("newer")
    assert [path.name for path in target.iterdir()] == ["weights"]
    assert ".checkpoint.old" not in leftovers(tmp_path)


def test_between_the_two_renames_the_old_directory_has_another_name(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    target.mkdir()
    (target / "weights").write_text("old")
    assert killed(WRITE_DIRECTORY, "rename", 1, "after", target) == 9
    assert not target.exists()
    files.recover_directory(target)
    assert (target / "weights").read_text() == "old"


def test_recovering_changes_nothing_that_is_whole(tmp_path: Path) -> None:
    target, old = tmp_path / "checkpoint", tmp_path / ".checkpoint.old"
    files.recover_directory(target)
    assert not target.exists()
    for folder in (target, old):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    files.recover_directory(target)
    assert (target / "name").read_text() == "checkpoint"


def test_what_killed_writers_left_goes_with_the_next_one(tmp_path: Path) -> None:
    target, text = tmp_path / "checkpoint", tmp_path / "manifest.json"
    target.mkdir()
    (target / "weights").write_text("old")
    for _ in range(3):
        assert killed(WRITE_DIRECTORY, "rename", 1, "before", target) == 9
        assert killed(WRITE_TEXT, "replace", 1, "before", text) == 9
    assert len(leftovers(tmp_path)) == 2, "one of each: a writer removes those before it"
    files.write_text_atomically(text, "new")
    files.check_is_new(tmp_path / "other")
    with pytest.raises(UsageError, match="checkpoint: exists already"):
        files.check_is_new(target)
    assert leftovers(tmp_path) == []


def test_what_a_living_writer_fills_stays(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    with files.directory_written_atomically(target) as folder:
        renamed = folder.rename(tmp_path / ".checkpoint.99999999.tmp")  # as another machine's process would name it
        files.recover_directory(target)
        assert renamed.exists()
        renamed.rename(folder)
    files.recover_directory(tmp_path / "checkpoint")
    assert target.exists() and leftovers(tmp_path) == []


@pytest.mark.parametrize("was_there", [False, True])
def test_of_two_writers_at_the_same_moment_the_later_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_there: bool
) -> None:
    """Two jobs that prepare the same rows, for the same place in the cache."""
    target, rename, others = tmp_path / "entry", os.rename, ["other"]
    if was_there:
        target.mkdir()

    def another_first(before: Path, after: Path) -> None:
        if after == target and others:
            target.mkdir()
            (target / "name").write_text(others.pop())
        rename(before, after)

    monkeypatch.setattr(os, "rename", another_first)
    with files.directory_written_atomically(target) as folder:
        (folder / "name").write_text("own")
    assert (target / "name").read_text() == "own" and leftovers(tmp_path) == []


def test_writers_of_one_id_do_not_meet(tmp_path: Path) -> None:
    """Processes of two containers on one disk; and what a killed one of them left is removed by the next."""
    target = tmp_path / "entry"
    with files.directory_written_atomically(target) as one, files.directory_written_atomically(target) as other:
        assert one != other
        for folder in (one, other):
            (folder / "name").write_text(folder.name)
    assert (target / "name").read_text() == one.name, "the outer block ends last"
    abandoned = tmp_path / f".entry.0a1b2c3d.{os.getpid()}.tmp"
    abandoned.mkdir()
    files.recover_directory(target)
    assert leftovers(tmp_path) == []


def test_a_replacement_that_was_killed_is_undone_before_the_next(tmp_path: Path) -> None:
    target = tmp_path / "merged"
    target.mkdir()
    assert killed(WRITE_DIRECTORY, "rename", 1, "after", target) == 9
    with pytest.raises(UsageError, match="merged: exists already"):
        files.check_is_new(target)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_text_written_once_stays(tmp_path: Path) -> None:
    for text in ("first", "second"):
        files.write_text_once(tmp_path / "resolved.json", text)
    assert (tmp_path / "resolved.json").read_text() == "first" and leftovers(tmp_path) == []


def test_a_block_that_raises_leaves_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    target.mkdir()
    (target / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.directory_written_atomically(target) as folder:
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt
    assert (target / "weights").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_what_is_in_place_is_not_reported_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk was full at the last sync: a command failed, and its second try found its result already there."""

    def fails(folder: Path) -> None:
        if folder == tmp_path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tunelab.files.fsync_directory", fails)
    with files.directory_written_atomically(tmp_path / "made") as folder:
        (folder / "a").write_text("1")
    files.write_text_atomically(tmp_path / "text", "2")
    assert (tmp_path / "made" / "a").read_text() == "1" and (tmp_path / "text").read_text() == "2"


def test_a_replacement_that_fails_is_undone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a").write_text("1")
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if ".tmp" in source.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="No space left"), files.directory_written_atomically(tmp_path / "made"):
        pass
    assert (tmp_path / "made" / "a").read_text() == "1" and [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "checkpoint"
    for text in ("first", "second"):
        with files.directory_written_atomically(target) as folder:
            assert folder.parent == target.parent
            (folder / text).write_text(text)
    assert [path.name for path in target.iterdir()] == ["second"]
    assert leftovers(target.parent) == []


@pytest.mark.parametrize(
    ("name", "number", "when", "expected"),
    [
        ("fsync", 1, "before", "old"),
        ("replace", 1, "before", "old"),
        ("replace", 1, "after", "new"),
        ("fsync", 2, "before", "new"),
    ],
)
def test_a_kill_leaves_the_old_text_or_the_new_one(
    tmp_path: Path, name: str, number: int, when: str, expected: str
) -> None:
    target = tmp_path / "manifest.json"
    target.write_text("old")
    assert killed(WRITE_TEXT, name, number, when, target) == 9
    assert target.read_text() == expected


def test_text_is_utf8_with_plain_newlines(tmp_path: Path) -> None:
    files.write_text_atomically(tmp_path / "text", "ä\nb\n")
    assert (tmp_path / "text").read_bytes() == "ä\nb\n".encode()
    assert leftovers(tmp_path) == []


def test_json_keeps_its_order_and_refuses_what_is_no_number(tmp_path: Path) -> None:
    files.write_json_atomically(tmp_path / "value", {"b": "ä", "a": [1]})
    assert (tmp_path / "value").read_text(encoding="utf-8") == '{\n  "b": "ä",\n  "a": [\n    1\n  ]\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json_atomically(tmp_path / "value", {"loss": float("nan")})
    assert "ä" in (tmp_path / "value").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("data", "records", "length"),
    [
        (b"", 0, 0),
        (b'{"a": 1}\n{"a": 2}\n', 2, 18),
        (b'{"a": 1}\n{"a": 2}', 1, 9),  # no newline: torn, even if it happens to be JSON
        (b'{"a": 1}\n{"a": \n', 1, 9),
        (b'{"a": 1}\n{"a', 1, 9),
        (b'{"a": 1}\n\xff\xfe\n', 1, 9),
    ],
)
def test_a_torn_last_line_is_left_out(tmp_path: Path, data: bytes, records: int, length: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(data)
    read, good = files.read_json_lines(path)
    assert (len(read), good) == (records, length)


def test_a_file_that_does_not_exist_has_no_lines(tmp_path: Path) -> None:
    assert files.read_json_lines(tmp_path / "none") == ([], 0)


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": \n{"a": 2}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl: line 1 is not JSON"):
        files.read_json_lines(path)


def test_appending_goes_on_after_the_torn_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2, "b')
    files.truncate_file(path, files.read_json_lines(path)[1])
    with open(path, "ab") as file:
        file.write(b'{"a": 3}\n')
    assert files.read_json_lines(path)[0] == [{"a": 1}, {"a": 3}]


def test_a_write_that_fails_names_the_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write_text_atomically(tmp_path / "text", "new")
    assert caught.value.filename == str(tmp_path / "text")
    writing = files.directory_written_atomically(tmp_path / "folder")
    with pytest.raises(OSError, match="No space left on device") as caught, writing as folder:
        (folder / "a").write_text("a")
    assert caught.value.filename == str(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["text"] and (tmp_path / "text").read_text() == "old"


def test_a_library_s_failure_is_the_system_s_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught, files.named_failures(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    with pytest.raises(RunError, match="own words"), files.named_failures(tmp_path):
        raise RunError("own words (os error 28)")
    with pytest.raises(ValueError, match="else"), files.named_failures(tmp_path):
        raise ValueError("else")


@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b"\xff", bytes(9), b"[" * 9000])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RunError, match=r"manifest\.json: (not JSON|not UTF-8|expected a JSON object)"):
        files.read_json(tmp_path / "manifest.json")


@pytest.mark.parametrize("text", ['{"a": 1, "b": {"c": 2, "c": 3}}', b'[{"c": 2, "d": 1, "c": 3}]'])
def test_a_key_twice_is_an_error_in_json_that_people_write(text: str | bytes) -> None:
    with pytest.raises(files.DuplicateKeyError, match="duplicate key 'c' in one object, with '2' and '3'"):
        files.parse_json(text)
    assert files.parse_json('{"a": {"c": 1}, "b": {"c": 1}}') == {"a": {"c": 1}, "b": {"c": 1}}
