"""Forward and backward of one linear layer, 2048 x 2048 at 512 tokens in bf16: dense, in every format, and as
bitsandbytes has it; alternated in one process, the median of many turns.

Usage: python benchmarks/quantized_layer.py [--device cpu|cuda] [--size 2048] [--tokens 512] [--turns 40]
Writes benchmarks/results/DATE-quantized-layer[-cuda].{json,md}.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from measuring import heading, machine, matmul_rates, median, write_results

OPTIONS: dict[str, dict[str, Any]] = {
    "nf4": {},
    "nf4, single quantisation": {"double_quantization": False},
    "fp4": {},
    "int8": {},
    "mxfp4": {},
}


def layers(size: int, device: str) -> dict[str, Any]:
    """Name -> a layer [size, size] without bias, frozen."""
    import torch

    from tunelab.models.precision import weight_format
    from tunelab.models.quantized_linear import QuantizedLinear

    torch.manual_seed(0)
    weight = (torch.randn(size, size) * 0.02).bfloat16().to(device)
    dense = torch.nn.Linear(size, size, bias=False, dtype=torch.bfloat16, device=device)
    dense.weight = torch.nn.Parameter(weight, requires_grad=False)
    found: dict[str, Any] = {"dense bf16": dense}
    for name, options in OPTIONS.items():
        form = weight_format(name.partition(",")[0], options)
        found[name] = QuantizedLinear(form, form.quantize(weight), (size, size))
    found |= _of_bitsandbytes(weight, size, device)
    return found


def _of_bitsandbytes(weight: Any, size: int, device: str) -> dict[str, Any]:
    """Its own modules, in training mode (an evaluation forward on the CPU would repack the weights)."""
    import bitsandbytes as bnb
    import torch

    four = bnb.nn.Linear4bit(
        size, size, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=True
    )
    four.weight = bnb.nn.Params4bit(weight.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True)
    eight = bnb.nn.Linear8bitLt(size, size, bias=False, has_fp16_weights=False)
    eight.weight = bnb.nn.Int8Params(weight.cpu().half(), requires_grad=False, has_fp16_weights=False)
    return {"bitsandbytes Linear4bit nf4": four.to(device), "bitsandbytes Linear8bitLt": eight.to(device)}


def turn(layer: Any, x: Any, upstream: Any) -> None:
    """One forward and backward; the gradient goes to x."""
    x.grad = None
    layer(x).backward(upstream)


def measure(
    found: dict[str, Any], tokens: int, size: int, device: str, turns: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each turn by layer, alternated; and what failed."""
    import torch

    x = torch.randn(tokens, size, dtype=torch.bfloat16, device=device, requires_grad=True)
    upstream = torch.randn(tokens, size, dtype=torch.bfloat16, device=device)
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    failed: dict[str, str] = {}
    for number in range(turns + 3):
        for name, layer in found.items():
            if name in failed:
                continue
            wait()
            start = time.perf_counter()
            try:
                turn(layer, x, upstream)
            except (RuntimeError, NotImplementedError) as error:
                failed[name] = str(error).splitlines()[0]
                continue
            wait()
            if number >= 3:  # the first turns compile kernels
                seconds[name].append(time.perf_counter() - start)
    return seconds, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--turns", type=int, default=40)
    arguments = parser.parse_args()
    from tunelab.models.allocator import keep_freed_memory

    keep_freed_memory()
    rates, information = matmul_rates(arguments.device), machine(arguments.device)
    found = layers(arguments.size, arguments.device)
    seconds, failed = measure(found, arguments.tokens, arguments.size, arguments.device, arguments.turns)
    command = "python benchmarks/quantized_layer.py" + ("" if arguments.device == "cpu" else " --device cuda")
    lines = heading("A quantised layer, forward and backward", command, information, rates)
    lines += [
        f"{arguments.size} x {arguments.size}, {arguments.tokens} tokens, bf16, frozen weight, {arguments.turns} turns "
        "of each, alternated; median (fastest to slowest).",
        "",
        "| layer | ms | against dense bf16 |",
        "|---|---|---|",
    ]
    dense = median(seconds["dense bf16"])
    for name, times in seconds.items():
        if name in failed:
            lines.append(f"| {name} | failed: {failed[name][:100]} | |")
            continue
        spread = f"{1e3 * median(times):.1f} ({1e3 * min(times):.1f} to {1e3 * max(times):.1f})"
        lines.append(f"| {name} | {spread} | {median(times) / dense:.2f}x |")
    text = "\n".join([*lines, ""])
    name = f"quantized-layer{'' if arguments.device == 'cpu' else '-cuda'}"
    write_results(name, {"machine": information, "seconds": seconds, "failed": failed}, text)
    print(text)


if __name__ == "__main__":
    main()
