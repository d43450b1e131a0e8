"""Merge a tuned adapter into its base, and ask the result with transformers alone.

python examples/merge_and_load.py [DIRECTORY [STEPS]]
"""

from __future__ import annotations

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

import tunelab
from tunelab.studies.demo import BASE, ROWS


def main(folder: str = "runs/example-merge", steps: int = 100) -> None:
    run = tunelab.finetune(
        {
            "model": str(BASE),
            "data": {"sources": [{"name": "alpaca", "path": str(ROWS)}], "template": "plain"},
            "train": {"steps": steps, "lr": 5e-3},
            "out": f"{folder}/run",
        }
    )
    merged = tunelab.merge(run, f"{folder}/merged", format="fp32")
    print(f"{merged.path}: {merged.quality.kl:.1e} nats (KL) from base + adapter")

    # From here on nothing of tunelab is needed.
    tokenizer = AutoTokenizer.from_pretrained(merged.path)
    model = AutoModelForCausalLM.from_pretrained(merged.path)
    prompt = tokenizer("Instruction: Give the opposite of the word.\nInput: tall\nResponse:", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    print("answer:", tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip())


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
