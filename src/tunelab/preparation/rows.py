"""From the recipe's data section to tokenized rows: read, sample, mix, split, tokenize; or all from the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunelab.config import DataSettings, Recipe, RecipeLike, SourceSettings, as_recipe, resolve
from tunelab.config.micro_batch import micro_batch_tokens
from tunelab.cpu import collecting_rarely
from tunelab.data.chat_templates import is_chat
from tunelab.data.loader import TokenTable
from tunelab.data.messages import Conversation, Example
from tunelab.data.prepared import NO_ROWS, PreparedData, SourceRecord, cache_key, cached, store
from tunelab.data.prepared import prepare as tokenize
from tunelab.data.reader import LoadedSource, check_hub_rows, check_source, load_examples
from tunelab.data.select import mix, sample, sample_source, split
from tunelab.data.templates import AUTO, Template, get_template, resolved_name
from tunelab.data.thoughts import one_per_answer
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import DataError, UsageError
from tunelab.hub import is_reachable
from tunelab.linting.lint import Lint, refuse_errors
from tunelab.models.load import context_window, end_token_ids, tokenizer_fingerprint
from tunelab.models.planned_size import file_state
from tunelab.notebook import shown_in_notebooks
from tunelab.preparation.linted import lint_prepared
from tunelab.preparation.tokenizer import load_recipe_tokenizer, may_be_name, template_file, with_named_tokens
from tunelab.progress import Progress, silent

#: Maximum tokens per row, if neither the recipe nor the context window limits it.
DEFAULT_MAX_LENGTH = 1024

#: Training rows that a run keeps for comparisons if no rows are held out.
TRAINING_ROWS_KEPT = 8

#: Training rows that decide how weights are rounded, if there are no validation rows.
TRAINING_ROWS_CHOSEN_BY = 32


#: Fingerprints of files that this process has read: the jobs of a study use the same rows, which are in the cache.
_fingerprints: dict[tuple[Any, ...], str] = {}


@dataclass(frozen=True)
class Selection:
    """The examples of a recipe before they are tokenized."""

    train: list[Example]
    held_out: list[Example]
    validation: list[Example]
    sources: list[LoadedSource]


def prepare(
    recipe: RecipeLike | None = None, *, progress: Progress = shown_in_notebooks, **changes: Any
) -> PreparedData:
    """The recipe's training, held-out and validation rows as tokens, from the cache if it has exactly these.

    Args:
        recipe: its object, a mapping, or a YAML file's path.
        changes: recipe keys, as in finetune().

    Raises:
        TunelabError: the recipe, its data or its tokenizer cannot be used; the message says why.
    """
    return prepare_and_check(resolve(as_recipe(recipe, changes)), progress)[0]


def prepare_and_check(recipe: Recipe, progress: Progress = silent) -> tuple[PreparedData, Lint]:
    """The rows of prepare(), and what the data checks found in them.

    Raises:
        TunelabError: as prepare(); an error that the data checks found is not in `data.allow`.
    """
    check_local_files(recipe.data)
    tokenizer = load_recipe_tokenizer(recipe)
    recipe = fit_to_model(recipe, tokenizer)
    with collecting_rarely():
        data = prepare_with(tokenizer, recipe, progress=progress)
        found = lint_rows(tokenizer, recipe, data, progress=progress)
    refuse_errors(found, recipe.data.allow)
    return replace(data, examples=()), found


def lint_rows(tokenizer: Any, recipe: Recipe, data: PreparedData, *, progress: Progress = silent) -> Lint:
    """What the data checks find in the rows of prepare_with(); from the cache if it has that."""
    encoder = row_encoder(tokenizer, recipe := _fitted(recipe, tokenizer))

    def examples() -> Sequence[Example]:
        if data.examples:
            return data.examples
        found = selected(recipe.data, encoder.template, progress)
        return [*found.train, *found.held_out, *found.validation]

    return lint_prepared(data, recipe, encoder, examples, progress)


def selected(data: DataSettings, template: Template, progress: Progress = silent) -> Selection:
    """The examples of a data section, read anew."""
    sources = [read_source(data, number, progress) for number in range(len(data.sources))]
    return _divided(select(data, sources), data, template)


def check_local_files(data: DataSettings) -> None:
    """Check the files and sources that a data section names, before the model's hub is asked for anything.

    Raises:
        DataError: a data file is missing, is a directory, or has an unknown extension.
        UsageError: the chat template is missing, there is no such source, or it has no such option.
    """
    for source in data.sources:
        check_source(source.name, path=Path(source.path) if source.path else None, options=source.options)
    if data.chat_template is not None and not may_be_name(data.chat_template):
        template_file(data.chat_template)


def check_hub_rows_are_here(data: DataSettings) -> None:
    """Check, where the hub cannot be reached, that rows without a path are in the cache.

    Raises:
        DataError: they are not.
    """
    if is_reachable():
        return
    for source in data.sources:
        if source.path is None:
            place = source.model_dump(include={"revision", "split", "repository", "subset"})
            check_hub_rows(source.name, **place)


def fit_to_model(recipe: Recipe, tokenizer: Any) -> Recipe:
    """The recipe with `data.template` as a name, and `data.max_length` as a number that fits context and packing.

    Raises:
        UsageError: the recipe allows longer rows than the model's context window.
    """
    model = recipe.model
    window = context_window(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    length = recipe.data.max_length
    if length is None:
        length = min(DEFAULT_MAX_LENGTH, window or DEFAULT_MAX_LENGTH, micro_batch_tokens(recipe.train))
    elif window is not None and length > window:
        raise UsageError(
            f"data.max_length={length}, but {model.name} has a context window of {window} tokens",
            f"set data.max_length={window} or less",
        )
    return with_template(_with_data(recipe, max_length=length), tokenizer)


def _fitted(recipe: Recipe, tokenizer: Any) -> Recipe:
    """The recipe of fit_to_model(), which is not asked again where it has answered."""
    is_fitted = recipe.data.max_length is not None and recipe.data.template != AUTO
    return recipe if is_fitted else fit_to_model(recipe, tokenizer)


def with_template(recipe: Recipe, tokenizer: Any) -> Recipe:
    """The recipe with `data.template: auto` and `model.new_tokens: template` resolved for its tokenizer."""
    return with_named_tokens(_with_data(recipe, template=resolved_name(recipe.data.template, tokenizer)))


def _with_data(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)})


def row_encoder(tokenizer: Any, recipe: Recipe) -> RowEncoder:
    """The encoder of the recipe's rows, and of prompts to its model."""
    model, data = recipe.model, recipe.data
    # Another tokenizer's ids do not mean what the model's configuration says of them.
    ends = (
        ()
        if model.tokenizer
        else end_token_ids(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    )
    return RowEncoder(tokenizer, get_template(data.template, tokenizer, thoughts=data.thoughts is not None), ends)


def prepare_with(
    tokenizer: Any, recipe: Recipe, *, may_be_empty: bool = False, progress: Progress = silent
) -> PreparedData:
    """Like prepare(), with a tokenizer that is already loaded.

    Args:
        recipe: of fit_to_model(); or of a run, which keeps what that found (runs of before did not).
        may_be_empty: return what there is, for inspection, even if no row is left; then nothing is cached.
    """
    data, encoder = (recipe := _fitted(recipe, tokenizer)).data, row_encoder(tokenizer, recipe)
    as_they_are = [_as_it_is(data, source) for source in data.sources]  # before they are read
    known = [_fingerprints[one] for one in as_they_are if one in _fingerprints]
    if len(known) == len(as_they_are) and (found := cached(_key(known, data, tokenizer, encoder))):
        return found
    sources = [read_source(data, number, progress) for number in range(len(data.sources))]
    _check_loss_on(data, sources)
    fingerprints = [source.fingerprint for source in sources]
    _fingerprints.update({one: fingerprint for one, fingerprint in zip(as_they_are, fingerprints, strict=True) if one})
    key = _key(fingerprints, data, tokenizer, encoder)
    found = cached(key)
    if found is not None:
        return found
    selection = _divided(select(data, sources), data, encoder.template)
    prepared = tokenize(
        key,
        selection.train,
        selection.held_out,
        encoder,
        validation=selection.validation,
        max_length=data.max_length or DEFAULT_MAX_LENGTH,
        on_overflow=data.on_overflow,
        on_bad_row=data.on_bad_row,
        sources=[
            SourceRecord(
                name=source.name,
                origin=source.origin,
                fingerprint=source.fingerprint,
                licence=source.licence,
                rows_read=source.rows_read,
                bad=len(source.bad_rows),
                left_out=dict(source.left_out),
                unread=dict(source.unread),
                identity=source.identity,
            )
            for source in sources
        ],
        bad_rows=[reason for source in sources for reason in source.bad_rows],
        may_be_empty=may_be_empty,
        progress=progress,
    )
    if len(prepared.train) and all(counts.kept or not counts.given for _, counts in prepared.splits.values()):
        store(prepared)
    return replace(prepared, examples=[*selection.train, *selection.held_out, *selection.validation])


def _key(fingerprints: Sequence[str], data: DataSettings, tokenizer: Any, encoder: RowEncoder) -> str:
    """The key of the prepared rows of sources with these fingerprints."""
    settings = data.model_dump(mode="json", exclude={"loss_on", "chat_template", "allow"})
    for source in settings["sources"]:
        del source["path"]  # the fingerprint covers a file's contents; its location does not matter
    return cache_key(
        sources=fingerprints,
        template=encoder.template,
        tokenizer=tokenizer_fingerprint(tokenizer),
        settings={
            **settings,
            "chat_template": tokenizer.chat_template if is_chat(data.template) else None,
            "stop_token_ids": encoder.stop_token_ids(),
        },
    )


def _as_it_is(data: DataSettings, source: SourceSettings) -> tuple[Any, ...]:
    """What a source's fingerprint follows from: its settings, and what changes when its file does; () = not known."""
    if source.path is None or source.name.endswith(".py") or data.loss_on == "all" or not Path(source.path).is_file():
        return ()  # with loss_on=all, every row is checked
    path = Path(source.path).resolve()
    return source.model_dump_json(), data.on_bad_row, path, file_state(path)


def _divided(selection: Selection, data: DataSettings, template: Template) -> Selection:
    """The selection, with one example per answer if the recipe says so of rows with thoughts."""
    if data.thoughts != "each":
        return selection
    sides = (selection.train, selection.held_out, selection.validation)
    train, held_out, validation = (one_per_answer(side, template) for side in sides)
    return Selection(train, held_out, validation, selection.sources)


def _check_loss_on(data: DataSettings, sources: Sequence[LoadedSource]) -> None:
    """Refuse rows with turns that are not in the loss where every token is.

    Raises:
        DataError: there is such a row; names the first.
    """
    if data.loss_on != "all":
        return
    for example in (example for source in sources for example in source.examples):
        if isinstance(example, Conversation) and not all(turn.in_loss for turn in example.messages):
            raise DataError(
                f"{example.origin}: a turn is marked not to be in the loss, but data.loss_on=all trains on every token",
                "set data.loss_on=completion, or remove the marks",
            )


def rows_to_keep(data: PreparedData) -> TokenTable:
    """Rows on which a run's model is compared with other forms of it: those held out, or else a few of training's."""
    return data.held_out if len(data.held_out) else data.train.first(TRAINING_ROWS_KEPT)


def without_held_out(data: PreparedData) -> PreparedData:
    """The same rows for training and validation, and none that are held out."""
    none = TokenTable.of([])
    return replace(data, held_out=none, held_out_counts=NO_ROWS, references=())


def rows_to_choose_by(data: PreparedData) -> TokenTable:
    """Rows that may decide about a run's weights, which held-out rows may not: those of validation, or of training."""
    return data.validation if len(data.validation) else data.train.first(TRAINING_ROWS_CHOSEN_BY)


def table_rows(table: TokenTable) -> list[tuple[Sequence[int], Sequence[bool]]]:
    """The rows of a table: ids, and which belong to answers."""
    rows = (table.row(index) for index in range(len(table)))
    return [(ids.tolist(), mask.tolist()) for ids, mask in rows]


def read_source(data: DataSettings, number: int, progress: Progress = silent) -> LoadedSource:
    """All usable rows of one source."""
    source = data.sources[number]
    return load_examples(
        source.name,
        path=Path(source.path) if source.path else None,
        revision=source.revision,
        split=source.split,
        options=source.options,
        repository=source.repository,
        subset=source.subset,
        on_bad_row=data.on_bad_row,
        progress=progress,
    )


def select(data: DataSettings, sources: list[LoadedSource]) -> Selection:
    """Sample each source, mix them, split off held-out and validation rows, and sample the training rows that are left;
    all seeded by `data.seed`.

    Raises:
        DataError: fewer training rows are left than `data.train_size`; or as sample(), mix() and split() do.
    """
    parts = []
    for number, (settings, source) in enumerate(zip(data.sources, sources, strict=True)):
        examples = source.examples
        if settings.size is not None:
            examples = sample_source(examples, settings.size, data.seed, number)
        parts.append((source.origin, settings.weight, examples))
    if len(parts) == 1:
        mixed = parts[0][2] if data.size is None else sample(parts[0][2], data.size, data.seed)
    else:
        mixed = mix(parts, data.size, data.seed)
    train, held_out, validation = split(mixed, data.held_out, data.validation, data.seed)
    if data.train_size is not None:
        if data.train_size > len(train):
            raise DataError(
                f"data.train_size is {data.train_size:,}, but {len(train):,} training rows are left after held-out and "
                "validation rows",
                "set a lower data.train_size, or null for all",
            )
        train = sample(train, data.train_size, data.seed, "training")
    return Selection(train, held_out, validation, sources)
