"""One layer of a decoder as operations on a tape: norms, attention, MLP, in each family's own order.

Source: transformers' modeling files of the families in shape.LIKE_LLAMA and of GPT-2; tunelab's lora_linear.py,
row_attention.py and forward.py; PEFT's LoRA layer. Which tensors PyTorch saves: its derivatives.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tunelab.planning.shape import Linear, ModelShape
from tunelab.planning.tape import Storage, Tape, Values
from tunelab.planning.ways import Ways

#: Tensors in float32 that a norm's backward holds besides the gradients of its result and its input.
_NORM_TEMPORARIES = 1


@dataclass
class Layers:
    """Runs layers of a model on a tape.

    Args:
        longest: tokens of the longest row, for kernels that keep scores.
    """

    shape: ModelShape
    ways: Ways
    longest: int = 0
    tape: Tape = field(default_factory=Tape)
    _rotates: bool = False

    def embed(self) -> Values:
        """The embeddings; their gradient keeps the ids (int64)."""
        tape, shape, ways = self.tape, self.shape, self.ways
        found = tape.apply([], shape.hidden, ways.weights, [Storage(8)], needs=ways.full)
        if shape.positions:
            places = tape.apply([], shape.hidden, ways.weights, [Storage(8)], needs=ways.full)
            found = tape.add(found, places)
        if shape.family == "gpt2":
            found = self._dropped(found, shape.dropout)
        return found

    def layer(self, x: Values, ranks: Mapping[str, int]) -> Values:
        """One layer; `ranks` has the adapters' ranks by the layers' names."""
        if self.shape.family == "gpt2":
            return self._gpt2_layer(x, ranks)
        around = self.shape.norms == "around"
        attended = self._attention(self.norm(x), ranks)
        x = self.tape.add(x, self.norm(attended) if around else attended)
        passed = self._mlp(self.norm(x), ranks)
        return self.tape.add(x, self.norm(passed) if around else passed)

    def norm(self, x: Values, groups: int = 1) -> Values:
        """The family's norm over each of `groups` parts of a token's numbers."""
        if self.shape.norm_has_bias:
            return self._layer_norm(x)
        tape, ways = self.tape, self.ways
        wide = tape.cast(x, 4)
        scale = Storage(4 * groups)
        is_gemma = self.shape.family.startswith("gemma")
        normalized = tape.apply([wide], x.width, 4, [wide, scale], temporary=_NORM_TEMPORARIES * 4 * x.width)
        if is_gemma:  # in float32, by 1 + weight, which is another tensor
            factor = Storage(0, 4 * x.width / groups)
            product = tape.apply([normalized], x.width, 4, [factor, normalized if ways.full else None])
            return tape.cast(product, x.size)
        narrow = tape.cast(normalized, x.size)
        return tape.apply([narrow], x.width, max(x.size, ways.weights), [narrow if ways.full else None])

    def _layer_norm(self, x: Values) -> Values:
        """torch's own; autocast runs it in float32 on a GPU."""
        wide = self.tape.cast(x, 4) if self.ways.autocast and self.ways.on_gpu else x
        sizes = Storage(2 * (4 if self.ways.on_gpu else wide.size))
        return self.tape.apply([wide], x.width, wide.size, [wide, sizes], temporary=4 * x.width)

    def linear(self, x: Values, linear: Linear, ranks: Mapping[str, int]) -> Values:
        """A linear layer: trained, frozen, or frozen with an adapter."""
        tape, ways, rank = self.tape, self.ways, ranks.get(linear.name, 0)
        size = ways.compute if ways.autocast else max(x.size, ways.weights)
        given = tape.cast(x, size)
        if ways.full:
            return tape.apply([given], linear.outputs, size, [given])
        if rank and ways.adapter_path == "own":
            return tape.apply([given], linear.outputs, size, [given, Storage(rank * size)], needs=True)
        frozen = tape.apply([given], linear.outputs, size)
        return self._with_peft(x, frozen, rank, size) if rank else frozen

    def _with_peft(self, x: Values, frozen: Values, rank: int, size: int) -> Values:
        """PEFT's two products after a cast to the matrices' float32 and a dropout."""
        tape, ways = self.tape, self.ways
        wide = self._dropped(tape.cast(x, 4), ways.dropout)
        given = tape.cast(wide, size) if ways.autocast else wide
        low = tape.apply([given], rank, given.size, [given], needs=True)
        high = tape.apply([low], frozen.width, given.size, [low])
        return tape.cast(tape.add(frozen, tape.apply([high], frozen.width, given.size)), frozen.size)

    def _dropped(self, x: Values, share: float) -> Values:
        """Dropout keeps a mask: a byte per number on a GPU, a factor per number on a CPU."""
        if not share:
            return x
        mask = Storage(x.width * (1 if self.ways.on_gpu else x.size))
        return self.tape.apply([x], x.width, x.size, [mask])

    def _attention(self, x: Values, ranks: Mapping[str, int]) -> Values:
        shape, tape = self.shape, self.tape
        named = {one.name.rpartition(".")[2]: one for one in shape.linears}
        if "qkv_proj" in named:
            both = self.linear(x, named["qkv_proj"], ranks)
            query, key, value = (tape.part(both, width) for width in self._widths)
        else:
            query, key, value = (self.linear(x, named[name], ranks) for name in ("q_proj", "k_proj", "v_proj"))
        if shape.has_head_norms:
            query, key = self.norm(query, shape.heads), self.norm(key, shape.key_heads)
        attended = self.attend(self._rotated(query, self.ways.weights), self._rotated(key, self.ways.weights), value)
        return self.linear(attended, named["o_proj"], ranks)

    @property
    def _widths(self) -> tuple[int, int, int]:
        return self.shape.query_width, self.shape.key_width, self.shape.key_width

    def _rotated(self, x: Values, size: int) -> Values:
        """Rotary positions; their sines and cosines are kept once for all layers, see `rotations`."""
        self._rotates |= x.needs
        return self.tape.apply([x], x.width, max(x.size, size), temporary=x.bytes)

    @property
    def rotations(self) -> Storage:
        """Sines and cosines of rotary positions, in the dtype of the embeddings; nothing if no gradient needs them."""
        sets = (2 if self.shape.family == "gemma3_text" else 1) if self._rotates else 0
        return Storage(sets * 2 * self.shape.rotated * self.ways.weights)

    def attend(self, query: Values, key: Values, value: Values) -> Values:
        """Attention by the kernel that is used; what it keeps is the kernel's own choice."""
        tape, shape, kernel = self.tape, self.shape, self.ways.kernel
        size = self.ways.compute if self.ways.autocast or kernel == "rows" else query.size
        query, key, value = (tape.cast(one, size) for one in (query, key, value))
        width = shape.query_width
        if kernel == "rows":
            return tape.apply([query, key, value], width, size, [query, key, value], temporary=2 * query.bytes)
        if kernel == "math":
            return self._plain(query, key, value)
        if kernel == "efficient" and shape.key_heads != shape.heads:
            key, value = (tape.apply([one], width, size) for one in (key, value))
        if kernel in ("varlen", "flash"):
            query, key, value = (tape.contiguous(one) for one in (query, key, value))
        sums, attended = Storage(4 * shape.heads), Storage(width * size)
        temporary = (4 + 2 * size) * width  # gradients of queries in float32, of keys and values for every head
        output = tape.apply([query, key, value], width, size, [query, key, value, sums, attended], temporary=temporary)
        if kernel != "row by row":
            output.storage = attended
            return output
        return tape.apply([output], width, size)  # rows put together

    def _plain(self, query: Values, key: Values, value: Values) -> Values:
        """Scores and probabilities, heads x longest row per token; keys and values repeated for every head."""
        tape, width, scores = self.tape, self.shape.query_width, self.shape.heads * self.longest
        if self.shape.key_heads != self.shape.heads:
            key, value = (tape.apply([one], width, one.size) for one in (key, value))
        found = tape.apply([query, key], scores, query.size, [query, key])
        if self.shape.softcaps:
            found = tape.apply([found], scores, found.size, [Storage(scores * found.size)])
        size = 4 if self.ways.autocast and self.ways.on_gpu else found.size  # autocast runs softmax in float32
        softmax = Storage(scores * size)
        weights = tape.apply([tape.cast(found, size)], scores, size, [softmax], temporary=scores * 4)
        weights.storage = softmax
        weights = tape.cast(weights, query.size)
        return tape.apply([weights, value], width, query.size, [weights, value])

    def _mlp(self, x: Values, ranks: Mapping[str, int]) -> Values:
        shape, tape = self.shape, self.tape
        if shape.experts:
            return self._experts(x, ranks)
        named = {one.name.rpartition(".")[2]: one for one in shape.linears}
        if "gate_up_proj" in named:
            both = self.linear(x, named["gate_up_proj"], ranks)
            gate, up = (tape.part(both, shape.intermediate) for _ in range(2))
        else:
            gate, up = self.linear(x, named["gate_proj"], ranks), self.linear(x, named["up_proj"], ranks)
        return self.linear(tape.multiply(self._activated(gate), up), named["down_proj"], ranks)

    def _experts(self, x: Values, ranks: Mapping[str, int]) -> Values:
        """Each token through its experts: an estimate, since what is kept depends on how experts are run."""
        shape, tape, times = self.shape, self.tape, self.shape.experts_per_token
        router = tape.apply([x], shape.experts, x.size, [x if self.ways.full else None])
        tape.apply([router], shape.experts, 4, [Storage(4 * shape.experts)])
        sent = tape.apply([x], times * x.width, x.size)
        wide = Linear("mlp.experts.gate_up_proj", int(sent.width), 2 * times * shape.intermediate)
        both = self.linear(sent, wide, ranks)
        gate, up = (tape.part(both, times * shape.intermediate) for _ in range(2))
        back = Linear("mlp.experts.down_proj", int(gate.width), times * shape.hidden)
        returned = self.linear(tape.multiply(self._activated(gate), up), back, ranks)
        weighed = tape.apply([returned], returned.width, returned.size, [returned])
        return tape.apply([weighed], x.width, x.size)

    def _activated(self, x: Values) -> Values:
        """The activation: one operation that keeps its input, but for GPT-2's, written out in eight."""
        if self.shape.activation not in ("gelu_new", "gelu_fast"):
            return self.tape.apply([x], x.width, x.size, [x])
        tape = self.tape
        half = tape.apply([x], x.width, x.size)
        wide = tape.cast(x, 4) if self.ways.autocast and self.ways.on_gpu else x  # autocast runs powers in float32
        cube = tape.apply([wide], x.width, wide.size, [wide])
        inner = tape.add(x, tape.apply([cube], x.width, wide.size))
        tanh = Storage(x.width * inner.size)
        bent = tape.apply([inner], x.width, inner.size, [tanh])
        bent.storage = tanh
        return tape.multiply(half, tape.apply([bent], x.width, inner.size))

    def _gpt2_layer(self, x: Values, ranks: Mapping[str, int]) -> Values:
        tape, shape = self.tape, self.shape
        fused, out, wide, back = shape.linears
        both = self.linear(self.norm(x), fused, ranks)
        query, key, value = (tape.part(both, shape.hidden) for _ in range(3))
        attended = self.linear(self.attend(query, key, value), out, ranks)
        x = tape.add(self._dropped(attended, shape.dropout), x)
        passed = self.linear(self._activated(self.linear(self.norm(x), wide, ranks)), back, ranks)
        return tape.add(x, self._dropped(passed, shape.dropout))
