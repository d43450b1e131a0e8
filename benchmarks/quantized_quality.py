"""What a base in few bits costs: held-out loss before and after LoRA, by format, over seeds, paired over rows.

Two real models: tinystories656k on 2,000 Alpaca rows, and the demo's base on the demo's rows. Everything but
`precision` is the same: rows, their order, the adapter's first weights; all compute in bf16.
Usage: python benchmarks/quantized_quality.py [--data ../shared/data] [--seeds 0 1]
Writes benchmarks/results/DATE-quantized-quality.{json,md}.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

from bf16_convergence import recipes
from measuring import heading, machine, matmul_rates, write_results

PRECISIONS = ("none", "nf4", "fp4", "int8", "mxfp4")


def losses(data: Path, seed: int, precision: str) -> dict[str, dict[str, list[Any]]]:
    """Model -> arm -> [(-log p of the answer, its tokens) of each held-out row]."""
    import tunelab

    found: dict[str, dict[str, list[Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model, recipe in recipes(data, seed, "lora", "bf16", Path(folder)).items():
            run = tunelab.finetune({**recipe, "precision": precision})
            scores = tunelab.evaluate(run, max_new_tokens=1)
            found[model] = {
                arm: [(row.completion_nll, row.completion_tokens) for row in rows]
                for arm, rows in scores.likelihoods.items()
            }
    return found


def compare(found: dict[str, dict[str, dict[str, list[Any]]]], seed: int) -> list[dict[str, Any]]:
    """A row for each model, precision and arm: its loss, and how far it is above bf16, paired over rows."""
    from tunelab.statistics.standard_errors import paired_ratio_difference

    rows = []
    for model in found["none"]:
        for precision in PRECISIONS:
            for arm in ("base", "tuned"):
                nll, tokens = (list(column) for column in zip(*found[precision][model][arm], strict=True))
                plain, _ = (list(column) for column in zip(*found["none"][model][arm], strict=True))
                gap = paired_ratio_difference(nll, tokens, plain, tokens)
                rows.append(
                    {
                        "model": model,
                        "precision": precision,
                        "arm": arm,
                        "seed": seed,
                        "loss": sum(nll) / sum(tokens),
                        "above_bf16": gap.value,
                        "error": gap.error,
                    }
                )
    return rows


def page(rows: list[dict[str, Any]], information: dict[str, Any], rates: dict[str, float]) -> str:
    """The results as Markdown: means over the seeds."""
    lines = heading("Quality over a base in few bits", "python benchmarks/quantized_quality.py", information, rates)
    seeds = sorted({row["seed"] for row in rows})
    lines += [
        f"Loss on held-out rows, nats per answer token, mean over seeds {', '.join(map(str, seeds))}. Above bf16: the "
        "difference from the same arm over a bf16 base; its error is the larger of that paired over rows (mean over "
        "seeds) and the SE across seeds.",
        "",
        "| model | precision | untuned | above bf16 | tuned with LoRA | above bf16 |",
        "|---|---|---|---|---|---|",
    ]
    for model in dict.fromkeys(row["model"] for row in rows):
        for precision in PRECISIONS:
            cells = []
            for arm in ("base", "tuned"):
                own = [r for r in rows if (r["model"], r["precision"], r["arm"]) == (model, precision, arm)]
                gaps = [row["above_bf16"] for row in own]
                between = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
                error = max(between, statistics.mean(row["error"] for row in own))
                gap = "" if precision == "none" else f"{statistics.mean(gaps):+.4f} ± {error:.4f}"
                cells += [f"{statistics.mean(row['loss'] for row in own):.4f}", gap]
            lines.append(f"| {model} | {'bf16' if precision == 'none' else precision} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    rates, information = matmul_rates(), machine()
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        rows += compare({precision: losses(arguments.data, seed, precision) for precision in PRECISIONS}, seed)
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    text = page(rows, information, rates)
    write_results("quantized-quality", {"machine": information, "rows": rows}, text)
    print(text)


if __name__ == "__main__":
    main()
