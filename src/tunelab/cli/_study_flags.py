"""Which of the flags of `tunelab study` each of its words takes: all others are refused, rather than ignored."""

from __future__ import annotations

import argparse
from typing import Any

from tunelab.cli._recipe_arguments import KEY_FLAGS
from tunelab.errors import UsageError

#: Flags that all words take, `what` and `file` among them.
OF_ALL = ("what", "file", "json")

_KEYS = tuple(flag.attribute for flag in KEY_FLAGS if flag.of_studies)
_OF_INIT = ("data", "compare", "question")

#: Flag -> its value where it is not given, for all that some word does not take.
NOT_GIVEN: dict[str, Any] = {
    **dict.fromkeys((*_KEYS, *_OF_INIT, "out", "set", "option", "allow_code")),
    "dry_run": False,
    "scale": "full",
    "executor": "here",
}

#: Word -> the flags that it takes apart from those of all.
_TAKEN = {
    "init": ("model", "size", *_OF_INIT),
    "run": tuple(name for name in NOT_GIVEN if name not in _OF_INIT),
    "list": (),
    "status": (),
    "clean": ("dry_run",),
}

#: What to do in place of a flag of another word.
_REMEDIES = {
    "init": {
        "out": "name the file: tunelab study init FILE",
        "set": "set the key in the file that it writes",
        "dry_run": "it runs nothing; `tunelab study run FILE --dry-run` checks the file that it writes",
        **dict.fromkeys(_KEYS, "set the key in the file that it writes, under recipe"),
        **dict.fromkeys(("scale", "executor", "option"), "give it to `tunelab study run FILE`"),
    },
    "run": {
        "data": "--set 'recipe.data.sources=[rows.jsonl]' sets a study's rows",
        "compare": "a study's arms are in its file",
        "question": "a study's questions are in its file",
    },
}
_OF_A_DIRECTORY = {"out": "name the directory: tunelab study {word} DIR", "dry_run": "it changes nothing; omit it"}


def refuse_flags_of_other_words(arguments: argparse.Namespace) -> None:
    """Refuse a flag that the word of `study` cannot obey.

    Raises:
        UsageError: names the flag, and what to do in its place.
    """
    word = arguments.what
    for name, not_given in NOT_GIVEN.items():
        if name in _TAKEN[word] or getattr(arguments, name) == not_given:
            continue
        flag = "--" + name.replace("_", "-")
        whose = "init" if name in _OF_INIT else "run"
        known = _REMEDIES.get(word, {} if word == "list" else _OF_A_DIRECTORY)
        remedy = known.get(name, f"omit it, or give it to `tunelab study {whose}`").format(word=word)
        raise UsageError(f"{flag} is not for study {word}", remedy)
