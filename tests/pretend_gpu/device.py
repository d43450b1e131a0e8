"""A pretend `cuda:0`: tensors that say they are on a GPU, whose numbers are in the host's memory and computed there.

Every operation passes execute(), which refuses what CUDA refuses (a tensor of the host among those of the GPU, products
of mixed dtypes), fills memory that nobody has written yet with NaN, and counts where the host would wait for the GPU.
The branches that tunelab takes for `cuda` are taken, with the CPU's rounding and kernels; speed, streams, the real
kernels' rounding and NCCL are not pretended.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

GPU, HOST = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten


@dataclass
class Seen:
    """What happened on the pretend GPU."""

    #: (what, "file:line" of the code under test) -> how often the host would have waited for the GPU.
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: (operation, dtype) -> how often matrices were multiplied.
    products: Counter[tuple[str, torch.dtype]] = field(default_factory=Counter)
    operations: int = 0

    def clear(self) -> None:
        self.waits.clear()
        self.products.clear()
        self.operations = 0


SEEN = Seen()


class Memory:
    """Bytes of the pretend GPU's live storages."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._known: set[int] = set()

    def add(self, held: Tensor) -> None:
        storage = held.untyped_storage()
        name, size = storage._cdata, storage.nbytes()
        if name in self._known:
            return
        self._known.add(name)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, name, size)

    def _freed(self, name: int, size: int) -> None:
        self._known.discard(name)
        self.now -= size


MEMORY = Memory()

#: Storages of page-locked host memory, from which a copy need not wait.
PINNED: set[int] = set()


class PretendTensor(torch.Tensor):
    """A tensor on the pretend GPU; its numbers are in `held`, on the host."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> PretendTensor:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=GPU, requires_grad=False,
        )  # fmt: skip

    def __init__(self, held: Tensor) -> None:
        self.held = held
        MEMORY.add(held)

    def __repr__(self, **named: Any) -> str:  # type: ignore[override]
        return f"on the pretend GPU: {self.held!r}"

    def tolist(self) -> Any:  # type: ignore[override]
        return self.detach().cpu().tolist()

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return execute(func, args, kwargs or {})


class PretendGpu(TorchDispatchMode):
    """Within the block, `device="cuda"` makes tensors on the pretend GPU; build.load() comes before the first."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return execute(func, args, kwargs or {})

    def __enter__(self) -> Any:
        torch._C._ensureCUDADeviceGuardSet()
        self._before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *how: Any) -> None:
        super().__exit__(*how)
        torch._C._set_only_lift_cpu_tensors(self._before)


#: May have tensors of both devices: they copy from one to the other.
COPIES = {aten.copy_.default, aten._to_copy.default, aten.copy.default}

#: Their indices may be on the host; CUDA then copies them first, and waits.
INDEXING = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}  # fmt: skip

#: The host reads a number, or how large the result is.
READS = {
    aten._local_scalar_dense.default: "a number", aten.nonzero.default: "nonzero", aten.equal.default: "equal",
    aten.masked_select.default: "masked_select", aten._unique2.default: "unique",
    aten.unique_consecutive.default: "unique",
}  # fmt: skip

#: Memory that nobody has written.
UNWRITTEN = {
    aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default,
    aten.new_empty_strided.default,
}  # fmt: skip

PRODUCTS = {aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default}


def execute(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation, by the CPU's kernel, on the pretend GPU if one of its tensors is there or its device says so."""
    if not torch._C._only_lift_cpu_tensors():  # a setting of each thread, and backward runs in one of its own
        torch._C._set_only_lift_cpu_tensors(True)
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    on_gpu = [one for one in tensors if isinstance(one, PretendTensor)]
    kwargs, onto_gpu = _with_host_device(dict(kwargs), bool(on_gpu))
    if func is aten._pin_memory.default and not on_gpu:
        return _pinned(args[0])
    if func is aten.is_pinned.default and not on_gpu:
        return args[0].untyped_storage()._cdata in PINNED
    if not on_gpu and not onto_gpu:
        return func(*args, **kwargs)
    SEEN.operations += 1
    _count_waits(func, args, kwargs, on_gpu, onto_gpu)
    if on_gpu:
        _check_devices(func, args, tensors)
        _check_dtypes(func, on_gpu)
    if func is aten._fused_sdp_choice.default:
        return 0  # the kernel for everything: the CPU's own choices are not CUDA's
    found = func(
        *tree_map_only(PretendTensor, lambda one: one.held, args),
        **tree_map_only(PretendTensor, lambda one: one.held, kwargs),
    )
    if func is aten.copy_.default:
        return args[0]
    if func in UNWRITTEN:
        _poison(found)
    if not onto_gpu:
        return found
    found = tree_map_only(Tensor, lambda one: one if isinstance(one, PretendTensor) else PretendTensor(one), found)
    if func is aten._to_copy.default or not on_gpu or func.namespace not in ("aten", "prims"):
        return found
    return return_and_correct_aliasing(func, args, kwargs, found)


def _with_host_device(kwargs: dict[str, Any], on_gpu: bool) -> tuple[dict[str, Any], bool]:
    """The arguments as the host's kernel takes them, and whether the result is on the GPU."""
    if kwargs.get("pin_memory"):
        kwargs["pin_memory"] = False
    if kwargs.get("device") is None:
        return kwargs, on_gpu
    device = torch.device(kwargs["device"])
    if device.type != "cuda":
        return kwargs, False
    if device.index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return {**kwargs, "device": HOST}, True


def _pinned(tensor: Tensor) -> Tensor:
    copied = tensor.clone()
    storage = copied.untyped_storage()
    PINNED.add(storage._cdata)
    weakref.finalize(storage, PINNED.discard, storage._cdata)
    return copied


def _poison(tensor: Tensor) -> None:
    """Numbers that show in every result that they get into."""
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.fill_(float("nan"))
    elif tensor.dtype == torch.bool:
        tensor.fill_(True)
    else:
        tensor.fill_(torch.iinfo(tensor.dtype).max)


def _check_devices(func: Any, args: Any, tensors: list[Tensor]) -> None:
    if func in COPIES or (func in INDEXING and isinstance(args[0], PretendTensor)):
        return
    if any(not isinstance(one, PretendTensor) and one.dim() for one in tensors):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({func})"
        )


def _check_dtypes(func: Any, on_gpu: list[Any]) -> None:
    if func not in PRODUCTS:
        return
    dtypes = {one.dtype for one in on_gpu}
    if len(dtypes) > 1:
        raise RuntimeError(f"mat1 and mat2 must have the same dtype, but got {sorted(map(str, dtypes))} ({func})")
    SEEN.products[func.overloadpacket.__name__, dtypes.pop()] += 1


def _count_waits(func: Any, args: Any, kwargs: dict[str, Any], on_gpu: list[Any], onto_gpu: bool) -> None:
    what = None
    if on_gpu and func in READS:
        what = READS[func]
    elif func in INDEXING and isinstance(args[0], PretendTensor):
        indices = [one for one in args[1] if one is not None]
        if any(one.dtype == torch.bool for one in indices):
            what = "a boolean index"
        elif any(not isinstance(one, PretendTensor) and one.dim() for one in indices):
            what = "an index of the host"
    elif func is aten._to_copy.default and bool(on_gpu) != onto_gpu:
        if not (onto_gpu and kwargs.get("non_blocking") and args[0].untyped_storage()._cdata in PINNED):
            what = "to the GPU" if onto_gpu else "to the host"
    elif func is aten.copy_.default and isinstance(args[0], PretendTensor) != isinstance(args[1], PretendTensor):
        blocking = not ((kwargs.get("non_blocking") or args[2:3] == (True,)) and isinstance(args[0], PretendTensor))
        if blocking or args[1].untyped_storage()._cdata not in PINNED:
            what = "copied over"
    if what is not None:
        SEEN.waits[what, _place()] += 1


def _place() -> str:
    """The innermost line of tunelab that led here."""
    frame = sys._getframe(2)
    while frame is not None:
        file, _, name = frame.f_code.co_filename.rpartition("/tunelab/")
        if file and "/src" in file:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"
