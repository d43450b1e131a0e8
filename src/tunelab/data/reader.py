"""From a source's name, a local file or a hub dataset to a list of Examples; every unused row is accounted for."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from pydantic import ValidationError

from tunelab import plugins
from tunelab.data.hub_dataset import hub_dataset
from tunelab.data.messages import Conversation, Example, Message, PretokenizedRow, check_conversation
from tunelab.data.rendering import Expired, processor_seconds
from tunelab.data.sources._source import UNKNOWN_LICENCE, HubDataset, NumberedRow, Row, SourceOptions
from tunelab.data.tables import check_data_file, file_rows, hub_commit, hub_table, within_bounds
from tunelab.data.unread_columns import ReadRow, examples_of, filled_columns
from tunelab.errors import BadRow, DataError, UsageError
from tunelab.failures import explained, sentence
from tunelab.files import file_sha256
from tunelab.progress import Progress, silent

FOLDER = "data/sources"
MOST_SHOWN = 20
#: Of processor time, for what a source makes of one row.
SECONDS_PER_ROW = 60.0
ROWS_PER_REPORT = 1000
PARTS_OF_A_SOURCE = ("HUB", "LICENCE", "COLUMNS", "EXAMPLE", "Options", "examples")


@dataclass(frozen=True)
class LoadedSource:
    """The examples of one source and what is known about them.

    Args:
        name: the source that read them; with `auto`, the one that was detected.
        examples: in the order of the file.
        bad_rows: "FILE row N: reason", in the order of the file.
        left_out: what the source skips on purpose -> how many (oasst1: deleted messages, other languages).
        rows_read: rows of the file, bad ones included.
        unread: columns that the source does not read -> rows with a value in them.
        origin: the file as given, or "owner/name@commit split".
        identity: "sha256:" and the hash of the file's bytes, or "hub:" and the dataset with the revision asked for.
        fingerprint: SHA-256 (hex) of the source's name, its options, the file's bytes or the hub's repository, revision
            and split, and every example made of them. Equal fingerprints mean equal examples.
        licence: of the hub data; of a local file only what is known.
    """

    name: str
    examples: list[Example]
    bad_rows: list[str]
    left_out: dict[str, int]
    rows_read: int
    origin: str
    fingerprint: str
    licence: str
    unread: dict[str, int] = field(default_factory=dict)
    identity: str = ""


@dataclass(frozen=True)
class _Place:
    """Where rows come from: the rows themselves, how they are named, and what identifies them."""

    rows: Iterator[NumberedRow]
    origin: str
    label: str
    identity: str
    total: int | None
    key: str


@dataclass
class _Converted:
    examples: list[Example] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    filled: Counter[str] = field(default_factory=Counter)
    read: set[str] = field(default_factory=set)


def load_examples(
    name: str,
    *,
    path: Path | None = None,
    revision: str | None = None,
    split: str | None = None,
    options: Mapping[str, Any] | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    repository: str | None = None,
    subset: str | None = None,
    progress: Progress = silent,
) -> LoadedSource:
    """Read every row of a source and convert it to Examples.

    Args:
        name: a source's name, the path of a .py file, or "auto": the format is detected from the first row's columns.
        path: a local file (.json, .jsonl, .ndjson, .csv, .tsv, also .gz; .parquet); None = the source's hub dataset.
        revision: commit, tag or branch on the hub; None = the source's pinned commit, or else the newest.
        split: split on the hub; None = the source's own choice.
        options: the source's own settings.
        on_bad_row: "error" reads all, then raises with the first 20; "skip" drops bad rows and lists them.
        repository: any hub dataset ("owner/name"), read by this source instead of its own.
        subset: configuration of `repository`.

    Raises:
        UsageError: no such source, a wrong option, or arguments that conflict.
        DataError: a file or dataset cannot be read, its format is unknown, it has bad rows that may not be
            skipped, or no row of it can be used.
    """
    check_source(name, path=path, options=options)
    module = None if name == "auto" else load_source(name)
    hub = None
    if path is not None:
        _refuse_with_path(path, revision=revision, split=split, repository=repository, subset=subset)
        place = _file_place(Path(path))
    else:
        hub = hub_dataset(name, module, revision, split, repository, subset)
        place = _hub_place(hub)
    rows = place.rows
    if module is None:
        name, module, rows = _detect(place)
    settings = _checked_options(name, module, options or {})
    numbers = _Counted(rows, place, progress)
    with explained(f"{place.origin}: the source {name} fails", DataError, "--debug shows where"):
        converted = _convert(module, numbers, settings, place.label)
    progress(f"reading {place.label}", numbers.seen, numbers.seen)
    _judge(place.origin, converted, numbers.seen, on_bad_row)
    return LoadedSource(
        name=name,
        examples=converted.examples,
        bad_rows=[line for _, line in converted.bad],
        left_out=dict(converted.left_out),
        rows_read=numbers.seen,
        origin=place.origin,
        fingerprint=_fingerprint(name, settings, place.identity, converted.examples),
        licence=_licence(module, hub),
        unread={column: rows for column, rows in converted.filled.items() if column not in converted.read},
        identity=place.identity,
    )


def check_source(name: str, *, path: Path | None = None, options: Mapping[str, Any] | None = None) -> None:
    """Check what can be checked of a source before anything is read or downloaded; arguments as in load_examples().

    Raises:
        UsageError: no such source, or a wrong option.
        DataError: no such file, a directory, or an unknown extension.
    """
    if name != "auto":
        _checked_options(name, load_source(name), options or {})
    if path is not None:
        check_data_file(Path(path))


def check_hub_rows(
    name: str,
    *,
    revision: str | None = None,
    split: str | None = None,
    repository: str | None = None,
    subset: str | None = None,
) -> None:
    """Check that a source's rows on the hub can be opened; arguments as in load_examples(). Downloads them if needed.

    Raises:
        UsageError: no such source, or it needs a path.
        DataError: offline and not in the cache, missing, gated, or no such revision or split.
    """
    hub = hub_dataset(name, None if name == "auto" else load_source(name), revision, split, repository, subset)
    hub_table(hub, hub.revision, hub.split)


def load_source(name: str) -> ModuleType:
    """The module of a source.

    Raises:
        UsageError: there is none with that name, or a user's own module lacks a part of the interface.
    """
    module = plugins.load(FOLDER, name)
    missing = [part for part in PARTS_OF_A_SOURCE if not hasattr(module, part)]
    if missing:
        raise UsageError(
            f"source {name!r} lacks {', '.join(missing)}", "data/sources/_source.py documents the parts of a source"
        )
    if not (isinstance(module.Options, type) and issubclass(module.Options, SourceOptions)):
        raise UsageError(f"source {name!r}: Options is no SourceOptions", "data/sources/_source.py documents it")
    return module


class _Counted:
    """Pass rows on and count them, with progress every ROWS_PER_REPORT of them."""

    def __init__(self, rows: Iterable[NumberedRow], place: _Place, progress: Progress) -> None:
        self.seen = 0
        self._rows, self._place, self._progress = rows, place, progress

    def __iter__(self) -> Iterator[NumberedRow]:
        for numbered in self._rows:
            self.seen += 1
            if self.seen % ROWS_PER_REPORT == 0:
                self._progress(f"reading {self._place.label}", self.seen, self._place.total)
            yield numbered


def _refuse_with_path(path: Path, **asked: str | None) -> None:
    for key, value in asked.items():
        if value is not None:
            raise UsageError(f"{key} {value!r} is for the hub, and path {path} is a local file", "give only one")


def _file_place(path: Path) -> _Place:
    rows = file_rows(path)
    # Read the first row at once, so that a file that cannot be opened fails before it is hashed.
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: the file has no rows", "is it the right file?")
    return _Place(_chained(first, rows), str(path), path.name, f"sha256:{file_sha256(path)}", None, f"path: {path}")


def _hub_place(hub: HubDataset) -> _Place:
    table = hub_table(hub, hub.revision, hub.split)
    revision = hub.revision or "main"
    repository = f"{hub.repository}:{hub.subset}" if hub.subset else hub.repository
    asked = f"{repository}@{revision} {hub.split}"
    origin = f"{repository}@{hub_commit(table) or revision} {hub.split}"
    if not table.num_rows:
        raise DataError(f"{origin}: the split has no rows", "use another split")
    is_commit = len(revision) == 40
    label = f"{repository}@{revision[:8] if is_commit else revision} {hub.split}"
    rows = enumerate(iter(table), 1)
    return _Place(rows, origin, label, f"hub:{asked}", table.num_rows, f"repository: {hub.repository}")


def _chained(first: NumberedRow, rest: Iterator[NumberedRow]) -> Iterator[NumberedRow]:
    yield first
    yield from rest


def _detect(place: _Place) -> tuple[str, ModuleType, Iterator[NumberedRow]]:
    """The source whose columns the first readable row has, and all rows, including that one and those before it.

    If the columns of one source are part of another's, the other fits better. Sources that share their conversion
    (the Alpaca family) are one format, represented by the first name.
    """
    seen: list[NumberedRow] = []
    row: Row | None = None
    for numbered in place.rows:
        seen.append(numbered)
        if not isinstance(numbered[1], BadRow):
            row = numbered[1]
            break
    if row is None:
        shown = "\n".join(f"  {place.label} row {number}: {reason}" for number, reason in seen[:MOST_SHOWN])
        raise DataError(
            f"{place.origin}: no row can be read, so its format is unknown\n{shown}", "is it the right file?"
        )
    fitting: list[tuple[str, ModuleType, frozenset[str]]] = []
    known = []
    for name in plugins.names(FOLDER):
        module = load_source(name)
        for columns in (module.COLUMNS, *getattr(module, "OTHER_COLUMNS", ())):
            if columns:
                known.append(f"{name} ({', '.join(sorted(columns))})")
                if columns <= row.keys() and all(module.examples is not other.examples for _, other, _ in fitting):
                    fitting.append((name, module, columns))
    best = [entry for entry in fitting if not any(entry[2] < other for _, _, other in fitting)]
    if len(best) != 1:
        fits = f"fit {' and '.join(name for name, _, _ in best)}" if best else "fit no known format"
        raise DataError(
            f"{place.origin}: the columns {', '.join(map(str, row)) or '(none)'} {fits}",
            f"name the source; for other columns use `columns` with a mapping: {{name: columns, {place.key}, "
            f"options: {{prompt: COLUMN, completion: COLUMN}}}}. Known: {'; '.join(known)}",
        )
    rows = (numbered for part in (seen, place.rows) for numbered in part)
    return best[0][0], best[0][1], rows


def _checked_options(name: str, module: ModuleType, options: Mapping[str, Any]) -> SourceOptions:
    try:
        return cast("SourceOptions", module.Options.model_validate(dict(options)))
    except ValidationError as error:
        problems = [f"options.{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        known = [f"{key}: {value.description}" for key, value in module.Options.model_fields.items()]
        raise UsageError(
            f"source {name!r}: " + "; ".join(problems), f"its options: {' '.join(known) or 'none'}"
        ) from None


def _convert(module: ModuleType, rows: Iterable[NumberedRow], options: SourceOptions, label: str) -> _Converted:
    result = _Converted()
    gather = getattr(module, "gather", None)
    left_out = getattr(module, "left_out", None)
    noted = _noted(rows, options, result)
    for number, row in gather(noted, options) if gather is not None else noted:
        try:
            if isinstance(row, BadRow):
                raise row
            made = _made(module, row, options)
            origins = [f"{label} row {number}"]
            if len(made) > 1:
                origins = [f"{label} row {number} ({index} of {len(made)})" for index in range(1, len(made) + 1)]
            made = [replace(example, origin=origin) for example, origin in zip(made, origins, strict=False)]
        except BadRow as bad:
            hint = f" ({bad.hint})" if bad.hint else ""
            result.bad.append((number, f"{label} row {number}: {bad.message}{hint}"))
            continue
        result.examples.extend(made)
        if left_out is not None:
            result.left_out.update(left_out(row, options))
    # A source that gathers rows knows only at the end which of them are left over.
    result.bad.sort(key=lambda entry: entry[0])
    return result


def _made(module: ModuleType, row: Row, options: SourceOptions) -> list[Example]:
    """The examples of a row. Raises BadRow if the source (it may be a user's own) fails or returns something else."""
    try:
        with nullcontext() if _is_shipped(module) else processor_seconds(SECONDS_PER_ROW):
            made = examples_of(module, row if isinstance(row, ReadRow) else ReadRow(row), options)
    except BadRow:
        raise
    except Expired:
        raise DataError(
            f"{module.__file__}: a row takes more than {SECONDS_PER_ROW:g} s of processor time",
            "correct the file: examples() does not end",
        ) from None
    except Exception as error:
        raise BadRow(f"the source {module.__name__} fails: {sentence(error)}", "--debug shows where") from error
    if not isinstance(made, list | tuple) or not all(isinstance(one, Conversation | PretokenizedRow) for one in made):
        raise BadRow(f"the source {module.__name__} returned {made!r:.60}, expected a list of Conversation")
    for one in () if _is_shipped(module) else (one for one in made if isinstance(one, Conversation)):
        check_conversation(one)
    return list(made)


def _noted(rows: Iterable[NumberedRow], options: SourceOptions, result: _Converted) -> Iterator[NumberedRow]:
    """The rows; which of their columns hold something, and which were read when the next is asked for, is noted."""
    for number, row in rows:
        row = within_bounds(row)
        if isinstance(row, BadRow):
            yield number, row
            continue
        noted = ReadRow(row, options.ignore)
        yield number, noted
        result.filled.update(filled_columns(row))
        result.read |= noted.read


def _is_shipped(module: ModuleType) -> bool:
    """Whether it is of the package: those end, and check what they give."""
    return module.__name__.startswith("tunelab.")


def _judge(origin: str, converted: _Converted, rows_read: int, on_bad_row: str) -> None:
    """Raises DataError if bad rows may not be skipped, or if nothing is left."""
    bad = converted.bad
    listing = "".join(f"\n  {line}" for _, line in bad[:MOST_SHOWN])
    if len(bad) > MOST_SHOWN:
        listing += f"\n  and {len(bad) - MOST_SHOWN:,} more"
    if bad and on_bad_row == "error":
        raise DataError(
            f"{origin}: {len(bad):,} of {rows_read:,} rows cannot be used:{listing}",
            "fix them, or skip them with on_bad_row: skip (data.on_bad_row=skip)",
        )
    if not converted.examples:
        reasons = "".join(f"\n  left out: {count:,} {what}" for what, count in converted.left_out.items())
        raise DataError(
            f"{origin}: no row can be used, of {rows_read:,} read{reasons}{listing}", "is the source the right one?"
        )


def _fingerprint(name: str, options: SourceOptions, identity: str, examples: Sequence[Example]) -> str:
    """See LoadedSource. The examples are part of it, so that a change in a source's code, or of the hub's newest
    revision, is never mistaken for the same data."""
    digest, attributes = hashlib.sha256(), attrgetter(*(one.name for one in fields(Message)))  # astuple copies deeply
    digest.update(json.dumps([name, options.model_dump(mode="json"), identity], sort_keys=True).encode())
    for example in examples:
        if isinstance(example, Conversation):
            content: Any = [attributes(message) for message in example.messages]
        else:
            content = {"ids": example.input_ids, "mask": example.completion_mask}
        digest.update(json.dumps(content).encode() + b"\n")
    return digest.hexdigest()


def _licence(module: ModuleType, hub: HubDataset | None) -> str:
    if hub is not None:
        return hub.licence
    if module.HUB is None:
        return UNKNOWN_LICENCE
    return f"{UNKNOWN_LICENCE}; {module.LICENCE} if it is {module.HUB.repository}"
