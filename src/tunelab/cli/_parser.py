"""The parser of a verb: argparse, with its errors in the form of ours."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from typing import Any, NoReturn

from tunelab.errors import UsageError

#: What a value was expected to be, by the name of the function that argparse converts it with.
KINDS = {"int": "an integer", "float": "a number"}

_UNKNOWN = re.compile(r"unrecognized arguments: (\S+)", re.DOTALL)
_MISSING = re.compile(r"the following arguments are required: (.+)")
_NO_VALUE = re.compile(r"argument (\S+): expected (?:one|at least one) argument")
_WRONG_KIND = re.compile(r"argument (.+): invalid (\w+) value: (.+)", re.DOTALL)
_WRONG_CHOICE = re.compile(r"argument (.+?): invalid choice: (.+) \(choose from (.+)\)", re.DOTALL)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fills the paragraphs of a docstring to the terminal's width; indented lines (examples) stay as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        filled = (one if "\n  " in one else textwrap.fill(one, width - len(indent)) for one in paragraphs)
        return textwrap.indent("\n\n".join(filled), indent)


class VerbParser(argparse.ArgumentParser):
    """A parser without abbreviations, whose errors are UsageErrors with a hint. It has --debug."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **options)
        self.add_argument("--debug", action="store_true", help="show the Python traceback of an error")

    def error(self, message: str) -> NoReturn:
        """Raises UsageError, never returns; a message that is not known keeps argparse's words."""
        said, hint = self._in_our_form(message)
        raise UsageError(said, hint or f"{self.prog} --help shows all arguments and examples")

    def _in_our_form(self, message: str) -> tuple[str, str]:
        if found := _UNKNOWN.match(message):
            return self._unknown(found[1])
        if found := _MISSING.match(message):
            return f"{found[1]}: missing", ""
        if found := _NO_VALUE.match(message):
            return f"{found[1]} needs a value", ""
        if found := _WRONG_KIND.match(message):
            return f"{found[1]} is {found[3]}, expected {KINDS.get(found[2], found[2])}", ""
        if found := _WRONG_CHOICE.match(message):
            choices = found[3].replace("'", "").split(", ")
            near = difflib.get_close_matches(found[2].strip("'"), choices, n=1)
            said = f"{found[1]} is {found[2]}, expected one of {', '.join(choices)}"
            return said, f"did you mean {near[0]}?" if near else ""
        return message, ""

    def _unknown(self, word: str) -> tuple[str, str]:
        if not word.startswith("-"):
            return f"unexpected word {word!r}", ""
        from tunelab.config.other_tools import other_key  # the overview of verbs stays light

        flag = word.partition("=")[0]
        if other := other_key(flag.lstrip("-").replace("-", "_")):
            return f"unknown flag {flag} ({', '.join(other.tools)})", other.remedy()
        near = difflib.get_close_matches(flag, list(self._option_string_actions), n=1, cutoff=0.75)
        return f"unknown flag {flag}", f"did you mean {near[0]}?" if near else ""
