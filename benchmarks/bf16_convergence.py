"""Does training in bf16 end where training in fp32 ends? Held-out loss of both, paired over rows, on real models.

tinystories656k on 2,000 Alpaca rows and the demo's base model on the demo's rows, each fully and with LoRA, over
several seeds; everything but train.dtype is the same. Both results are measured in fp32. With --model, the model in
that folder on --rows Alpaca rows in its chat template instead, a quarter of them held out.
Usage: python benchmarks/bf16_convergence.py [--data ../shared/data] [--seeds 0 1 2]
           [--model DIR [--rows 240] --methods lora]
Writes benchmarks/results/DATE-bf16-convergence.{json,md}.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

from measuring import heading, machine, matmul_rates, write_results

RATES = {"full": 1e-3, "lora": 5e-3}

#: For a model in a folder, which is larger and has been tuned before.
LARGER_RATES = {"full": 2e-5, "lora": 5e-4}

MakeRecipes = Callable[[int, str, str, Path], dict[str, dict[str, Any]]]


def recipe_of_folder(
    folder: Path, data: Path, count: int, seed: int, method: str, dtype: str, out: Path
) -> dict[str, dict[str, Any]]:
    """Model -> recipe, of the model in a folder."""
    rows = {"sources": [str(data / "alpaca/alpaca_cleaned.json")], "size": count, "held_out": count // 4, "seed": seed}
    train = {"lr": LARGER_RATES[method], "epochs": 1, "batch_size": 8, "seed": seed, "dtype": dtype}
    one = {"model": str(folder), "method": method, "data": rows, "train": train, "out": str(out / "run")}
    return {folder.name: one}


def recipes(data: Path, seed: int, method: str, dtype: str, out: Path) -> dict[str, dict[str, Any]]:
    """Model -> recipe, of the two small models."""
    from tunelab.studies.demo import demo_study

    common = {"method": method, "train": {"lr": RATES[method], "epochs": 1, "seed": seed, "dtype": dtype}}
    stories = data / "models/tinystories656k"
    alpaca = {"sources": [str(data / "alpaca/alpaca_cleaned.json")], "size": 2000, "held_out": 200, "seed": seed}
    arm = demo_study().arm_recipe(method, seed)
    demo = arm.model_dump(mode="json", exclude_none=True) | {"out": str(out / "demo")}
    demo["train"] |= {"dtype": dtype, "epochs": 2, "batch_size": 16}
    return {
        "tinystories656k": {"model": str(stories), "data": alpaca, "out": str(out / "stories"), **common},
        "demo base": demo,
    }


def row_losses(path: Path) -> list[tuple[float, int]]:
    """(-log p of the answer, its tokens) of each held-out row, computed in fp32, with the run's weights.

    An adapter is measured on the base that it was trained over: in a bf16 run the base's weights lie in bf16.
    """
    import torch

    import tunelab
    from tunelab.answering.held_out_evaluation import held_out_rows
    from tunelab.evaluation.likelihood import row_likelihoods
    from tunelab.models.adapters import load_adapter
    from tunelab.models.load import DTYPES, load_model, load_tokenizer
    from tunelab.preparation.rows import prepare_with

    run = tunelab.open_run(path)
    recipe = run.recipe
    tokenizer = load_tokenizer(str(run.tokenizer))
    rows, _ = held_out_rows(prepare_with(tokenizer, recipe), tokenizer, None)
    if run.adapter.exists():
        base = load_model(recipe.model.name, dtype=DTYPES[recipe.train.dtype]).float()
        model: Any = load_adapter(base, run.adapter)
    else:
        model = load_model(str(run.model), dtype=torch.float32)
    found = row_likelihoods(model, [(row.input_ids, row.answer_mask) for row in rows], micro_batch_tokens=4096)
    return [(one.completion_nll, one.completion_tokens) for one in sorted(found, key=lambda one: one.index)]


def compare(make_recipes: MakeRecipes, seed: int, method: str) -> list[dict[str, Any]]:
    """fp32 and bf16 of one seed and method, on every model."""
    import tunelab
    from tunelab.statistics.standard_errors import paired_ratio_difference

    losses: dict[str, dict[str, Any]] = {}
    seconds: dict[str, dict[str, float]] = {}
    for dtype in ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as folder:
            for model, recipe in make_recipes(seed, method, dtype, Path(folder)).items():
                began = time.process_time()
                tunelab.finetune(recipe)
                seconds.setdefault(model, {})[dtype] = time.process_time() - began
                losses.setdefault(model, {})[dtype] = row_losses(Path(recipe["out"]))
    rows = []
    for model, found in losses.items():
        (nll, tokens), (bf16_nll, _) = (list(zip(*found[dtype], strict=True)) for dtype in ("fp32", "bf16"))
        gap = paired_ratio_difference(list(bf16_nll), list(tokens), list(nll), list(tokens))
        rows.append(
            {
                "model": model,
                "method": method,
                "seed": seed,
                "fp32": sum(nll) / sum(tokens),
                "bf16": sum(bf16_nll) / sum(tokens),
                "difference": gap.value,
                "error": gap.error,
                "rows": len(nll),
                "cpu_seconds": seconds[model],
            }
        )
    return rows


def page(
    rows: list[dict[str, Any]], what: str, command: str, information: dict[str, Any], rates: dict[str, float]
) -> str:
    lines = heading("Training in bf16 against fp32", command, information, rates)
    lines += [
        f"{what}, nats per answer token, both computed in fp32, an adapter on the base that it was trained over (in "
        "bf16 after bf16). The difference's error is paired over rows.",
        "",
        "| model | method | seed | loss after fp32 | after bf16 | bf16 minus fp32 |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['method']} | {row['seed']} | {row['fp32']:.4f} | {row['bf16']:.4f} "
        f"| {row['difference']:+.4f} ± {row['error']:.4f} |"
        for row in rows
    ]
    lines += ["", "Over the seeds, mean and its error:", "", "| model | method | bf16 minus fp32 |", "|---|---|---|"]
    for model, method in dict.fromkeys((row["model"], row["method"]) for row in rows):
        gaps = [row["difference"] for row in rows if (row["model"], row["method"]) == (model, method)]
        error = f"{statistics.stdev(gaps) / len(gaps) ** 0.5:.4f}" if len(gaps) > 1 else "unknown"
        lines.append(f"| {model} | {method} | {statistics.mean(gaps):+.4f} ± {error} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(RATES), default=list(RATES))
    parser.add_argument("--model", type=Path, help="a model's folder")
    parser.add_argument("--rows", type=int, default=240)
    arguments = parser.parse_args()
    rates, information = matmul_rates(), machine()
    make_recipes: MakeRecipes = partial(recipes, arguments.data)
    command, name = "python benchmarks/bf16_convergence.py", "bf16-convergence"
    what = "One epoch of 1,800 Alpaca rows, and the demo's own recipe; loss on 200 and 150 held-out rows"
    if arguments.model:
        make_recipes = partial(recipe_of_folder, arguments.model.resolve(), arguments.data, arguments.rows)
        command += f" --model {arguments.model.name} --rows {arguments.rows} --methods {' '.join(arguments.methods)}"
        name += f"-{arguments.model.name}"
        rates_used = " and ".join(f"{LARGER_RATES[method]:g} ({method})" for method in arguments.methods)
        what = (
            f"One epoch of {arguments.rows - arguments.rows // 4} Alpaca rows in the model's chat template, batch size "
            f"8, lr {rates_used}; loss on {arguments.rows // 4} held-out rows"
        )
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for method in arguments.methods:
            rows += compare(make_recipes, seed, method)
            print(rows[-2:], file=sys.stderr, flush=True)
    text = page(rows, what, command, information, rates)
    write_results(name, {"machine": information, "rows": rows}, text)
    print(text)


if __name__ == "__main__":
    main()
