"""From the command to the first step: CPU seconds of `tunelab train` by stage, with all caches warm.

Usage: python benchmarks/start_speed.py --model DIR [--rows N] [--repeats N] [--against SRC] [--data DIR]
LoRA on Alpaca rows, in a process of its own each time, stopped where the first step begins; the first of them fills the
caches and does not count. Beside it, what transformers and PEFT alone need to be imported, to load the model and to add
a LoRA; all are alternated. `--against` is the `src` of another checkout. CPU time of one thread (OMP_NUM_THREADS=1):
other work on the machine adds to it, but less than to wall time. Writes benchmarks/results/DATE-start-speed.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from measuring import heading, machine, matmul_rates, median, write_results

SRC = Path(__file__).parents[1] / "src"
STAGES = ("the command", "imports", "tokenizer", "rows and data checks", "model and adapter", "the rest")
#: What must not wait for torch.
LIGHT = (["--help"], ["report", "--help"], ["train", "--help"], ["plan", "--help"])


def train(recipe: str) -> None:
    """Print the CPU seconds of each stage; `tunelab train` ends where its loop begins."""
    from tunelab.cli.main import main

    spent = {"the command": time.process_time()}
    from tunelab.cli import train as verb

    try:  # as the verb imports it
        from tunelab.cli._console import quick_imports
    except ImportError:
        from tunelab.training import finetune
    else:
        with quick_imports():
            from tunelab.training import finetune
    spent["imports"] = time.process_time() - spent["the command"]

    def timed(stage: str, name: str) -> None:
        work: Callable[..., Any] = getattr(finetune, name)

        def measured(*args: Any, **kwargs: Any) -> Any:
            begun = time.process_time()
            result = work(*args, **kwargs)
            spent[stage] = time.process_time() - begun
            return result

        setattr(finetune, name, measured)

    def stop(*_: object) -> None:
        spent["the rest"] = time.process_time() - sum(spent.values())
        print(json.dumps(spent), flush=True)
        os._exit(0)

    for stage, name in zip(STAGES[2:5], ("load_recipe_tokenizer", "checked_rows", "_model"), strict=True):
        timed(stage, name)
    finetune.TrainingLoop.run = stop  # type: ignore[method-assign, assignment]
    assert verb.run
    main(["train", recipe, "--overwrite"])


def libraries(model: str) -> None:
    """The same of transformers and PEFT: without rows, checks and a run directory."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    imported = time.process_time()
    AutoTokenizer.from_pretrained(model)
    tokenizer = time.process_time()
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    get_peft_model(base, LoraConfig(target_modules="all-linear"))
    loaded = time.process_time()
    found = (0.0, imported, tokenizer - imported, 0.0, loaded - tokenizer, 0.0)
    print(json.dumps(dict(zip(STAGES, found, strict=True))))


def run(command: list[str], src: Path) -> str:
    """What a process prints, with the package of `src`."""
    environment = {**os.environ, "PYTHONPATH": str(src), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


def light(words: list[str], src: Path) -> tuple[float, bool]:
    """CPU seconds of a command that needs no model, and whether it imported torch."""
    code = (
        "import sys, time\nfrom tunelab.cli.main import main\n"
        f"main({words!r})\nprint('\\n', time.process_time(), 'torch' in sys.modules)"
    )
    seconds, torch_too = run(["-c", code], src).split()[-2:]
    return float(seconds), torch_too == "True"


def page(found: dict[str, list[dict[str, float]]], verbs: list[dict[str, Any]], given: argparse.Namespace) -> str:
    words = f"benchmarks/start_speed.py --model {given.model.name} --rows {given.rows} --repeats {given.repeats}"
    lines = heading("From the command to the first step", words, machine(), matmul_rates())
    lines += [
        f"LoRA on {given.rows} Alpaca rows of which none are held out, every cache warm. CPU seconds of one thread, "
        f"medians of {given.repeats} alternated processes each; other programs computed on the same cores.",
        "",
        "| | " + " | ".join(STAGES) + " | in all (lowest to highest) |",
        "|---|" + "---|" * (len(STAGES) + 1),
    ]
    for name, results in found.items():
        sums = [sum(one.values()) for one in results]
        cells = [f"{median([one[stage] for one in results]):.2f}" for stage in STAGES]
        lines.append(f"| {name} | {' | '.join(cells)} | {median(sums):.2f} ({min(sums):.2f} to {max(sums):.2f}) |")
    lines += ["", "| command | CPU seconds | torch imported |", "|---|---|---|"]
    for one in verbs:
        lines.append(f"| `tunelab {one['command']}` | {one['seconds']:.2f} | {'yes' if one['torch'] else 'no'} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", type=Path, help="the src folder of another checkout")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        {"train": train, "libraries": libraries}[given.one[0]](given.one[1])
        return
    if given.model is None:
        parser.error("--model: a folder with a model")
    rows = json.loads((given.data / "alpaca" / "alpaca_cleaned.json").read_text(encoding="utf-8"))[: given.rows]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        recipe = {
            "model": str(given.model),
            "data": {"sources": [{"name": "alpaca", "path": str(folder / "rows.jsonl")}], "held_out": 0},
            "train": {"steps": 1, "batch_size": 2, "device": "cpu"},
            "out": str(folder / "run"),
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
        trained = (["--one", "train", str(folder / "recipe.yaml")], SRC)
        work = {"tunelab": trained, "transformers and PEFT alone": (["--one", "libraries", str(given.model)], SRC)}
        if given.against:
            work["tunelab before"] = (trained[0], given.against)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in work}
        for turn in range(given.repeats + 1):
            for name, (words, src) in work.items():
                one = json.loads(run([__file__, *words], src).splitlines()[-1])
                print(turn, name, {stage: round(seconds, 2) for stage, seconds in one.items()}, file=sys.stderr)
                if turn:  # the first fills the caches
                    found[name].append(one)
    verbs = []
    for words in LIGHT:
        results = [light(words, SRC) for _ in range(given.repeats)]
        seconds = median([seconds for seconds, _ in results])
        verbs.append({"command": " ".join(words), "seconds": seconds, "torch": any(torch for _, torch in results)})
    text = page(found, verbs, given)
    write_results("start-speed", {"machine": machine(), "measured": found, "commands": verbs}, text)
    print(text)


if __name__ == "__main__":
    main()
