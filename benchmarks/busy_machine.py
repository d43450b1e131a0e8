"""A training step alone and beside busy processes: how torch's threads wait, and how many there are.

Usage: python benchmarks/busy_machine.py [--shapes demo 15M 135M] [--repeats 3] [--steps 3]
Each setting runs in a process of its own; settings are alternated, each repeat alone and then beside as many busy
processes as there are cores. A step is one packed sequence of 512 tokens, forward, backward and AdamW, in float32.
Writes benchmarks/results/DATE-busy-machine.{json,md}.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from measuring import heading, machine, matmul_rates, median, write_results
from shapes import SHAPES, save_model

from tunelab.cpu import SPINS, WAITING

SETTINGS = {
    "OpenMP's default": {},
    f"tunelab ({SPINS:,} spins)": {"GOMP_SPINCOUNT": str(SPINS), "KMP_BLOCKTIME": "0"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
DEMO = Path(__file__).parents[1] / "src" / "tunelab" / "assets" / "demo_base"
TOKENS = 512


def contender(folder: Path, steps: int) -> None:
    """Print the median seconds of a step after the first."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(0, min(1000, model.config.vocab_size), (1, TOKENS))
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    print(median(seconds[1:]))


def measure(folder: Path, steps: int, setting: dict[str, str]) -> float:
    """Seconds a step in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in (*WAITING, "OMP_NUM_THREADS")}
    command = [sys.executable, str(Path(__file__)), "--contender", str(folder), "--steps", str(steps)]
    done = subprocess.run(command, env={**kept, **setting}, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Processes that compute and never wait, for as long as this one lives."""
    code = "import os\nwhile os.getppid() == int(os.environ['PARENT']): pass"
    environment = {**os.environ, "PARENT": str(os.getpid())}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=["demo", *SHAPES], default=["demo", "15M", "135M"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--contender", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        return contender(given.contender, given.steps)
    here, cores = machine(), os.cpu_count() or 1
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for shape in given.shapes:
            folder = DEMO if shape == "demo" else Path(scratch) / shape
            if not folder.exists():
                save_model(SHAPES[shape], folder)
            rows += measured(shape, folder, given.repeats, given.steps, cores)
    text = "\n".join(page(rows, cores, here, given.steps)) + "\n"
    write_results("busy-machine", {"machine": here, "rows": rows}, text)


def measured(shape: str, folder: Path, repeats: int, steps: int, cores: int) -> list[dict[str, Any]]:
    """One row a setting: seconds a step alone and beside busy processes, one of each a repeat."""
    found: dict[str, dict[str, list[float]]] = {name: {"alone": [], "busy": []} for name in SETTINGS}
    for _ in range(repeats):
        for state, processes in (("alone", 0), ("busy", cores)):
            with busy(processes):
                for name, setting in SETTINGS.items():
                    found[name][state].append(measure(folder, steps, setting))
                    print(f"{shape}, {state}, {name}: {found[name][state][-1]:.3f} s", file=sys.stderr, flush=True)
    return [{"shape": shape, "setting": name, **values} for name, values in found.items()]


def page(rows: list[dict[str, Any]], cores: int, here: dict[str, Any], steps: int) -> list[str]:
    """The page: medians of the repeats, and what a busy machine costs against OpenMP's default alone."""
    repeats = len(rows[0]["alone"])
    command = f"benchmarks/busy_machine.py --repeats {repeats} --steps {steps}"
    lines = heading("A training step on a busy machine", command, here, matmul_rates())
    spread = f"median of {repeats} processes (lowest to highest)" if repeats > 1 else "one process each"
    lines += [
        f"Seconds for a step of {TOKENS} tokens, {spread}, alone and beside {cores} processes that never wait. "
        "Fair beside them would be twice the time. The demo's model has 2.2M parameters.",
        "",
        f"| model | threads | alone | beside {cores} busy processes | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        alone, beside = median(row["alone"]), median(row["busy"])
        cells = (row["shape"], row["setting"], seconds(row["alone"]), seconds(row["busy"]), f"{beside / alone:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def seconds(values: list[float]) -> str:
    """Median, and lowest to highest in brackets where there are several."""
    spread = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{median(values):.2f}{spread}"


if __name__ == "__main__":
    main()
