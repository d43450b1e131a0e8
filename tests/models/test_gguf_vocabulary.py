"""Tokenizers of GGUF files: the same ids as the one that was written, and as llama.cpp's; or a refusal by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf_files import LlamaCpp, needs_llama_cpp, with_merges
from real_tokenizers import NAMES, load_real_tokenizer
from tiny import tiny_model, tiny_tokenizer
from tiny_tokenizers import begin_of_text_tokenizer, byte_tokenizer, dummy_prefix_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from tunelab.errors import ModelError
from tunelab.models.gguf.file_header import read_header
from tunelab.models.gguf.tokenizer import GPT4O_SPLIT, LLAMA3_SPLIT, OWN_KEY, QWEN2_SPLIT, SPACE
from tunelab.models.gguf.vocabulary import SAME_RULE, merges_of_scores, rebuilt_tokenizer
from tunelab.models.load import load_model, load_tokenizer
from tunelab.publishing.gguf_file import write_gguf

#: Unicode, white space of all kinds, and special tokens in the middle.
TEXTS = (
    "hat the thin man, then; étude 1234567 hats' can't WON'T ABCdef's a/b/\n don't\n",
    "a     b   the\n\n\n  th\t\tand\r\nlines   ",
    "  <|im_start|>the\n\n12 hats<|im_end|>  the<eos> the ",
    "e\u0301 中文 😀👩‍👩‍👧 ﷽ \u00a0\u2003x\u200bÅ ½ ٣ Ⅳ \u0000",
    "def f(x):\n        return x+1 #### ---- ====\n",
    f"{SPACE}{SPACE}the {SPACE} x",
    " ",
    "",
)


#: So that each splitting rule gives other tokens: of digits, apostrophes, capitals, line breaks, slashes, accents, and
#: of "hat", which is a token that no merges give.
MERGES = [
    *[
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("1", "2"),
        ("3", "4"),
        ("12", "3"),
        ("12", "34"),
        ("5", "6"),
        ("56", "7"),
    ],
    *[("a", "t"), ("h", "a"), ("ha", "t"), ("'", "s"), ("'", "t"), ("'", "T"), ("n", "'t"), ("C", "d"), ("B", "C")],
    *[("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("Ċ", "Ċ"), ("ĠĠ", "Ċ"), (":", "Ċ"), ("Ċ", "Ġ"), ("Ċ", "ĠĠ"), (")", ":"), ("):", "Ċ")],
    *[("-", "-"), ("--", "--"), ("Ġ", "--"), ("#", "#"), ("/", "Ċ"), ("/", "b"), ("Ì", "ģ"), ("e", "Ìģ"), ("Ġ", "1")],
    *[("Ġ", "12"), ("č", "Ċ"), ("Ã", "©"), ("Ã©", "t"), ("s", "'"), (",", "Ġ"), ("n", ","), ("Ġ", "n"), ("ĉ", "ĉ")],
]


def merging() -> Any:
    """GPT-2's kind."""
    tokenizer = byte_tokenizer(MERGES)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return tokenizer


def digits() -> Any:
    """SmolLM2's kind: digits stand alone, and the unknown token is the special one that begins texts."""
    tokenizer = merging()
    tokenizer.unk_token = "<|im_start|>"
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    steps = [pre_tokenizers.Digits(individual_digits=True), gpt2]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def split(pattern: str, *, whole: bool = False, composes: bool = False) -> Any:
    tokenizer = merging()
    backend = tokenizer.backend_tokenizer
    backend.model.ignore_merges = whole
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])
    if composes:
        backend.normalizer = normalizers.NFC()
    return tokenizer


def begun() -> Any:
    tokenizer = begin_of_text_tokenizer()
    special = [("<bos>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=special)
    return tokenizer


PAIRS = [(SPACE, "t"), ("t", "h"), (f"{SPACE}t", "h"), (SPACE, "th")]
RUNS = [(SPACE * left, SPACE * right) for left, right in [(3, 1), (2, 2), (2, 1), (1, 3), (1, 2), (1, 1)]]


def gemma() -> Any:
    """No space before texts, and runs of spaces that are tokens of their own."""
    runs = [(SPACE, SPACE), (SPACE * 2, SPACE), (SPACE, SPACE * 2), ("\n", "\n")]
    tokenizer = dummy_prefix_tokenizer([*runs, *PAIRS])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (SPACE * 2, SPACE * 3, "\n\n")])
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def first() -> Any:
    """A space before the text alone, which GGUF cannot say."""
    tokenizer = dummy_prefix_tokenizer(PAIRS)
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "first", split=False)
    return tokenizer


def tied() -> Any:
    """Runs of spaces that have one score."""
    import json

    tokenizer = dummy_prefix_tokenizer([("t", "h"), *RUNS[::-1]])
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    tree["model"]["merges"] = [("t", "h"), *RUNS]
    return type(tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(tree)), eos_token="<eos>")


TOKENIZERS = {
    "no merges": tiny_tokenizer,
    "gpt2": merging,
    "smollm": digits,
    "llama-bpe": lambda: split(LLAMA3_SPLIT, whole=True),
    "dbrx": lambda: split(LLAMA3_SPLIT),
    "qwen2": lambda: split(QWEN2_SPLIT),
    "qwen2, composing": lambda: split(QWEN2_SPLIT, composes=True),
    "gpt-4o": lambda: split(GPT4O_SPLIT),
    "bos": begun,
    "sentencepiece": lambda: dummy_prefix_tokenizer(PAIRS),
    "first": first,
    "gemma": gemma,
    "runs": tied,
}


def written(tokenizer: Any, path: Path) -> Path:
    write_gguf(tiny_model("llama", vocab_size=len(tokenizer) + 3), tokenizer, path, kind="BF16")
    return path


def check_same(again: Any, tokenizer: Any) -> None:
    for text in TEXTS:
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"], text
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert again(text, add_special_tokens=False)["input_ids"] == bare
        assert again.decode(bare) == tokenizer.decode(bare)
        assert again.decode(bare, skip_special_tokens=True) == tokenizer.decode(bare, skip_special_tokens=True)
    special = ("bos_token", "eos_token", "pad_token", "unk_token")
    for name in special:
        assert getattr(again, name) == getattr(tokenizer, name) or (name == "unk_token" and name)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_tokenizer_is_the_one_that_was_written(name: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name]()
    tokenizer.chat_template = "{{ bos_token }}{{ messages }}"
    check_same(rebuilt_tokenizer(read_header(written(tokenizer, tmp_path / "m.gguf"))), tokenizer)


def test_it_is_loaded_as_it_was_built(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = begun()
    check_same(load_tokenizer(str(written(tokenizer, tmp_path / "m.gguf"))), tokenizer)
    assert capfd.readouterr() == ("", "")


def check_as_llama_cpp(running: LlamaCpp, tokenizer: Any, rule: str) -> None:
    """Its rule of GPT-4o splits before combining accents, where the original does not; no text here has NUL, at which
    it ends."""
    for text in TEXTS:
        text = text.replace("\0", "").replace("\u0301" if rule == "gpt-4o" else "\0", "")
        assert running.ids(text) == tokenizer(text, split_special_tokens=True)["input_ids"], text


def test_each_rule_gives_other_tokens() -> None:
    """Else the comparisons with llama.cpp below would prove nothing."""
    rules = ("gpt2", "smollm", "llama-bpe", "dbrx", "qwen2", "gpt-4o")
    tokenizers = [TOKENIZERS[name]() for name in rules]
    assert len({str([tokenizer(text)["input_ids"] for text in TEXTS]) for tokenizer in tokenizers}) == len(rules)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_real_tokenizers_are_the_same(name: str, shared_data: Path, tmp_path: Path) -> None:
    tokenizer = load_real_tokenizer(name, shared_data, tmp_path)
    check_same(rebuilt_tokenizer(read_header(written(tokenizer, tmp_path / "m.gguf"))), tokenizer)


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name not in ("qwen2, composing", "first")])
def test_llama_cpp_gives_the_same_ids(name: str, tmp_path: Path) -> None:
    file = written(TOKENIZERS[name](), tmp_path / "m.gguf")
    running, again = LlamaCpp(file), rebuilt_tokenizer(read_header(file))
    check_as_llama_cpp(running, again, name)


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("rule", SAME_RULE)
def test_rules_of_other_names_are_the_same_to_llama_cpp(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, pre=rule)
    file = written(merging(), tmp_path / "m.gguf")
    running, again = LlamaCpp(file), rebuilt_tokenizer(read_header(file))
    check_as_llama_cpp(running, again, SAME_RULE[rule])


def named(monkeypatch: pytest.MonkeyPatch, **keys: Any) -> None:
    """Let files that are written say something else of their tokenizer."""
    for key, value in keys.items():
        name = f"add_tokenizer_{key}" if key in ("pre", "model") else f"add_{key}"
        original = getattr(gguf.GGUFWriter, name)
        monkeypatch.setattr(
            gguf.GGUFWriter, name, lambda self, _, original=original, value=value: original(self, value)
        )


# What cannot be rebuilt is refused by name.


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"pre": "tekken"}, r"it splits texts by the rule 'tekken' \(tokenizer.ggml.pre\); known are llama-bpe, "),
        ({"pre": "default"}, "it splits texts by the rule 'default'"),
        ({"model": "t5"}, r"it is of the kind 't5', expected gpt2 \(byte-level BPE\) or llama"),
        ({"token_types": [1, 2]}, r"it does not say which tokens are special \(token_type\)"),
        ({"token_merges": ["a b c"]}, "its merge 'a b c' is not of two pieces"),
        ({"token_merges": ["zz q"]}, "its tokenizer cannot be rebuilt: "),
        ({"add_eos_token": True}, "it puts an end-of-sequence token behind every text"),
        ({"bos_token_id": 10**6}, "its tokenizer cannot be rebuilt: "),
    ],
)
def test_byte_level_tokenizers_that_are_not_known_are_refused(
    keys: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, **keys)
    with pytest.raises(ModelError, match=message) as caught:
        rebuilt_tokenizer(read_header(written(with_merges(), tmp_path / "m.gguf")))
    assert "set model.tokenizer to the model's own" in caught.value.hint


def test_texts_that_begin_with_an_unknown_token_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, add_bos_token=True)
    with pytest.raises(ModelError, match="texts begin with a beginning-of-text token, and it does not say which"):
        rebuilt_tokenizer(read_header(written(with_merges(), tmp_path / "m.gguf")))  # it has none: OWN_KEY says so


def test_sentencepiece_tokenizers_without_scores_or_bytes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        named(changed, token_scores=[0.0])
        with pytest.raises(ModelError, match="it does not have a score for each token"):
            rebuilt_tokenizer(read_header(written(dummy_prefix_tokenizer(), tmp_path / "m.gguf")))
    named(monkeypatch, token_list=[f"x{id}" for id in range(len(dummy_prefix_tokenizer()) + 3)])
    with pytest.raises(ModelError, match="it has no token for the byte <0x00>"):
        rebuilt_tokenizer(read_header(written(dummy_prefix_tokenizer(), tmp_path / "m.gguf")))


def test_two_tokens_of_one_text_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named(monkeypatch, token_list=["x"] * (len(with_merges()) + 3))
    with pytest.raises(ModelError, match="two ids have the same text"):
        rebuilt_tokenizer(read_header(written(with_merges(), tmp_path / "m.gguf")))


def test_a_model_without_its_tokenizer_takes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    named(monkeypatch, pre="tekken")
    file = written(with_merges(), tmp_path / "m.gguf")
    load_model(str(file), dtype=torch.float32)
    with pytest.raises(ModelError, match="its tokenizer cannot be rebuilt: it splits texts by the rule 'tekken'"):
        load_tokenizer(str(file))


# Scores and merges.


def test_scores_give_the_merges_of_highest_score_first() -> None:
    ids = {text: id for id, text in enumerate(["a", "b", "c", "ab", "bc", "abc"])}
    scores = {"a": -9.0, "b": -9.0, "c": -9.0, "ab": -2.0, "bc": -1.0, "abc": -3.0}
    assert merges_of_scores(scores, ids) == [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")]
    with pytest.raises(ModelError, match="its pieces 'ab' and 'bc' have one score"):
        merges_of_scores({**scores, "bc": -2.0}, ids)


def test_equal_scores_of_pieces_that_never_compete_are_no_tie() -> None:
    ids = {text: id for id, text in enumerate(["a", "b", "c", "d", "ab", "cd", "abc"])}
    scores = {**dict.fromkeys("abcd", -9.0), "ab": -1.0, "cd": -1.0, "abc": -3.0}
    assert merges_of_scores(scores, ids)[:2] == [("a", "b"), ("c", "d")]
    with pytest.raises(ModelError, match="its pieces 'abc' and 'ab' have scores from which no merges follow"):
        merges_of_scores({**scores, "abc": 0.0}, ids)  # "ab" before "cd" would take its c


def test_named_chat_templates_are_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    templates = [{"name": "default", "template": "{{ 1 }}"}, {"name": "tool_use", "template": "{{ 2 }}"}]
    original = gguf.GGUFWriter.add_chat_template
    monkeypatch.setattr(gguf.GGUFWriter, "add_chat_template", lambda self, _: original(self, templates))
    file = written(with_merges(), tmp_path / "m.gguf")
    assert rebuilt_tokenizer(read_header(file)).chat_template == {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}


def test_phi3_strips_white_space_behind_its_tokens(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    write_gguf(tiny_model("llama"), tokenizer, tmp_path / "m.gguf", name="other")
    assert OWN_KEY in read_header(tmp_path / "m.gguf").says
    again = rebuilt_tokenizer(read_header(tmp_path / "m.gguf"))
    assert not any(token.rstrip for token in again.added_tokens_decoder.values())
