"""Look at rows of your own as the model will see them: which tokens are learned, what is too long, what is bad.

    python examples/own_rows.py [DIRECTORY]

`tunelab inspect` shows the same in the terminal. Here each learned stretch is taken from the table of tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tunelab
from tunelab.data.tokenize import answer_runs
from tunelab.preparation.rows import load_recipe_tokenizer
from tunelab.studies.demo import BASE

ROWS = [
    {"messages": [{"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Red."}]},
    {
        "messages": [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "Opposite of tall?"},
            {"role": "assistant", "content": "Short."},
            {"role": "user", "content": "And of cold?"},
            {"role": "assistant", "content": "Warm."},
        ]
    },
    {"messages": [{"role": "user", "content": "Nobody answers this."}]},  # a bad row: nothing to learn
]


def main(folder: str = "runs/example-rows") -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = Path(folder) / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")

    changes = [f"model={BASE}", f"data={file}", "data.template=plain", "data.held_out=0", "data.on_bad_row=skip"]
    recipe = tunelab.load_recipe(None, changes)
    data = tunelab.prepare(recipe)
    tokenizer = load_recipe_tokenizer(recipe)
    for number in range(len(data.train)):
        ids, mask = data.train.row(number)
        learned = [tokenizer.decode(ids[start:end]) for start, end in answer_runs(mask)]
        print(f"row {number + 1}: {len(ids)} tokens, {mask.sum()} learned: {learned}")
    print(f"left out: {data.bad_rows}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
