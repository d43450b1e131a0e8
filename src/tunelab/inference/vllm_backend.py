"""vLLM as another engine for answers, if it is installed: our token ids go in, our Generations come out.

Paper: Kwon et al. 2023, Efficient Memory Management for Large Language Model Serving with PagedAttention
(arXiv:2309.06180); repository vllm-project/vllm. Written from its sources (entrypoints/llm.py, sampling_params.py,
outputs.py, lora/peft_helper.py, model_loader/bitsandbytes_loader.py) and tested with a stand-in that has the same
names; not yet tried with vLLM itself.

What vLLM would compute differently from what is requested, or silently ignore, is an error here. Its kernels sum in
another order than ours, and 16 bits round: its answers differ from those of tunelab's engine, and may differ between
batches. So the two never share a file: whatever stores answers names the backend with them.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelab.errors import ModelError, UsageError
from tunelab.inference.row import Generation, StopReason
from tunelab.inference.sampling import Decoding
from tunelab.inference.text import decoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tunelab.models.formats._format import WeightFormat

#: Prompts per call of vLLM. It returns answers when all of them are done, so no more than these can be lost.
BATCH = 256

#: Values that vLLM allows for max_lora_rank (vllm/config/lora.py).
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

#: Below this vLLM samples at this temperature, with a warning (vllm/sampling_params.py).
LEAST_TEMPERATURE = 0.01

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_OWN_ENGINE = "omit --backend vllm: tunelab's own engine supports it"


@dataclass(frozen=True)
class VllmModel:
    """The model that vLLM loads.

    Args:
        name: hub name or local folder.
        tokenizer: hub name or local folder of the tokenizer; only finds stop strings.
        dtype: "fp32", "bf16" or "fp16": of the weights that are not quantized, and of computation.
        quantization: vLLM's argument of this name, see quantization_argument().
        adapter: folder of a PEFT adapter.
        context: the model's number of positions; None if its configuration does not say.
    """

    name: str
    tokenizer: str
    dtype: str
    revision: str | None = None
    tokenizer_revision: str | None = None
    quantization: str | None = None
    adapter: Path | None = None
    trust_remote_code: bool = False
    context: int | None = None


def installed_version() -> str:
    """The installed version of vLLM.

    Raises:
        UsageError: it is not installed.
    """
    return str(_vllm().__version__)


def quantization_argument(
    form: WeightFormat | None, stored: WeightFormat | None, skip: Sequence[str], name: str
) -> str | None:
    """vLLM's `quantization` for a model whose linear weights are to be quantized.

    While loading, vLLM quantizes only to NF4 with double quantization; other formats it reads from checkpoints that
    are stored in them.

    Args:
        form: the requested format; None = not quantized.
        stored: the format that the checkpoint is already stored in.
        skip: layers that are not to be quantized.
        name: of the model, for messages.

    Raises:
        UsageError: vLLM cannot do that.
        ModelError: the checkpoint is stored in another format than requested.
    """
    from tunelab.models.precision import check_format

    check_format(form, stored, name)
    if form is None:
        return None
    if skip:
        raise UsageError(f"precision.skip: vLLM cannot leave {', '.join(skip)} unquantized", _OWN_ENGINE)
    if stored is not None:
        return "bitsandbytes" if form.name in ("nf4", "fp4", "int8") else None  # it reads others from config.json
    if form.name != "nf4":
        raise UsageError(
            f"precision {form.name}: vLLM cannot quantize {name} to it while loading",
            f"give a checkpoint stored in {form.name} (tunelab quantize), or omit --backend vllm",
        )
    if not getattr(form, "double_quantization", False):
        raise UsageError("precision nf4: vLLM always quantizes the scales too (double_quantization)", _OWN_ENGINE)
    return "bitsandbytes"


def lora_rank(folder: Path) -> int:
    """Rank of an adapter that vLLM can run.

    Raises:
        ModelError: the folder has no adapter, or a pickled one.
        UsageError: the adapter has what vLLM lacks, or would ignore.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: no adapter found (no adapter_config.json)", "give a folder saved by PEFT or tunelab"
        ) from None
    if not (folder / "adapter_model.safetensors").exists():
        raise ModelError(f"{folder}: no adapter_model.safetensors", "pickled adapters can run code and are not loaded")
    without = (
        "use_dora", "modules_to_save", "trainable_token_indices", "rank_pattern", "alpha_pattern", "target_parameters",
    )  # fmt: skip
    lacking = [key for key in without if config.get(key)]
    lacking += ["bias"] if config.get("bias", "none") != "none" else []
    if lacking:
        raise UsageError(f"{folder}: vLLM cannot run an adapter with {', '.join(lacking)}", _OWN_ENGINE)
    rank = int(config["r"])
    if rank > LORA_RANKS[-1]:
        raise UsageError(f"{folder}: rank {rank}, vLLM runs adapters up to {LORA_RANKS[-1]}", _OWN_ENGINE)
    return rank


def loading_arguments(model: VllmModel, length: int) -> dict[str, Any]:
    """Arguments of vllm.LLM for a model and sequences of at most `length` tokens.

    Raises:
        As lora_rank() does.
    """
    arguments: dict[str, Any] = {
        "model": model.name,
        "tokenizer": model.tokenizer,
        "dtype": _DTYPES[model.dtype],
        "max_model_len": length,
        "trust_remote_code": model.trust_remote_code,
        "generation_config": "vllm",  # ignore the model's own decoding
    }
    for key in ("revision", "tokenizer_revision", "quantization"):
        if getattr(model, key) is not None:
            arguments[key] = getattr(model, key)
    # Never "auto", which also unpickles; vLLM reads bitsandbytes' files in a way of its own, from safetensors first.
    arguments["load_format"] = "bitsandbytes" if model.quantization == "bitsandbytes" else "safetensors"
    if model.adapter is not None:
        least = lora_rank(model.adapter)
        allowed = next(rank for rank in LORA_RANKS if rank >= least)
        arguments.update(enable_lora=True, max_loras=1, max_lora_rank=allowed)
    return arguments


def sampling_arguments(decoding: Decoding, stop_token_ids: Collection[int], index: int, room: int) -> dict[str, Any]:
    """Arguments of vllm.SamplingParams for the prompt at place `index`, whose answer has at most `room` tokens.

    A row samples from its own seed, made of (seed, index): the rest of its batch does not affect it.

    Raises:
        UsageError: the temperature is one that vLLM would change.
    """
    if 0 < decoding.temperature < LEAST_TEMPERATURE:
        raise UsageError(f"temperature {decoding.temperature}: vLLM's minimum is {LEAST_TEMPERATURE}", _OWN_ENGINE)
    return {
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "top_k": decoding.top_k or -1,  # all, in every version
        "min_p": decoding.min_p,
        "repetition_penalty": decoding.repetition_penalty,
        "seed": _row_seed(decoding.seed, index) if decoding.temperature else None,
        "max_tokens": room,
        "stop": list(decoding.stop_strings),
        "stop_token_ids": sorted(stop_token_ids),
        "ignore_eos": True,  # our stop tokens alone end an answer
        "skip_special_tokens": True,
    }


class VllmEngine:
    """Answers by vLLM. The weights load with the first prompts, and again if later ones are longer."""

    def __init__(self, model: VllmModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._llm: Any = None
        self._length = 0

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        stop_token_ids: Collection[int],
        skip: Collection[int] = (),
    ) -> Iterator[Generation]:
        """The continuation of each prompt but those in `skip`, in the prompts' order, BATCH at a time.

        Raises:
            ModelError: a prompt is empty or fills the model's context, or vLLM fails: with its own message.
            UsageError: the adapter or the decoding has what vLLM lacks.
        """
        rooms = [self._room(index, prompt, decoding.max_new_tokens) for index, prompt in enumerate(prompts)]
        wanted = [index for index in range(len(prompts)) if index not in skip]
        length = max((len(prompt) + room for prompt, room in zip(prompts, rooms, strict=True)), default=0)
        for first in range(0, len(wanted), BATCH):
            batch = wanted[first : first + BATCH]
            sampling = [sampling_arguments(decoding, stop_token_ids, index, rooms[index]) for index in batch]
            outputs = self._asked([prompts[index] for index in batch], sampling, length)
            for index, output in zip(batch, outputs, strict=True):
                ended_short = rooms[index] < decoding.max_new_tokens
                yield self._generation(
                    index, len(prompts[index]), output.outputs[0], decoding, stop_token_ids, ended_short
                )

    def _asked(self, prompts: Sequence[Sequence[int]], sampling: list[dict[str, Any]], length: int) -> list[Any]:
        """vLLM's RequestOutput of each prompt, in their order."""
        vllm = _vllm()
        if self._llm is None or self._length < length:
            self._llm = None
            gc.collect()  # it takes most of a GPU's memory, its own in an engine before this one too
            arguments = loading_arguments(self.model, length)
            with _explained(f"load {self.model.name}"):
                self._llm, self._length = vllm.LLM(**arguments), length
        request = None
        if self.model.adapter is not None:
            lora = import_module("vllm.lora.request")
            request = lora.LoRARequest("adapter", 1, str(self.model.adapter.absolute()))
        with _explained(f"answer with {self.model.name}"):
            made = self._llm.generate(
                [vllm.TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts],
                [vllm.SamplingParams(**one) for one in sampling],
                use_tqdm=False,
                lora_request=request,
            )
        return list(made)

    def _room(self, index: int, prompt: Sequence[int], max_new_tokens: int) -> int:
        """Maximum new tokens of an answer: max_new_tokens, or what the context leaves after its prompt."""
        context = self.model.context
        room = max_new_tokens if context is None else min(max_new_tokens, context - len(prompt))
        if not prompt or room < 1:
            raise ModelError(
                f"prompt {index} has {len(prompt)} tokens and the model's context {context}: no room for an answer",
                "skip the item, or shorten its prompt",
            )
        return room

    def _generation(
        self,
        index: int,
        prompt_tokens: int,
        completion: Any,
        decoding: Decoding,
        stop_token_ids: Collection[int],
        ended_short: bool,
    ) -> Generation:
        """vLLM's CompletionOutput in the terms of our engine."""
        ids, finish, by = list(completion.token_ids), completion.finish_reason, completion.stop_reason
        if finish not in ("stop", "length"):
            raise ModelError(
                f"vLLM ended the answer to prompt {index} with the reason {finish!r}, expected 'stop' or 'length'"
            )
        if finish == "stop" and not isinstance(by, str) and ids and ids[-1] in stop_token_ids:
            ids.pop()
        text = decoded(self.tokenizer, ids)
        places = [place for stop in decoding.stop_strings if (place := text.find(stop)) >= 0]
        if places:
            text = text[: min(places)]
        elif finish == "stop" and isinstance(by, str):
            text = completion.text  # decoded token by token: a stop string may appear only there
        limit: StopReason = "context" if ended_short else "length"
        return Generation(index, tuple(ids), text, "stop" if finish == "stop" or places else limit, prompt_tokens)


def _row_seed(seed: int, index: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] >> 1)  # 31 bits: a positive C int


def _vllm() -> Any:
    """The module. By default it logs to stdout and reports its usage to its makers; both are off unless set."""
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        return import_module("vllm")
    except ImportError as error:
        raise UsageError(
            f"--backend vllm: vLLM cannot be imported: {error}",
            'install it (pip install "tunelab[vllm]"), or omit --backend vllm',
        ) from error


@contextmanager
def _explained(task: str) -> Iterator[None]:
    """vLLM's errors with what was attempted, in one line."""
    try:
        yield
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, AssertionError, AttributeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"vLLM cannot {task}: {first}", "change what the message names, or omit --backend vllm"
        ) from error
