"""Numbered rows of a local file or a hub dataset: the one code path that every source reads through.

A row that cannot be read is given as a BadRow in its place, so that the rest of the file can still be used. What
makes the whole file unusable is a DataError.

Row numbers count from 1: the line number in jsonl, the position in the list in json, the record after the header in csv
and tsv, the row in parquet and on the hub.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from tunelab.data.sources._source import HubDataset, NumberedRow, Row, kind_of
from tunelab.errors import BadRow, DataError
from tunelab.failures import sentence
from tunelab.files import parse_json
from tunelab.hub import hub_access, why_unreachable
from tunelab.units import format_bytes

if TYPE_CHECKING:
    from datasets import Dataset

# \ud800 to \udfff in JSON is half of a surrogate pair: alone it cannot be encoded, and tokenizers fail on it.
HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
CSV_FIELD_LIMIT = 2**31 - 1
#: Of a line of .jsonl; and of a file that is read at once, unpacked (json, csv, tsv).
LONGEST_LINE, LARGEST_FILE = 32 << 20, 4 << 30
#: Characters; far more than any context. A tokenizer ends the process on texts of some tens of millions.
LONGEST_ROW = 10_000_000


def file_rows(path: Path) -> Iterator[NumberedRow]:
    """Rows of a .json, .jsonl, .ndjson, .csv, .tsv (each also .gz) or .parquet file.

    Raises:
        DataError: as check_data_file(); or a file that cannot be read completely, or (json) that is not a list of rows;
            (csv) without a header or with two columns of one name.
    """
    reader = check_data_file(path)
    try:
        yield from reader(path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read: {error}", "check its permissions; download a broken .gz again"
        ) from error


def check_data_file(path: Path) -> Callable[[Path], Iterator[NumberedRow]]:
    """The reader for a data file, which is not opened.

    Raises:
        DataError: no such file, a directory, or an unknown extension.
    """
    if path.is_dir():
        found = sorted(file.name for file in path.iterdir() if file.is_file() and _reader(file) is not None)
        raise DataError(
            f"{path}: is a directory, expected a data file",
            f"give one of its files: {', '.join(found[:5])}" if found else f"known extensions: {_endings()}",
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file", "check the path; it is relative to the working directory")
    reader = _reader(path)
    if reader is None:
        raise DataError(f"{path}: unknown file type {path.suffix!r}", f"known extensions: {_endings()}")
    return reader


def hub_table(hub: HubDataset, revision: str | None, split: str) -> Dataset:
    """A split of a hub dataset, downloaded or from the cache.

    Raises:
        DataError: offline and not in the cache, missing, gated, or no such revision or split; says what to do.
    """
    import datasets

    where = f"{hub.repository}@{revision or 'main'} split {split}"
    hint = "give a local copy with `path`"
    if Path(hub.repository).is_file():
        raise DataError(
            f"{hub.repository}: is a local file of no kind that is read by its name",
            "rename it to end with .json, .jsonl, .csv, .tsv or .parquet, as its content is",
        )
    if Path(hub.repository).exists():
        # load_dataset would read the folder, and the run would claim to have read the hub.
        raise DataError(f"{where}: a local folder has the same name", "run in another directory, or rename the folder")
    try:
        with _no_progress_bars(), hub_access(hub.repository):
            table = datasets.load_dataset(hub.repository, hub.subset, revision=revision, split=split)
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):
            message = f"{where}: is gated: you must accept its terms first"
            hint = f"accept them on its hub page, log in with `hf auth login`, or {hint}"
        else:
            message = f"{where}: not found: {_first_line(error)}"
            hint = f"check name and revision; if it is private, log in with `hf auth login`; or {hint}"
        raise DataError(message, hint) from error
    except ConnectionError as error:
        raise DataError(
            f"{where}: the hub cannot be reached, and the data is not in the cache: "
            f"{why_unreachable() or _first_line(error)}",
            f"go online (and unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE), or {hint}",
        ) from error
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{where}: cannot be loaded: {_first_line(error)}", f"check split and revision, or {hint}"
        ) from error
    if not isinstance(table, datasets.Dataset):
        raise DataError(f"{where}: gave {type(table).__name__}, expected the rows of one split", "name one split")
    return table


def hub_commit(table: Dataset) -> str | None:
    """The commit of the hub that a split was read at; None if its place in the cache does not say."""
    folders = [Path(file["filename"]).parent.name for file in table.cache_files]
    return next((name for name in folders if re.fullmatch(r"[0-9a-f]{40}", name)), None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """The library is silent: `datasets` shows no progress bars of its own meanwhile."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def within_bounds(row: Row | BadRow) -> Row | BadRow:
    """The row; a BadRow if it has more characters than any model reads."""
    count = 0 if isinstance(row, BadRow) else _characters(row)
    return BadRow(f"{count:,} characters, at most {LONGEST_ROW:,} are read as one row") if count > LONGEST_ROW else row


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(_characters(part) for part in parts if isinstance(part, str | dict | list | tuple))


def _endings() -> str:
    return ", ".join(READERS) + " (all but .parquet also with .gz)"


def _reader(path: Path) -> Callable[[Path], Iterator[NumberedRow]] | None:
    name = path.name.lower()
    for ending, reader in READERS.items():
        if name.endswith(ending) or (ending != ".parquet" and name.endswith(f"{ending}.gz")):
            return reader
    return None


def _open(path: Path) -> IO[bytes]:
    # GzipFile is not an IO[bytes] to the type checker, but behaves like one.
    return cast("IO[bytes]", gzip.open(path)) if path.name.lower().endswith(".gz") else open(path, "rb")


def _content(path: Path) -> bytes:
    """The unpacked bytes of a file that is read at once, without a byte-order mark."""
    with _open(path) as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise DataError(
            f"{path}: more than {format_bytes(LARGEST_FILE)} unpacked, which is the most that is read at once",
            "write one object per line (.jsonl), or .parquet; or is it the right file?",
        )
    return data.removeprefix(b"\xef\xbb\xbf")


def _json_rows(path: Path) -> Iterator[NumberedRow]:
    data = _content(path)
    if not data.strip():
        return
    # Invalid UTF-8 is carried through the parser, so that only the rows that contain it are bad.
    try:
        content, suspicious = data.decode(), HALF_CHARACTER.search(data) is not None
    except UnicodeDecodeError:
        content, suspicious = data.decode(errors="surrogateescape"), True
    try:
        rows = parse_json(content)
    except json.JSONDecodeError as error:
        lines = error.msg == "Extra data"
        raise DataError(
            f"{path}: line {error.lineno}, column {error.colno}: invalid JSON: {error.msg}",
            "one object per line is .jsonl: rename the file"
            if lines
            else "fix it, or write one object per line (.jsonl), where bad lines can be skipped",
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}", "is it a list of plain rows?") from None
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise DataError(f"{path}: contains {kind_of(rows)}, expected a list of rows", 'or an object {"data": [rows]}')
    for number, row in enumerate(rows, 1):
        yield number, _as_row(row, suspicious)


def _json_line_rows(path: Path) -> Iterator[NumberedRow]:
    with _open(path) as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                yield number, BadRow(f"the line is longer than {format_bytes(LONGEST_LINE)}")
                while line and not line.endswith(b"\n"):
                    line = file.readline(LONGEST_LINE)
                continue
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                # Without the line end, so that a column is never counted on the next line.
                yield number, _json_line_row(line.rstrip())


def _json_line_row(line: bytes) -> dict[str, Any] | BadRow:
    try:
        row = parse_json(line.decode())
    except UnicodeDecodeError as error:
        return BadRow(f"invalid UTF-8: byte 0x{line[error.start]:02x} at position {error.start} of the line")
    except json.JSONDecodeError as error:
        return BadRow(f"broken JSON at column {error.colno}: {error.msg}")
    except (ValueError, RecursionError) as error:
        # A number of more than 4,300 digits, or brackets nested beyond the parser's depth.
        return BadRow(f"broken JSON: {error}")
    return _as_row(row, HALF_CHARACTER.search(line) is not None)


def _as_row(row: Any, suspicious: bool) -> dict[str, Any] | BadRow:
    """The row itself if it is an object and, where that is in doubt, valid UTF-8."""
    if not isinstance(row, dict):
        return BadRow(f"the row is {kind_of(row)}, expected an object")
    if suspicious:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return BadRow("invalid UTF-8: a text has invalid bytes, or half of a \\ud800 pair")
    return row


def _csv_rows(path: Path) -> Iterator[NumberedRow]:
    return _delimited_rows(path, ",")


def _tsv_rows(path: Path) -> Iterator[NumberedRow]:
    return _delimited_rows(path, "\t")


def _delimited_rows(path: Path, delimiter: str) -> Iterator[NumberedRow]:
    """Cells as text without conversion ("None", "NA" and "1" are these texts); double quotes as in RFC 4180."""
    data = _content(path).decode(errors="surrogateescape")
    # The limit is the process's: it is restored, even if the caller stops reading early.
    limit = csv.field_size_limit(CSV_FIELD_LIMIT)
    try:
        records = csv.reader(io.StringIO(data, newline=""), delimiter=delimiter, strict=True)
        header = _csv_header(path, records)
        number = 0
        while header:
            try:
                record = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                number += 1
                yield number, BadRow(f"broken quoting at line {records.line_num}: {error}")
                continue
            if record:
                number += 1
                yield number, _csv_row(header, record)
    finally:
        csv.field_size_limit(limit)


def _csv_header(path: Path, records: Iterator[list[str]]) -> list[str]:
    try:
        header = next((record for record in records if record), [])
    except csv.Error as error:
        raise DataError(f"{path}: the header has broken quoting: {error}", "the first line names the columns") from None
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: two columns are named {name!r}", "the first line names the columns, each once")
    return header


def _csv_row(header: list[str], record: list[str]) -> dict[str, Any] | BadRow:
    if len(record) != len(header):
        return BadRow(f"{len(record)} cells, the header has {len(header)}: {', '.join(header)}")
    return _as_row(dict(zip(header, record, strict=True)), not all(map(str.isascii, record)))


def _parquet_rows(path: Path) -> Iterator[NumberedRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            first = 1
            for batch in file.iter_batches():
                yield from enumerate(_batch_rows(batch), first)
                first += batch.num_rows
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a parquet file: {error}", "is it complete, with the right extension?") from error


def _batch_rows(batch: Any) -> list[dict[str, Any] | BadRow]:
    try:
        rows: list[dict[str, Any] | BadRow] = batch.to_pylist()
        return rows
    except Exception:  # pyarrow and Python disagree on what a text or a date can be
        # One bad value fails the batch: read it row by row to find which.
        return [_single_row(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _single_row(batch: Any) -> dict[str, Any] | BadRow:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
        return row
    except UnicodeDecodeError as error:
        return BadRow(f"invalid UTF-8: byte 0x{error.object[error.start]:02x} in a text")
    except Exception as error:
        return BadRow(f"column {_unreadable(batch)!r} has a value that Python cannot hold: {sentence(error)}")


def _unreadable(batch: Any) -> str:
    """The first column whose value cannot be converted."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.to_pylist()
        except Exception:
            return str(name)
    return "?"


READERS: dict[str, Callable[[Path], Iterator[NumberedRow]]] = {
    ".jsonl": _json_line_rows,
    ".ndjson": _json_line_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".parquet": _parquet_rows,
}
