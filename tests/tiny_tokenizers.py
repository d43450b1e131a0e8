"""Tokenizers with the habits that masks must withstand, made in memory: merges over borders, dummy prefixes, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as tokenizer_models
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'"
    " + '\\n'}}{% endfor %}"
)
EOS, START, END = "<eos>", "<|im_start|>", "<|im_end|>"


def byte_tokenizer(
    merges: Sequence[tuple[str, str]] = (),
    *,
    eos: str | None = EOS,
    replaced: tuple[str, str] | None = None,
    strips: bool = False,
) -> Any:
    """One token a byte (0 to 255), then one a merge, then special tokens; with a ChatML chat template.

    Args:
        merges: pairs of byte-level letters that become one token ("Ċ" is a line break, "Ġ" a space).
        replaced: (text, other text) that a normaliser exchanges before anything else.
        strips: white space at the end of a text is lost.
    """
    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    backend = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=list(merges)))
    if replaced:
        backend.normalizer = normalizers.Replace(*replaced)
    if strips:
        backend.normalizer = normalizers.Strip(left=False, right=True)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=eos, pad_token="<pad>", additional_special_tokens=[START, END]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def begin_of_text_tokenizer() -> Any:
    """A byte tokenizer that puts <bos> before every text and <eos> behind it, as Llama's and T5's do."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>",
        special_tokens=[("<bos>", tokenizer.bos_token_id), ("<eos>", tokenizer.eos_token_id)],
    )
    return tokenizer


def dummy_prefix_tokenizer(merges: Sequence[tuple[str, str]] = ()) -> Any:
    """As sentencepiece does it: "▁" for a space and one more before every text; bytes for what has no letter."""
    letters = ["▁", "\n", *(chr(code) for code in range(33, 127))]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    for letter in (*letters, *(left + right for left, right in merges)):
        vocabulary.setdefault(letter, len(vocabulary))
    backend = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=list(merges), byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS, pad_token="<pad>")
