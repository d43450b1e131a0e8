"""A model's tensors as a GGUF file holds them: names, kinds, layout and bytes.

Per tensor:
    kinds     norms, biases, position embeddings and routers in F32; other weights in F16, BF16 or Q8_0, rows that are
              not a multiple of Q8_0's block of 32 in F16
    layout    see the changes in families.py
    further   rotary divisors (llama3, longrope), and the head, if llama.cpp needs one of its own
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunelab.errors import ModelError
from tunelab.models.gguf.families import FAMILIES, Change, unchanged
from tunelab.models.gguf.settings import main_rope, rotary_width

Kind = Literal["F16", "BF16", "Q8_0"]
Floats = npt.NDArray[np.float32]
#: Matrices in F32: position embeddings, and routers of experts.
IN_FLOAT32 = re.compile(r"^position_embd|\.ffn_gate_inp\.")
#: Weights in a block of Q8_0: one fp16 scale, 32 signed bytes.
BLOCK = 32
#: The largest value of each kind.
LARGEST = {"F32": math.inf, "F16": 65504.0, "BF16": 3.38e38, "Q8_0": 65504.0 * 127}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in the file.

    Args:
        name: in the file.
        kind: "F32", "F16", "BF16" or "Q8_0".
        shape: in the file's layout.
        read: the values, float32, in the file's layout.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    read: Callable[[], Floats]

    def encoded(self) -> npt.NDArray[Any]:
        """The bytes in the file.

        Raises:
            ModelError: a value is not finite, or too large for the kind.
        """
        import gguf

        values = self.read()
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= LARGEST[self.kind] or math.isinf(largest):
            raise ModelError(
                f"tensor {self.name!r} has a value of {largest:g}, which {self.kind} cannot hold",
                "did training end with a NaN loss?" if not math.isfinite(largest) else "",
            )
        return gguf.quants.quantize(values, gguf.GGMLQuantizationType[self.kind])

    def allowed_error(self, values: Floats) -> Floats | float:
        """The largest error from storing these values: one number, or an array of the values' shape."""
        if self.kind == "F32":
            return 0.0
        if self.kind in ("F16", "BF16"):  # half of the last of 11 or 8 bits, or of the smallest step
            bits, smallest = (-11, -25) if self.kind == "F16" else (-8, -134)
            rounding: Floats = np.maximum(np.abs(values) * np.float32(2.0**bits), np.float32(2.0**smallest))
            return rounding
        blocks = values.reshape(-1, BLOCK)
        step = np.abs(blocks).max(axis=1, keepdims=True) / 127
        # Half a step, and the scale's rounding to fp16 under at most 127 steps; the last factor is for float32 sums.
        error = (step / 2 + 127 * np.maximum(step * 2.0**-11, 2.0**-25)) * (1 + 1e-5)
        return np.broadcast_to(error, blocks.shape).reshape(values.shape).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Placed:
    """A parameter of the model, or a part of one, and its place in the file.

    Args:
        name: in the file.
        parameter: its name in the model.
        part: its values, in the model's layout.
        change: to the file's layout.
    """

    name: str
    parameter: str
    part: Tensor
    change: Change

    @property
    def shape(self) -> tuple[int, ...]:
        """In the file's layout."""
        return tuple(self.change(torch.empty(self.part.shape, device="meta")).shape)


def placed(model: PreTrainedModel) -> Iterator[Placed]:
    """Every parameter of a model, which may be without weights, in the file's order; a tied head is the embedding.

    Raises:
        ModelError: GGUF has no name for one.
    """
    import gguf

    family = FAMILIES[type(model).__name__]
    architectures = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(architectures[family.architecture], model.config.num_hidden_layers)
    for full_name, parameter in model.named_parameters():
        for part_name, part in _parts(full_name, parameter):
            base, _, ending = part_name.rpartition(".")
            name = names.get_name(family.known_name(base))
            if name is None:
                raise ModelError(
                    f"GGUF has no name for {part_name} of a {type(model).__name__}", "merge adapters first"
                )
            yield Placed(f"{name}.{ending}", full_name, part, family.change(full_name, model.config))


def stored_tensors(model: PreTrainedModel, kind: Kind) -> list[Stored]:
    """Every tensor that a file of this model holds, in the file's order.

    Raises:
        ModelError: GGUF has no name for one.
    """
    stored = list(rope_tensors(model))
    stored += [_stored(one, kind) for one in placed(model)]
    if FAMILIES[type(model).__name__].writes_head and model.config.tie_word_embeddings:
        head = model.get_output_embeddings().weight
        stored.append(_stored(Placed("output.weight", "", head, unchanged), kind))
    return stored


def _parts(name: str, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A parameter by name, or its parts: a file has the gates of all experts apart from their up projections."""
    if name.endswith(".experts.gate_up_proj"):
        for part, half in zip(("gate_proj", "up_proj"), parameter.chunk(2, dim=1), strict=True):
            yield f"{name.removesuffix('gate_up_proj')}{part}.weight", half
    elif name.endswith(".experts.down_proj"):
        yield f"{name}.weight", parameter
    else:
        yield name, parameter


def _stored(one: Placed, kind: Kind) -> Stored:
    stored_kind: str = "F32" if len(one.shape) < 2 or IN_FLOAT32.search(one.name) else kind
    if stored_kind == "Q8_0" and one.shape[-1] % BLOCK:
        stored_kind = "F16"

    def read() -> Floats:
        values: Floats = one.change(one.part.detach().float().cpu()).contiguous().numpy()
        return values

    return Stored(one.name, stored_kind, one.shape, read)


def rope_tensors(model: PreTrainedModel) -> Iterator[Stored]:
    """llama.cpp's divisors of the rotary frequencies, [rotary width / 2] each, if these are scaled one by one."""
    if not FAMILIES[type(model).__name__].ropes:
        return
    rope = main_rope(model.config)
    factors: dict[str, Floats] = {}
    if rope["rope_type"] == "llama3":
        factors["rope_freqs.weight"] = llama3_divisors(model.config)
    if rope["rope_type"] == "longrope":
        factors["rope_factors_long.weight"] = np.asarray(rope["long_factor"], dtype=np.float32)
        factors["rope_factors_short.weight"] = np.asarray(rope["short_factor"], dtype=np.float32)
    for name, values in factors.items():
        yield Stored(name, "F32", values.shape, values.copy)


def llama3_divisors(config: Any) -> Floats:
    """What Llama 3's rule divides each rotary frequency by, [rotary width / 2]."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    width = rotary_width(config)
    plain = main_rope(config)["rope_theta"] ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    divisors: Floats = (plain / scaled.double().numpy()).astype(np.float32)
    return divisors
