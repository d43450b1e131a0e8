"""One way of scoring MMLU, measured in a process of its own: `python eval_contenders.py NAME JOB.json OUT.json`.

Every contender gets the same questions, five examples before each, and reports the log-probabilities of the letters.
Counted is everything from the rows to the log-probabilities: prompts, tokens, model; loading the model is not.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The harness is set up on local rows as in the test that compares log-probabilities with it.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

SHOTS = 5


def tunelab(job: dict[str, Any], dtype: str) -> dict[str, Any]:
    """tunelab, as `tunelab eval --benchmarks mmlu` runs it."""
    from tunelab import plugins
    from tunelab.answering.benchmark_prompts import choice_questions
    from tunelab.answering.generate import open_responder
    from tunelab.evaluation.choices import choice_likelihoods

    mmlu = plugins.load("evaluation/benchmarks", "mmlu")
    changes = [f"train.dtype={dtype}", f"train.device={job['device']}"]
    responder = open_responder(model=job["model"], raw=True, changes=changes)
    model = responder.model
    start = time.perf_counter()
    every = mmlu.items(Path(job["data"]), mmlu.Options(shots=SHOTS))
    items = [item for subject in job["subjects"] for item in every if item.cluster == subject]
    questions = choice_questions(responder, "mmlu", items)
    scored = choice_likelihoods(model, questions, micro_batch_tokens=job["micro_batch_tokens"])
    found = {one.index: one.log_probabilities for one in responder.computing(scored)}
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "log_probabilities": [found[index] for index in range(len(items))]}


def harness(job: dict[str, Any], dtype: str, batch_size: int) -> dict[str, Any]:
    """lm-evaluation-harness's `hf` backend. Its rows are read and its tasks built beforehand."""
    from harness import evaluate_tasks, harness_model, load_tasks, write_mmlu_tasks

    with tempfile.TemporaryDirectory() as folder:
        names = write_mmlu_tasks(Path(folder), Path(job["data"]), job["subjects"], SHOTS)
        tasks = load_tasks(Path(folder), names)
        model = harness_model(Path(job["model"]), dtype=dtype, batch_size=batch_size, device=job["device"])
        start = time.perf_counter()
        samples = evaluate_tasks(model, tasks)
        seconds = time.perf_counter() - start
    rows = [row for name in names for row in sorted(samples[name], key=lambda row: row["doc_id"])]
    return {"seconds": seconds, "log_probabilities": [[float(one[0][0]) for one in row["resps"]] for row in rows]}


CONTENDERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "tunelab fp32": lambda job: tunelab(job, "fp32"),
    "tunelab bf16": lambda job: tunelab(job, "bf16"),
    "lm-eval fp32, batch 1": lambda job: harness(job, "float32", 1),
    "lm-eval fp32, batch 8": lambda job: harness(job, "float32", 8),
    "lm-eval bf16, batch 8": lambda job: harness(job, "bfloat16", 8),
}


def main() -> None:
    name, job, out = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), Path(sys.argv[3])
    result = CONTENDERS[name](job)
    result["items_per_second"] = len(result["log_probabilities"]) / result["seconds"]
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if job["device"] == "cuda":
        import torch

        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    out.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
