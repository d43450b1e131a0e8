"""What a forward pass keeps for the backward pass, layer by layer; layers that are alike are traced once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunelab.planning.blocks import Layers
from tunelab.planning.shape import ModelShape
from tunelab.planning.tape import Storage, Values
from tunelab.planning.ways import Ways


@dataclass(frozen=True, slots=True)
class OfLayer:
    """One layer's part.

    Args:
        given: bytes per token of its input, which is all that is kept of it with checkpointing.
        kept: what its operations keep.
        backward: the most bytes per token in use while it runs backward, `kept` included.
    """

    given: float
    kept: Storage
    backward: float


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes per token, and fixed ones, of a whole forward pass.

    Args:
        layers: of each layer, in order.
        around: kept by the embeddings, the rotary positions and the final norm.
        after: of it, what the final norm keeps: it is released before the last layer runs backward.
        final: the last hidden states, of which the loss is computed.
    """

    layers: tuple[OfLayer, ...]
    around: Storage
    after: float
    final: float

    def kept(self, *, checkpointing: bool) -> Storage:
        """All that is kept until the backward pass begins."""
        if checkpointing:
            return Storage(sum(one.given for one in self.layers) + self.around.bytes, self.around.fixed)
        return Storage(
            sum(one.kept.bytes for one in self.layers) + self.around.bytes,
            sum(one.kept.fixed for one in self.layers) + self.around.fixed,
        )


def trace(shape: ModelShape, ways: Ways, ranks: Sequence[Mapping[str, int]] = (), longest: int = 0) -> Activations:
    """Runs a model's layers on a tape.

    Args:
        ranks: for each layer, the ranks of adapters by the linear layers' names; empty for full fine-tuning.
        longest: tokens of the longest row, for kernels that keep scores.
    """
    layers = Layers(shape, ways, longest)
    known: dict[tuple[frozenset[tuple[str, int]], int, bool], tuple[OfLayer, Values]] = {}
    found = []
    x = layers.embed()
    around = layers.tape.kept()
    for number in range(shape.layers):
        own = ranks[number] if ranks else {}
        key = (frozenset(own.items()), x.size, x.needs)
        if key not in known:
            known[key] = _one_layer(layers, x, own)
        of_layer, x = known[key]
        found.append(of_layer)
    first = len(layers.tape.operations)
    final = layers.norm(x)
    after = layers.tape.kept(first)
    whole = Storage(around.bytes + after.bytes + layers.rotations.bytes, around.fixed + after.fixed)
    return Activations(tuple(found), whole, after.bytes, final.bytes)


def _one_layer(layers: Layers, x: Values, ranks: Mapping[str, int]) -> tuple[OfLayer, Values]:
    first = len(layers.tape.operations)
    output = layers.layer(x, ranks)
    kept, backward = layers.tape.kept(first), layers.tape.backward_peak(first, output)
    return OfLayer(x.bytes, kept, backward), output
