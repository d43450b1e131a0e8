"""What autograd keeps of a forward pass for the backward pass, counted operation by operation, without computing.

Every operation says which of its inputs and results it saves, and only where a gradient will need them: the rules are
those of PyTorch's operators. Sizes are bytes per token; what does not grow with tokens is counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class Storage:
    """Memory that one or several tensors share.

    Args:
        bytes: per token.
        fixed: bytes besides.
    """

    bytes: float
    fixed: float = 0.0


@dataclass(eq=False, slots=True)
class Values:
    """A tensor [tokens, width].

    Args:
        size: bytes per number: 4, 2 or 1.
        needs: whether a gradient flows back to it.
    """

    width: float
    size: int
    needs: bool
    storage: Storage

    @property
    def bytes(self) -> float:
        """Per token, of these values alone, whatever else their storage holds."""
        return self.width * self.size

    @property
    def is_part(self) -> bool:
        """Whether its storage holds other values too."""
        return self.storage.bytes > self.bytes


@dataclass(eq=False, slots=True)
class Operation:
    """One operation: what it reads, gives and saves.

    Args:
        passes_on: its gradient is passed on without another tensor.
        temporary: bytes per token that its backward needs besides the gradients.
    """

    inputs: tuple[Values, ...]
    output: Values
    saved: tuple[Storage, ...] = ()
    passes_on: bool = False
    temporary: float = 0.0


@dataclass
class Tape:
    """Operations in the order of the forward pass."""

    operations: list[Operation] = field(default_factory=list)

    def apply(
        self,
        inputs: Sequence[Values],
        width: float,
        size: int,
        saved: Sequence[Values | Storage | None] = (),
        *,
        needs: bool | None = None,
        shares: Values | None = None,
        passes_on: bool = False,
        temporary: float = 0.0,
    ) -> Values:
        """The result of an operation.

        Args:
            saved: what it keeps, if it is part of the graph; None is nothing.
            needs: whether its result has a gradient; None = if one of its inputs does.
            shares: its result is a view of this.
        """
        has_gradient = any(one.needs for one in inputs) if needs is None else needs
        storage = Storage(width * size) if shares is None else shares.storage
        output = Values(width, size, has_gradient, storage)
        if has_gradient:
            kept = tuple(one.storage if isinstance(one, Values) else one for one in saved if one is not None)
            self.operations.append(Operation(tuple(inputs), output, kept, passes_on, temporary))
        return output

    def cast(self, values: Values, size: int) -> Values:
        """The values in another dtype; themselves if they have it."""
        return values if values.size == size else self.apply([values], values.width, size)

    def add(self, first: Values, second: Values) -> Values:
        """Their sum, in the wider dtype; the gradient of both is the sum's own."""
        return self.apply([first, second], first.width, max(first.size, second.size), passes_on=True)

    def multiply(self, first: Values, second: Values) -> Values:
        """Their product: each is kept for the gradient of the other."""
        saved = (first if second.needs else None, second if first.needs else None)
        return self.apply([first, second], first.width, max(first.size, second.size), saved)

    def part(self, values: Values, width: float) -> Values:
        """A slice of the values, which shares their storage."""
        return self.apply([values], width, values.size, shares=values)

    def contiguous(self, values: Values) -> Values:
        """The values in a storage of their own; themselves if they have one."""
        return self.apply([values], values.width, values.size) if values.is_part else values

    def kept(self, first: int = 0) -> Storage:
        """All that operations from number `first` on keep."""
        found = {storage for operation in self.operations[first:] for storage in operation.saved}
        return Storage(sum(one.bytes for one in found), sum(one.fixed for one in found))

    def backward_peak(self, first: int, output: Values) -> float:
        """The most bytes per token in use while the backward pass runs through operations from number `first` on:
        what they kept and is not yet released, gradients, and temporaries.

        Args:
            output: its gradient is there at the start.
        """
        operations = self.operations[first:]
        uses = Counter(storage for operation in operations for storage in set(operation.saved))
        gradients: dict[Values, float] = {output: output.bytes}
        live = sum(storage.bytes for storage in uses) + output.bytes
        peak = live
        for operation in reversed(operations):
            if operation.output not in gradients:
                continue
            given = gradients.pop(operation.output)
            peak = max(peak, live + operation.temporary)
            targets = [one for one in operation.inputs if one.needs]
            moved = given if operation.passes_on and targets else 0.0
            for number, target in enumerate(targets):
                own = (given if number == 0 else 0.0) if operation.passes_on else target.bytes
                live += 0.0 if operation.passes_on else own
                peak = max(peak, live + operation.temporary)
                if target in gradients:  # added to what is there
                    live -= own
                else:
                    gradients[target] = own
            for storage in set(operation.saved):
                uses[storage] -= 1
                live -= 0.0 if uses[storage] else storage.bytes
            live -= given - moved
        return peak
