"""Fine-tune the real pretrained model tinystories656k on 2,000 Alpaca rows, fully and with LoRA; measure what changed.

Each run is killed once with SIGKILL in its middle and resumed; the adapter is loaded in plain PEFT too, and logits
compared.
Usage: python benchmarks/tinystories_alpaca.py [--data ../shared/data] [--seeds 0 1] [--epochs 1]
Writes benchmarks/results/DATE-tinystories-alpaca.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
RESULTS = Path(__file__).parent / "results"
METHODS = {"full": 1e-3, "lora": 5e-3}


def train_with_a_kill(command: list[str], out: Path) -> None:
    """Start training, kill it with SIGKILL once its first checkpoint is there, and resume it."""
    process = subprocess.Popen(command)
    while process.poll() is None and not list((out / "checkpoints").glob("step-*")):
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([sys.executable, "-m", "tunelab", "train", "--resume", str(out)], check=True)


def one_run(method: str, seed: int, data: Path, epochs: int, folder: Path) -> dict[str, Any]:
    """Train, evaluate and check one run; gives what is reported of it."""
    import tunelab

    out = folder / f"{method}-{seed}"
    model, rows = data / "models/tinystories656k", data / "alpaca/alpaca_cleaned.json"
    command = [sys.executable, "-m", "tunelab", "train", "--model", str(model), "--data", str(rows), "--size", "2000"]
    command += ["--method", method, "--seed", str(seed), "--out", str(out), f"train.epochs={epochs}"]
    command += [f"train.lr={METHODS[method]}", "data.held_out=200"]
    train_with_a_kill(command, out)
    run = tunelab.open_run(out)
    scores = tunelab.evaluate(run, max_new_tokens=64)
    assert scores.loss_change is not None and scores.loss_change.error is not None
    manifest = run.manifest
    return {
        "method": method,
        "seed": seed,
        "sessions": len(manifest["sessions"]),
        "scores": {arm: {s.name: [s.value, s.error] for s in found} for arm, found in scores.arms.items()},
        "loss_change_nats_per_token": [scores.loss_change.value, scores.loss_change.error],
        "rows": scores.rows,
        "trained": manifest["trained"],
        "parameters": manifest["model"]["digest"]["trainable"],
        "peak_resident_bytes": manifest["peak_resident_bytes"],
        "plain_peft_difference": plain_peft_difference(out, model) if method == "lora" else None,
        "environment": manifest["sessions"][-1]["environment"],
    }


def plain_peft_difference(out: Path, model: Path) -> float:
    """Largest difference of logits between plain PEFT's loading of the adapter and tunelab's."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tunelab.models.adapters import load_adapter
    from tunelab.models.load import load_model

    ids = torch.arange(3, 131)[None]
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), out / "adapter")
    ours = load_adapter(load_model(str(model), dtype=torch.float32), out / "adapter")
    with torch.no_grad():
        return float((plain(input_ids=ids).logits - ours(input_ids=ids).logits).abs().max())


def markdown(results: list[dict[str, Any]]) -> str:
    """The results as a page."""
    environment = results[0]["environment"]
    libraries = ", ".join(f"{name} {environment['libraries'][name]}" for name in ("torch", "transformers", "peft"))
    machine = f"{environment['processor']}, {environment['cores']} cores, fp32; python {environment['python']}"
    lines = [
        f"# tinystories656k on 2,000 Alpaca rows, {date.today()}",
        "",
        f"`python benchmarks/tinystories_alpaca.py`; {machine}, {libraries}.",
        "Each run was killed with SIGKILL after its first checkpoint and resumed. ± is one standard error over "
        f"{results[0]['rows']} held-out rows; the loss change is tuned minus base, paired over these rows.",
        "",
        "| method | seed | trained parameters | completion perplexity, base | tuned | loss change, nats/token "
        "| in standard errors | bits/byte, base | tuned | tokens/s | peak resident |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        base, tuned = one["scores"]["base"], one["scores"]["tuned"]
        change, error = one["loss_change_nats_per_token"]

        def shown(pair: list[float], digits: int) -> str:
            return f"{pair[0]:.{digits}f} ± {pair[1]:.{digits}f}"

        lines.append(
            f"| {one['method']} | {one['seed']} | {one['parameters']:,} | {shown(base['completion_perplexity'], 1)} "
            f"| {shown(tuned['completion_perplexity'], 1)} | {change:+.3f} ± {error:.3f} | {change / error:.0f} "
            f"| {shown(base['completion_bits_per_byte'], 3)} | {shown(tuned['completion_bits_per_byte'], 3)} "
            f"| {one['trained']['tokens_per_second']:,.0f} | {one['peak_resident_bytes'] / 2**30:.2f} GiB |"
        )
    worst = max(one["plain_peft_difference"] or 0.0 for one in results)
    lines += ["", f"Adapters loaded in plain PEFT give the same logits: largest difference {worst:.1e}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            for method in METHODS:
                results.append(one_run(method, seed, arguments.data, arguments.epochs, Path(folder)))
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{date.today()}-tinystories-alpaca"
    for one in results:
        for key in ("platform", "source"):
            one["environment"].pop(key, None)
    stem.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
    print(markdown(results))


if __name__ == "__main__":
    main()
