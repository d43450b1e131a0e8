"""The `tunelab` command: imports the verb's file on demand and runs it; errors become messages and exit codes.

A verb is a file in this folder whose name does not start with an underscore. It defines `add_arguments(parser)` and
`run(arguments) -> int`. Its docstring is its help; the first line is its summary in the overview.

PYTHON_ARGCOMPLETE_OK: the shell can ask this command for completions (_completion.py).
"""

from __future__ import annotations

import difflib
import inspect
import os
import shlex
import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import Any

import tunelab
from tunelab import plugins
from tunelab.allowed_code import allow_code, only_allowed
from tunelab.cli._import_notices import silence_import_notices
from tunelab.cli._parser import VerbParser
from tunelab.cli._renamed_flags import check_flags_are_current
from tunelab.cpu import set_thread_defaults
from tunelab.errors import SAME_COMMAND, UsageError
from tunelab.failures import in_words

FOLDER = "cli"
EXAMPLES = """\
  tunelab demo
  tunelab train --model distilgpt2 --data alpaca --size 800 --method lora
  tunelab train recipe.yaml train.lr=1e-4 train.epochs=1"""

#: Heading -> verbs, in the order of work.
GROUPS = {
    "train": ("inspect", "lint", "plan", "prepare", "train", "study", "demo"),
    "measure": ("eval", "score", "compare", "report"),
    "use": ("generate", "chat"),
    "publish": ("merge", "quantize", "export", "push"),
    "look up": ("keys", "schema", "env"),
}

INTERRUPTED = 130  # 128 + SIGINT, as in shells
BROKEN_PIPE = 141  # 128 + SIGPIPE: the reader of our output has exited


def verbs() -> list[str]:
    """Names of all verbs, from the file names in this folder (and entry points of the group `tunelab.cli`)."""
    return [name for name in plugins.names(FOLDER) if name != "main"]


def overview() -> str:
    """What `tunelab` prints without arguments: purpose, verbs with their summaries, examples."""
    names = verbs()
    grouped = {name for group in GROUPS.values() for name in group}
    groups = {**GROUPS, "more": tuple(name for name in names if name not in grouped)}
    parts = [f"{heading}:\n{_listed(names, group)}" for heading, group in groups.items() if set(group) & set(names)]
    purpose = textwrap.fill((tunelab.__doc__ or "").partition("\n")[0], _columns())
    ends = (f"examples:\n{EXAMPLES}", "Help on a verb: tunelab VERB --help")
    return "\n\n".join((purpose, "usage: tunelab VERB [...]", *parts, *ends))


def _listed(known: Sequence[str], group: Sequence[str]) -> str:
    """One paragraph per verb: its name and its summary."""
    indent = max(map(len, known)) + 4
    lines = []
    for name in group:
        if name in known:
            said = f"  {name:<{indent - 4}}  {plugins.summary(FOLDER, name)}"
            lines.append(textwrap.fill(said, _columns(), subsequent_indent=" " * indent, break_on_hyphens=False))
    return "\n".join(lines)


def _columns() -> int:
    return min(shutil.get_terminal_size().columns, 120)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    if "_ARGCOMPLETE" in os.environ:
        complete_line()
    words = list(sys.argv[1:] if argv is None else argv)
    silence_import_notices()
    set_thread_defaults(os.environ)
    for stream in (sys.stdout, sys.stderr):
        # A character that the stream cannot encode is escaped; it must not crash the command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with only_allowed({}):  # what this command allows, it allows itself alone
            code = _dispatch(words)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: 0 after --help, 2 after wrong usage
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except BaseException as failure:  # a panic of a Rust library (tokenizers) is no Exception
        return _show_failure(failure, words)


def complete_line(**options: Any) -> None:
    """Answer a shell that asks for completions, and exit. `options` are those of argcomplete.autocomplete()."""
    from tunelab.cli._completion import complete

    complete(verbs(), **options)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"tunelab {tunelab.__version__}")
        return 0
    name = words[0]
    known = verbs()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        what = f"unknown option {name!r}" if name.startswith("-") else f"unknown verb {name!r}"
        raise UsageError(what + (f"; did you mean {near[0]!r}?" if near else ""), f"known verbs: {', '.join(known)}")
    verb = plugins.load(FOLDER, name)
    summary, _, details = inspect.cleandoc(verb.__doc__ or "").partition("\n")
    parser = VerbParser(prog=f"tunelab {name}", description=summary, epilog=details.strip())
    verb.add_arguments(parser)
    check_flags_are_current(name, words[1:])
    # Intermixed: options may stand between a recipe and its key=value words.
    arguments = parser.parse_intermixed_args(words[1:])
    allow_code(*(getattr(arguments, "allow_code", None) or ()))
    return int(verb.run(arguments))


def _show_failure(failure: BaseException, words: Sequence[str]) -> int:
    """Say what failed and the remedy, after its traceback if that was asked for; returns the exit code."""
    if "--debug" in words or os.environ.get("TUNELAB_DEBUG", "") not in ("", "0"):
        traceback.print_exception(type(failure), failure, failure.__traceback__)
    error = in_words(failure)
    hint = error.hint
    if hint.startswith(SAME_COMMAND) or hint.endswith(SAME_COMMAND):
        hint += f": {shlex.join(['tunelab', *words])}"
    print(f"error: {error.message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return error.exit_code
