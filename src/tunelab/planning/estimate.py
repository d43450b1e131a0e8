"""A recipe's training, predicted: from the model's shape and the recipe's keys to memory, disk, and operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tunelab.config import Recipe
from tunelab.config.micro_batch import micro_batch_tokens
from tunelab.cpu import computes_in_bf16
from tunelab.planning.activations import Activations, trace
from tunelab.planning.adapters import HEAD, Adapters, adapters_of
from tunelab.planning.memory import Load, Peak, of_the_process, on_the_card, peak_of
from tunelab.planning.shape import ModelShape
from tunelab.planning.stored import FORMATS, base_bytes, largest_weight, stored_format
from tunelab.planning.ways import Kernel, Update, Ways
from tunelab.units import GIB

#: Relative error of the allocated bytes that is assumed: dense models of known families; others for the reasons in
#: Plan.doubts.
ERROR = 0.03
_MIXTURE_ERROR, _UNKNOWN_ERROR, _OTHER_PATH_ERROR = 0.15, 0.25, 0.10

#: Of several GPUs with a copy each (DDP): bytes per trained parameter of the buckets in which gradients are exchanged,
#: and what NCCL allocates at its first collective, in published measurements.
GRADIENT_BYTES, NCCL_BYTES = 4.0, 1.5 * GIB

#: Longest row if the recipe does not say, as in preparation/rows.py.
DEFAULT_LONGEST = 1024

#: The methods that are compared, and the recipe keys of each.
COMPARED: Mapping[str, Mapping[str, Any]] = {
    "full fine-tuning": {"method": "full", "precision": "none"},
    "LoRA": {"method": "lora", "precision": "none"},
    "LoRA, int8 base": {"method": "lora", "precision": "int8"},
    "LoRA, NF4 base": {"method": "lora", "precision": "nf4"},
    "LoRA, MXFP4 base": {"method": "lora", "precision": "mxfp4"},
}


@dataclass(frozen=True)
class Plan:
    """What a recipe needs on one device.

    Args:
        shape: of its model.
        recipe: resolved.
        on_gpu: False = this machine's CPU.
        has_bfloat16: False = a GPU that computes in float16 or, by default, in float32, without FlashAttention.
        target_share: of all tokens, those in the loss; 1 if it is not known.
        gpus: that compute each step together, each with a copy of everything (data parallel).
    """

    shape: ModelShape
    recipe: Recipe
    on_gpu: bool = True
    has_bfloat16: bool = True
    target_share: float = 1.0
    gpus: int = 1

    @property
    def is_full(self) -> bool:
        return self.recipe.method == "full"

    @property
    def method(self) -> str:
        """Its method and precision in words: one of COMPARED, or another format."""
        if self.is_full:
            return "full fine-tuning"
        names = {keys["precision"]: name for name, keys in COMPARED.items() if keys["method"] == "lora"}
        return names.get(self.precision, f"LoRA, {self.precision.upper()} base")

    @property
    def tokens(self) -> int:
        """Of a micro-batch."""
        return micro_batch_tokens(self.recipe.train)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        longest = self.recipe.data.max_length or min(DEFAULT_LONGEST, self.shape.context or DEFAULT_LONGEST)
        return longest if self.recipe.train.micro_batch_tokens == "auto" else min(longest, self.tokens)

    @property
    def precision(self) -> str:
        """The weight format; of a checkpoint that is stored in 4 or 8 bits, its own."""
        asked = self.recipe.precision.name
        return "none" if self.is_full else stored_format(self.shape.quantization) if asked == "none" else asked

    @cached_property
    def adapters(self) -> Adapters | None:
        """None in full fine-tuning."""
        return None if self.is_full else adapters_of(self.shape, self.recipe.adapter)

    @property
    def compute_bytes(self) -> int:
        """Of a number in matrix products."""
        dtype = self.recipe.train.dtype
        if dtype == "auto":
            in_bf16 = self.has_bfloat16 if self.on_gpu else computes_in_bf16(self.shape.checkpoint_bytes)
            return 2 if in_bf16 else 4
        return 4 if dtype == "fp32" else 2

    @cached_property
    def ways(self) -> Ways:
        """How it is computed by tunelab's own loop."""
        adapter, compute = self.recipe.adapter, self.compute_bytes
        plain = adapter.dropout == 0 and not adapter.use_dora
        return Ways(
            full=self.is_full,
            compute=compute,
            weights=4 if self.is_full else compute,
            autocast=compute == 2,
            on_gpu=self.on_gpu,
            kernel=self._kernel,
            adapter_path="own" if plain else "peft",
            dropout=adapter.dropout,
            update=self._update,
            checkpointing=self.recipe.train.activation_checkpointing,
        )

    @property
    def _kernel(self) -> Kernel:
        """As models/forward.py and models/flash_attention.py choose it."""
        shape = self.shape
        if not self.on_gpu:
            return "rows"
        if shape.softcaps:
            return "math"
        if self.compute_bytes == 4 or not self.has_bfloat16 or self.recipe.train.packing is False:
            return "efficient"
        return "row by row" if shape.dropout else "varlen"

    @property
    def _update(self) -> Update:
        if self.recipe.train.optimizer == "adamw-8bit":
            return "paged 8-bit" if self.on_gpu else "8-bit"
        return "fused" if self.on_gpu else "single"

    @cached_property
    def trained(self) -> int:
        """Trained parameters."""
        return self.shape.text if self.adapters is None else self.adapters.trained

    @cached_property
    def base_bytes(self) -> int:
        """Of the base's weights on the device."""
        precision = self.recipe.precision
        if self.precision not in FORMATS:
            return base_bytes(self.shape, self.ways.weights)
        return base_bytes(self.shape, self.ways.weights, self.precision, precision.options, precision.skip)

    @cached_property
    def traced(self) -> Activations:
        return self._trace(self.longest)

    def _trace(self, longest: int) -> Activations:
        return trace(self.shape, self.ways, () if self.adapters is None else self.adapters.ranks, longest)

    def peak(self, tokens: int | None = None, longest: int | None = None) -> Peak:
        """The memory of a step.

        Args:
            tokens: of a micro-batch; None = the recipe's.
            longest: tokens of the longest row; None = the recipe's.
        """
        count = self.tokens if tokens is None else tokens
        row = min(self.longest if longest is None else longest, count)
        keeps_scores = self.ways.kernel == "math"
        traced = self._trace(row) if keeps_scores and row != self.longest else self.traced
        return peak_of(self.shape, self.ways, traced, self._load(count))

    def _load(self, tokens: int) -> Load:
        shape, adapters = self.shape, self.adapters
        matrices = shape.layers * (sum(one.weights for one in shape.linears) + shape.expert_weights)
        head = shape.vocabulary * shape.hidden
        return Load(
            base=self.base_bytes,
            adapter=0.0 if adapters is None else 4.0 * adapters.trained,
            trained=self.trained,
            trained_size=4,
            products=matrices + head if adapters is None else adapters.parameters,
            trains_head=adapters is None
            or {HEAD, "embed_tokens", "wte"} & set(self.recipe.adapter.also_train) != set(),
            largest_quantized=largest_weight(shape) if self.precision != "none" or self.is_full else 0,
            tokens=tokens,
            targets=max(1, round(self.target_share * tokens)),
        )

    @property
    def error(self) -> float:
        """Relative error of the allocated bytes that is assumed."""
        shape = self.shape
        reasons = (
            _UNKNOWN_ERROR * (not shape.is_known),
            _MIXTURE_ERROR * (shape.experts > 0),
            _OTHER_PATH_ERROR * (self.ways.adapter_path == "peft" or self.ways.kernel in ("math", "efficient")),
        )
        return max(ERROR, *reasons)

    @property
    def doubts(self) -> list[str]:
        """Why the prediction is less certain than for a dense model of a known family, in sentences."""
        shape, found = self.shape, []
        if not shape.is_known:
            found.append("this architecture is counted like Llama; its layers may differ")
        if shape.experts:
            found.append("what is kept in a mixture of experts depends on how tokens spread over experts")
        if self.recipe.adapter.use_dora and not self.is_full:
            found.append("DoRA's own operations are not counted one by one")
        if self.ways.kernel == "math":
            found.append("attention keeps scores here, which grow with the square of the longest row")
        train = self.recipe.train
        if not self.has_bfloat16 and self.on_gpu and (train.dtype != "fp16" or train.packing is not False):
            default = ", so train.dtype=auto is fp32" if train.dtype == "auto" else ""
            found.append(
                f"this GPU has no bfloat16 and no FlashAttention{default}: set train.dtype=fp16 and train.packing=false"
            )
        if self.recipe.train.packing is False and self.on_gpu:
            found.append("rows are padded, with the model's own attention, whose kernel torch chooses")
        if self.adapters is not None and self.recipe.adapter.from_:
            found.append("the adapter of adapter.from has its own rank and layers, which are not read here")
        if self.adapters is not None and self.adapters.not_counted:
            found.append(f"not counted: {', '.join(self.adapters.not_counted)} of adapter.also_train")
        if self.recipe.model.new_tokens:
            found.append("model.new_tokens adds rows to the embeddings, which are not counted")
        if shape.quantization:
            found.append("the checkpoint is stored quantized: its size on disk is counted as if it were not")
            if self.precision == "none":
                found.append("how its weights are stored is not known: counted as if they were not quantized")
        if self.precision not in ("none", *FORMATS):
            found.append(f"{self.precision}: the size of your own format is not known; counted without it")
        return found

    def card_bytes(self, tokens: int | None = None, longest: int | None = None) -> tuple[float, float]:
        """The least and the most bytes that the device shows, or each of several; on a CPU, those of the process."""
        several = self.gpus > 1
        allocated = self.peak(tokens, longest).allocated + GRADIENT_BYTES * self.trained * several
        if not self.on_gpu:
            return of_the_process(allocated, self.error)
        least, most = on_the_card(allocated, self.error)
        return least + NCCL_BYTES * several, most + NCCL_BYTES * several

    @property
    def host_bytes(self) -> float:
        """Host memory while the model is loaded, besides Python and its libraries: dense weights are read to the host
        as a whole, quantized ones tensor by tensor."""
        if self.precision == "none":
            return float(self.base_bytes)
        largest = max(largest_weight(self.shape), self.shape.vocabulary * self.shape.hidden)
        return float(largest * (self.shape.checkpoint_bytes + self.compute_bytes))

    @property
    def disk_bytes(self) -> dict[str, float]:
        """The checkpoint that is downloaded, what a run writes at its end, and its checkpoints for resuming."""
        kept, moments = self.recipe.train.keep_checkpoints, 2 if "8-bit" in self.ways.update else 8
        as_asked = {"fp32": 4, "bf16": 2, "fp16": 2}.get(self.recipe.train.save_dtype, self.shape.checkpoint_bytes)
        saved = as_asked if self.is_full else 4
        return {
            "model": float(self.shape.checkpoint_bytes * self.shape.total),
            "result": float(saved * (self.shape.total if self.is_full else self.trained)),
            "checkpoints": float(kept * (4 + moments) * self.trained),
        }

    def as_method(self, keys: Mapping[str, Any]) -> Plan:
        """The plan of the same recipe with another method and precision (see COMPARED)."""
        precision = self.recipe.precision.model_copy(update={"name": keys["precision"]})
        if keys["precision"] != self.recipe.precision.name:
            precision = precision.model_copy(update={"options": {}})
        return replace(self, recipe=self.recipe.model_copy(update={"method": keys["method"], "precision": precision}))

    def with_tokens(self, tokens: int) -> Plan:
        """The plan with another micro-batch."""
        train = self.recipe.train.model_copy(update={"micro_batch_tokens": tokens})
        return replace(self, recipe=self.recipe.model_copy(update={"train": train}))
