"""What the model sees: rows as tokens with the tokens in the loss marked, and how many rows there are of each kind."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tunelab.config import RecipeLike, as_recipe, resolve
from tunelab.data.prepared import PreparedData
from tunelab.errors import UsageError
from tunelab.notebook import data_frame, html_table, shown_in_notebooks
from tunelab.preparation.rows import check_local_files, fit_to_model, prepare_with
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.progress import Progress
from tunelab.units import format_counted

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class InspectedRow:
    """A training row as the model sees it.

    Args:
        number: its position among the training rows, from 1.
        tokens: the text of each token, with line breaks shown as ↵.
        targets: [tokens], True where a token is in the loss.
    """

    number: int
    tokens: tuple[str, ...]
    targets: tuple[bool, ...]

    def __repr__(self) -> str:
        targets = format_counted(sum(self.targets), "target")
        return f"row {self.number}: {len(self.tokens)} tokens, {targets}\n{self.marked()}"

    def _repr_html_(self) -> str:
        style = "background:#cfe8cf;color:#123312;"
        shown = "".join(
            f'<span style="border-right:1px solid #bbb;{style if target else ""}">{html.escape(token)}</span>'
            for token, target in zip(self.tokens, self.targets, strict=True)
        )
        head = f"row {self.number}: {len(self.tokens)} tokens, {sum(self.targets)} in the loss (green)"
        return f'<p>{head}</p><div style="white-space:pre-wrap;font-family:monospace">{shown}</div>'

    def marked(self) -> str:
        """Tokens with a bar between them, and [[ ]] around each stretch of targets."""
        shown, inside = "", False
        for token, target in zip(self.tokens, self.targets, strict=True):
            if target and not inside:
                shown += "[["
            elif inside and not target:
                shown += "]]"
            elif shown:
                shown += "|"
            shown, inside = shown + token, target
        return shown + ("]]" if inside else "")


@dataclass(frozen=True)
class Inspection:
    """Rows of a recipe as tokens.

    Args:
        rows: the first training rows.
        data: all rows, as prepare() gives them.
        stop_tokens: the tokens that end an answer.
    """

    rows: tuple[InspectedRow, ...]
    data: PreparedData
    stop_tokens: tuple[str, ...]

    def __repr__(self) -> str:
        train = self.data.train_counts
        said = f"Inspection({train.kept:,} training rows, {train.tokens:,} tokens, {train.targets:,} in the loss;"
        others = [f"{counts.kept:,} {name} rows" for name, (_, counts) in self.data.splits.items()][1:]
        return f"{said} {', '.join(others)}; stop tokens: {', '.join(self.stop_tokens)})"

    def _repr_html_(self) -> str:
        splits = self.data.splits
        columns = [asdict(counts) for _, counts in splits.values()]
        counted = [name for name, value in columns[0].items() if isinstance(value, int)]
        rows = [(name.replace("_", " "), *(f"{column[name]:,}" for column in columns)) for name in counted]
        table = html_table("", ("", *splits), rows)
        return table + "".join(row._repr_html_() for row in self.rows)

    def to_frame(self) -> pandas.DataFrame:
        """One row per row of the data: split, tokens.

        Raises:
            UsageError: pandas is not installed.
        """
        tables = {name: table for name, (table, _) in self.data.splits.items()}
        return data_frame(
            [{"split": split, "tokens": int(length)} for split, table in tables.items() for length in table.lengths]
        )


def inspect(
    recipe: RecipeLike | None = None, *, rows: int = 3, progress: Progress = shown_in_notebooks, **changes: Any
) -> Inspection:
    """The recipe's rows as the model sees them. Nothing is trained; bad rows are counted, not fatal.

    Args:
        recipe: its object, a mapping, or a YAML file's path.
        rows: how many training rows to show.
        changes: recipe keys, as in finetune().

    Raises:
        TunelabError: the recipe, its data or its tokenizer cannot be used; the message says why.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 0:
        raise UsageError(f"rows is {rows!r}, expected 0 or a positive integer", "omit it to show 3")
    known = resolve(as_recipe(recipe, changes))
    known = known.model_copy(update={"data": known.data.model_copy(update={"on_bad_row": "skip"})})
    check_local_files(known.data)
    tokenizer = load_recipe_tokenizer(known)
    data = prepare_with(tokenizer, fit_to_model(known, tokenizer), progress=progress)
    shown = []
    for index in range(min(rows, len(data.train))):
        ids, mask = (array.tolist() for array in data.train.row(index))
        targets = [True] * len(ids) if known.data.loss_on == "all" else [bool(target) for target in mask]
        targets[0] = False  # the first token has no context to predict it from
        shown.append(InspectedRow(index + 1, tuple(token_text(tokenizer, id) for id in ids), tuple(targets)))
    stops = tuple(str(tokenizer.convert_ids_to_tokens(id)) for id in data.stop_token_ids)
    return Inspection(tuple(shown), data, stops)


def token_text(tokenizer: Any, id: int) -> str:
    """A token as text, with its leading space and visible line breaks."""
    token = str(tokenizer.convert_ids_to_tokens(id))
    if id in tokenizer.all_special_ids:
        return token
    text = str(tokenizer.decode([id], clean_up_tokenization_spaces=False))
    if token.startswith("\u2581") and not text.startswith(" "):  # sentencepiece drops the first space
        text = " " + text
    return text.replace("\n", "↵\n")
