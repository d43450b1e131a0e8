"""What the speed benchmarks share: contenders in processes of their own, alternated; the machine; dated results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "trl", "unsloth", "bitsandbytes", "lm_eval")

#: What a user would set in the environment against the C library giving memory back at every step.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}

#: What each contender reported, one dictionary a repeat; {"error": text} where it failed.
Found = dict[str, list[dict[str, Any]]]


def speed_parser(
    description: str | None, shapes: Iterable[str], contenders: Iterable[str], repeats: int
) -> argparse.ArgumentParser:
    """A parser of what every speed benchmark is asked for; `repeats` is its default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shapes", nargs="+", choices=list(shapes))
    parser.add_argument("--contenders", nargs="+", choices=list(contenders), default=list(contenders))
    parser.add_argument("--repeats", type=int, default=repeats)
    return parser


def run_contender(script: str, name: str, job: Path, out: Path, *, malloc: bool = False) -> dict[str, Any]:
    """One contender in a process of its own; what it reports, or {"error": its last line}."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(MALLOC if malloc else {})}
    command = [sys.executable, str(Path(__file__).parent / script), name, str(job), str(out)]
    out.unlink(missing_ok=True)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode or not out.exists():
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        return {"error": lines[-1] if lines else f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return result


def alternate(
    script: str, shape: str, job: Path, names: Sequence[str], repeats: int, *, speed: str, malloc: Sequence[str] = ()
) -> Found:
    """Every contender once, then again, as often as told. A failure is recorded, and the rest goes on.

    `speed` says how a result is shown while it runs, in str.format's terms; `malloc` names those that get MALLOC.
    """
    found: Found = {name: [] for name in names}
    for turn in range(repeats):
        for name in names:
            result = run_contender(script, name, job, job.with_name("out.json"), malloc=name in malloc)
            found[name].append(result)
            shown = result.get("error") or speed.format_map(result)
            print(f"{shape} {turn + 1}/{repeats} {name}: {shown}", file=sys.stderr, flush=True)
    return found


def contender_rows(found: Found, row: Callable[[str, list[dict[str, Any]]], dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a contender: its name, and what `row` makes of its name and the repeats that ran; its first error where
    none did."""
    rows = []
    for name, results in found.items():
        done = [result for result in results if "error" not in result]
        rows.append({"contender": name} | (row(name, done) if done else {"error": results[0]["error"]}))
    return rows


def matmul_rates(device: str = "cpu") -> dict[str, float]:
    """Operations a second of a 2048 x 2048 x 2048 matrix product, the best of up to twelve, by dtype.

    A processor that emulates a dtype takes seconds for one product: no new try begins after ten seconds.
    """
    import torch

    rates = {}
    for name in ("float32", "bfloat16"):
        a, b = (torch.randn(2048, 2048, dtype=getattr(torch, name), device=device) for _ in range(2))
        best, begun = float("inf"), time.perf_counter()
        for tried in range(12):
            if tried and time.perf_counter() - begun > 10:
                break
            start = time.perf_counter()
            for _ in range(4):
                a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, (time.perf_counter() - start) / 4)
        rates[name] = 2 * 2048**3 / best
    return rates


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, versions."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    if device == "cuda":
        import torch

        processor = torch.cuda.get_device_name()
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": str(date.today()),
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "libraries": installed,
    }


def median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(speeds: Sequence[float]) -> str:
    """Median, and lowest to highest in brackets."""
    return f"{median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"


def heading(title: str, command: str, machine: dict[str, Any], rates: dict[str, float]) -> list[str]:
    """The first lines of a result page: what ran where."""
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    shown = {name: f"{rate / 1e9:,.0f}" if rate >= 1e9 else "under 1" for name, rate in rates.items()}
    products = ", ".join(f"{rate} GFLOP/s in {name}" for name, rate in shown.items())
    return [
        f"# {title}, {machine['date']}",
        "",
        f"`{command}`; {machine['processor']}, {machine['cores']} cores; python {machine['python']}, {libraries}. "
        f"Matrix products of 2048 x 2048 x 2048 on this machine: {products}.",
        "",
    ]


def table(
    columns: Sequence[str], contenders: Sequence[dict[str, Any]], cells: Callable[[dict[str, Any]], list[str]]
) -> list[str]:
    """One line a contender in Markdown: its name, and its `cells` or why it failed; an empty line behind them."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for one in contenders:
        if "error" in one:
            lines.append(f"| {one['contender']} | failed: {one['error'][:120]} |" + " |" * (len(columns) - 2))
        else:
            lines.append("| " + " | ".join([one["contender"], *cells(one)]) + " |")
    return [*lines, ""]


def with_earlier_shapes(name: str, machine: dict[str, Any], summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The shapes measured now, behind those measured earlier on the same day, machine and versions."""
    path = RESULTS / f"{date.today()}-{name}.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if earlier.get("machine") != machine:
        return summaries
    measured = {one["shape"] for one in summaries}
    return [*(one for one in earlier["shapes"] if one["shape"] not in measured), *summaries]


def write_results(name: str, results: dict[str, Any], page: str) -> None:
    """Dated JSON and Markdown under benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{date.today()}-{name}"
    stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(page, encoding="utf-8")


def measure_shapes(
    name: str,
    device: str,
    shapes: Sequence[str],
    measured: Callable[[str, Path], dict[str, Any]],
    page: Callable[[list[dict[str, Any]], str], str],
    about: dict[str, Any],
) -> None:
    """Measure one shape after the other, write the results, and print the page.

    `measured` makes a shape's summary, in a folder that is gone afterwards; `page` makes the text, from the summaries
    and the command; `about` is what the results hold beside the shapes: "machine" at least.
    """
    result_name = name if device == "cpu" else f"{name}-{device}"
    command = f"python benchmarks/{name.replace('-', '_')}.py" + ("" if device == "cpu" else f" --device {device}")
    text = ""
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            one = measured(shape, Path(folder))
        # After every shape, so that nothing is lost where a later one fails.
        known = with_earlier_shapes(result_name, about["machine"], [one])
        text = page(known, command)
        write_results(result_name, about | {"shapes": known}, text)
    print(text)
