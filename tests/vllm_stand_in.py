"""A stand-in for vLLM: the names, arguments and results that tunelab uses, over tunelab's own engine on the CPU.

Taken from vLLM's sources as they are read in inference/vllm_backend.py; an argument that is not listed here is a
TypeError. What it gives is what vLLM would give if its kernels computed as ours do: token ids with the stop token,
and the prompts' order.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tunelab.inference import engine
from tunelab.inference.sampling import Decoding
from tunelab.inference.text import decoded
from tunelab.models.adapters import load_adapter
from tunelab.models.load import load_model, load_tokenizer
from tunelab.models.precision import weight_format

VERSION = "0.23.0"


@dataclass
class SamplingParams:
    """The fields that tunelab sets; seed and temperature are recorded, not drawn with."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    seed: int | None
    max_tokens: int
    stop: list[str]
    stop_token_ids: list[int]
    ignore_eos: bool
    skip_special_tokens: bool


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class Calls:
    """What vLLM was asked: the arguments of each LLM, and (prompts, sampling, adapter) of each generate()."""

    loaded: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[list[dict[str, Any]], list[SamplingParams], LoRARequest | None]] = field(default_factory=list)
    interrupt_at: int | None = None  # this call of generate() is a Ctrl-C

    @property
    def prompts(self) -> int:
        return sum(len(prompts) for prompts, _, _ in self.asked)


class LLM:
    """vLLM's class of this name. Its first argument is ours: where to write down what it is asked."""

    def __init__(
        self,
        calls: Calls,
        /,
        model: str,
        *,
        tokenizer: str,
        dtype: str,
        max_model_len: int,
        trust_remote_code: bool,
        generation_config: str,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        quantization: str | None = None,
        load_format: str = "auto",
        enable_lora: bool = False,
        max_loras: int = 1,
        max_lora_rank: int = 16,
    ) -> None:
        self.calls = calls
        calls.loaded.append({key: value for key, value in locals().items() if key not in ("self", "calls")})
        form = weight_format("nf4") if quantization == "bitsandbytes" else None
        self.model: Any = load_model(model, dtype=getattr(torch, dtype), form=form)
        self.tokenizer = load_tokenizer(tokenizer)
        self.length, self.adapted = max_model_len, False

    def generate(
        self,
        prompts: Sequence[dict[str, Any]],
        sampling_params: Sequence[SamplingParams],
        *,
        use_tqdm: bool,
        lora_request: LoRARequest | None,
    ) -> list[Any]:
        if self.calls.interrupt_at == len(self.calls.asked):
            raise KeyboardInterrupt
        assert not use_tqdm
        self.calls.asked.append((list(prompts), list(sampling_params), lora_request))
        if lora_request is not None and not self.adapted:
            self.model, self.adapted = load_adapter(self.model, Path(lora_request.lora_path)), True
        return [self._answer(*pair) for pair in zip(prompts, sampling_params, strict=True)]

    def _answer(self, prompt: dict[str, Any], how: SamplingParams) -> Any:
        ids = prompt["prompt_token_ids"]
        assert len(ids) + how.max_tokens <= self.length, "vLLM refuses what does not fit into max_model_len"
        decoding = Decoding(max_new_tokens=how.max_tokens, stop_strings=tuple(how.stop))
        (made,) = engine.generate(self.model, self.tokenizer, [ids], decoding, stop_token_ids=how.stop_token_ids)
        return SimpleNamespace(outputs=[self._completion(made, how)])

    def _completion(self, made: engine.Generation, how: SamplingParams) -> Any:
        whole = decoded(self.tokenizer, made.token_ids)
        by_string = next((stop for stop in how.stop if stop in whole), None)
        by_token = made.stop_reason == "stop" and by_string is None
        return SimpleNamespace(
            token_ids=[*made.token_ids, *(how.stop_token_ids[:1] if by_token else [])],
            text=made.text,
            finish_reason="stop" if made.stop_reason == "stop" else "length",
            stop_reason=by_string or (how.stop_token_ids[0] if by_token else None),
        )


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Install the stand-in as `vllm` for one test."""
    calls = Calls()
    module, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    names = {"LLM": partial(LLM, calls), "SamplingParams": SamplingParams, "TokensPrompt": dict, "__version__": VERSION}
    for name, value in names.items():
        setattr(module, name, value)
    request.LoRARequest = LoRARequest  # type: ignore[attr-defined]
    for one in (module, lora, request):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    return calls
