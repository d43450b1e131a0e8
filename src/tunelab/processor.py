"""What the processor can do that torch does not say."""

from __future__ import annotations

from pathlib import Path

#: Flags of /proc/cpuinfo: products of bfloat16 in hardware, on x86 (AVX-512, AMX) and on Arm.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def has_bf16_products(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """True where bfloat16 matrix products run in hardware; False where they do not or nobody knows.

    Elsewhere torch emulates them, several times slower than float32.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features"))), "")
    return not BF16_FLAGS.isdisjoint(flags.split())
