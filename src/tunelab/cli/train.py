"""Fine-tune a model from a recipe into a run directory.

Examples:
  tunelab train --model distilgpt2 --data alpaca --size 800 --method lora
  tunelab train recipe.yaml
  tunelab train recipe.yaml train.lr=1e-4 adapter.rank=8 --out runs/rank-8
  tunelab train --model ./my-model --data rows.jsonl --method full --seed 1
  tunelab train --resume runs/rank-8
  tunelab train recipe.yaml --out runs/rank-8 --overwrite
  torchrun --nproc-per-node 4 -m tunelab train recipe.yaml

Ctrl-C saves a checkpoint and exits; --resume continues to the same result as an uninterrupted run.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from tunelab.cli._console import command, print_table, progress_bar, quick_imports, say
from tunelab.cli._json import add_json_flag, print_json, run_document
from tunelab.cli._recipe_arguments import add_base_argument, add_recipe_arguments, given_flags, recipe_of
from tunelab.errors import UsageError
from tunelab.records.runs import Run, eval_command
from tunelab.units import format_bytes, format_count, format_duration, format_loss, format_rate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A recipe, or --resume."""
    add_recipe_arguments(parser)
    parser.add_argument("--resume", metavar="RUN", help="resume an interrupted run; takes no recipe")
    add_base_argument(parser)
    replaced = "replace the run in --out, with its evaluations; nothing but a run"
    parser.add_argument("--overwrite", action="store_true", help=replaced)
    add_json_flag(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, and show a summary."""
    if arguments.resume:
        if given := [*arguments.words, *given_flags(arguments)]:
            what = f"--resume takes no recipe and no changes: {', '.join(given)}"
            raise UsageError(what, "a run resumes with its own recipe")
        if arguments.overwrite:
            raise UsageError("--resume and --overwrite exclude each other", "keep the run, or replace it")
        recipe = None
    else:
        if arguments.base is not None:
            raise UsageError("--base without --resume", "a new run's base is named with --model")
        recipe = recipe_of(arguments)
        if arguments.overwrite and not recipe.out:
            raise UsageError("--overwrite: no run directory is named", "name it with --out")
    with quick_imports():
        from tunelab.training.finetune import finetune, resume

    with progress_bar() as progress:
        if recipe is None:
            done = resume(arguments.resume, base=arguments.base, progress=progress, notify=say)
        else:
            done = finetune(recipe, overwrite=arguments.overwrite, progress=progress, notify=say)
    if int(os.environ.get("RANK", "0")) > 0:  # under torchrun only rank 0 prints
        return 0
    if arguments.json:
        print_json(run_document(done))
    else:
        print_table(("what", "value"), summary(done))
    say(f"\nNext:\n  {eval_command(done.path)}")
    if done.adapter.exists():
        say(f"  {command('merge', done.path, '--out', f'{done.path}-merged')}")
    return 0


def summary(done: Run) -> list[tuple[str, str]]:
    """Summary rows from a finished run's manifest."""
    manifest: dict[str, Any] = done.manifest
    trained, digest, counts = manifest["trained"], manifest["model"]["digest"], manifest["data"]["train"]
    lost = counts["given"] - counts["kept"]
    rows = [
        ("run", str(done.path)),
        ("status", manifest["status"]),
        ("trained parameters", f"{format_count(digest['trainable'])} of {format_count(digest['parameters'])}"),
        ("rows", f"{counts['kept']:,}" + (f" ({lost:,} dropped)" if lost else "")),
        *([("rows with dropped characters", f"{counts['lossy']:,}")] if counts.get("lossy") else []),
        ("steps", f"{trained['steps']:,}"),
        ("target tokens", f"{trained['targets']:,}"),
        ("training time", format_duration(trained["training_seconds"])),
        ("speed", format_rate(trained["tokens_per_second"])),
        ("peak resident memory", format_bytes(manifest["peak_resident_bytes"])),
    ]
    if (peak := manifest["peak_gpu_bytes"]) is not None:
        rows.append(("peak GPU memory", format_bytes(peak)))
    if (saved := manifest.get("saved")) is not None:
        rows.append(("weights saved as", saved["dtype"] + (f" ({saved['because']})" if "because" in saved else "")))
    for name in ("held-out", "validation"):
        losses = [manifest.get(f"{name.replace('-', '_')}_loss_{when}") for when in ("before", "after")]
        if len(known := [format_loss(loss) for loss in losses if loss is not None]) == 2:
            rows.append((f"{name} loss", f"{' -> '.join(known)} nats per target token"))
    return rows
