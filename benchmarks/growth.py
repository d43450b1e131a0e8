"""What grows with what: time and peak memory against rows, their length, rank, vocabulary, items, shots and runs.

Usage: python benchmarks/growth.py [--quick] [--only rows runs ...] [--most N] [--model DIR] [--data DIR]
Each figure is of a process of its own. Seconds are of CPU time, of the process and its children (other work on the
machine adds little to them), with what is imported on the way. `rows` prepares Alpaca rows, repeated with a number in
front where there are not enough, in the chat template of --model if it has one, and plans every step of an epoch.
`tokens`, `rank` and `vocabulary` are two LoRA steps of a small Llama with random weights, `items` and `shots` choices
that it scores. `runs` copies one training of the demo's model, with its evaluation, to as many as told: the start of
`study run`, `report` and its page, and `compare` of two of them. Writes benchmarks/results/DATE-growth.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from measuring import heading, machine, matmul_rates, write_results

DEMO = Path(__file__).parents[1] / "src" / "tunelab" / "assets" / "demo_base"

#: What is measured at which sizes, and at which with --quick.
SIZES = {
    "rows": ((1_000, 10_000, 51_941, 500_000), (1_000, 10_000)),
    "tokens": ((256, 1_024, 4_096, 8_192), (256, 2_048)),
    "rank": ((8, 32, 128, 512), (8, 64)),
    "vocabulary": ((4_000, 16_000, 64_000, 128_000), (4_000, 32_000)),
    "items": ((100, 1_000, 14_042), (100, 1_000)),
    "shots": ((0, 5, 25), (0, 5)),
    "runs": ((10, 100, 1_000), (10, 100)),
}
UNITS = {
    "rows": "rows prepared and planned",
    "tokens": "tokens a row, 16,384 a step",
    "rank": "rank",
    "vocabulary": "tokens in the vocabulary",
    "items": "items with four choices",
    "shots": "examples before each of 100 items",
    "runs": "finished trainings",
}
STEP_TOKENS = 16_384


def cpu_seconds() -> float:
    """Of this process and the children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_bytes() -> int:
    """The most memory that this process had since it began; what getrusage says is inherited from the parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of the work, and its result."""
    begun = cpu_seconds()
    result = work()
    return cpu_seconds() - begun, result


def of_rows(count: int, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    import tunelab
    from tunelab.data.loader import TrainingPlan

    rows = json.loads((given.data / "alpaca" / "alpaca_cleaned.json").read_text(encoding="utf-8"))
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for number in range(count):
            row = rows[number % len(rows)]
            turn = number // len(rows)
            if turn:
                row = {**row, "instruction": f"{turn}. {row['instruction']}"}
            file.write(json.dumps(row) + "\n")
    del rows
    data = {"sources": [{"name": "alpaca", "path": str(folder / "rows.jsonl")}], "held_out": 100, "on_bad_row": "skip"}
    recipe = {"model": str(given.model), "data": data}
    before = peak_bytes()
    preparing, prepared = timed(lambda: tunelab.prepare(recipe, progress=tunelab.silent))
    plan = TrainingPlan(prepared.train, 1, None, 16, None, 4_096)
    planning, _ = timed(lambda: [plan.batches(plan.step(number)[0]) for number in range(plan.total_steps)])
    return {"prepare": preparing, "plan": planning, "peak_bytes": peak_bytes(), "start_bytes": before}


def small_model(folder: Path, vocabulary: int) -> Path:
    """A Llama with random weights and the demo's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=512,
        max_position_embeddings=8_192,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(DEMO).save_pretrained(folder / "model")
    return folder / "model"


def of_training(folder: Path, *, tokens: int = 1_024, rank: int = 16, vocabulary: int = 0) -> dict[str, Any]:
    import tunelab

    chance, own = random.Random(0), 1_000
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for _ in range(2 * STEP_TOKENS // tokens):
            file.write(json.dumps({"input_ids": chance.choices(range(10, own), k=tokens)}) + "\n")
    size = json.loads((DEMO / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    recipe = {
        "model": str(small_model(folder, max(size, vocabulary))),
        "adapter": {"rank": rank},
        "data": {"sources": [{"name": "pretokenized", "path": str(folder / "rows.jsonl")}], "max_length": tokens},
        "train": {"steps": 2, "batch_size": STEP_TOKENS // tokens, "micro_batch_tokens": 8_192, "device": "cpu"},
        "out": str(folder / "run"),
    }
    recipe["data"]["held_out"] = 0  # type: ignore[index]
    seconds, _ = timed(lambda: tunelab.finetune(recipe, progress=tunelab.silent))
    return {"train": seconds, "peak_bytes": peak_bytes()}


def of_items(folder: Path, items: int, shots: int = 0) -> dict[str, Any]:
    import tunelab

    examples = "".join(f"Question: What is {n} and {n}?\nAnswer: {2 * n}\n\n" for n in range(shots))
    with open(folder / "items.jsonl", "w", encoding="utf-8") as file:
        for n in range(items):
            choices = [str(2 * n + more) for more in range(4)]
            prompt = f"{examples}Question: What is {n} and {n + 1}?\nAnswer:"
            file.write(json.dumps({"prompt": prompt, "choices": choices, "answer": choices[1]}) + "\n")
    model, settings = small_model(folder, 8_192), {"out": folder / "evaluations"}
    seconds, _ = timed(
        lambda: tunelab.evaluate_benchmarks(str(model), str(folder / "items.jsonl"), settings, progress=tunelab.silent)
    )
    return {"evaluate": seconds, "peak_bytes": peak_bytes()}


def of_runs(count: int, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Ten seeds an arm: what is measured is made by copying the template under the keys of other jobs."""
    from tunelab.comparison.compare_runs import compare_runs
    from tunelab.records.cells import known_cells
    from tunelab.report.content import write_report
    from tunelab.report.html_page import html_page
    from tunelab.report.markdown_page import markdown_page
    from tunelab.studies.study_report import study_report

    study = copied_study(folder / "study", given.template, max(1, count // 10), min(10, count))
    starting, cells = timed(lambda: known_cells(study, folder / "study"))
    reporting, report = timed(lambda: study_report(folder / "study"))
    rendering, page = timed(lambda: html_page(report))
    writing, _ = timed(lambda: (markdown_page(report), write_report(folder / "report.json", report)))
    first, second = [folder / "study" / cell.folder for cell in cells if cell.needs][:2]
    comparing, _ = timed(lambda: compare_runs(first, second))
    return {
        "start": starting,
        "report": reporting,
        "page": rendering,
        "other formats": writing,
        "compare": comparing,
        "peak_bytes": peak_bytes(),
        "page_bytes": len(page.encode()),
    }


def small_study(arms: int, seeds: int) -> Any:
    """The demo's study with arms that differ in their learning rate, and without its questions."""
    from tunelab.config.study import parse_study
    from tunelab.studies.demo import demo_study

    demo = demo_study(("recipe.train.steps=20", "recipe.evaluate.max_new_tokens=8"))
    tree = demo.model_dump(mode="json", by_alias=True) | {"questions": [], "compare": [], "seeds": list(range(seeds))}
    rates = {f"lora {number}": {"recipe": {"train": {"lr": 1e-4 * (1 + number)}}} for number in range(arms)}
    return parse_study(tree | {"arms": {"base": {"tuned": False}, **rates}})


def template_study(folder: Path) -> None:
    """One training and its evaluation, and the evaluation of the base."""
    from tunelab.studies.run_study import run_study

    run_study(small_study(1, 1), folder, options={"workers": "1"})


def copied_study(out: Path, template: Path, arms: int, seeds: int) -> Any:
    from tunelab.records.cells import cells_of, keep_cell, keep_study, read_study

    study, (_, known) = small_study(arms, seeds), read_study(template)
    base, training, evaluation = (
        next(one for one in known if one.needs == "" and one.benchmark),
        next(one for one in known if not one.benchmark),
        next(one for one in known if one.needs),
    )
    keep_study(study, out)
    shutil.copytree(template / "evaluations", out / "evaluations")
    for cell in cells_of(study):
        source = training if not cell.benchmark else evaluation if cell.needs else base
        place = source.folder.replace(training.key, cell.needs or cell.key)
        if not cell.benchmark:
            shutil.copytree(template / training.folder, out / place, ignore=shutil.ignore_patterns("tokenizer"))
        same = {name: getattr(cell, name) for name in ("key", "arm", "seed", "benchmark", "needs", "budget")}
        keep_cell(out, replace(source, folder=place, **same))
    return study


MEASURES: dict[str, Callable[[int, Path, argparse.Namespace], dict[str, Any]]] = {
    "rows": of_rows,
    "tokens": lambda size, folder, given: of_training(folder, tokens=size),
    "rank": lambda size, folder, given: of_training(folder, rank=size),
    "vocabulary": lambda size, folder, given: of_training(folder, vocabulary=size),
    "items": lambda size, folder, given: of_items(folder, size),
    "shots": lambda size, folder, given: of_items(folder, 100, size),
    "runs": of_runs,
}


def measured(name: str, size: int, template: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One figure, in a process of its own."""
    words = ["--one", name, str(size), "--template", str(template), "--model", str(given.model)]
    command = [sys.executable, str(Path(__file__)), *words, "--data", str(given.data)]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TUNELAB_CACHE": cache}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def page(found: list[dict[str, Any]], command: str, here: dict[str, Any], rates: dict[str, float]) -> str:
    lines = heading("What grows with what", command, here, rates)
    lines += ["CPU seconds, with what is imported on the way; memory is the most that the process had.", ""]
    lines += ["| what | size | CPU seconds | peak memory | page |", "|---|---|---|---|---|"]
    for one in found:
        result = one["result"]
        if "error" in result:
            lines.append(f"| {UNITS[one['what']]} | {one['size']:,} | failed: {result['error'][:100]} | | |")
            continue
        seconds = ", ".join(f"{key} {value:.2f}" for key, value in result.items() if not key.endswith("_bytes"))
        memory = f"{result['peak_bytes'] / 2**20:,.0f} MiB"
        if "start_bytes" in result:
            memory += f" ({result['start_bytes'] / 2**20:,.0f} before)"
        size = f"{result['page_bytes'] / 1e6:.2f} MB" if "page_bytes" in result else ""
        lines.append(f"| {UNITS[one['what']]} | {one['size']:,} | {seconds} | {memory} | {size} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two sizes each, for a look; nothing is written")
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--most", type=int, default=10**9, help="leave out sizes above this")
    parser.add_argument("--model", type=Path, default=DEMO, help="whose tokenizer and chat template prepare rows")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--template", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, size = given.one
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(MEASURES[name](int(size), Path(folder), given)))
        return
    begun, here, found = time.monotonic(), machine(), []
    with tempfile.TemporaryDirectory() as scratch:
        template = Path(scratch) / "template"
        if "runs" in given.only:
            template_study(template)
        for name in given.only:
            for size in [one for one in SIZES[name][given.quick] if name == "vocabulary" or one <= given.most]:
                found.append({"what": name, "size": size, "result": measured(name, size, template, given)})
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    words = " ".join(["benchmarks/growth.py", *(["--only", *given.only] if given.only != list(SIZES) else [])])
    words += f" --most {given.most}" if given.most < 10**9 else ""
    words += " --model SmolLM2-135M-Instruct" if given.model != DEMO else ""
    text = page(found, words, here, matmul_rates())
    if not given.quick:
        write_results("growth", {"machine": here, "measured": found}, text)
    print(text)
    print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
