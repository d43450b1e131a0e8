"""The tokenizers that the target masks are checked with: GPT-2, Llama-2, Llama-3 and Phi-3, from ../shared/data."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

NAMES = ("gpt2", "llama2", "llama3", "phi3")

#: Meta's chat templates in the form that their model repositories carry them, tools and dates left out.
LLAMA2_CHAT = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' '  + content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3_CHAT = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'"
    " + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def load_real_tokenizer(name: str, shared_data: Path, scratch: Path) -> Any:
    """One of NAMES as a fast tokenizer with a chat template; `scratch` takes renamed copies of files.

    Read once in a run of the tests (Llama 3's and Phi-3's take four seconds); every caller gets a copy of its own.
    """
    if name not in _READ:
        _READ[name] = _shared(name, shared_data, scratch)
    return copy.deepcopy(_READ[name])


_READ: dict[str, Any] = {}


def _shared(name: str, shared_data: Path, scratch: Path) -> Any:
    """From the cache that the workers of a run share; put there by the first that needs it."""
    kept = Path(os.environ["TUNELAB_CACHE"]) / "test-tokenizers" / f"{name}.pickle"
    if kept.exists():
        return pickle.loads(kept.read_bytes())
    tokenizer = _read(name, shared_data, scratch)
    kept.parent.mkdir(parents=True, exist_ok=True)
    (temporary := kept.with_suffix(f".{os.getpid()}")).write_bytes(pickle.dumps(tokenizer))
    temporary.replace(kept)
    return tokenizer


def _read(name: str, shared_data: Path, scratch: Path) -> Any:
    from transformers import AutoTokenizer, GPT2TokenizerFast, LlamaTokenizerFast

    folder = shared_data / "tokenizers"
    if name == "gpt2":
        shutil.copy(folder / "gpt2/encoder.json", scratch / "vocab.json")
        shutil.copy(folder / "gpt2/vocab.bpe", scratch / "merges.txt")
        tokenizer = GPT2TokenizerFast.from_pretrained(scratch)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = CHATML
        return tokenizer
    if name == "llama2":
        tokenizer = LlamaTokenizerFast.from_pretrained(folder / "llama2")
        tokenizer.chat_template = LLAMA2_CHAT
        return tokenizer
    if name == "llama3":
        return _llama3(folder / "llama3/tokenizer.model")
    return AutoTokenizer.from_pretrained(folder / "phi3", gguf_file="ggml-vocab-phi-3.gguf")


def _llama3(path: Path) -> Any:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    special = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        *(f"<|reserved_special_token_{number}|>" for number in range(4)),
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|reserved_special_token_4|>",
        "<|eot_id|>",
        *(f"<|reserved_special_token_{number}|>" for number in range(5, 251)),
    ]
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
        r"\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    backend = TikTokenConverter(str(path), pattern=pattern, extra_special_tokens=special).converted()
    backend.post_processor = TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", backend.token_to_id("<|begin_of_text|>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    )
    tokenizer.chat_template = LLAMA3_CHAT
    return tokenizer
