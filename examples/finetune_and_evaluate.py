"""Tune a model with LoRA, measure it beside its base on rows that it has not seen, and read the numbers in Python.

    python examples/finetune_and_evaluate.py [DIRECTORY [STEPS]]

Runs offline on the model and rows that ship with tunelab; 100 steps take about half a minute on a CPU.
"""

from __future__ import annotations

import sys

import tunelab
from tunelab.studies.demo import BASE, ROWS


def main(out: str = "runs/example-lora", steps: int = 100) -> None:
    recipe = {
        "model": str(BASE),
        "adapter": {"rank": 16},
        "data": {"sources": [{"name": "alpaca", "path": str(ROWS)}], "held_out": 50},
        "train": {"steps": steps, "lr": 5e-3},
        "evaluate": {"max_new_tokens": 24},
        "out": out,
    }
    run = tunelab.finetune(recipe)
    print(f"{run.path}: {run.status}, {run.manifest['trained']['targets']:,} target tokens seen")
    for record in run.metrics("train")[:3]:
        print(f"  step {record['step']}: loss {record['loss']:.3f}")

    scores = tunelab.evaluate(run)
    for base, tuned in zip(scores.arms["base"], scores.arms["tuned"], strict=True):
        print(f"{base.name:>22}: {base.value:8.3f} ± {base.error:.3f}  ->  {tuned.value:8.3f} ± {tuned.error:.3f}")
    change = scores.loss_change
    if change is not None and change.error:
        print(
            f"completion loss changes by {change.value:+.3f} ± {change.error:.3f} nats per token over {change.n} rows"
        )


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
