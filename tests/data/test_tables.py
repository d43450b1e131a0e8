"""Files of which no row can be read: every error names the file and says what to do."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tunelab.data.reader import load_examples
from tunelab.errors import DataError

GOOD = b'{"prompt": "p", "completion": "c"}\n'


class TestFilesThatCannotBeRead:
    @pytest.mark.parametrize(
        ("name", "content", "match", "hint"),
        [
            ("rows.jsonl", b"", "the file has no rows", "right file"),
            ("rows.json", b" \n", "the file has no rows", "right file"),
            ("rows.json", b"[]", "the file has no rows", "right file"),
            ("rows.csv", b"", "the file has no rows", "right file"),
            ("rows.csv", b"prompt,completion\n", "the file has no rows", "right file"),
            ("rows.txt", b"hello", "unknown file type '.txt'", ".json, .csv, .tsv, .parquet"),
            ("rows.parquet.gz", b"hello", "unknown file type '.gz'", "all but .parquet also with .gz"),
            ("rows.json", GOOD * 2, "line 2, column 1: invalid JSON: Extra data", "rename the file"),
            ("rows.json", b"[{]", "line 1, column 3: invalid JSON: Expecting property name", "one object per line"),
            ("rows.json", b"[" * 200_000, "cannot be read as JSON: ", "plain rows"),
            ("rows.json", b'{"rows": []}', "contains an object, expected a list of rows", '{"data": [rows]}'),
            ("rows.json", b"5", "contains a number, expected a list of rows", '{"data": [rows]}'),
            ("rows.csv", b"a,b,a\n1,2,3\n", "two columns are named 'a'", "each once"),
            ("rows.csv", b'"a"b,c\n1,2\n', "the header has broken quoting", "names the columns"),
            ("rows.parquet", b"hello, I am no parquet", "not a parquet file: ", "is it complete"),
            ("rows.jsonl.gz", b"hello", "cannot be read: Not a gzipped file", "broken .gz again"),
            ("rows.jsonl.gz", gzip.compress(GOOD * 999)[:-20], "cannot be read: ", "broken .gz again"),
        ],
    )
    def test_error_names_the_file_and_says_what_to_do(
        self, tmp_path: Path, name: str, content: bytes, match: str, hint: str
    ) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=match) as caught:
            load_examples("prompt-completion", path=path, on_bad_row="skip")
        assert str(path) in caught.value.message and hint in caught.value.hint

    def test_a_parquet_value_that_python_cannot_hold_is_a_bad_row(self, tmp_path: Path) -> None:
        far = pyarrow.array([0, 2**62], pyarrow.timestamp("us"))
        table = pyarrow.table({"prompt": ["p", "q"], "completion": ["c", "d"], "when": far})
        pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
        loaded = load_examples("prompt-completion", path=tmp_path / "rows.parquet", on_bad_row="skip")
        assert len(loaded.examples) == 1
        (reason,) = loaded.bad_rows
        assert reason.startswith("rows.parquet row 2: column 'when' has a value that Python cannot hold: ")

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"rows\.json: no such file"):
            load_examples("auto", path=tmp_path / "rows.json")

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is a directory, expected a data file") as caught:
            load_examples("auto", path=tmp_path)
        assert "known extensions: .jsonl" in caught.value.hint
        (tmp_path / "a.csv").write_bytes(b"")
        with pytest.raises(DataError) as caught:
            load_examples("auto", path=tmp_path)
        assert caught.value.hint == "give one of its files: a.csv"
