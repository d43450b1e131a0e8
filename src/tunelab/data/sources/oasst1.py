"""OpenAssistant conversations: trees of human-written prompts and ranked replies, from flat messages or nested trees.

Source: Köpf et al., OpenAssistant Conversations (2023, arXiv 2304.07327), OpenAssistant/oasst1 on the hub (flat
messages with `parent_id`), or OpenAssistant's exports: `*.messages.jsonl.gz` (flat), `*.trees.jsonl.gz` (nested
`replies` below a `prompt`). A row that is a root message with `replies` of its own is a tree too.

A tree gives conversations from its root prompt to an answer, so that all of them are of one group (the root prompt):
    paths: best   one: at every turn the best ranked reply is taken (rank 0 is best, the unranked after the ranked, then
                  the order of the file); the path ends at its last assistant turn
    paths: all    one for every assistant turn that no other assistant turn follows. A path that ends with a prompt is
                  cut back to the answer before it, and dropped where it then is the beginning of another path
    language      keeps the trees whose root prompt has this `lang`, whole; the languages of replies are not looked at

Deleted messages are skipped with all replies below them, and counted; so are trees in another language. In the nested
form a row is a tree: one bad message makes the whole tree a bad row. In the flat form a row is a message: the bad
message is a bad row, and so is every message below it, because its parent is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from tunelab.data.messages import Conversation, Example, Message, check_conversation
from tunelab.data.sources._source import HubDataset, NumberedRow, Row, SourceOptions, column, kind_of, text
from tunelab.errors import BadRow

LICENCE = "Apache-2.0"
HUB = HubDataset("OpenAssistant/oasst1", "fdf72ae0827c1cda404aff25b6603abec9e3399b", LICENCE)
COLUMNS = frozenset({"message_id", "text", "role"})
OTHER_COLUMNS = (frozenset({"message_tree_id", "prompt"}),)
EXAMPLE = [
    {"message_id": "a", "parent_id": None, "text": "What is a leap year?", "role": "prompter", "lang": "en"},
    {"message_id": "b", "parent_id": "a", "text": "A year of 366 days.", "role": "assistant", "lang": "en", "rank": 0},
    {"message_id": "c", "parent_id": "a", "text": "No idea.", "role": "assistant", "lang": "en", "rank": 1},
    {"message_id": "d", "parent_id": "b", "text": "How often?", "role": "prompter", "lang": "en"},
    {"message_id": "e", "parent_id": "d", "text": "Nearly every fourth.", "role": "assistant", "lang": "en"},
]
#: Of a flat message, besides `replies`.
MESSAGE_COLUMNS = ("message_id", "parent_id", "text", "role", "lang", "rank", "deleted")
ROLES: dict[str, Literal["user", "assistant"]] = {"prompter": "user", "assistant": "assistant"}
DELETED = "deleted messages (with their replies)"

Node = Mapping[str, Any]


class Options(SourceOptions):
    """Which conversations a tree gives."""

    paths: Literal["best", "all"] = Field("best", description="One conversation per tree, or one per last answer.")
    language: str | None = Field(None, description="Keep trees whose root prompt has this `lang` (en); null: all.")


def examples(row: Row, options: Options) -> list[Example]:
    """The conversations of one tree; none where the tree is in another language or deleted (left_out counts it).

    Raises:
        BadRow: a message is invalid (names its message_id), or the tree has no answer.
    """
    root = column(row, "prompt")
    if not isinstance(root, Mapping):
        raise BadRow(f"column 'prompt' is {kind_of(root)}, expected the root message of a tree")
    _check_tree(root)
    if _other_language(root, options) or _deleted(root):
        return []
    paths = [_best_path(root)] if options.paths == "best" else _all_paths(root)
    if not any(paths):
        if any(_deleted(reply) for reply in _replies(root)):
            return []
        raise BadRow(f"no assistant turn: message {root['message_id']!r} has no answer")
    return [check_conversation(Conversation(tuple(_message(node) for node in path))) for path in paths]


def left_out(row: Row, options: Options) -> dict[str, int]:
    """What examples() skips in a tree on purpose: deleted messages with all below them, or the whole tree."""
    root = row["prompt"]
    if _other_language(root, options):
        return {f"trees in another language than {options.language}": 1}
    deleted = 0
    pending = [(root, False)]
    while pending:
        node, below_deleted = pending.pop()
        gone = below_deleted or _deleted(node)
        deleted += gone
        pending += [(reply, gone) for reply in _replies(node)]
    return {DELETED: deleted} if deleted else {}


def gather(rows: Iterable[NumberedRow], options: Options) -> Iterator[NumberedRow]:
    """Trees from flat messages, in the order of their root prompts and numbered as they are; nested trees as they are.

    Messages may be in any order. Bad rows: a message that is invalid, a second one with the same
    message_id, and messages whose chain of parents does not end at a root prompt of the file.
    """
    nodes: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, row in rows:
        if isinstance(row, BadRow) or "prompt" in row:
            yield number, row
            continue
        if row.get("replies") not in (None, "", "[]", []):
            yield number, {"message_tree_id": row.get("message_id"), "prompt": dict(row)}
            continue
        try:
            _check_message(row)
            message_id = row["message_id"]
            if message_id in nodes:
                raise BadRow(f"message_id {message_id!r} is also in row {nodes[message_id][0]}")
            nodes[message_id] = (
                number,
                {**{name: row[name] for name in MESSAGE_COLUMNS if name in row}, "replies": []},
            )
        except BadRow as bad:
            yield number, bad
    roots = []
    for number, node in nodes.values():
        parent = nodes.get(node.get("parent_id") or "")
        if parent is not None:
            parent[1]["replies"].append(node)
        elif not node.get("parent_id"):
            roots.append((number, node))
    reached: set[str] = set()
    for number, root in roots:
        reached.update(node["message_id"] for node in _walk(root))
        yield number, {"message_tree_id": root["message_id"], "prompt": root}
    for message_id, (number, node) in nodes.items():
        if message_id not in reached:
            yield number, _orphan(node, nodes)


def _orphan(node: Node, nodes: Mapping[str, tuple[int, Node]]) -> BadRow:
    message_id, parent_id = node["message_id"], node["parent_id"]
    if parent_id not in nodes:
        return BadRow(f"message {message_id!r}: its parent {parent_id!r} is not in the file, or is a bad row")
    return BadRow(f"message {message_id!r}: the chain of its parents does not reach a root prompt")


def _replies(node: Node) -> Sequence[Node]:
    return node.get("replies") or ()


def _walk(root: Node) -> Iterator[Node]:
    """Every message of a tree, a message before its replies. A stack, not recursion: a chain can be of any length."""
    pending = [root]
    while pending:
        node = pending.pop()
        yield node
        pending.extend(reversed(_replies(node)))


def _deleted(node: Node) -> bool:
    return node.get("deleted") in (True, "true", "True")


def _rank(node: Node) -> float | None:
    """Rank of a reply, 0 = best; None if it has none. A csv cell or a float column has it as text or as 0.0."""
    value = node.get("rank")
    if value is None or value == "":
        return None
    try:
        rank = float(value)
    except (TypeError, ValueError):
        raise BadRow(f"message {node['message_id']!r}: rank is {value!r}, expected a number or null") from None
    return rank if rank == rank else None


def _check_message(node: Node) -> None:
    """Raises BadRow, with its name, if a message cannot be used."""
    message_id = text(node, "message_id")
    if not message_id:
        raise BadRow("column 'message_id' is empty")
    parent_id = node.get("parent_id")
    if parent_id is not None and not isinstance(parent_id, str):
        raise BadRow(f"message {message_id!r}: parent_id is {kind_of(parent_id)}, expected text or null")
    if text(node, "role") not in ROLES:
        raise BadRow(f"message {message_id!r} has role {node['role']!r}; known: {', '.join(ROLES)}")
    # A deleted message is never shown to a model, and its text is often gone.
    if not _deleted(node) and not text(node, "text").strip():
        raise BadRow(f"message {message_id!r} ({node['role']}) has no text")
    _rank(node)


def _check_tree(root: Node) -> None:
    pending: list[Any] = [root]
    while pending:
        node = pending.pop()
        if not isinstance(node, Mapping):
            raise BadRow(f"a reply is {kind_of(node)}, expected a message")
        _check_message(node)
        replies = node.get("replies")
        if replies is not None and not isinstance(replies, list):
            raise BadRow(f"message {node['message_id']!r}: replies is {kind_of(replies)}, expected a list")
        pending.extend(replies or ())


def _other_language(root: Node, options: Options) -> bool:
    return options.language is not None and text(root, "lang") != options.language


def _message(node: Node) -> Message:
    return Message(ROLES[node["role"]], node["text"])


def _cut_back(path: Sequence[Node]) -> tuple[Node, ...]:
    """The path up to its last assistant turn; empty where there is none."""
    length = len(path)
    while length and path[length - 1]["role"] != "assistant":
        length -= 1
    return tuple(path[:length])


def _best_path(root: Node) -> tuple[Node, ...]:
    path = [root]
    while replies := [reply for reply in _replies(path[-1]) if not _deleted(reply)]:
        # min keeps the first of equals, which is the order of the file.
        path.append(min(replies, key=_rank_order))
    return _cut_back(path)


def _rank_order(node: Node) -> tuple[bool, float]:
    rank = _rank(node)
    return rank is None, rank or 0.0


def _all_paths(root: Node) -> list[tuple[Node, ...]]:
    # Keyed by the message object: two paths are cut back to the same answer where both its replies have none.
    ends: dict[int, tuple[Node, ...]] = {}
    pending: list[tuple[Node, ...]] = [(root,)]
    while pending:
        path = pending.pop()
        replies = [reply for reply in _replies(path[-1]) if not _deleted(reply)]
        pending.extend((*path, reply) for reply in reversed(replies))
        if not replies and (cut := _cut_back(path)):
            ends[id(cut[-1])] = cut
    inner = {id(node) for path in ends.values() for node in path[:-1]}
    return [path for end, path in ends.items() if end not in inner]
