"""What a bug report needs to know about a machine: versions, device, memory. No user name, host name or path."""

from __future__ import annotations

import os
import platform
from collections.abc import Set
from importlib import metadata

import psutil

from tunelab.cpu import WAITING, cpu_flags, usable_cores
from tunelab.records.environment import environment
from tunelab.units import format_bytes

#: Packages of the extras, which need not be installed.
EXTRAS = ("bitsandbytes", "vllm", "triton", "wandb", "tensorboard", "trackio", "gguf", "ray", "submitit")

#: CPU flags that change speed or what is possible, as Linux names them.
CPU_FEATURES = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX-512 bf16": "avx512_bf16",
    "AMX": "amx_tile",
    "AMX bf16": "amx_bf16",
    "Arm bf16": "bf16",
}

#: Variables whose value is shown, and those of which only the name is: their values are paths or secrets.
SHOWN = (
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    *WAITING,
)
NAMED = ("HF_HOME", "HF_TOKEN", "NLTK_DATA", "TUNELAB_CACHE")


def environment_rows() -> list[tuple[str, str]]:
    """What, and its value, of versions and machine. Imports torch, about two seconds."""
    import torch

    known = environment()
    source = known["source"]
    state = f" (commit {source['commit'][:10]}{', modified' if source['dirty'] else ''})" if source else ""
    versions = {name: version for name, version in known["libraries"].items() if version}
    return [
        ("tunelab", known["tunelab"] + state),
        ("Python", f"{known['python']} ({platform.python_implementation()})"),
        ("platform", known["platform"]),
        *versions.items(),
        *((name, _version(name)) for name in EXTRAS),
        ("processor", known["processor"]),
        ("CPU features", cpu_features(cpu_flags()) or torch.backends.cpu.get_cpu_capability()),
        ("cores", _cores()),
        ("torch threads", str(torch.get_num_threads())),
        ("memory", f"{format_bytes(known['memory_bytes'])}, {format_bytes(psutil.virtual_memory().available)} free"),
        *_device_rows(),
        ("variables", _variables(os.environ)),
    ]


def cpu_features(flags: Set[str]) -> str:
    """The features in words, present and missing: "AVX2, AVX-512; not AMX"; "" if no flag is known."""
    has = [name for name, flag in CPU_FEATURES.items() if flag in flags]
    lacks = [name for name, flag in CPU_FEATURES.items() if flag not in flags and not name.startswith("Arm")]
    return ", ".join(has) + (f"; not {', '.join(lacks)}" if lacks else "") if has else ""


def _cores() -> str:
    physical, logical = psutil.cpu_count(logical=False), psutil.cpu_count()
    return f"{physical or '?'} physical, {logical} logical, {usable_cores()} usable by this process"


def _device_rows() -> list[tuple[str, str]]:
    import torch

    built = torch.version.cuda
    if not torch.cuda.is_available():
        why = "torch is built without CUDA" if built is None else f"torch is built for CUDA {built}, but finds no GPU"
        return [("GPU", f"none: {why}")]
    rows = [("CUDA", f"{built}, cuDNN {torch.backends.cudnn.version()}")]  # type: ignore[no-untyped-call]
    for number in range(torch.cuda.device_count()):
        one = torch.cuda.get_device_properties(number)
        bf16 = "bf16" if one.major >= 8 else "no bf16"
        rows.append(
            (f"GPU {number}", f"{one.name}, {format_bytes(one.total_memory)}, compute {one.major}.{one.minor}, {bf16}")
        )
    return rows


def _variables(environment: dict[str, str] | os._Environ[str]) -> str:
    shown = [f"{name}={environment[name]}" for name in SHOWN if name in environment]
    named = [f"{name} (set)" for name in NAMED if name in environment]
    return ", ".join([*shown, *named]) or "none of those that matter"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
