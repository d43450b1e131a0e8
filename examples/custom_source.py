"""Train with a source of your own: examples/riddles.py is one Python file, and its path is its name.

python examples/custom_source.py [DIRECTORY [STEPS]]
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import tunelab
from tunelab.studies.demo import BASE

RIDDLES = {
    "What has keys and opens no door?": "A piano.",
    "What gets wetter the more it dries?": "A towel.",
    "What has hands and cannot clap?": "A clock.",
    "What has a neck and no head?": "A bottle.",
    "What runs and has no legs?": "A river.",
    "What has teeth and does not bite?": "A comb.",
}


def main(folder: str = "runs/example-riddles", steps: int = 20) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = Path(folder) / "riddles.csv"
    with open(file, "w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerows([("riddle", "solution"), *RIDDLES.items()])

    source = {
        "name": str(Path(__file__).with_name("riddles.py")),
        "path": str(file),
        "options": {"question": "A riddle: "},
    }
    run = tunelab.finetune(
        {
            "model": str(BASE),
            "data": {"sources": [source], "template": "human-assistant", "held_out": 0},
            "train": {"steps": steps, "lr": 5e-3, "batch_size": 6},
            "out": f"{folder}/run",
        }
    )
    losses = [record["loss"] for record in run.metrics("train")]
    print(f"{run.path}: loss {losses[0]:.3f} at the first step, {losses[-1]:.3f} at step {len(losses)}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
