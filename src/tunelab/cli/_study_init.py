"""`tunelab study init`: a study's file for a model, rows and a question."""

from __future__ import annotations

import argparse
from pathlib import Path

from tunelab.cli._console import command, say
from tunelab.cli._json import print_json
from tunelab.cli._recipe_arguments import KEY_FLAGS
from tunelab.cli._words import comma_separated
from tunelab.config.methods import DEFAULT_METHODS, METHODS
from tunelab.errors import UsageError
from tunelab.files import write_text_atomically
from tunelab.units import format_counted


def add_init_arguments(parser: argparse.ArgumentParser) -> None:
    """--data, --compare and --question."""
    group = parser.add_argument_group("flags of init, with --model and --size")
    next(flag for flag in KEY_FLAGS if flag.name == "data").add_to(group)
    methods = f"of {', '.join(METHODS)}; comma-separated (default: {','.join(DEFAULT_METHODS)})"
    group.add_argument("--compare", metavar="METHODS", help=methods)
    form = 'what the study is to answer: "Is qlora as good as lora?"; better than, as good as, like; repeatable'
    group.add_argument("--question", metavar="TEXT", action="append", help=form)


def init_study(arguments: argparse.Namespace) -> int:
    """Write a study's file, and say what is in it and how it is run."""
    file = _new_file(arguments)
    from tunelab.studies.new_study import new_study

    methods = comma_separated(arguments.compare)
    if arguments.compare is not None and not methods:
        raise UsageError("--compare names no method", f"known: {', '.join(METHODS)}; or omit it")
    made = new_study(str(file), arguments.model, arguments.data, methods, arguments.question or (), size=arguments.size)
    write_text_atomically(file, made.text)
    rows = {"training_rows": made.rows.training, "held_out_rows": made.rows.held_out}
    rows["validation_rows"] = made.rows.validation
    if arguments.json:
        return print_json({"path": str(file), "arms": list(made.study.arms), **rows})
    said = f"{format_counted(made.rows.training, 'row')} to train on, {made.rows.held_out} that measure"
    say(f"wrote {file}: arms {', '.join(made.study.arms)}; {said}, {made.rows.validation} that choose learning rates")
    say(f"what it takes: {command('study', 'run', file, '--dry-run')}\nrun it:        {command('study', 'run', file)}")
    return 0


def _new_file(arguments: argparse.Namespace) -> Path:
    """The file to write, if model and rows are named and it does not exist yet."""
    if arguments.model is None or not arguments.data:
        missing = "--model" if arguments.model is None else "--data"
        example = "tunelab study init study.yaml --model distilgpt2 --data rows.jsonl"
        raise UsageError(f"study init needs {missing}", f"for example: {example}")
    file = Path(arguments.file or "study.yaml")
    if file.exists():
        raise UsageError(f"{file}: exists already", "give another name: tunelab study init NAME.yaml ...")
    if not file.parent.is_dir():
        raise UsageError(f"{file.parent}: no such directory", "create it, or give another path")
    return file
