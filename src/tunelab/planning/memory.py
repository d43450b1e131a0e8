"""Peak memory of a training step on the device, as a timeline: the peak is its highest moment, not a sum of parts.

loss                the loss at the end of the forward pass: all that is kept, and the loss's own buffers
backward            the last layer runs backward: all that is kept, what is computed again, gradients in flight
end of backward     the first layer runs backward: the gradients of all others are there
step                the optimizer: gradients, moments, and what the update itself needs
"""

from __future__ import annotations

from dataclasses import dataclass

from tunelab.planning.activations import Activations
from tunelab.planning.shape import ModelShape
from tunelab.planning.ways import Ways
from tunelab.units import GIB

#: Logits that the chunked loss has in memory at a time, on a CPU and on a GPU (training/loss.py).
LOGITS_PER_CHUNK, LOGITS_PER_CHUNK_ON_GPU = 2**23, 2**26

#: Bytes of each: logits and gradients in 16 bits, logits and probabilities in float32.
BYTES_PER_LOGIT = 12

#: Bytes of optimizer moments per byte of a trained parameter.
_MOMENTS = {"foreach": 2.0, "fused": 2.0, "single": 2.0, "sgd": 0.0, "momentum": 1.0}

#: 8-bit moments: two codes per parameter, and a float32 scale per 256 of each.
_BYTES_IN_8_BITS = 2 + 8 / 256

#: What PyTorch's allocator reserves, over what is allocated, and the CUDA context: ranges of published measurements.
RESERVED = (1.02, 1.25)
CONTEXT = (0.2 * GIB, 0.8 * GIB)

#: On a CPU: Python and the libraries of a training, and what its process holds over what is allocated at the peak
#: (freed blocks that the C library keeps).
PROCESS_BYTES = 0.9 * GIB
HELD = (1.0, 1.25)


@dataclass(frozen=True, slots=True)
class Load:
    """What is in memory whatever is computed, and how much is computed at a time.

    Args:
        base: bytes of the base's weights as they are stored; of all weights in full fine-tuning.
        adapter: bytes of the adapter's matrices.
        trained: trained parameters.
        trained_size: bytes of one, of its gradient, and of each of its moments.
        products: trained parameters that autocast copies into the compute dtype.
        trains_head: the LM head is among them.
        largest_quantized: numbers in the largest quantized weight; 0 = none is quantized.
        tokens: of a micro-batch.
        targets: tokens in the loss.
        accumulates: a step may have more than one micro-batch, so that gradients are there from the second on.
    """

    base: float
    adapter: float
    trained: int
    trained_size: int
    products: int
    trains_head: bool
    largest_quantized: int
    tokens: int
    targets: int
    accumulates: bool = True


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of a step, and what is allocated then by part, in bytes."""

    name: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Peak:
    """The memory of a step.

    Args:
        moments: its timeline.
        paged: bytes of optimizer moments that are not in the device's count and may move to the host.
    """

    moments: tuple[Moment, ...]
    paged: float = 0.0

    @property
    def highest(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def allocated(self) -> float:
        return self.highest.total


def peak_of(shape: ModelShape, ways: Ways, traced: Activations, load: Load) -> Peak:
    """The timeline of a step."""
    gradients, moments = load.trained * load.trained_size, _moment_bytes(ways, load)
    is_paged = ways.update == "paged 8-bit"
    static = {"base weights": load.base, "adapter": load.adapter, "optimizer moments": 0.0 if is_paged else moments}
    kept = traced.kept(checkpointing=ways.checkpointing)
    whole = kept.bytes * load.tokens + kept.fixed
    copies = _copies(ways, load)
    earlier = float(gradients) if load.accumulates else 0.0
    of_head = 4.0 * shape.vocabulary * shape.hidden if load.trains_head and ways.loss == "chunked" else 0.0
    after = _left_in_scope(shape, ways, load)
    last, first = (_while_backward(ways, traced, number, load) for number in (-1, 0))
    timeline = (
        Moment(
            "loss",
            {
                **static,
                "gradients": earlier + of_head,
                "activations": whole,
                "autocast copies": copies,
                "loss": _loss_bytes(shape, ways, traced, load),
            },
        ),
        Moment(
            "backward",
            {
                **static,
                "gradients": earlier + of_head,
                "activations": whole - traced.after * load.tokens,
                "autocast copies": copies if not ways.checkpointing else copies / shape.layers,
                "backward buffers": last,
                "loss": after["loss"],
            },
        ),
        Moment(
            "end of backward",
            {
                **static,
                "gradients": float(gradients),
                "activations": _kept_by_first(ways, traced, load),
                "backward buffers": max(first, _embedding_gradient(shape, ways, load)),
                **after,
            },
        ),
        Moment(
            "step",
            {
                **static,
                "gradients": float(gradients),
                "update": float(gradients) if ways.update == "foreach" else 0.0,
                **after,
            },
        ),
    )
    return Peak(timeline, moments if is_paged else 0.0)


def on_the_card(allocated: float, error: float = 0.0) -> tuple[float, float]:
    """The least and the most bytes that a device shows: allocated, within `error` of it, times what is reserved for it,
    and the context."""
    return allocated * (1 - error) * RESERVED[0] + CONTEXT[0], allocated * (1 + error) * RESERVED[1] + CONTEXT[1]


def of_the_process(allocated: float, error: float = 0.0) -> tuple[float, float]:
    """The same on a CPU: the least and the most bytes of the process, Python and libraries included."""
    return allocated * (1 - error) * HELD[0] + PROCESS_BYTES, allocated * (1 + error) * HELD[1] + PROCESS_BYTES


def _moment_bytes(ways: Ways, load: Load) -> float:
    if "8-bit" in ways.update:
        return _BYTES_IN_8_BITS * load.trained
    return _MOMENTS[ways.update] * load.trained * load.trained_size


def _copies(ways: Ways, load: Load) -> float:
    """Trained float32 matrices in the compute dtype, which autocast, or tunelab's own adapter, makes and keeps.

    With checkpointing those of adapters go with the layer; those of full fine-tuning stay in autocast's cache.
    """
    if not ways.autocast or ways.compute >= load.trained_size or (ways.checkpointing and not ways.full):
        return 0.0
    return float(ways.compute * load.products)


def _loss_bytes(shape: ModelShape, ways: Ways, traced: Activations, load: Load) -> float:
    if ways.loss != "chunked":
        return ways.loss * shape.vocabulary * load.tokens + traced.final * load.tokens
    table = shape.vocabulary * shape.hidden
    most = LOGITS_PER_CHUNK_ON_GPU if ways.on_gpu else LOGITS_PER_CHUNK
    rows = min(most / shape.vocabulary, load.targets)
    # Logits of a chunk, the gradient of its hidden states, and on a CPU their padded copy.
    chunk = rows * (shape.vocabulary * BYTES_PER_LOGIT + traced.final * (1 if ways.on_gpu else 2))
    # The head's gradient of a chunk, in the compute dtype and in float32, before it is added up.
    of_head = (4 + ways.compute) * table if load.trains_head else 0
    # All hidden states, those of targets, and their gradients.
    return traced.final * (load.tokens + 2 * load.targets) + chunk + of_head


def _while_backward(ways: Ways, traced: Activations, number: int, load: Load) -> float:
    """What a layer's backward pass has in memory besides what was kept: gradients in flight, what it computes again,
    a dequantized weight, the gradient of a matrix before its cast."""
    layer = traced.layers[number]
    own = layer.backward if ways.checkpointing else layer.backward - layer.kept.bytes
    again = layer.kept.fixed if ways.checkpointing else 0.0
    return own * load.tokens + again + ways.compute * load.largest_quantized


def _kept_by_first(ways: Ways, traced: Activations, load: Load) -> float:
    first = traced.layers[0]
    return (first.given if ways.checkpointing else first.kept.bytes) * load.tokens


def _embedding_gradient(shape: ModelShape, ways: Ways, load: Load) -> float:
    """The dense gradient of tied embeddings, and its sum with that of the head."""
    tied = ways.full and shape.is_tied
    return 2.0 * load.trained_size * shape.vocabulary * shape.hidden if tied else 0.0


def _left_in_scope(shape: ModelShape, ways: Ways, load: Load) -> dict[str, float]:
    """What a script's variables keep until the step is done: logits, and keys and values of all layers."""
    logits = ways.compute * shape.vocabulary * load.tokens if ways.keeps_logits else 0.0
    cache = ways.compute * 2 * shape.key_width * shape.layers * load.tokens
    return {"loss": logits, "key-value cache": cache if ways.keeps_cache and not ways.checkpointing else 0.0}
