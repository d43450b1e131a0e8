"""A tokenizer as GGUF metadata, if llama.cpp tokenizes identically; others are refused.

llama.cpp has its own code for each kind of tokenizer and knows splitting rules by name only ("llama-bpe"), so a file
cannot describe an arbitrary one. Two kinds are written:

    gpt2     byte-level BPE: tokens, merges, and the name of its splitting rule (tokenizer.ggml.pre)
    llama    SentencePiece's BPE: tokens and scores; llama.cpp merges the neighbors whose joint piece has the highest

Source: llama.cpp's src/llama-vocab.cpp and the GGUF specification (ggml, docs/gguf.md).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunelab.errors import ModelError

if TYPE_CHECKING:
    from gguf import GGUFWriter

#: Token types of the GGUF specification.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
#: Space, as SentencePiece writes it.
SPACE = "\u2581"
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: (splitting pattern, whether a piece that is a token is taken without merging) -> llama.cpp's name for the rule.
PRE_TOKENIZERS = {
    (LLAMA3_SPLIT, True): "llama-bpe",
    (LLAMA3_SPLIT, False): "dbrx",
    (QWEN2_SPLIT, False): "qwen2",
    (GPT4O_SPLIT, False): "gpt-4o",
}

#: Composes characters (e and an accent into one) before it splits; llama.cpp does not.
COMPOSES = {"type": "NFC"}
#: Finds nothing, where a normalizer has replaced all spaces (Gemma).
SPLITS_NOTHING = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}

#: llama.cpp needs merges, and GGUF has no empty lists: a merge of two texts that no text is ever split into.
NO_MERGES = "<no> <merges>"

#: What GGUF has no key for, as JSON, for vocabulary.py: `normalizer`, `bos_token` (null: none), `space_prefix`.
OWN_KEY = "tunelab.tokenizer"

#: If the model's name has "phi-3" in it, llama.cpp strips white space after all special tokens but these.
PHI3_NAME = re.compile(r"phi-?3", re.IGNORECASE)
PHI3_KEEPS = ("<unk>", "<s>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class TextStart:
    """What llama.cpp puts before a text that it tokenizes.

    Args:
        add_bos: the beginning-of-text token.
        add_space_prefix: a space, before the text and after every special token; SentencePiece-like tokenizers only.
    """

    add_bos: bool
    add_space_prefix: bool


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """A tokenizer in GGUF's terms.

    Args:
        model: "gpt2" (byte-level BPE) or "llama" (SentencePiece-like BPE).
        pre: llama.cpp's name of the splitting rule.
        tokens: text of each id, one for each row of the model's embedding.
        types: GGUF token type of each id.
        scores: "llama" only: the higher, the earlier a piece is merged.
        merges: "gpt2" only: "left right", the first merged first.
        strips_behind: text of the special tokens that strip the white space after them.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...]
    merges: tuple[str, ...]
    strips_behind: frozenset[str]


def read_tokenizer(tokenizer: Any, vocabulary: int) -> GgufTokenizer:
    """A fast tokenizer in GGUF's terms.

    Args:
        vocabulary: rows of the model's embedding; ids that the tokenizer lacks become unused tokens.

    Raises:
        ModelError: no rule of llama.cpp tokenizes as this tokenizer does, or its ids do not fit the embedding.
    """
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    model = tree["model"]
    if model["type"] != "BPE" or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise _unknown(f"its model is {model['type']}, expected BPE without prefixes or suffixes of its own")
    merges = [tuple(merge) for merge in model["merges"]]
    tokens, types = _tokens(tree, tokenizer, vocabulary)
    added = {token["content"]: token for token in tree["added_tokens"]}
    for token in added.values():
        if token["lstrip"] or token["single_word"]:
            raise _unknown(f"its token {token['content']!r} depends on the text before it (lstrip or single_word)")
    strips = frozenset(content for content, token in added.items() if token["rstrip"])
    if _is_byte_level(tree):
        pre = _splitting_rule(tree)
        joined = tuple(f"{left} {right}" for left, right in merges)
        return GgufTokenizer("gpt2", pre, tokens, types, (), joined, strips)
    if spaced := [content for content, token in added.items() if SPACE in content and token["normalized"]]:
        raise _unknown(f"its token {spaced[0]!r} stands for spaces")
    if not model["byte_fallback"] or set(BYTE_PIECES) - set(model["vocab"]):
        raise _unknown("it is neither byte-level nor has a token for each byte (byte_fallback)")
    _space_prefix(tree)
    scores = _scores(tokens, types, merges, set(model["vocab"]))
    return GgufTokenizer("llama", "default", tokens, types, scores, (), strips)


def composes(tokenizer: Any) -> bool:
    """Whether a tokenizer composes characters, which llama.cpp does not: texts that are not NFC get other tokens."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is not None and json.loads(normalizer.__getstate__()) == COMPOSES


def text_start(tokenizer: Any) -> TextStart:
    """What this tokenizer itself puts before a text.

    Raises:
        ModelError: special tokens other than one beginning-of-text token.
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    place = next(start for start in range(len(full)) if full[start : start + len(bare)] == bare)
    leading = full[:place]
    if leading not in ([], [tokenizer.bos_token_id]):
        raise _unknown(f"it puts the ids {leading} before a text, expected its beginning-of-text token or nothing")
    return TextStart(bool(leading), space_prefix(tokenizer) in ("first", "always"))


def space_prefix(tokenizer: Any) -> str | None:
    """Where a SentencePiece-like tokenizer adds a space: "first" (before a text), "always" (and after special tokens),
    "never"; None for a byte-level tokenizer.
    """
    backend = tokenizer.backend_tokenizer
    parts = {"normalizer": backend.normalizer, "pre_tokenizer": backend.pre_tokenizer}
    tree = {name: None if part is None else json.loads(part.__getstate__()) for name, part in parts.items()}
    return None if _is_byte_level(tree) else _space_prefix(tree)


def add_tokenizer(
    writer: GGUFWriter,
    tokenizer: Any,
    vocabulary: int,
    *,
    start: TextStart | None = None,
    stop_token_ids: Sequence[int] = (),
) -> frozenset[str]:
    """Write a tokenizer's metadata; returns the tokens after which white space is stripped, for model_name().

    An end-of-sequence token is never added to a text (add_eos_token is false): prompts must stay open.

    Args:
        vocabulary: rows of the model's embedding.
        start: what llama.cpp puts before a text; None = what the tokenizer itself puts there.
        stop_token_ids: ids that end an answer. End of sequence always does; GGUF can name two more.

    Raises:
        ModelError: no rule of llama.cpp tokenizes as this tokenizer does.
    """
    read = read_tokenizer(tokenizer, vocabulary)
    start = text_start(tokenizer) if start is None else start
    if tokenizer.eos_token_id is None:
        raise _unknown("it has no end-of-sequence token")
    if start.add_bos and tokenizer.bos_token_id is None:
        raise _unknown("texts must start with a beginning-of-text token, but it has none")
    others = [id for id in stop_token_ids if id != tokenizer.eos_token_id]
    if len(others) > 2:
        raise _unknown(f"answers end with {len(others)} tokens besides end of sequence, GGUF has keys for two")
    writer.add_tokenizer_model(read.model)
    writer.add_tokenizer_pre(read.pre)
    writer.add_token_list(read.tokens)
    writer.add_token_types(read.types)
    if read.model == "llama":
        writer.add_token_scores(read.scores)
        writer.add_add_space_prefix(start.add_space_prefix)
    else:
        writer.add_token_merges(read.merges or (NO_MERGES,))
    # llama.cpp's defaults for ids that a file omits mean other tokens here (11 for byte-level BPE).
    bos = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    for id, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(start.add_bos)
    writer.add_add_eos_token(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
    if own := _without_key(tokenizer):
        writer.add_string(OWN_KEY, json.dumps(own))
    return read.strips_behind


def _without_key(tokenizer: Any) -> dict[str, Any]:
    """What of a tokenizer GGUF has no key for; see OWN_KEY."""
    own: dict[str, Any] = {"normalizer": "NFC"} if composes(tokenizer) else {}
    if tokenizer.bos_token_id is None:
        own["bos_token"] = None
    if space_prefix(tokenizer) == "first":
        own["space_prefix"] = "first"
    return own


def model_name(name: str, strips_behind: frozenset[str], special: frozenset[str]) -> str:
    """The model's name in the file, by which llama.cpp decides whether to strip white space after special tokens.

    It does so if the name has "phi-3" in it, after all special tokens but three. A name that contradicts the tokenizer
    is changed.

    Args:
        special: text of all special and added tokens.

    Raises:
        ModelError: the tokenizer strips after other tokens than llama.cpp can.
    """
    if not strips_behind:
        return PHI3_NAME.sub("phi 3", name)
    if strips_behind != special - set(PHI3_KEEPS) or not {"</s>", *PHI3_KEEPS} <= special:
        raise _unknown(f"it strips white space after some of its tokens ({', '.join(sorted(strips_behind))})")
    return name if PHI3_NAME.search(name) else f"{name} (phi-3)"


def special_texts(tokenizer: Any) -> frozenset[str]:
    """Text of all special and added tokens."""
    return frozenset(token.content for token in tokenizer.added_tokens_decoder.values())


def _tokens(tree: dict[str, Any], tokenizer: Any, vocabulary: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Text and type of each id below `vocabulary`."""
    texts = {id: text for text, id in tree["model"]["vocab"].items()}
    types = {id: BYTE if text in BYTE_PIECES else NORMAL for id, text in texts.items()}
    if _is_byte_level(tree):
        types = dict.fromkeys(types, NORMAL)
    for token in tree["added_tokens"]:
        texts[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        types[unknown] = UNKNOWN
    largest = max(texts)
    if largest >= vocabulary:
        raise ModelError(
            f"the tokenizer has an id {largest}, but the model's embedding has {vocabulary} rows",
            "use the model's own tokenizer",
        )
    for id in range(vocabulary):
        texts.setdefault(id, f"[PAD{id}]")
        types.setdefault(id, UNUSED)
    if len(set(texts.values())) < len(texts):
        raise _unknown("two ids have the same text")
    order = range(vocabulary)
    return tuple(texts[id] for id in order), tuple(types[id] for id in order)


def _scores(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[tuple[str, ...]], pieces: set[str]
) -> tuple[float, ...]:
    """Scores that make llama.cpp merge pieces as the merges say: the earlier a piece's merges, the higher its score.

    llama.cpp merges any two neighbors whose joint text is a piece, so every split of a merged piece into two pieces
    must be a merge. That holds if the merges come from a SentencePiece model.
    """
    ranks = _piece_ranks(merges)
    counts = Counter(left + right for left, right in merges)
    ordinary = (text for text, type in zip(tokens, types, strict=True) if type == NORMAL)
    for joined in ordinary:  # tokens such as <s> are skipped: texts do not contain them
        ways = sum(joined[:cut] in pieces and joined[cut:] in pieces for cut in range(1, len(joined)))
        if ways != counts[joined]:
            raise _unknown(f"{ways} pairs of its tokens make {joined!r}, but {counts[joined]} are merges")
    return tuple(
        -float(ranks.get(text, len(ranks))) if type in (NORMAL, USER_DEFINED) else 0.0 if type == BYTE else -1000.0
        for text, type in zip(tokens, types, strict=True)
    )


def _piece_ranks(merges: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """The order in which pieces are merged, 0 first.

    A piece's merges must be consecutive. The one exception is how SentencePiece models merge runs of spaces: all
    lengths have one score, their merges are mixed, and a run grows from its left end.
    """
    last = {left + right: index for index, (left, right) in enumerate(merges)}
    ranks: dict[str, int] = {}
    group: list[tuple[str, ...]] = []
    end = -1
    for index, (left, right) in enumerate(merges):
        group.append((left, right))
        end = max(end, last[left + right])
        if index == end:  # no later merge makes one of the group's pieces
            made = {left + right for left, right in group}
            if len(made) > 1 and not _grow_from_the_left(group, ranks):
                raise _unknown(f"merges that make {', '.join(sorted(made)[:3])!r} are mixed with each other")
            ranks.update(dict.fromkeys(made, len(ranks)))
            group = []
    return ranks


def _grow_from_the_left(merges: Sequence[tuple[str, ...]], earlier: dict[str, int]) -> bool:
    """Whether these merges make runs of spaces of every length up to the longest, and one more space at the right end
    of a run always comes before two single spaces: then it is the leftmost run that grows, as with equal scores.

    Args:
        earlier: pieces that earlier merges make. Two spaces may be made by a merge of these, or by a later one.
    """
    order = {merge: index for index, merge in enumerate(merges)}
    made = {left + right for left, right in merges}
    longest = max(map(len, made))
    lengths = range(2 if SPACE * 2 in made else 3, longest + 1)
    if made != {SPACE * length for length in lengths} or SPACE * 2 in earlier:
        return False
    pair = order.get((SPACE, SPACE), len(merges))
    return all(order.get((SPACE * length, SPACE), pair) < pair for length in range(2, longest))


def _is_byte_level(tree: dict[str, Any]) -> bool:
    return any(step["type"] == "ByteLevel" for step in _steps(tree["pre_tokenizer"], "pretokenizers"))


def _steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return list(part[inner]) if part["type"] == "Sequence" else [part]


def _splitting_rule(tree: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer splits a text before merging."""
    *first, last = _steps(tree["pre_tokenizer"], "pretokenizers")
    merges, whole = bool(tree["model"]["merges"]), bool(tree["model"].get("ignore_merges"))
    if tree["normalizer"] not in (None, COMPOSES):
        raise _unknown("it changes the text before it splits it (a normalizer)")
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        raise _unknown("it puts a space before a text; llama.cpp does not for byte-level tokenizers")
    if not merges:
        return "gpt-2"  # without merges every splitting rule gives the same tokens
    if not first and last["use_regex"] and not whole:
        return "gpt-2"
    if len(first) == 1 and not last["use_regex"] and first[0]["type"] == "Split":
        found = PRE_TOKENIZERS.get((first[0]["pattern"].get("Regex"), whole))
        if found and first[0]["behavior"] == "Isolated" and not first[0]["invert"]:
            return found
    if first == [{"type": "Digits", "individual_digits": True}] and last["use_regex"] and not whole:
        return "smollm"
    raise _unknown(f"llama.cpp has no name for its splitting rule {json.dumps(tree['pre_tokenizer'])[:200]}")


def _space_prefix(tree: dict[str, Any]) -> str:
    """Like space_prefix().

    Raises:
        ModelError: spaces are treated differently from SentencePiece.
    """
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    normalizers = _steps(tree["normalizer"], "normalizers")
    splits = _steps(tree["pre_tokenizer"], "pretokenizers")
    if normalizers == [{"type": "Prepend", "prepend": SPACE}, replaced] and not splits:
        return "always"
    if normalizers == [replaced] and splits in ([], [SPLITS_NOTHING]):
        return "never"
    if not normalizers and len(splits) == 1 and splits[0]["type"] == "Metaspace":
        (split,) = splits
        if split["replacement"] == SPACE and not split.get("split", True):
            return str(split["prepend_scheme"])
    raise _unknown("it does not treat spaces as SentencePiece does")


def _unknown(why: str) -> ModelError:
    return ModelError(
        f"GGUF cannot hold this tokenizer: {why}",
        "export as transformers checkpoint (--to hf), or use a tokenizer of the GPT-2, Llama or Phi-3 kind",
    )
