"""Every error that a user can cause or must hear of: what happened, and what to do about it.

An error carries its message (names the file, row or key, and says what was expected), a hint (the remedy) and the exit
code that the command line ends with: 1 = the work failed, 2 = the command or recipe was wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class TunelabError(Exception):
    """Base of every error that tunelab raises on purpose.

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
    """The command line or a recipe asks for something that cannot be; nothing was started."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a recipe: the key's dotted path, what is wrong there, and the remedy."""

    path: str
    message: str
    hint: str = ""


class ConfigError(UsageError):
    """A recipe or an override does not fit the typed tree; carries every problem at once."""

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
    """One data row cannot be used. Raised with the reason alone; whoever reads the file adds file and row number."""


class DataError(TunelabError):
    """Data cannot be read, or holds rows that the settings do not allow to skip."""


class ModelError(TunelabError):
    """A model, tokenizer or adapter cannot be loaded, or cannot do what was asked of it."""


class TrainingError(TunelabError):
    """Training had to stop: a loss that is not finite, no target tokens, weights that did not change."""


class RunError(TunelabError):
    """A run directory is missing, incomplete, in use, or made from something else than was asked for."""


class Interrupted(TunelabError):
    """Work was asked to stop, and has saved what it had; 130 is what shells give for Ctrl-C."""

    exit_code = 130
