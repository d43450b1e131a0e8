"""What every source must hold to, tested for each file of data/sources the moment it exists."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

from tunelab import plugins
from tunelab.data.messages import Conversation, PretokenizedRow, check_conversation
from tunelab.data.reader import FOLDER, LoadedSource, load_examples, load_source
from tunelab.data.sources._source import UNKNOWN_LICENCE, HubDataset, SourceOptions
from tunelab.errors import DataError

NAMES = plugins.names(FOLDER)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture
def module(name: str) -> ModuleType:
    return load_source(name)


def example_options(module: ModuleType) -> dict[str, str]:
    options: dict[str, str] = getattr(module, "EXAMPLE_OPTIONS", {})
    return options


def write(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(name: str, module: ModuleType, folder: Path, rows: list[dict[str, object]]) -> LoadedSource:
    return load_examples(name, path=write(folder, rows), options=example_options(module))


def test_the_issues_sources_are_there() -> None:
    assert set(NAMES) >= {"alpaca", "alpaca-cleaned", "alpaca-gpt4", "oasst1", "prompt-completion", "messages"}
    assert set(NAMES) >= {"sharegpt", "columns", "pretokenized"}


def test_docstring_opens_with_a_summary_line(name: str, module: ModuleType) -> None:
    summary = plugins.summary(FOLDER, name)
    assert summary.endswith(".") and 20 <= len(summary) <= 120
    assert "\n\n" in inspect.cleandoc(module.__doc__ or ""), "the docstring says more than its first line"


def test_says_where_it_comes_from_and_under_which_licence(module: ModuleType) -> None:
    if module.HUB is None:
        assert module.LICENCE == UNKNOWN_LICENCE
        return
    assert isinstance(module.HUB, HubDataset)
    assert module.HUB.repository.count("/") == 1 and module.HUB.repository in module.__doc__
    assert module.HUB.licence == module.LICENCE != ""
    revision = module.HUB.revision
    assert "No commit is pinned" in module.__doc__ if revision is None else len(revision) == 40
    assert revision is None or set(revision) <= set("0123456789abcdef")


def test_example_converts_and_every_conversation_can_be_trained_on(
    name: str, module: ModuleType, tmp_path: Path
) -> None:
    loaded = load(name, module, tmp_path, module.EXAMPLE)
    assert loaded.examples and loaded.bad_rows == [] and loaded.rows_read == len(module.EXAMPLE)
    for example in loaded.examples:
        assert example.origin.startswith("rows.jsonl row ")
        assert example.group
        if isinstance(example, Conversation):
            assert check_conversation(example) is example
        else:
            assert isinstance(example, PretokenizedRow)


def test_a_row_without_a_needed_column_is_refused_by_its_name_and_number(
    name: str, module: ModuleType, tmp_path: Path
) -> None:
    needed = module.COLUMNS or {example_options(module)[key] for key in ("prompt", "completion")}
    for column in sorted(needed):
        assert all(column in row for row in module.EXAMPLE), f"EXAMPLE lacks {column}"
        rows = [{key: value for key, value in row.items() if key != column} for row in module.EXAMPLE]
        with pytest.raises(DataError, match=rf"rows\.jsonl row 1: no column '{column}'; the row has: "):
            load(name, module, tmp_path, rows)


def test_a_needed_column_that_is_null_or_a_number_is_refused(name: str, module: ModuleType, tmp_path: Path) -> None:
    needed = module.COLUMNS or {example_options(module)[key] for key in ("prompt", "completion")}
    for column in sorted(needed):
        for value, kind in ((None, "null"), (7, "a number")):
            with pytest.raises(DataError, match=f"row 1: column '{column}' is {kind}, expected"):
                load(name, module, tmp_path, [{**module.EXAMPLE[0], column: value}])


def test_options_are_frozen_and_refuse_what_they_do_not_know(module: ModuleType) -> None:
    assert issubclass(module.Options, SourceOptions)
    with pytest.raises(ValidationError, match="colour"):
        module.Options(**example_options(module), colour="red")
    assert module.Options.model_config["frozen"] is True
    assert all(field.description for field in module.Options.model_fields.values())


def test_its_own_example_file_is_recognised(name: str, module: ModuleType, tmp_path: Path) -> None:
    if not module.COLUMNS:
        # It reads any columns, so that no file can be recognised as its own.
        with pytest.raises(DataError, match="fit no known format"):
            load_examples("auto", path=write(tmp_path, module.EXAMPLE))
        return
    found = load_examples("auto", path=write(tmp_path, module.EXAMPLE)).name
    assert found == name or load_source(found).examples is module.examples


def test_same_rows_give_the_same_examples_and_fingerprint(name: str, module: ModuleType, tmp_path: Path) -> None:
    first, second = (load(name, module, tmp_path, module.EXAMPLE) for _ in range(2))
    assert first.examples == second.examples and first.fingerprint == second.fingerprint
