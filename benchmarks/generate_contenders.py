"""One way of generating, measured in a process of its own: `python generate_contenders.py NAME JOB.json OUT.json`.

Every contender answers the same prompts greedily; row i's answer is wanted up to `lengths[i]` tokens, as if its model
had ended it there (random weights know no end). Contenders that cannot end a row make the batch's longest answer.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from shapes import read_rows


def _job(job: dict[str, Any], dtype: str, form: str | None = None) -> tuple[Any, list[list[int]], list[int]]:
    from tunelab.models.load import DTYPES, load_model
    from tunelab.models.precision import weight_format

    rows = read_rows(Path(job["prompts"]))
    stored = weight_format(form) if form else None
    model = load_model(job["model"], dtype=DTYPES[dtype], device=job["device"], form=stored)
    return model, [row["input_ids"] for row in rows], [row["length"] for row in rows]


class _Numbers:
    """Stands in for a tokenizer: decoding is not measured."""

    def decode(self, ids: Any, **named: Any) -> str:
        return ""


def tunelab(job: dict[str, Any], dtype: str, form: str | None = None) -> dict[str, Any]:
    """tunelab's engine; `form`: over a base in this format.

    A row's own length is set where the engine sets its room: a model's end token would do that.
    """
    from tunelab.inference import engine
    from tunelab.inference.sampling import Decoding

    model, prompts, lengths = _job(job, dtype, form)
    decoding = Decoding(max_new_tokens=max(lengths))
    rows = {"lengths": lengths}
    # A row ends by itself at its length, but no one knows before: the slot it gets is as wide as for the longest.
    add = engine.Row.add

    def add_and_end(row: Any, *how: Any) -> None:
        add(row, *how)
        if len(row.answer) >= rows["lengths"][row.index]:
            row.ended = "stop"

    engine.Row.add = add_and_end
    widest = max(len(prompt) for prompt in prompts) + max(lengths)
    micro_batch_tokens = job["batch"] * engine._rounded(widest)

    def run(prompts: list[list[int]]) -> list[list[int]]:
        made = engine.generate(
            model, _Numbers(), prompts, decoding, stop_token_ids=(), micro_batch_tokens=micro_batch_tokens
        )
        return [list(one.token_ids) for one in sorted(made, key=lambda one: one.index)]

    rows["lengths"] = [4] * 4
    run(prompts[:4])
    rows["lengths"] = lengths
    start = time.perf_counter()
    answers = run(prompts)
    return _result(answers, lengths, time.perf_counter() - start)


def transformers_static(job: dict[str, Any], dtype: str, order: str) -> dict[str, Any]:
    """transformers' generate in static batches; `order`: rows as they come, or sorted by their answers' lengths, which
    no one knows beforehand."""
    import torch
    from transformers import GenerationConfig

    model, prompts, lengths = _job(job, dtype)
    model.generation_config = GenerationConfig()
    indices = list(range(len(prompts)))
    if order == "oracle":
        indices.sort(key=lambda index: lengths[index])

    def run(indices: list[int], new: int | None = None) -> dict[int, list[int]]:
        width = max(len(prompts[index]) for index in indices)
        ids = torch.zeros(len(indices), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, index in enumerate(indices):
            ids[row, width - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[row, width - len(prompts[index]) :] = 1
        # The batch runs until its longest answer has ended.
        settings = GenerationConfig(
            max_new_tokens=new or max(lengths[index] for index in indices), do_sample=False, pad_token_id=0
        )
        with torch.no_grad():
            made = model.generate(
                ids.to(job["device"]), attention_mask=mask.to(job["device"]), generation_config=settings
            )
        return {index: made[row, width:].tolist() for row, index in enumerate(indices)}

    run(indices[:4], 4)
    start = time.perf_counter()
    answers: dict[int, list[int]] = {}
    for first in range(0, len(indices), job["batch"]):
        answers |= run(indices[first : first + job["batch"]])
    seconds = time.perf_counter() - start
    return _result([answers[index][: lengths[index]] for index in range(len(prompts))], lengths, seconds)


def transformers_continuous(job: dict[str, Any], dtype: str) -> dict[str, Any]:
    """transformers' own continuous batching (generate_batch)."""
    import torch
    from transformers import GenerationConfig
    from transformers.generation import ContinuousBatchingConfig

    model, prompts, lengths = _job(job, dtype)
    settings = GenerationConfig(max_new_tokens=max(lengths), do_sample=False, pad_token_id=0, eos_token_id=-1)
    start = time.perf_counter()
    with (
        torch.no_grad(),
        model.continuous_batching_context_manager(
            generation_config=settings, continuous_batching_config=ContinuousBatchingConfig()
        ) as manager,
    ):
        for index, prompt in enumerate(prompts):
            manager.add_request(prompt, request_id=str(index), max_new_tokens=lengths[index])
        answers: dict[int, list[int]] = {}
        while len(answers) < len(prompts):
            made = manager.get_result(timeout=1)
            if made is not None and made.is_finished():
                answers[int(made.request_id)] = list(made.generated_tokens)
            if not manager.is_running() and made is None:
                raise SystemExit("transformers' continuous batching stopped")
    return _result([answers[index] for index in range(len(prompts))], lengths, time.perf_counter() - start)


def _result(answers: list[list[int]], lengths: list[int], seconds: float) -> dict[str, Any]:
    assert [len(answer) for answer in answers] == lengths
    return {"tokens_per_second": sum(lengths) / seconds, "seconds": seconds, "answers": answers}


CONTENDERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "tunelab fp32": lambda job: tunelab(job, "fp32"),
    "tunelab bf16": lambda job: tunelab(job, "bf16"),
    "tunelab nf4": lambda job: tunelab(job, "bf16", "nf4"),
    "tunelab mxfp4": lambda job: tunelab(job, "bf16", "mxfp4"),
    "generate fp32": lambda job: transformers_static(job, "fp32", "given"),
    "generate fp32, sorted by an oracle": lambda job: transformers_static(job, "fp32", "oracle"),
    "generate bf16": lambda job: transformers_static(job, "bf16", "given"),
    "continuous batching fp32": lambda job: transformers_continuous(job, "fp32"),
}


def main() -> None:
    name, job_path, out = sys.argv[1:]
    result = CONTENDERS[name](json.loads(Path(job_path).read_text(encoding="utf-8")))
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    Path(out).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
