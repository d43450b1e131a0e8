"""Tokenized rows in a cache whose key covers everything that determines the tokens.

The key is a hash of the data's own fingerprint, the template, the tokenizer, the settings, and the source code and
libraries that tokenize. If any of them changes, so does the key: a stale entry can be left over, but it is
never read.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from tunelab.data.chat_sections import ChatTemplate
from tunelab.data.loader import TokenTable
from tunelab.data.messages import Example
from tunelab.data.stored_rows import load_table, save_origins, save_table
from tunelab.data.templates import Template
from tunelab.data.tokenize import EncodedRow, RowEncoder
from tunelab.errors import BadRow, DataError
from tunelab.files import cache_home, directory_written_atomically, recover_directory, write_json_atomically
from tunelab.progress import Progress, silent
from tunelab.version import __version__

#: Source files that affect the tokens of the same rows, or the form of what is stored.
TOKENISING_SOURCES = (
    *("tokenize.py", "answer_mask.py"),
    "vocabulary.py",
    *("templates.py", "chat_sections.py", "sections.py", "chat_templates.py", "tool_turns.py"),
    "thoughts.py",
    "opened_thoughts.py",
    "template_date.py",
    "messages.py",
    "select.py",
    "reader.py",
    "tables.py",
    "loader.py",
    "prepared.py",
    "stored_rows.py",
    "sources",
    "unread_columns.py",
)
#: Libraries that turn text into tokens: another version may do it differently.
TOKENISING_LIBRARIES = ("tokenizers", "transformers", "jinja2")
MOST_SHOWN = 20
#: Rows that template and tokenizer are called with at once.
ROWS_AT_ONCE = 200


@dataclass(frozen=True)
class RowCounts:
    """What happened to the rows of one split (training, held-out or validation). Every lost row is counted.

    Args:
        lossy: rows with characters not in the vocabulary, which the tokenizer drops: `lost_characters` in all.
        longest, longest_given: tokens of the longest row that is kept, and of the longest before rows are dropped.
        lost: the most frequent of these characters -> how often each was dropped.
    """

    given: int
    kept: int
    truncated: int
    dropped_too_long: int
    bad: int
    lossy: int
    lost_characters: int
    tokens: int
    targets: int
    longest: int
    longest_given: int = 0
    lost: dict[str, int] = field(default_factory=dict)


NO_ROWS = RowCounts(
    given=0,
    kept=0,
    truncated=0,
    dropped_too_long=0,
    bad=0,
    lossy=0,
    lost_characters=0,
    tokens=0,
    targets=0,
    longest=0,
)


@dataclass(frozen=True)
class SourceRecord:
    """Where rows came from, for the manifest.

    Args:
        left_out: what the source skips on purpose -> how many (oasst1: deleted messages, other languages).
        unread: columns that the source does not read -> rows with a value in them.
        identity: "sha256:" and the hash of the file's bytes, or "hub:" and the origin; "" in manifests of before.
    """

    name: str
    origin: str
    fingerprint: str
    licence: str
    rows_read: int
    bad: int
    left_out: dict[str, int]
    unread: dict[str, int] = field(default_factory=dict)
    identity: str = ""


@dataclass(frozen=True)
class Reference:
    """What a held-out row is compared with: where it came from and its last answer."""

    origin: str
    text: str


@dataclass(frozen=True)
class PreparedData:
    """Tokenized training, held-out and validation rows, and what is known about them.

    Args:
        key: hash of everything that determines the tokens; two equal keys mean equal tables.
        bad_rows: "FILE row N: reason" of rows that were skipped, in reading and in tokenizing.
        references: one for each held-out row.
        lost_of_template: the template's own characters that are not in the vocabulary and dropped from every prompt.
        origins: split -> "FILE row N" of each row; empty if the rows come from the cache, whose folder has a file.
        examples: the texts of the rows, where they were just read; until the data checks have seen them.
    """

    key: str
    train: TokenTable
    held_out: TokenTable
    sources: tuple[SourceRecord, ...]
    references: tuple[Reference, ...]
    train_counts: RowCounts
    held_out_counts: RowCounts
    bad_rows: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    lost_of_template: str = ""
    from_cache: bool = False
    validation: TokenTable = field(default_factory=lambda: TokenTable.of([]))
    validation_counts: RowCounts = NO_ROWS
    origins: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False, compare=False)
    examples: Sequence[Example] = field(default=(), repr=False, compare=False)

    @property
    def splits(self) -> dict[str, tuple[TokenTable, RowCounts]]:
        """The splits by name; validation only where rows were asked for."""
        found = {"training": (self.train, self.train_counts), "held-out": (self.held_out, self.held_out_counts)}
        if self.validation_counts.given:
            found["validation"] = self.validation, self.validation_counts
        return found


def cache_directory() -> Path:
    """Directory of prepared data: `prepared` in the cache (tunelab.files.cache_home)."""
    return cache_home() / "prepared"


def cache_key(*, sources: Sequence[str], template: Template, tokenizer: str, settings: Mapping[str, Any]) -> str:
    """The key of prepared data.

    Args:
        sources: fingerprints of the data.
        tokenizer: fingerprint of the tokenizer.
        settings: everything else that matters: sampling, split, length, overflow, seed, ...
    """
    shape = asdict(template) if not isinstance(template, ChatTemplate) else {"special": template.special_tokens}
    content = {
        "sources": list(sources),
        "template": shape,
        "tokenizer": tokenizer,
        "settings": dict(settings),
        "tunelab": __version__,
        "libraries": {name: metadata.version(name) for name in TOKENISING_LIBRARIES},
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    folder = Path(__file__).parent
    for name in TOKENISING_SOURCES:
        files = sorted((folder / name).glob("*.py")) if (folder / name).is_dir() else [folder / name]
        for file in files:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def prepare(
    key: str,
    train: Sequence[Example],
    held_out: Sequence[Example],
    encoder: RowEncoder,
    *,
    validation: Sequence[Example] = (),
    max_length: int,
    on_overflow: Literal["drop", "truncate"],
    on_bad_row: Literal["error", "skip"],
    sources: Sequence[SourceRecord] = (),
    bad_rows: Sequence[str] = (),
    may_be_empty: bool = False,
    progress: Progress = silent,
) -> PreparedData:
    """Tokenize all splits.

    Args:
        may_be_empty: return what there is, for inspection, even if no row is left.
        sources: where the rows came from.
        bad_rows: those that reading already skipped; listed with the ones found here.

    Raises:
        DataError: rows cannot be used and `on_bad_row` is error; or no row of a split is left.
    """
    bad: list[str] = []
    total = len(train) + len(held_out) + len(validation)
    sides = []
    for done, examples in ((0, train), (len(train), held_out), (total - len(validation), validation)):
        before = len(bad)
        rows, lengths = _encode(examples, encoder, max_length, on_overflow, bad, progress, done, total)
        sides.append((rows, _counts(len(examples), rows, lengths, len(bad) - before)))
    if bad and on_bad_row == "error":
        raise _bad_rows_error(bad)
    (train_rows, train_counts), (held_out_rows, held_out_counts), (validation_rows, validation_counts) = sides
    if not (train_rows or may_be_empty):
        first = f"; the first: {bad[0]}" if bad else ""
        raise DataError(
            f"no training row is left: {what_was_dropped(train_counts, max_length)}{first}",
            what_to_do(train_counts, on_overflow),
        )
    for split, counts in (("held_out", held_out_counts), ("validation", validation_counts)):
        if counts.given and not (counts.kept or may_be_empty):
            raise _none_left(split, counts, max_length, on_overflow)
    return PreparedData(
        key=key,
        train=TokenTable.of(train_rows),
        held_out=TokenTable.of(held_out_rows),
        sources=tuple(sources),
        references=tuple(Reference(row.origin, row.reference) for row in held_out_rows),
        train_counts=train_counts,
        held_out_counts=held_out_counts,
        bad_rows=(*bad_rows, *bad),
        stop_token_ids=tuple(encoder.stop_token_ids()),
        lost_of_template=encoder.lost_of_template(),
        validation=TokenTable.of(validation_rows),
        validation_counts=validation_counts,
        origins=_origins(training=train_rows, held_out=held_out_rows, validation=validation_rows),
    )


def _origins(**rows: Sequence[EncodedRow]) -> dict[str, list[str]]:
    return {split.replace("_", "-"): [row.origin for row in its] for split, its in rows.items()}


def _none_left(split: str, counts: RowCounts, max_length: int, on_overflow: Literal["drop", "truncate"]) -> DataError:
    """Of the split that `data.SPLIT` sets apart."""
    return DataError(
        f"no {split.replace('_', '-')} row is left: {what_was_dropped(counts, max_length)}",
        f"{what_to_do(counts, on_overflow)}; or hold out more rows, or none (data.{split}=0)",
    )


def what_to_do(counts: RowCounts, on_overflow: Literal["drop", "truncate"]) -> str:
    """The remedy for a split of which no row is left, by what its rows were dropped for."""
    remedies = []
    if counts.dropped_too_long and on_overflow == "drop":
        remedies.append("raise data.max_length or set data.on_overflow=truncate")
    elif counts.dropped_too_long:
        remedies.append("raise data.max_length, or shorten the prompts: they fill it before any answer begins")
    if counts.bad:
        remedies.append("fix the bad rows; `tunelab inspect` lists them")
    return "; ".join(remedies) or "check the data"


def what_was_dropped(counts: RowCounts, max_length: int) -> str:
    """Why a split has no rows: "of 24 rows 24 are longer than 32 tokens (the longest has 57) and 0 are bad"."""
    longest = f" (the longest has {counts.longest_given:,})" if counts.dropped_too_long else ""
    return (
        f"of {counts.given:,} rows {counts.dropped_too_long:,} are longer than {max_length:,} tokens{longest} and "
        f"{counts.bad:,} are bad"
    )


def store(data: PreparedData) -> Path:
    """Write prepared data to the cache under its key; returns the directory."""
    folder = cache_directory() / data.key
    with directory_written_atomically(folder) as temporary:
        save_table(data.train, temporary / "train.safetensors")
        save_table(data.held_out, temporary / "held_out.safetensors")
        save_table(data.validation, temporary / "validation.safetensors")
        save_origins(data.origins, temporary)
        report = {
            "key": data.key,
            "train": asdict(data.train_counts),
            "held_out": asdict(data.held_out_counts),
            "sha256": [data.train.sha256, data.held_out.sha256, data.validation.sha256],
            "validation": asdict(data.validation_counts),
            "bad_rows": list(data.bad_rows),
            "stop_token_ids": list(data.stop_token_ids),
            "lost_of_template": data.lost_of_template,
            "sources": [asdict(source) for source in data.sources],
            "references": [asdict(reference) for reference in data.references],
        }
        write_json_atomically(temporary / "report.json", report)
    return folder


def cached(key: str) -> PreparedData | None:
    """Prepared data of this key from the cache; None if there is none, or if it is damaged."""
    folder = cache_directory() / key
    recover_directory(folder)
    if not (folder / "report.json").exists():
        return None
    try:
        return _stored(key, folder)
    except Exception:  # damaged: it is prepared again, and replaced
        return None


def _stored(key: str, folder: Path) -> PreparedData:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    names = ("train", "held_out", "validation")
    train, held_out, validation = (load_table(folder / f"{name}.safetensors") for name in names)
    if [train.sha256, held_out.sha256, validation.sha256] != report["sha256"]:
        raise ValueError("a table is not the one that was written")
    return PreparedData(
        key=key,
        train=train,
        held_out=held_out,
        sources=tuple(SourceRecord(**source) for source in report["sources"]),
        references=tuple(Reference(**reference) for reference in report["references"]),
        train_counts=RowCounts(**report["train"]),
        held_out_counts=RowCounts(**report["held_out"]),
        bad_rows=tuple(report["bad_rows"]),
        stop_token_ids=tuple(report["stop_token_ids"]),
        lost_of_template=report["lost_of_template"],
        from_cache=True,
        validation=validation,
        validation_counts=RowCounts(**report["validation"]),
    )


def _encode(
    examples: Sequence[Example],
    encoder: RowEncoder,
    max_length: int,
    on_overflow: Literal["drop", "truncate"],
    bad: list[str],
    progress: Progress,
    done: int,
    total: int,
) -> tuple[list[EncodedRow], list[int]]:
    """Encoded rows, and the lengths of all, dropped ones included; appends reasons of bad rows to `bad`."""
    rows = []
    lengths = []
    batches = [examples[start : start + ROWS_AT_ONCE] for start in range(0, len(examples), ROWS_AT_ONCE)]
    for batch, encoded in zip(batches, encoder.encode_in_turn(batches), strict=True):
        for example, whole in zip(batch, encoded, strict=True):
            if isinstance(whole, BadRow):
                hint = f" ({whole.hint})" if whole.hint else ""
                bad.append(f"{example.origin}: {whole.message}{hint}")
                continue
            lengths.append(len(whole.input_ids))
            row = encoder.fit(whole, max_length, on_overflow)
            if row is not None:
                rows.append(row)
        done += len(batch)
        progress("tokenizing", done, total)
    return rows, lengths


def _counts(given: int, rows: Sequence[EncodedRow], lengths: Sequence[int], bad: int) -> RowCounts:
    return RowCounts(
        given=given,
        kept=len(rows),
        truncated=sum(row.truncated for row in rows),
        dropped_too_long=len(lengths) - len(rows),
        bad=bad,
        lossy=sum(bool(row.lost) for row in rows),
        lost_characters=sum(len(row.lost) for row in rows),
        tokens=sum(len(row.input_ids) for row in rows),
        targets=sum(int(row.answer_mask[1:].sum()) for row in rows),
        longest=max((len(row.input_ids) for row in rows), default=0),
        longest_given=max(lengths, default=0),
        lost=dict(Counter("".join(row.lost for row in rows)).most_common(MOST_SHOWN)),
    )


def _bad_rows_error(bad: Sequence[str]) -> DataError:
    shown = "\n".join(f"  {reason}" for reason in bad[:MOST_SHOWN])
    more = f"\n  and {len(bad) - MOST_SHOWN} more" if len(bad) > MOST_SHOWN else ""
    return DataError(
        f"{len(bad)} row{'s' if len(bad) != 1 else ''} cannot be used:\n{shown}{more}",
        "fix them, or skip them with data.on_bad_row=skip (they are counted and listed)",
    )
