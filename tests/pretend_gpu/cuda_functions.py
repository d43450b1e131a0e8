"""torch.cuda's functions, for a process that computes on the pretend GPU from now on."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch
from pretend_gpu import build, flash_attention
from pretend_gpu.device import MEMORY

NAME = "pretend GPU"
TOTAL_MEMORY = 80 * 2**30

_kernels: list[torch.library.Library] = []


def pretend(capability: tuple[int, int] = (8, 0)) -> None:
    """Make this process believe in a GPU of a compute capability; for a child process or a session of its own.

    What asks for CUDA when it is imported is imported before.
    """
    import accelerate  # noqa: F401
    import bitsandbytes.functional
    import peft  # noqa: F401
    import transformers  # noqa: F401

    from tunelab.models.formats import _mxfp4_triton

    # transformers would copy weights to the GPU in threads, and what sees operations is a setting of each thread.
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    build.load()
    if not _kernels:
        _kernels.append(flash_attention.register())
    flash_attention.CAPABILITY = capability
    torch.__future__.set_swap_module_params_on_conversion(True)
    for name, value in _functions(capability).items():
        setattr(torch.cuda, name, value)
    for name, value in _paged_memory().items():
        setattr(bitsandbytes.functional, name, value)
    # Triton compiles for a real GPU; its kernels have tests of their own, by the interpreter.
    _mxfp4_triton.is_available = lambda device: False  # type: ignore[assignment]


def _paged_memory() -> dict[str, Any]:
    """bitsandbytes' memory that moves to the host when the GPU is full: here plain memory with the flag."""

    def get_paged(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        made = torch.zeros(shape, dtype=dtype, device=device)
        made.is_paged = True  # type: ignore[attr-defined]
        return made

    return {
        "get_paged": get_paged,
        "fill": lambda tensor, value, *others, **named: tensor.fill_(value),
        "prefetch_tensor": lambda tensor, to_cpu=False: None,
    }


def _functions(capability: tuple[int, int]) -> dict[str, Any]:
    facts = SimpleNamespace(
        name=NAME, major=capability[0], minor=capability[1], total_memory=TOTAL_MEMORY, multi_processor_count=108
    )

    def reset_peak(device: Any = None) -> None:
        MEMORY.peak = MEMORY.now

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: capability,
        "get_device_properties": lambda device=None: facts,
        # As torch does: older GPUs emulate bf16, and it counts unless one asks otherwise.
        "is_bf16_supported": lambda including_emulation=True: capability >= (8, 0) or including_emulation,
        "mem_get_info": lambda device=None: (TOTAL_MEMORY - MEMORY.now, TOTAL_MEMORY),
        "memory_allocated": lambda device=None: MEMORY.now,
        "max_memory_allocated": lambda device=None: MEMORY.peak,
        "reset_peak_memory_stats": reset_peak,
        # The pretend GPU draws its random numbers from the host's generator.
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device="cuda": torch.get_rng_state(),
        "set_rng_state": lambda state, device="cuda": None,
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "set_rng_state_all": lambda states: None,
    }
