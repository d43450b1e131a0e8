"""The tokenizer in a GGUF file, built from the file's own tokens, types, scores and merges as llama.cpp reads them.

transformers' own reader adds tokens that the file lacks and takes every splitting rule for a few. Here a rule that is
not known to be llama.cpp's is refused by its name, and so are scores from which no order of merges follows.
Source: llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tunelab.errors import ModelError
from tunelab.failures import sentence
from tunelab.models.gguf.file_header import GgufFile
from tunelab.models.gguf.tokenizer import (
    BYTE_PIECES,
    CONTROL,
    NO_MERGES,
    OWN_KEY,
    PHI3_KEEPS,
    PHI3_NAME,
    PRE_TOKENIZERS,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)

#: Name of a splitting rule in files -> our name of the same rule.
SAME_RULE = {
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "pixtral"), "llama-bpe"),
    **dict.fromkeys(("deepseek-r1-qwen", "megrez", "stablelm2"), "qwen2"),
    **dict.fromkeys(("phi-2", "olmo", "mpt", "jais", "exaone4"), "gpt-2"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone"), "smollm"),
    "llama4": "gpt-4o",
    "smaug-bpe": "dbrx",
}
#: Rules with which a text begins with a beginning-of-text token unless the file says otherwise.
BEGUN = frozenset({"llama-bpe"})
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
#: Rules that are not one pattern.
STEPS = {"gpt-2": GPT2, "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])}

_SPECIAL = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}


def rebuilt_tokenizer(file: GgufFile) -> PreTrainedTokenizerFast:
    """The file's tokenizer.

    Raises:
        ModelError: the file does not say what its tokenizer does, or its rule is not known here.
    """
    says = {key.partition(".")[2]: value for key, value in file.says.items() if key.startswith("tokenizer.")}
    says = {key.removeprefix("ggml."): value for key, value in says.items()}
    try:
        own = json.loads(file.says.get(OWN_KEY, "{}"))
        return _built(says, own, str(file.says.get("general.name", "")))
    except ModelError as error:
        raise _not_rebuilt(file, error.message) from error
    except Exception as error:  # what a broken vocabulary raises is not documented
        raise _not_rebuilt(file, sentence(error)) from error


def _not_rebuilt(file: GgufFile, why: str) -> ModelError:
    return ModelError(
        f"{file.path}: its tokenizer cannot be rebuilt: {why}",
        "set model.tokenizer to the model's own, a folder or a hub name",
    )


def _built(says: Mapping[str, Any], own: Mapping[str, Any], name: str) -> PreTrainedTokenizerFast:
    kind = says.get("model")
    if kind not in ("gpt2", "llama"):
        raise ModelError(
            f"it is of the kind {kind!r}, expected gpt2 (byte-level BPE) or llama (SentencePiece's BPE)", ""
        )
    tokens, types = says["tokens"], says.get("token_type")
    if types is None or len(types) != len(tokens):
        raise ModelError("it does not say which tokens are special (token_type)", "")
    if len(set(tokens)) < len(tokens):
        raise ModelError("two ids have the same text", "")
    texts = [(text, type) for text, type in zip(tokens, types, strict=True)]
    vocabulary = {text: id for id, (text, type) in enumerate(texts) if not (type == UNUSED and text == f"[PAD{id}]")}
    backend = _byte_level(vocabulary, says, own) if kind == "gpt2" else _sentencepiece(vocabulary, says, own)
    _add_special(backend, texts, strips=PHI3_NAME.search(name) is not None)
    named = {f"{part}_token": tokens[says[key]] for part, key in _SPECIAL.items() if says.get(key) is not None}
    named |= {key: value for key, value in own.items() if key == "bos_token" and value is None}
    _set_border(backend, says, named)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **named)
    tokenizer.chat_template = _chat_template(says)
    return tokenizer


def _add_special(backend: Tokenizer, texts: Sequence[tuple[str, int]], *, strips: bool) -> None:
    """Tokens that are found in a text before it is split; "phi-3" in a model's name tells llama.cpp which of these
    strip the white space after them."""
    for is_special, kinds in ((True, (CONTROL, UNKNOWN)), (False, (USER_DEFINED,))):
        chosen = [
            AddedToken(text, normalized=False, special=is_special, rstrip=strips and text not in PHI3_KEEPS)
            for text, type in texts
            if type in kinds and text
        ]
        (backend.add_special_tokens if is_special else backend.add_tokens)(chosen)


def _set_border(backend: Tokenizer, says: Mapping[str, Any], named: Mapping[str, Any]) -> None:
    """Let texts begin with a beginning-of-text token if the file says so."""
    if says.get("add_eos_token"):
        raise ModelError("it puts an end-of-sequence token behind every text, also behind a prompt", "")
    is_begun = says["model"] == "llama" or _rule(says) in BEGUN
    if not says.get("add_bos_token", is_begun):
        return
    bos = named.get("bos_token")
    if bos is None:
        raise ModelError("texts begin with a beginning-of-text token, and it does not say which that is", "")
    special = [(bos, backend.token_to_id(bos))]
    backend.post_processor = processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=special
    )


def _chat_template(says: Mapping[str, Any]) -> Any:
    """The chat template, or several by name."""
    template = says.get("chat_template")
    others = {name: says.get(f"chat_template.{name}") for name in says.get("chat_templates", ())}
    named = {name: text for name, text in {"default": template, **others}.items() if text is not None}
    return named if len(named) > 1 else template


# Byte-level BPE.


def _rule(says: Mapping[str, Any]) -> str:
    name = str(says.get("pre", "default"))
    return SAME_RULE.get(name, name)


def _byte_level(vocabulary: dict[str, int], says: Mapping[str, Any], own: Mapping[str, Any]) -> Tokenizer:
    merges = [tuple(merge.split(" ")) for merge in says.get("merges", ()) if merge != NO_MERGES]
    if odd := next((merge for merge in merges if len(merge) != 2), None):
        raise ModelError(f"its merge {' '.join(odd)!r} is not of two pieces", "")
    splitter, whole = _splitter(_rule(says), has_merges=bool(merges))
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole))
    if own.get("normalizer") == "NFC":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    return backend


def _splitter(rule: str, *, has_merges: bool) -> tuple[Any, bool]:
    """How a text is split before pieces are merged, and whether a piece that is a token is taken without merging."""
    if not has_merges:  # every rule gives the same tokens
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), False
    for (pattern, whole), name in PRE_TOKENIZERS.items():
        if name == rule:
            byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
            split = pre_tokenizers.Split(Regex(pattern), "isolated")
            return pre_tokenizers.Sequence([split, byte_level]), whole
    if rule in STEPS:
        return STEPS[rule], False
    known = ", ".join([*PRE_TOKENIZERS.values(), *STEPS, *SAME_RULE])
    raise ModelError(f"it splits texts by the rule {rule!r} (tokenizer.ggml.pre); known are {known}", "")


# SentencePiece's BPE.


def _sentencepiece(vocabulary: dict[str, int], says: Mapping[str, Any], own: Mapping[str, Any]) -> Tokenizer:
    unknown = says.get("unknown_token_id")
    scores, tokens = says["scores"], says["tokens"]
    if len(scores) != len(tokens):
        raise ModelError("it does not have a score for each token", "")
    if missing := next((piece for piece in BYTE_PIECES if piece not in vocabulary), None):
        raise ModelError(f"it has no token for the byte {missing}", "")
    merges = merges_of_scores({text: scores[id] for text, id in vocabulary.items()}, vocabulary)
    backend = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=unknown is not None,
            byte_fallback=True,
        )
    )
    _set_spaces(backend, is_added=bool(says.get("add_space_prefix", True)), own=own)
    return backend


def merges_of_scores(scores: Mapping[str, float], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges that give what llama.cpp does: of all neighbors whose joint text is a piece, it joins those of the
    highest score, the leftmost first.

    Raises:
        ModelError: two pieces of one score may compete for a letter; then no order of merges decides.
    """
    pairs = [
        (-score, -cut, cut - len(text), ids[text[:cut]], text[:cut], text[cut:])
        for text, score in scores.items()
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    # Within a score the longest left part first: so the leftmost run of spaces grows, as with llama.cpp.
    pairs.sort(key=lambda pair: pair[:4])
    tied: set[str] = set()
    for _, group in groupby(pairs, key=lambda pair: pair[0]):
        tied |= _tied([(left, right) for *_, left, right in group])
    for negative, *_, left, right in pairs:
        if lower := next((part for part in (left, right) if part in tied and scores[part] < -negative), None):
            raise ModelError(f"its pieces {left + right!r} and {lower!r} have scores from which no merges follow", "")
    return [(left, right) for *_, left, right in pairs]


def _tied(merges: Sequence[tuple[str, str]]) -> set[str]:
    """The pieces that these merges of one score make, if there are several; one letter's runs always grow on the left.

    Raises:
        ModelError: two of them may compete for a letter.
    """
    made = {left + right for left, right in merges}
    if len(made) == 1:
        return set()
    if len({letter for text in made for letter in text}) == 1:
        return made
    lefts: defaultdict[str, set[str]] = defaultdict(set)
    for left, right in merges:
        lefts[left].add(left + right)
    for left, right in merges:
        if others := lefts[right] - {left + right}:
            raise ModelError(
                f"its pieces {left + right!r} and {min(others)!r} have one score, so that no order of merges follows",
                "",
            )
    return made


def _set_spaces(backend: Tokenizer, *, is_added: bool, own: Mapping[str, Any]) -> None:
    """Let a tokenizer treat spaces as llama.cpp does: one more before a text and after special tokens."""
    replaced = normalizers.Replace(" ", SPACE)
    if is_added and own.get("space_prefix") == "first":  # before a text alone, which GGUF cannot say
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "first", split=False)
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replaced]) if is_added else replaced
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * is_added)
