"""For tests of GGUF files: a byte-level tokenizer with merges, and llama.cpp itself where a binding is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_tokenizer
from tiny_tokenizers import byte_tokenizer
from tokenizers import pre_tokenizers

from scripts import llama_cpp_answers
from tunelab.publishing.gguf_file import write_gguf


def with_merges() -> Any:
    """A byte-level tokenizer with GPT-2's splitting rule, a few merges, and as many ids as the tiny models have."""
    tokenizer = byte_tokenizer([("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "n")])
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return tokenizer


needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason='runs llama.cpp: pip install -e ".[llama-cpp]"'
)


class LlamaCpp(llama_cpp_answers.LlamaCpp):
    """A llama.cpp server in this process, for tests marked needs_llama_cpp."""

    def __init__(self, path: Path) -> None:
        binding = importlib.import_module("xllamacpp")
        parameters = binding.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx = 256
        parameters.n_parallel = parameters.cpuparams.n_threads = 1
        parameters.warmup = parameters.fit_params = parameters.enable_chat_template = False
        self.server = binding.Server(parameters)

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.post("tokenize", content=text, add_special=True, parse_special=False)["tokens"]
        return found

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """The next `count` tokens, each the likeliest."""
        asked = {"n_predict": count, "temperature": 0.0, "samplers": ["temperature"]}
        found: list[int] = self.post("completion", prompt=ids, return_tokens=True, cache_prompt=False, **asked)[
            "tokens"
        ]
        return found

    def log_probabilities(self, ids: list[int], vocabulary: int) -> torch.Tensor:
        """[vocabulary], of the next token. The answer is bent towards "a": half a character would not be reported."""
        bend = [[self.ids("a")[-1], 1000.0]]
        reply = self.post(
            "completion", prompt=ids, n_predict=1, n_probs=vocabulary, logit_bias=bend, cache_prompt=False
        )
        top = reply["completion_probabilities"][0]["top_logprobs"]
        return torch.tensor([value["logprob"] for value in sorted(top, key=lambda value: value["id"])])


def next_token_of_both(model: Any, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [vocabulary] of the token after 50 random ids: the model's own, and those that llama.cpp gives
    from its GGUF file, which is written to `path`."""
    write_gguf(model, tiny_tokenizer(), path)
    ids = torch.randint(0, 256, (50,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], dim=-1)
    return expected, LlamaCpp(path).log_probabilities(ids, len(expected))
