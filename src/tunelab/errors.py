"""Errors for the user: what happened, and what to do about it.

An error has a message (names the file, row or key, and what was expected), a hint (the remedy) and the exit code of the
command line: 1 = the work failed, 2 = the command or recipe was wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Begins the hint of work that resumes if it is started again as it was; the command line adds the command.
SAME_COMMAND = "run the same command"


class TunelabError(Exception):
    """Base of all errors that tunelab raises deliberately.

    Args:
        message: what happened, naming the file, row or key, and what was expected.
        hint: the remedy, one sentence or a command to run; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TunelabError):
    """The command line or a recipe is invalid; nothing was started."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem in a recipe: the dotted key, what is wrong, and the remedy."""

    path: str
    message: str
    hint: str = ""


class ConfigError(UsageError):
    """A recipe or an override does not match the schema; carries all problems at once."""

    def __init__(self, origin: str, problems: Sequence[Problem]) -> None:
        self.origin = origin
        self.problems = tuple(problems)
        lines = [f"{origin}: {len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"]
        for problem in self.problems:
            lines.append(f"  {problem.path}: {problem.message}")
            if problem.hint:
                lines.append(f"    {problem.hint}")
        super().__init__("\n".join(lines))


class BadRow(TunelabError):
    """One data row cannot be used. Raised with the reason only; the file reader adds file and row number."""


class DataError(TunelabError):
    """Data cannot be read, or has rows that the settings do not allow to skip."""


class ModelError(TunelabError):
    """A model, tokenizer or adapter cannot be loaded, or does not support what was requested."""


class TrainingError(TunelabError):
    """Training had to stop: a non-finite loss, no target tokens, or weights that did not change.

    Args:
        diverged: a loss or gradient is not finite, as with too high a learning rate.
    """

    def __init__(self, message: str, hint: str = "", *, diverged: bool = False) -> None:
        super().__init__(message, hint)
        self.diverged = diverged


class RunError(TunelabError):
    """A run directory is missing, incomplete, in use, or does not match the request."""


class Interrupted(TunelabError):
    """Work was interrupted and has saved its progress; 130 is the shell's exit code for Ctrl-C."""

    exit_code = 130
