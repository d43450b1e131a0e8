"""Tokenizers in GGUF come back the same, in transformers and in llama.cpp, or are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf_files import LlamaCpp, needs_llama_cpp, with_merges
from real_tokenizers import NAMES, load_real_tokenizer
from tiny import tiny_model, tiny_tokenizer
from tiny_tokenizers import begin_of_text_tokenizer, byte_tokenizer, dummy_prefix_tokenizer
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tunelab.errors import ModelError
from tunelab.models.gguf.tokenizer import (
    GPT4O_SPLIT,
    LLAMA3_SPLIT,
    QWEN2_SPLIT,
    SPACE,
    TextStart,
    composes,
    model_name,
    read_tokenizer,
    text_start,
)
from tunelab.publishing.gguf_file import check_gguf, write_gguf


def field(path: Path, key: str) -> Any:
    found = gguf.GGUFReader(path).get_field(key)
    return None if found is None else found.contents()


def small_model(vocabulary: int) -> Any:
    torch.manual_seed(1)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "max_position_embeddings": 256}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, num_attention_heads=1, num_key_value_heads=1, **shape))


TEXTS = (
    "The quick brown fox can't jump 1234567 times over ABCdef's étude, 中文 and 😀!",
    "def f(x):\n        return x + 1\n\n\nprint(f(2))",
    "### Instruction:\nAdd.\n\n### Response:\n",
    "a    b     " + " " * 40 + "c",
    "tabs\t\tand\r\nlines   ",
)


@pytest.fixture(scope="module")
def real_tokenizer(request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: Any) -> Any:
    return load_real_tokenizer(request.param, shared_data, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def real_file(real_tokenizer: Any, tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("real")
    model = small_model(len(real_tokenizer) + 3)
    write_gguf(model, real_tokenizer, folder / "m.gguf")
    assert check_gguf(model, folder / "m.gguf", "F16") == 12
    return folder / "m.gguf"


#: One of each kind: transformers takes 20 s to load Llama-3's 280,000 merges from a file.
@pytest.mark.slow
@pytest.mark.parametrize("real_tokenizer", ["gpt2", "phi3"], indirect=True)
def test_real_tokenizers_come_back_the_same(real_tokenizer: Any, real_file: Path) -> None:
    again = AutoTokenizer.from_pretrained(real_file.parent, gguf_file=real_file.name)
    for text in TEXTS:
        expected = real_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert again(text, add_special_tokens=False)["input_ids"] == expected
    assert (again.bos_token_id, again.eos_token_id) == (real_tokenizer.bos_token_id, real_tokenizer.eos_token_id)
    assert field(real_file, "tokenizer.ggml.tokens")[-1].startswith("[PAD")


@needs_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("real_tokenizer", NAMES, indirect=True)
def test_llama_cpp_reads_texts_as_the_same_tokens(real_tokenizer: Any, real_file: Path) -> None:
    running = LlamaCpp(real_file)
    for text in TEXTS:
        assert running.ids(text) == real_tokenizer(text, split_special_tokens=True)["input_ids"]


# Tokenizers that are refused, and what decides.


def split_tokenizer(pattern: str, *, whole: bool) -> Any:
    tokenizer = with_merges()
    tokenizer.backend_tokenizer.model.ignore_merges = whole
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def test_the_splitting_rule_is_named_as_llama_cpp_names_it() -> None:
    rules = {
        "llama-bpe": split_tokenizer(LLAMA3_SPLIT, whole=True),
        "dbrx": split_tokenizer(LLAMA3_SPLIT, whole=False),
        "qwen2": split_tokenizer(QWEN2_SPLIT, whole=False),
        "gpt-4o": split_tokenizer(GPT4O_SPLIT, whole=False),
        "gpt-2": with_merges(),
        "smollm": with_merges(),
    }
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    rules["smollm"].backend_tokenizer.pre_tokenizer = digits
    for name, tokenizer in rules.items():
        assert read_tokenizer(tokenizer, 300).pre == name
    with pytest.raises(ModelError, match=r"llama\.cpp has no name for its splitting rule"):
        read_tokenizer(split_tokenizer(QWEN2_SPLIT, whole=True), 300)
    with pytest.raises(ModelError, match=r"llama\.cpp has no name for its splitting rule"):
        read_tokenizer(split_tokenizer(r"\s+|\w+", whole=False), 300)


def changed(tokenizer: Any, *keys: str, value: Any) -> Any:
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    place = tree
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(tree)), **special)


NFC = {"type": "NFC"}
LOWER = {"type": "Lowercase"}
PREFIXED = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
WORDS = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("model",), WORDS, "its model is WordLevel, expected BPE"),
        (("normalizer",), LOWER, "it changes the text before it splits it"),
        (("pre_tokenizer",), PREFIXED, "it puts a space before a text"),
        (("pre_tokenizer",), None, "neither byte-level nor has a token for each byte"),
    ],
)
def test_byte_level_tokenizers_that_llama_cpp_lacks_are_refused(
    keys: tuple[str, ...], value: Any, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read_tokenizer(changed(with_merges(), *keys, value=value), 300)


PAIRS = [(SPACE, "t"), ("t", "h"), (f"{SPACE}t", "h"), (SPACE, "th")]


def test_composed_characters_are_said() -> None:
    """Qwen's tokenizers compose characters, which llama.cpp does not: a text in NFC has the same tokens."""
    composing = changed(with_merges(), "normalizer", value=NFC)
    assert composes(composing) and not composes(with_merges())
    assert read_tokenizer(composing, 300) == read_tokenizer(with_merges(), 300)


def test_sentencepiece_scores_follow_the_merges() -> None:
    read = read_tokenizer(dummy_prefix_tokenizer(PAIRS), 400)
    scores = dict(zip(read.tokens, read.scores, strict=True))
    assert scores[f"{SPACE}t"] > scores["th"] > scores[f"{SPACE}th"] > scores["x"]
    assert read.model == "llama"
    assert text_start(dummy_prefix_tokenizer()) == TextStart(add_bos=False, add_space_prefix=True)


def runs(order: list[tuple[int, int]]) -> list[tuple[str, str]]:
    return [(SPACE * left, SPACE * right) for left, right in order]


def test_runs_of_spaces_that_grow_from_the_left_have_one_score() -> None:
    mixed = runs([(3, 1), (2, 2), (2, 1), (1, 3), (1, 2), (1, 1)])
    pairs = [("t", "h"), *mixed]
    vocabulary = dummy_prefix_tokenizer([("t", "h"), *runs([(1, 1), (1, 2), (1, 3)])])
    read = read_tokenizer(changed(vocabulary, "model", "merges", value=pairs), 400)
    scores = dict(zip(read.tokens, read.scores, strict=True))
    assert scores["th"] > scores[SPACE * 3] == scores[SPACE * 4] > scores[SPACE * 2]
    backwards = [("t", "h"), *runs([(1, 3), (1, 2), (2, 2), (3, 1), (2, 1), (1, 1)])]
    assert read_tokenizer(changed(vocabulary, "model", "merges", value=backwards), 400).scores == read.scores
    late = [("t", "h"), *runs([(1, 1), (3, 1), (1, 2), (2, 2), (1, 3), (2, 1)])]
    with pytest.raises(ModelError, match="are mixed with each other"):
        read_tokenizer(changed(vocabulary, "model", "merges", value=late), 400)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (dummy_prefix_tokenizer(PAIRS[:3]), f"2 pairs of its tokens make '{SPACE}th', but 1 are merges"),
        (dummy_prefix_tokenizer([PAIRS[0], PAIRS[1], PAIRS[2], ("a", "b"), PAIRS[3]]), "are mixed with each other"),
        (changed(dummy_prefix_tokenizer(), "normalizer", value=NFC), "it does not treat spaces as SentencePiece"),
        (changed(dummy_prefix_tokenizer(), "normalizer", value=None), "it does not treat spaces as SentencePiece"),
    ],
)
def test_sentencepiece_like_tokenizers_of_other_kinds_are_refused(tokenizer: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_tokenizer(tokenizer, 400)


def test_tokens_that_take_in_their_surroundings_are_refused() -> None:
    from tokenizers import AddedToken

    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<left>", lstrip=True)])
    with pytest.raises(ModelError, match="'<left>' depends on the text before it"):
        read_tokenizer(tokenizer, 300)


def test_added_tokens_that_stand_for_spaces_are_refused() -> None:
    from tokenizers import AddedToken

    tokenizer = dummy_prefix_tokenizer()
    tokenizer.add_tokens([AddedToken(SPACE * 2, normalized=True)])
    with pytest.raises(ModelError, match=f"its token '{SPACE * 2}' stands for spaces"):
        read_tokenizer(tokenizer, 400)


def test_the_name_tells_llama_cpp_where_white_space_is_stripped(tmp_path: Path) -> None:
    special = frozenset({"<s>", "</s>", "<unk>", "<|endoftext|>", "<|user|>"})
    strips = frozenset({"</s>", "<|user|>"})
    assert model_name("tuned", strips, special) == "tuned (phi-3)"
    assert model_name("my Phi-3", strips, special) == "my Phi-3"
    assert model_name("my Phi-3", frozenset(), special) == "my phi 3"
    with pytest.raises(ModelError, match=r"it strips white space after some of its tokens \(<\|user\|>\)"):
        model_name("tuned", frozenset({"<|user|>"}), special)
    write_gguf(tiny_model("phi3"), tiny_tokenizer(), tmp_path / "m.gguf", name="phi3 mini")
    assert field(tmp_path / "m.gguf", "general.name") == "phi 3 mini"


def test_what_stands_before_a_text_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    tokenizer = begin_of_text_tokenizer()
    model = small_model(300)
    write_gguf(model, tokenizer, path)
    assert field(path, "tokenizer.ggml.add_bos_token") is True
    start = TextStart(add_bos=False, add_space_prefix=False)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.chat_template = "{{ messages }}"
    write_gguf(model, tokenizer, path, start=start, stop_token_ids=[stop])
    assert field(path, "tokenizer.ggml.add_bos_token") is False
    assert field(path, "tokenizer.chat_template") == "{{ messages }}"
    assert field(path, "tokenizer.ggml.eot_token_id") == stop
    with pytest.raises(ModelError, match="texts must start with a beginning-of-text token, but it has none"):
        write_gguf(model, byte_tokenizer(), path, start=TextStart(add_bos=True, add_space_prefix=False))
    with pytest.raises(ModelError, match="answers end with 3 tokens besides end of sequence"):
        write_gguf(model, tokenizer, path, stop_token_ids=[1, 2, 3])
    with pytest.raises(ModelError, match="it has no end-of-sequence token"):
        write_gguf(model, byte_tokenizer(eos=None), path)


def test_other_tokens_before_a_text_are_refused() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    start = ("<|im_start|>", tokenizer.convert_tokens_to_ids("<|im_start|>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[start])
    with pytest.raises(ModelError, match=r"it puts the ids \[\d+\] before a text"):
        text_start(tokenizer)


def test_ids_and_texts_of_tokens_must_fit() -> None:
    with pytest.raises(ModelError, match="has an id 257, but the model's embedding has 200 rows"):
        read_tokenizer(tiny_tokenizer(), 200)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["[PAD260]"])
    with pytest.raises(ModelError, match="two ids have the same text"):
        read_tokenizer(tokenizer, 264)
