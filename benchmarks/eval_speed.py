"""Speed of scoring 5-shot MMLU: tunelab, and lm-evaluation-harness's `hf` backend on the same questions, alternated.

Two subjects, whole, whose prompts and few-shot examples are about as long as MMLU's are on average; random weights in
the shapes of known models, real tokenizers. The log-probabilities of both are compared.

Usage: python benchmarks/eval_speed.py [--shapes 15M 82M 135M] [--subjects ...] [--repeats 2] [--device cpu|cuda]
Writes benchmarks/results/DATE-eval-speed[-cuda].{json,md}.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

from eval_contenders import CONTENDERS
from measuring import (
    Found,
    alternate,
    contender_rows,
    heading,
    machine,
    matmul_rates,
    measure_shapes,
    median,
    speed_parser,
    table,
)
from shapes import SHAPES, USUAL_SHAPES, Shape, load_tokenizer, save_model

SUBJECTS = ("econometrics", "machine_learning")
BASELINE = "lm-eval fp32"
COLUMNS = ("contender", "items/s", "against lm-eval in fp32", "peak memory", "difference", "same answers")


def prepare(shape: Shape, data: Path, subjects: list[str], device: str, folder: Path) -> Path:
    """The model, and the job that names it."""
    model = folder / "model"
    save_model(shape, model)
    load_tokenizer(shape, data, folder / "scratch").save_pretrained(model)
    job = {"model": str(model), "data": str(data / "mmlu"), "subjects": subjects, "device": device}
    (folder / "job.json").write_text(json.dumps(job | {"micro_batch_tokens": 4096}), encoding="utf-8")
    return folder / "job.json"


def measure(shape: Shape, job: Path, names: list[str], repeats: int) -> Found:
    speed = "{items_per_second:,.2f} items/s"
    return alternate("eval_contenders.py", shape.name, job, names, repeats, speed=speed)


def summary(found: Found) -> list[dict[str, Any]]:
    """One row a contender: its speed, and how far its log-probabilities are from the harness's in fp32."""
    reference = next(
        (one["log_probabilities"] for name in found if name.startswith(BASELINE) for one in found[name][:1]), None
    )

    def row(name: str, done: list[dict[str, Any]]) -> dict[str, Any]:
        speeds = [result["items_per_second"] for result in done]
        made: dict[str, Any] = {"items_per_second": median(speeds), "all": speeds}
        made |= {"items": len(done[0]["log_probabilities"]), "peak_bytes": max(one["peak_bytes"] for one in done)}
        if reference is not None:
            pairs = list(zip(done[0]["log_probabilities"], reference, strict=True))
            made["difference"] = max(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True))
            made["same_answers"] = sum(a.index(max(a)) == b.index(max(b)) for a, b in pairs)
        return made

    return contender_rows(found, row)


def cells(row: dict[str, Any], speeds: list[float]) -> list[str]:
    numbers = ", ".join(f"{speed:.2f}" for speed in sorted(row["all"]))
    return [
        f"{row['items_per_second']:.2f} ({numbers})",
        f"{row['items_per_second'] / max(speeds):.2f}x" if speeds else "",
        f"{row['peak_bytes'] / 2**30:.2f} GiB",
        f"{row['difference']:.1e}" if "difference" in row else "",
        f"{row['same_answers']} of {row['items']}" if "difference" in row else "",
    ]


def page(summaries: list[dict[str, Any]], information: dict[str, Any], rates: dict[str, float], command: str) -> str:
    """The results as Markdown."""
    lines = heading("Speed of scoring 5-shot MMLU", command, information, rates)
    lines += [
        "Items/s from rows to log-probabilities, median of the repeats (lowest to highest in brackets), one process "
        "each, alternated; the faster of the harness's batch sizes in fp32 is what the others are compared with. "
        "Difference: the largest of any letter's log-probability from the harness's in fp32; same answers: questions "
        "where the same letter is the likeliest.",
        "",
    ]
    for one in summaries:
        speeds = [row["items_per_second"] for row in one["contenders"] if row["contender"].startswith(BASELINE)]
        lines += [f"## {one['shape']} ({', '.join(one['subjects'])}; `--repeats {one['repeats']}`)", ""]
        lines += table(COLUMNS, one["contenders"], partial(cells, speeds=speeds))
    return "\n".join(lines)


def main() -> None:
    parser = speed_parser(__doc__, SHAPES, CONTENDERS, repeats=2)
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS))
    arguments = parser.parse_args()
    device = arguments.device
    rates, information = matmul_rates(device), machine(device)

    def measured(name: str, folder: Path) -> dict[str, Any]:
        job = prepare(SHAPES[name], arguments.data, arguments.subjects, device, folder)
        found = measure(SHAPES[name], job, arguments.contenders, arguments.repeats)
        one = {"shape": name, "subjects": arguments.subjects, "repeats": arguments.repeats}
        return one | {"contenders": summary(found)}

    measure_shapes(
        "eval-speed",
        device,
        arguments.shapes or USUAL_SHAPES[device],
        measured,
        lambda summaries, command: page(summaries, information, rates, command),
        {"machine": information, "matmul_rates": rates},
    )


if __name__ == "__main__":
    main()
