"""What `tunelab plan` predicts against published measurements: the same count, with the ways of other tools.

Usage: python benchmarks/planner_error.py [--out benchmarks/results/DATE-planner-error.md]

published_memory.csv has the measurements, with their sources. Graded A: all settings are known. B: one is not, so that
the prediction is a range, or another code base was measured. Prints the table; nothing is fitted to these rows.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tunelab.planning.activations import trace
from tunelab.planning.known import config_of
from tunelab.planning.memory import RESERVED, Load, peak_of
from tunelab.planning.shape import ModelShape, shape_of
from tunelab.planning.ways import Ways
from tunelab.units import GIB

PUBLISHED = Path(__file__).with_name("published_memory.csv")

#: Tokens of PEFT's longest batch, which is not published: 4 rows of the mean length, 210, to 4 of the longest allowed.
PEFT_BATCH = (4 * 210, 4 * 768)

#: Measurements that are not in the table, and why.
LEFT_OUT = (
    ("Dr.Post-Training, 2 rows of 2025-12-28", "the length of their rows is not known"),
    (
        "Dr.Post-Training, float32 without checkpointing (3 rows)",
        "which attention kernel ran is not known; 9 to 12 % low",
    ),
    ("torchtune, compiled and offloaded runs", "compilation changes what is kept"),
    ("PEFT, methods other than LoRA, DoRA and full fine-tuning", "tunelab does not have them"),
    ("LitGPT, Soup, Megatron and other code bases", "they keep other tensors; this count is of transformers' models"),
    ("LLaMA-Factory, Unsloth, Axolotl, ms-swift, fsdp_qlora", "rounded, reserved, or several settings unknown"),
    ("Liger, XTuner, TRL", "they measure the loss alone"),
)

#: (layers, hidden, vocabulary) of the first Qwen, which the planner does not know: slopes over tokens need no more.
QWEN = {"Qwen-1.8B": (24, 2048, 151936), "Qwen-7B": (32, 4096, 151936)}


@dataclass(frozen=True, slots=True)
class Compared:
    """A published measurement and the prediction: a point has equal ends."""

    row: Mapping[str, str]
    least: float
    most: float
    moment: str

    @property
    def measured(self) -> float:
        return float(self.row["gib"])

    @property
    def error(self) -> float:
        """Relative error of the nearest predicted value; 0 within the range."""
        nearest = min(max(self.measured, self.least), self.most)
        return nearest / self.measured - 1


def read(path: Path = PUBLISHED) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def allocated(row: Mapping[str, str], tokens: int) -> tuple[float, str]:
    """Predicted bytes of a row's training with micro-batches of `tokens`, and the moment of its peak."""
    shape = shape_of(config_of(row["model"]).values, row["model"])
    ways, ranks = ways_of(row), ranks_of(row, shape)
    peak = peak_of(shape, ways, trace(shape, ways, ranks), load_of(row, shape, tokens))
    return peak.allocated, peak.highest.name


def ways_of(row: Mapping[str, str]) -> Ways:
    size = int(row["weight_bytes"])
    keeps = row["keeps_outputs"] == "yes"
    return Ways(
        full=row["method"] == "full",
        compute=size,
        weights=size,
        autocast=size == 2,
        kernel="flash",
        adapter_path="peft",
        dropout=float(row["dropout"] or 0),
        loss="chunked" if row["loss"] == "chunked" else int(row["loss"]),  # type: ignore[arg-type]
        keeps_logits=keeps,
        keeps_cache=keeps,
        update=row["optimizer"],  # type: ignore[arg-type]
        checkpointing=row["checkpointing"] == "yes",
    )


def ranks_of(row: Mapping[str, str], shape: ModelShape) -> Sequence[dict[str, int]]:
    return [{name: int(row["rank"]) for name in row["targets"].split()}] * shape.layers if row["rank"] else ()


def load_of(row: Mapping[str, str], shape: ModelShape, tokens: int) -> Load:
    size, adapter = int(row["weight_bytes"]), int(row["adapter_parameters"] or 0)
    full = row["method"] == "full"
    return Load(
        base=size * shape.total,
        adapter=4 * adapter,
        trained=shape.total if full else adapter,
        trained_size=size if full else 4,
        products=adapter,
        trains_head=full,
        largest_quantized=0,
        tokens=tokens,
        targets=tokens,
        accumulates=False,
    )


def compared() -> list[Compared]:
    """All rows with a level: those without a number of tokens over the range that it may have."""
    found = []
    for row in read():
        if row["model"].split("/")[-1] in QWEN or (not row["tokens"] and row["id"].startswith("drpt")):
            continue
        lengths = (int(row["tokens"]),) * 2 if row["tokens"] else PEFT_BATCH
        reserved = RESERVED if "reserved" in row["what"] else (1.0, 1.0)
        ends = [allocated(row, length) for length in lengths]
        least, most = (size * factor / GIB for (size, _), factor in zip(ends, reserved, strict=True))
        found.append(Compared(row, least, most, ends[-1][1]))
    return found


def is_held(one: Compared) -> bool:
    """Whether a row belongs to those that are predicted within 2 %: Dr.Post-Training's with a known kernel."""
    known_kernel = one.row["weight_bytes"] == "2" or one.row["checkpointing"] == "yes"
    return one.row["id"].startswith("drpt") and known_kernel


def slopes() -> list[tuple[str, float, float]]:
    """Model, published and predicted bytes per token of the first Qwen's LoRA with checkpointing: logits in float32
    twice and in 16 bits twice (12 per entry), and a layer's input."""
    found = []
    for name, (layers, hidden, vocabulary) in QWEN.items():
        points = [(int(row["tokens"]), float(row["gib"])) for row in read() if row["model"].endswith(name)]
        (short, low), (long, high) = (next(p for p in points if p[0] == at) for at in (1024, 8192))
        found.append((name, (high - low) * 1e9 / (long - short), 12 * vocabulary + 2 * layers * hidden))
    return found


def page(found: Sequence[Compared]) -> str:
    """The table in Markdown."""
    held = [abs(one.error) for one in found if is_held(one)]
    lines = [
        "# Predicted and published peak memory",
        "",
        "`python benchmarks/planner_error.py`. GiB of allocated memory; PEFT's rows are reserved memory. Predicted by",
        "the count of `tunelab plan` with the ways of the tool that was measured: plain transformers, all logits.",
        "",
        f"Dr.Post-Training's {len(held)} rows with a known attention kernel: median error "
        f"{100 * median(held):.2f} %, largest {100 * max(held):.1f} %.",
        "",
        "| row | model | method | optimizer | tokens | checkpointing | measured | predicted | error | peak | grade |",
        "|---|---|---|---|--:|---|--:|--:|--:|---|---|",
    ]
    for one in found:
        row = one.row
        shown = f"{one.least:.2f}" if one.least == one.most else f"{one.least:.1f} to {one.most:.1f}"
        error = f"{100 * one.error:+.1f} %" if one.least == one.most or one.error else "within"
        method = (
            row["method"]
            + (" fp32" if row["weight_bytes"] == "4" else "")
            + (f" r{row['rank']}" if row["rank"] else "")
        )
        lines.append(
            f"| {row['id']} | {row['model'].split('/')[-1]} | {method} | {row['optimizer']} | {row['tokens'] or '?'} | "
            f"{row['checkpointing']} | {one.measured:.2f} | {shown} | {error} | {one.moment} | {row['grade']} |"
        )
    lines += ["", "Slopes over tokens, bytes per token, LoRA with checkpointing (published in one decimal of G):", ""]
    lines += [
        f"- {name}: {measured / 1e6:.2f} MB published, {counted / 1e6:.2f} MB counted"
        for name, measured, counted in slopes()
    ]
    lines += ["", "Left out:", "", *(f"- {what}: {why}." for what, why in LEFT_OUT), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table to this file, too")
    arguments = parser.parse_args()
    text = page(compared())
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
