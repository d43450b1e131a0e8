"""Reading rows of data: formats, detection, bad rows by file and row, arguments, fingerprints."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunelab.data.messages import Conversation
from tunelab.data.reader import LoadedSource, load_examples
from tunelab.errors import DataError, UsageError

ROWS = [
    {"instruction": "Say None.", "input": "", "output": "None"},
    {"instruction": "Grüße, ÄÖ and 🐥!", "input": "NA", "output": 'line one\nline \u2028 two, "quoted"'},
    {"instruction": "1", "input": "null", "output": "2.0"},
]


def as_json(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows).encode()


def as_data_object(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps({"version": 1, "data": rows}, ensure_ascii=False).encode()


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_delimited(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    import io

    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_tabs(rows: list[dict[str, Any]]) -> bytes:
    return as_delimited(rows, "\t")


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "rows.json": as_json,
    "object.json": as_data_object,
    "rows.jsonl": as_lines,
    "rows.ndjson": as_lines,
    "ROWS.JSONL": as_lines,
    "rows.csv": as_delimited,
    "rows.tsv": as_tabs,
    "rows.parquet": as_parquet,
}


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(path: Path, name: str = "auto", *, skip: bool = False, **arguments: Any) -> LoadedSource:
    return load_examples(name, path=path, on_bad_row="skip" if skip else "error", **arguments)


def texts(loaded: LoadedSource) -> list[list[tuple[str, str]]]:
    found = []
    for example in loaded.examples:
        assert isinstance(example, Conversation)
        found.append([(message.text, message.input) for message in example.messages])
    return found


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "packed"),
        # parquet is compressed inside: there is no .parquet.gz.
        [(name, packed) for name in FORMS for packed in (False, True) if not (packed and name.endswith(".parquet"))],
    )
    def test_every_form_of_the_same_rows_gives_the_same_examples(self, tmp_path: Path, name: str, packed: bool) -> None:
        content = FORMS[name](ROWS)
        path = write(tmp_path, f"{name}.gz" if packed else name, gzip.compress(content) if packed else content)
        loaded = load(path)
        expected = [
            [
                (f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"], row["input"]),
                (row["output"], ""),
            ]
            for row in ROWS
        ]
        assert texts(loaded) == expected
        assert loaded.name == "alpaca" and loaded.rows_read == 3 and loaded.bad_rows == []
        assert [example.origin for example in loaded.examples] == [f"{path.name} row {n}" for n in (1, 2, 3)]
        assert loaded.origin == str(path)

    @pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
    def test_a_byte_order_mark_is_no_part_of_the_first_row(self, tmp_path: Path, name: str) -> None:
        path = write(tmp_path, name, b"\xef\xbb\xbf" + FORMS[name](ROWS))
        assert len(load(path).examples) == 3

    def test_blank_lines_are_no_rows_but_count_as_lines(self, tmp_path: Path) -> None:
        path = write(tmp_path, "rows.jsonl", b"\n" + as_lines(ROWS[:1]) + b"  \r\n" + as_lines(ROWS[1:2]).rstrip())
        assert [example.origin for example in load(path).examples] == ["rows.jsonl row 2", "rows.jsonl row 4"]

    def test_windows_line_ends(self, tmp_path: Path) -> None:
        path = write(tmp_path, "rows.csv", "prompt,completion\r\na,b\r\n\r\nc,d\r\n")
        assert texts(load(path)) == [[("a", ""), ("b", "")], [("c", ""), ("d", "")]]

    def test_csv_cells_beyond_the_standard_librarys_limit(self, tmp_path: Path) -> None:
        limit = 131_072
        csv.field_size_limit(limit)
        path = write(tmp_path, "rows.csv", "prompt,completion\na," + "x" * 200_000 + "\n")
        assert len(texts(load(path))[0][1][0]) == 200_000
        assert csv.field_size_limit() == limit

    def test_pretokenised_rows_from_every_form(self, tmp_path: Path) -> None:
        lists = [{"input_ids": [3, 4, 2], "completion_mask": [0, 1, 1]}]
        cells = [{"input_ids": "[3, 4, 2]", "completion_mask": "[0, 1, 1]"}]
        made = [
            load(write(tmp_path, "a.jsonl", as_lines(lists))),
            load(write(tmp_path, "a.parquet", as_parquet(lists))),
            load(write(tmp_path, "a.csv", as_delimited(cells))),
        ]
        assert {(e.input_ids, e.completion_mask) for part in made for e in part.examples} == {  # type: ignore[union-attr]
            ((3, 4, 2), (False, True, True))
        }
        assert {part.name for part in made} == {"pretokenized"}

    @pytest.mark.slow
    def test_all_real_alpaca_rows_are_read_quickly(self, shared_data: Path) -> None:
        start = time.process_time()
        loaded = load(shared_data / "alpaca" / "alpaca_cleaned.json", "alpaca-cleaned")
        seconds = time.process_time() - start
        assert len(loaded.examples) == loaded.rows_read == 51_941 and loaded.bad_rows == []
        # 32,002 rows say "", 23 spell <noinput> in eight ways.
        assert sum(not example.messages[0].input for example in loaded.examples) == 32_025  # type: ignore[union-attr]
        assert loaded.licence.startswith("unknown (data of your own); CC BY 4.0")
        assert seconds < 15, "about 1.2 s on one core"


class TestDetection:
    @pytest.mark.parametrize(
        ("row", "name"),
        [
            ({"instruction": "i", "output": "o", "text": "whole"}, "alpaca"),
            ({"prompt": "p", "completion": "c", "id": 1}, "prompt-completion"),
            ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]}, "messages"),
            ({"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "c"}]}, "sharegpt"),
            ({"input_ids": [1, 2], "attention_mask": [1, 1]}, "pretokenized"),
        ],
    )
    def test_by_columns(self, tmp_path: Path, row: dict[str, Any], name: str) -> None:
        assert load(write(tmp_path, "rows.json", as_json([row]))).name == name

    def test_first_readable_row_decides_and_none_is_lost(self, tmp_path: Path) -> None:
        path = write(tmp_path, "rows.jsonl", b"{broken\n[]\n" + as_lines(ROWS))
        loaded = load(path, skip=True)
        assert loaded.name == "alpaca" and len(loaded.examples) == 3 and loaded.rows_read == 5
        assert [line.partition(":")[0] for line in loaded.bad_rows] == ["rows.jsonl row 1", "rows.jsonl row 2"]

    def test_the_more_specific_columns_win(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from tunelab.data.sources import messages

        monkeypatch.setattr(messages, "COLUMNS", frozenset({"prompt", "completion", "messages"}))
        turns = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]
        path = write(tmp_path, "rows.json", as_json([{"prompt": "p", "completion": "c", "messages": turns}]))
        assert load(path).name == "messages"

    def test_unknown_columns(self, tmp_path: Path) -> None:
        path = write(tmp_path, "qa.csv", "question,answer\nWhy?,Because\n")
        with pytest.raises(DataError, match=r"qa\.csv: the columns question, answer fit no known format") as caught:
            load(path)
        for known in ("alpaca (instruction, output)", "sharegpt (conversations)", "oasst1 (message_tree_id, prompt)"):
            assert known in caught.value.hint
        assert "use `columns` with a mapping" in caught.value.hint
        assert (
            texts(load(path, "columns", options={"prompt": "question", "completion": "answer"}))[0][1][0] == "Because"
        )

    def test_several_formats_fit(self, tmp_path: Path) -> None:
        row = {"messages": [], "conversations": []}
        with pytest.raises(DataError, match="the columns messages, conversations fit messages and sharegpt"):
            load(write(tmp_path, "rows.json", as_json([row])))

    def test_a_key_twice_in_a_list_of_rows(self, tmp_path: Path) -> None:
        content = '[{"prompt": "p", "completion": "c", "completion": "d"}]'
        with pytest.raises(DataError, match=r"rows\.json: cannot be read as JSON: duplicate key 'completion' in"):
            load(write(tmp_path, "rows.json", content))
        cell = 'messages\n"[{""role"": ""user"", ""role"": ""assistant""}]"\n'
        with pytest.raises(DataError, match=r"column 'messages': duplicate key 'role' in one object, with 'user' and "):
            load(write(tmp_path, "rows.csv", cell))

    def test_no_row_can_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no row can be read, .*\n  rows\.jsonl row 1: broken JSON"):
            load(write(tmp_path, "rows.jsonl", "{\n"), skip=True)


GOOD = b'{"prompt": "p", "completion": "c"}\n'


class TestBadRows:
    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b'{"prompt": "p", "completion": "c"', "broken JSON at column 34: Expecting ',' delimiter"),
            (b'{"prompt": "\xff", "completion": "c"}', "invalid UTF-8: byte 0xff at position 12 of the line"),
            (
                b'{"prompt": "\\ud83d", "completion": "c"}',
                "invalid UTF-8: a text has invalid bytes, or half",
            ),
            (b'{"prompt": "p", "prompt": "q"}', "broken JSON: duplicate key 'prompt' in one object, with 'p' and 'q'"),
            (b"[1, 2]", "the row is a list, expected an object"),
            (b"null", "the row is null, expected an object"),
            (b'"text"', "the row is text, expected an object"),
            (b"9" * 5000, "broken JSON: Exceeds the limit"),
            (b"[" * 200_000, "broken JSON: "),
            (b'{"prompt": "p"}', "no column 'completion'; the row has: prompt"),
            (b"{}", "no column 'prompt'; the row has: no columns"),
            (b'{"prompt": "p", "completion": ""}', "empty output: message 2"),
        ],
    )
    def test_a_line_of_jsonl(self, tmp_path: Path, line: bytes, reason: str) -> None:
        path = write(tmp_path, "rows.jsonl", GOOD + line + b"\n" + GOOD)
        with pytest.raises(DataError, match=rf"1 of 3 rows cannot be used:\n  rows\.jsonl row 2: {reason}") as caught:
            load(path)
        assert caught.value.message.startswith(f"{path}: ")
        assert "on_bad_row: skip" in caught.value.hint
        loaded = load(path, skip=True)
        assert [example.origin for example in loaded.examples] == ["rows.jsonl row 1", "rows.jsonl row 3"]
        assert len(loaded.bad_rows) == 1 and loaded.rows_read == 3

    def test_a_whole_surrogate_pair_is_a_character(self, tmp_path: Path) -> None:
        path = write(tmp_path, "rows.jsonl", b'{"prompt": "\\ud83d\\udc25", "completion": "c"}\n')
        assert texts(load(path))[0][0][0] == "🐥"

    def test_rows_of_json(self, tmp_path: Path) -> None:
        content = b'[{"prompt": "p", "completion": "c"}, 5, {"prompt": "\xfc", "completion": "c"}]'
        loaded = load(write(tmp_path, "rows.json", content), skip=True)
        assert len(loaded.examples) == 1
        assert loaded.bad_rows[0] == "rows.json row 2: the row is a number, expected an object"
        assert loaded.bad_rows[1].startswith("rows.json row 3: invalid UTF-8: a text has invalid bytes")

    @pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
    def test_rows_of_csv(self, tmp_path: Path, name: str) -> None:
        lines = [b"prompt,completion", b"a,b", b"a", b"a,b,c", b"\xff,b", b'"a"x,b', b"c,d", b'"never closed,b', b"e,f"]
        content = b"\n".join(lines)
        if name == "rows.tsv":
            content = content.replace(b",", b"\t")
        loaded = load(write(tmp_path, name, content), skip=True)
        assert [text[0][0] for text in texts(loaded)] == ["a", "c"]
        reasons = [line.removeprefix(f"{name} ") for line in loaded.bad_rows]
        assert reasons[0] == "row 2: 1 cells, the header has 2: prompt, completion"
        assert reasons[1] == "row 3: 3 cells, the header has 2: prompt, completion"
        assert reasons[2].startswith("row 4: invalid UTF-8: a text has invalid bytes")
        assert reasons[3].startswith("row 5: broken quoting at line 6: ")
        assert reasons[4].startswith("row 7: broken quoting at line 9: unexpected end of data")
        assert len(reasons) == 5

    def test_rows_of_parquet(self, tmp_path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        column = pyarrow.array([b"p", b"\xff", b"q"]).view(pyarrow.string())
        table = pyarrow.table({"prompt": column, "completion": ["c", "c", None]})
        pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
        loaded = load(tmp_path / "rows.parquet", skip=True)
        assert texts(loaded)[0][0][0] == "p"
        assert loaded.bad_rows == [
            "rows.parquet row 2: invalid UTF-8: byte 0xff in a text",
            "rows.parquet row 3: column 'completion' is null, expected text",
        ]

    def test_all_are_counted_and_the_first_twenty_shown(self, tmp_path: Path) -> None:
        path = write(tmp_path, "rows.jsonl", GOOD + b"{\n" * 1234)
        with pytest.raises(DataError, match=r"1,234 of 1,235 rows cannot be used") as caught:
            load(path)
        lines = caught.value.message.splitlines()
        assert len(lines) == 22 and lines[20].startswith("  rows.jsonl row 21: ") and lines[21] == "  and 1,214 more"
        assert len(load(path, skip=True).bad_rows) == 1234

    def test_zero_usable_rows(self, tmp_path: Path) -> None:
        path = write(tmp_path, "rows.jsonl", b'{"prompt": "", "completion": "c"}\n' * 2)
        with pytest.raises(DataError, match=r"no row can be used, of 2 read\n  rows\.jsonl row 1: message 1 \(user\)"):
            load(path, skip=True)


class TestArguments:
    def test_what_cannot_go_together(self, tmp_path: Path) -> None:
        path = write(tmp_path, "rows.jsonl", GOOD)
        for key in ("revision", "split", "repository", "subset"):
            with pytest.raises(UsageError, match=f"{key} 'x' is for the hub, and path .* is a local file"):
                load(path, **{key: "x"})
        with pytest.raises(UsageError, match="'auto' needs a path"):
            load_examples("auto")
        with pytest.raises(UsageError, match="source 'messages' is a format, not a dataset: it needs a path"):
            load_examples("messages")
        with pytest.raises(UsageError, match="subset 'main' needs a repository"):
            load_examples("alpaca", subset="main")
        with pytest.raises(UsageError, match=r"no source named 'alpacca'; did you mean 'alpaca'\?"):
            load_examples("alpacca")

    def test_options(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"source 'oasst1': options.paths: Input should be 'best' or 'all'"):
            load_examples("oasst1", options={"paths": "some"})
        path = write(tmp_path, "rows.jsonl", GOOD)
        with pytest.raises(UsageError, match=r"options\.x: Extra inputs are not permitted") as caught:
            load(path, options={"x": 1})
        assert caught.value.hint.startswith("its options: ignore: Columns that are read over")
        with pytest.raises(
            UsageError, match=r"options\.prompt: Field required; options\.completion: Field required"
        ) as caught:
            load(path, "columns")
        assert "prompt: Column of the user's turn." in caught.value.hint

    def test_progress_counts_every_row(self, tmp_path: Path) -> None:
        calls: list[tuple[str, int, int | None]] = []

        def progress(stage: str, done: int, total: int | None, detail: str = "") -> None:
            calls.append((stage, done, total))

        load(write(tmp_path, "rows.jsonl", GOOD * 2500), progress=progress)
        stage = "reading rows.jsonl"
        assert calls == [(stage, 1000, None), (stage, 2000, None), (stage, 2500, 2500)]


class TestFingerprint:
    def test_depends_on_bytes_name_and_options_and_not_on_the_folder(self, tmp_path: Path) -> None:
        rows = [{"prompt": "p", "completion": "c", "other": "o"}]
        (tmp_path / "elsewhere").mkdir()
        first = load(write(tmp_path, "a.json", as_json(rows)))
        assert load(write(tmp_path / "elsewhere", "b.json", as_json(rows))).fingerprint == first.fingerprint
        assert len(first.fingerprint) == 64
        mapping = {"prompt": "prompt", "completion": "completion"}
        path = tmp_path / "a.json"
        prints = {
            first.fingerprint,
            load(path, "columns", options=mapping).fingerprint,
            load(path, "columns", options={**mapping, "completion": "other"}).fingerprint,
            load(write(tmp_path, "c.json", as_json(rows) + b"\n")).fingerprint,
            load(write(tmp_path, "d.json", as_json(rows * 2))).fingerprint,
        }
        assert len(prints) == 5

    def test_depends_on_what_the_source_makes_of_the_rows(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from tunelab.data.sources import prompt_completion

        path = write(tmp_path, "a.jsonl", GOOD)
        before = load(path).fingerprint
        convert = prompt_completion.examples

        def changed(row: Any, options: Any) -> Any:
            return [
                dataclasses.replace(made, messages=(*made.messages, *made.messages)) for made in convert(row, options)
            ]  # type: ignore[type-var]

        monkeypatch.setattr(prompt_completion, "examples", changed)
        assert load(path).fingerprint != before
