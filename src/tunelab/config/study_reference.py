"""Documentation of a study's keys, and the search of `tunelab keys` over all keys."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_type_hints

from tunelab.config.other_tools import OTHER_KEYS, OtherKey
from tunelab.config.other_values import OTHER_VALUES
from tunelab.config.published import Published
from tunelab.config.questions import Question
from tunelab.config.reference import Key, described, recipe_keys, table_row
from tunelab.config.search import Search
from tunelab.config.study import Arm, Study
from tunelab.errors import UsageError

#: Key of a study -> the part that its entries are, and their path.
_PARTS: dict[str, tuple[type[Any], str]] = {
    "arms": (Arm, "arms.NAME"),
    "search": (Search, "search"),
    "questions": (Question, "questions.N"),
    "published": (Published, "published.N"),
}


def study_keys() -> list[Key]:
    """Every key of a study file, in its order; those of `recipe` are recipe_keys()."""
    found = []
    for key in _keys_of(Study, ""):
        found.append(key)
        if key.path in _PARTS:
            found += _keys_of(*_PARTS[key.path])
    return found


def _keys_of(part: type[Any], path: str) -> list[Key]:
    annotations = get_type_hints(part, include_extras=True)
    return [
        described(f"{path}.{field.alias or name}" if path else name, field, annotations[name])
        for name, field in part.model_fields.items()
    ]


def study_markdown() -> str:
    """The reference page of a study's keys."""
    lines = [
        "# Study reference",
        "",
        "Written by `scripts/make_reference.py` from `src/tunelab/config/`; a test checks that it is current.",
        "`tunelab study run STUDY --set KEY=VALUE` overrides a key. The guide is [studies](../guides/studies.md); the",
        "keys of `recipe` are in the [recipe reference](recipe.md).",
        "",
        "| key | type | default | description |",
        "|---|---|---|---|",
        *map(table_row, study_keys()),
    ]
    return "\n".join(lines) + "\n"


def other_keys_markdown() -> str:
    """Other tools' keys for docs/guides/coming-from.md: one table per heading, one row per key."""
    lines: list[str] = []
    for heading, keys in OTHER_KEYS.items():
        lines += [
            f"### {heading}",
            "",
            "| their key | of | tunelab | conversion, or why there is none |",
            "|---|---|---|---|",
        ]
        lines += [_other_row(key) for key in keys]
        lines.append("")
    lines += ["### Values", "", "| key | their value | tunelab, or why there is none |", "|---|---|---|"]
    for path, values in OTHER_VALUES.items():
        lines += [f"| `{path}` | `{value}` | {f'`{ours}`' if ours else why} |" for value, (ours, why) in values.items()]
    return "\n".join(lines) + "\n"


def _other_row(key: OtherKey) -> str:
    values = [f"`{shown}`: {f'`{text}`' if text else 'omit it'}" for shown, text in key.shown_values()]
    ours = f"`{key.ours}`" if key.ours else "—"
    return f"| `{key.name}` | {', '.join(key.tools)} | {ours} | {'; '.join(filter(None, [*values, key.note]))} |"


def find_keys(word: str) -> tuple[list[Key], list[Key], list[OtherKey]]:
    """Keys of recipes, of studies and of other tools whose name or description contains a word, whatever its case; with
    another tool's key of exactly this name come ours.

    Raises:
        UsageError: there are none; names the nearest ones.
    """
    wanted = word.lower()
    others = [key for part in OTHER_KEYS.values() for key in part if wanted in key.name.lower()]
    ours = {key.ours for key in others if key.name.lower() == wanted}
    recipe = [key for key in recipe_keys() if _has(key, wanted) or key.path in ours]
    study = [key for key in study_keys() if _has(key, wanted)]
    if not (recipe or study or others):
        raise UsageError(
            f"no key has {word!r} in its name or description", _near(wanted, [*recipe_keys(), *study_keys()])
        )
    return recipe, study, others


def _has(key: Key, wanted: str) -> bool:
    return wanted in key.path.lower() or wanted in key.description.lower()


def _near(wanted: str, known: Sequence[Key]) -> str:
    names = {key.path.rpartition(".")[2]: key.path for key in known}
    near = difflib.get_close_matches(wanted.rpartition(".")[2], list(names), n=3)
    return f"did you mean {' or '.join(names[name] for name in near)}?" if near else "tunelab keys lists all"
