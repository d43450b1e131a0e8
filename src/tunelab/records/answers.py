"""A file of answers for other programs: plain JSON Lines, one object per answer, next to a file with its settings.

While answers are generated they are appended as they finish, so that a killed command resumes; finish() puts them into
the order of the prompts. `datasets.load_dataset("json", data_files=...)` and `pandas.read_json(..., lines=True)` read
the file, finished or not. What produced the answers is in FILE.settings.json. Older files have the settings as their
first line, or in a file without the .jsonl in its name: they are resumed, and get this form when they are finished.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tunelab.errors import RunError
from tunelab.files import write_json_atomically, write_text_atomically
from tunelab.records.old_format import stamped, unstamped
from tunelab.records.responses import Record, ResponseFile, checked_records, json_line, json_objects


def settings_file(path: Path) -> Path:
    """Where the settings of an answers file are: answers.jsonl.settings.json next to answers.jsonl."""
    return path.with_name(f"{path.name}.settings.json")


def read_answers(path: Path) -> tuple[Record, list[Record]]:
    """Settings and answers of a file, in file order; a torn last line is left out.

    Raises:
        RunError: the file does not exist, has no settings, or has an invalid line.
    """
    settings, records, _ = _read(path)
    if settings is None:
        raise RunError(f"{path}: no answers", "nothing has been generated there yet")
    return settings, records


class AnswersFile(ResponseFile):
    """A file of answers, open for resuming, like ResponseFile."""

    def _stored(self) -> tuple[Record | None, list[Record], int]:
        return _read(self.path)

    def _keep_header(self) -> None:
        write_json_atomically(settings_file(self.path), stamped(self.header))

    def finish(self, records: Sequence[Record]) -> None:
        """Rewrite the file with these records, in this order; others in the file follow, unchanged."""
        self.close()
        named = {record["item"] for record in records}
        others = [record for item, record in self._records.items() if item not in named]
        self._keep_header()
        lines = (json_line(record).decode() for record in (*records, *others))
        write_text_atomically(self.path, "".join(lines))


def _read(path: Path) -> tuple[Record | None, list[Record], int]:
    """Settings (None if there are no answers yet), records, and the length in bytes of the complete lines."""
    lines, length = json_objects(path)
    if not lines:
        return None, [], 0
    if "item" not in lines[0]:
        settings, _ = unstamped(lines[0], path)
        return settings, checked_records(lines[1:], path, first_line=2), length
    settings = _settings(path)
    return settings, checked_records(lines, path, first_line=1), length


def _settings(path: Path) -> Record:
    stored = _stored_settings(path)
    try:
        content = json.loads(stored.read_text(encoding="utf-8"))
    except OSError:
        raise RunError(
            f"{path}: its settings file {stored.name} is missing, so nothing says which model gave these answers",
            "restore it, or choose another output file",
        ) from None
    except ValueError as error:
        raise RunError(f"{stored}: not JSON: {error}", "restore it, or choose another output file") from error
    return unstamped(content, stored)[0]


def _stored_settings(path: Path) -> Path:
    """The file with the settings; of before, answers.settings.json was that of answers.jsonl, else of answers.json."""
    of_before = path.with_suffix(".settings.json")
    is_its_own = path.suffix == ".jsonl" or not path.with_suffix(".jsonl").exists()
    return of_before if is_its_own and of_before.exists() and not settings_file(path).exists() else settings_file(path)
