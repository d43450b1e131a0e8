"""Check the data before training: tokens, template, duplicates, leaks, poor answers.

Examples:
  tunelab lint recipe.yaml
  tunelab lint --model distilgpt2 --data alpaca
  tunelab lint rows.jsonl                       (texts only, without a model)
  tunelab lint recipe.yaml --allow no-end-token
  tunelab lint recipe.yaml --html checks.html   (examples, lengths)
  tunelab lint recipe.yaml --benchmarks mmlu mmlu.data=DIR

The checks see the rows as they are trained on. `prepare` and `train` run them too: an error stops them, unless --allow
(or data.allow) names it. The result is kept with the prepared rows. Exit code 1: there are errors.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from tunelab.cli._benchmarks import sorted_words
from tunelab.cli._console import is_terminal, print_data, progress_bar, quick_imports, say
from tunelab.cli._json import add_json_flag, print_json
from tunelab.cli._recipe_arguments import add_recipe_arguments, given_flags, recipe_of, refuse_flags
from tunelab.cli._words import comma_separated, is_change
from tunelab.config.recipe import DATA_FILE_ENDINGS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe or a file, --html, --benchmarks, --json."""
    add_recipe_arguments(parser, subject="RECIPE.yaml | FILE")
    parser.add_argument("--html", metavar="PAGE", help="write a page with examples and histograms of lengths")
    parser.add_argument(
        "--benchmarks", metavar="NAMES", help="comma-separated benchmarks that no training row should be taken from"
    )
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check, and show what was found."""
    refuse_flags(arguments, ("--out", "--limit"), "nothing is trained or evaluated", "--size N checks a sample of rows")
    names = comma_separated(arguments.benchmarks) if arguments.benchmarks else []
    options, changes, others = sorted_words(arguments.words, names)
    arguments.words = [*others, *changes]
    file, recipe = _data_file(arguments), None
    if file is None or len(arguments.words) > 1 or names or set(given_flags(arguments)) - {"--allow"}:
        if file is not None:
            arguments.words.remove(file)
            arguments.data = [*(arguments.data or []), file]
        recipe, file = recipe_of(arguments), None
    with quick_imports():
        from tunelab.answering.benchmark_items import load_benchmarks, texts_of
        from tunelab.data.prepared import cache_directory
        from tunelab.files import write_text_atomically
        from tunelab.linting import summary
        from tunelab.linting.lint import check_allowed
        from tunelab.preparation.lint import lint_file, lint_recipe, overlaps
        from tunelab.preparation.linted import LINT_FILE
        from tunelab.report.lint_page import lint_page

    allowed = recipe.data.allow if recipe else tuple(arguments.allow or ())
    check_allowed(allowed)
    path = None
    with progress_bar() as progress:
        if recipe is None:
            found = lint_file(str(file), progress=progress)
        else:
            found, data = lint_recipe(recipe, progress)
            path = cache_directory() / data.key / LINT_FILE
            if names:
                loaded = load_benchmarks(names, options)
                found = found.with_more(overlaps(recipe, {one.label: texts_of(one.items) for one in loaded}, progress))
    if arguments.html:
        sources = recipe.data.sources if recipe else ()
        title = file or ", ".join(one.path or one.repository or one.name for one in sources)
        write_text_atomically(Path(arguments.html), lint_page(found, f"Is {title} what I think?"))
        say(f"page: {arguments.html}")
    code = 1 if found.errors(allowed) else 0
    if arguments.json:
        print_json({"path": None if path is None else str(path), "allowed": list(allowed), **found.to_json()})
        return code
    columns = min(shutil.get_terminal_size().columns, 120) if is_terminal(sys.stdout) else summary.COLUMNS
    print_data("\n\n".join(filter(None, (summary.details(found, columns), summary.counted(found)))))
    for note in found.notes:
        say(note)
    if path is not None and path.exists():
        say(f"kept in {path}")
    return code


def _data_file(arguments: argparse.Namespace) -> str | None:
    """The data file among the words, where others have a recipe."""
    files = [word for word in arguments.words if not is_change(word)]
    is_data = len(files) == 1 and files[0].lower().removesuffix(".gz").endswith(DATA_FILE_ENDINGS)
    return files[0] if is_data else None
