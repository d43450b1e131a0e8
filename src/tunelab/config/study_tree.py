"""A study's tree before it is checked: sections merged into others, and values set by dotted paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Tree = dict[str, Any]

#: A key of a study that is one choice: another value replaces it whole.
_WHOLE = "budgets"


def merged(tree: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """`tree` with the values of `over`: mappings are merged key by key, `budgets` and other values are replaced."""
    result = _merged(tree, over)
    return result | {_WHOLE: _copied(over[_WHOLE])} if _WHOLE in over else result


def _merged(tree: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    result: Tree = _copied(tree)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping):
            # A shorthand (`model: gpt2`, `precision: nf4`) under a mapping is expanded to its first key.
            first = {"model": "name", "precision": "name"}.get(key)
            base = below if isinstance(below, Mapping) else ({first: below} if first and below is not None else {})
            result[key] = _merged(base, value)
        else:
            result[key] = _copied(value)
    return result


def _copied(value: Any) -> Any:
    """Mappings and lists anew, the rest as it is: a study's jobs ask for this thousands of times."""
    if isinstance(value, Mapping):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value


def changed(tree: Tree, path: str, value: Any) -> Tree:
    """`tree` with a value at a dotted path; at "model", the model of every arm."""
    if path == "model":
        arms = {
            name: {**arm, "recipe": {key: one for key, one in (arm.get("recipe") or {}).items() if key != "model"}}
            for name, arm in tree.get("arms", {}).items()
        }
        return {**tree, "arms": arms, "recipe": {**tree.get("recipe", {}), "model": value}}
    first, _, rest = path.partition(".")
    names = [first, rest] if first == _WHOLE and rest else path.split(".")  # budgets.train.epochs: its key has a dot
    over: Any = value
    for name in reversed(names):
        over = {name: over}
    return merged(tree, over)
