"""The checks of a recipe's prepared rows. What they found is kept with the rows, so that it is computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tunelab.config import Recipe
from tunelab.data.chat_templates import shipped_templates
from tunelab.data.messages import Example
from tunelab.data.prepared import PreparedData, cache_directory
from tunelab.data.stored_rows import load_origins
from tunelab.data.tokenize import RowEncoder
from tunelab.errors import DataError
from tunelab.files import write_json_atomically
from tunelab.linting import lint as checks
from tunelab.linting.duplicates import has_library
from tunelab.linting.lint import Lint
from tunelab.linting.rows import LintedRows, TokenizedWith, together
from tunelab.models.load import load_tokenizer
from tunelab.progress import Progress

#: Beside the prepared rows, and in a run.
LINT_FILE = "lint.json"


def lint_prepared(
    data: PreparedData,
    recipe: Recipe,
    encoder: RowEncoder,
    examples: Callable[[], Iterable[Example]],
    progress: Progress,
) -> Lint:
    """What the checks find in prepared rows.

    Args:
        encoder: of the rows.
        examples: reads the texts of all rows; called only if the cache does not have the result.

    Raises:
        DataError: the file has changed since its rows were prepared.
    """
    folder = cache_directory() / data.key
    identity = _identity(recipe)
    if (known := _stored(folder / LINT_FILE, identity)) is not None:
        return known
    found = checks.lint(_rows(data, recipe, encoder, examples(), folder), progress)
    if folder.is_dir():
        write_json_atomically(folder / LINT_FILE, {"identity": identity, **found.to_json()})
    return found


def _rows(
    data: PreparedData, recipe: Recipe, encoder: RowEncoder, examples: Iterable[Example], folder: Path
) -> LintedRows:
    given = data.origins or load_origins(folder)
    by_origin = {one.origin: one for one in examples}
    splits: dict[str, range] = {}
    origins: list[str] = []
    start = 0
    for name, (table, _) in data.splits.items():
        splits[name] = range(start, start + len(table))
        origins += given[name]
        start += len(table)
    if lost := next((one for one in origins if one not in by_origin), None):
        raise DataError(f"{lost}: changed while the data were prepared", "run the same command again")
    return LintedRows(
        splits=splits,
        origins=origins,
        examples=[by_origin[one] for one in origins],
        table=together([table for table, _ in data.splits.values()]),
        tokenized_with=TokenizedWith(
            tokenizer=encoder.tokenizer,
            template=encoder.template,
            stop_token_ids=data.stop_token_ids,
            loss_on=recipe.data.loss_on,
            own_template=_own_template(recipe, encoder.tokenizer),
            splits_tokens_on_purpose=recipe.model.new_tokens is not None,
        ),
        bad=data.bad_rows,
    )


def _identity(recipe: Recipe) -> str:
    """Hash of what the result follows from besides the rows and their key."""
    model, data = recipe.model, recipe.data
    settings = [model.model_dump(mode="json"), data.template, data.chat_template, data.loss_on, has_library()]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for file in sorted(Path(checks.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _stored(path: Path, identity: str) -> Lint | None:
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Lint.from_json(stored) if stored["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged: it is computed again
        return None


def _own_template(recipe: Recipe, tokenizer: Any) -> str | None:
    """The chat template that came with the model's tokenizer, whatever the recipe uses; None if it has none."""
    template = tokenizer.chat_template
    if recipe.data.chat_template is not None or recipe.data.template in shipped_templates():
        model = recipe.model
        template = load_tokenizer(
            model.tokenizer or model.name, revision=model.revision, trust_remote_code=model.trust_remote_code
        ).chat_template
    if isinstance(template, dict):
        template = template.get(recipe.data.chat_template) or template.get("default")
    return None if template is None else str(template)
