"""`tunelab plan`: the table of methods, the timeline, what fits, the recipe that is written, and without torch."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from verbs import Bench, Command

from tunelab.config import load_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
JSON_PAGE = REPOSITORY / "docs" / "reference" / "json.md"
#: The recipe of the bench trains on a CPU.
ON_GPU = ("train.device=auto",)
GUIDE = REPOSITORY / "docs" / "guides" / "will-it-fit.md"


def test_it_compares_the_methods_and_shows_the_timeline(tunelab: Command) -> None:
    said = tunelab("plan", "Llama-3.2-3B", "--gpu", "24GB")
    assert said.code == 0
    assert said.out.startswith("meta-llama/Llama-3.2-3B: 3.21 B parameters in 28 layers\nmicro-batches of 4,096 tokens")
    assert said.cells["full fine-tuning"][-3:] == ["no", "–", "–"]
    assert said.cells["LoRA *"][:2] == ["24.3 M", "5.98"]
    assert said.cells["LoRA, NF4 base"][4] == "yes"
    total, weights = said.cells["sum"], said.cells["base weights"]
    assert set(weights) == {"5.98"} and max(map(float, total)) == float(said.cells["LoRA *"][2])
    assert "allocated bytes, within ±3 %" in said.err


def test_a_recipe_with_overrides_and_rows(tunelab: Command, bench: Bench) -> None:
    said = tunelab(
        "plan", bench.recipe, "--data", bench.rows, "--gpu", "A100", "--gpus", 2, *ON_GPU, "data.template=plain"
    )
    assert said.code == 0, said.err
    assert "(median)" in said.out and "steps" in said.out and "with copies (DDP)" in said.out


def test_json_has_bytes(tunelab: Command) -> None:
    said = tunelab("plan", "gpt2", "--json", "--gpu", "T4", "--gpus", "2", "method=full")
    found = json.loads(said.out)
    own = found["methods"]["full fine-tuning"]
    assert (
        found["method"] == "full fine-tuning" and found["source"] == "table" and sum(found["parameters"].values()) > 1e8
    )
    assert own["allocated_bytes"] == max(sum(parts.values()) for parts in own["moments"].values())
    assert own["fits"] in ("fits", "may fit", "does not fit") and own["hours"][0] < own["hours"][1]
    assert own["on_each_of_several"]["copies"] == own["device_bytes"]
    part = JSON_PAGE.read_text(encoding="utf-8").partition("\n## plan\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == {*found, *own}


def test_the_recipe_that_fits_is_written(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    path, large = (
        tmp_path / "fits.yaml",
        (*ON_GPU, "model=Llama-3.2-1B", "train.micro_batch_tokens=20000", "data.max_length=256"),
    )
    said = tunelab("plan", bench.recipe, *large, "--gpu", "12GB", "--write", path)
    assert said.code == 0 and f"wrote {path}; next: tunelab train {path}" in said.err
    written = load_recipe(path)
    assert written.model.name == "meta-llama/Llama-3.2-1B"
    assert (
        256 <= written.train.micro_batch_tokens < 20000
        and f"of {written.train.micro_batch_tokens:,} tokens" in said.out
    )
    assert said.cells["LoRA *"][4] == "yes"
    before = path.read_text(encoding="utf-8")
    again = tunelab("plan", bench.recipe, *large, "--gpu", "24GB", "--write", path)
    assert again.code == 2 and "fits.yaml: exists already" in again.err and path.read_text(encoding="utf-8") == before
    again = tunelab("plan", bench.recipe, *large, "--gpu", "1GB", "--write", path)
    assert again.code == 2 and "LoRA does not fit 953.7 MiB with rows of 256 tokens" in again.err


def test_wrong_usage_is_named(tunelab: Command, tmp_path: Path) -> None:
    for words, message in (
        (["gpt2", "distilgpt2"], "two models: gpt2, distilgpt2"),
        (["gpt2", "--gpus", "0"], "--gpus 0: expected a positive integer"),
        (["gpt2", "--write", tmp_path / "r.yaml", "--gpu", "T4"], "needs data"),
        (["gpt2", "--write", tmp_path / "r.yaml"], "needs --gpu"),
        (["gpt2", "--gpu", "T4", "train.device=cpu"], "--gpu and train.device=cpu"),
    ):
        said = tunelab("plan", *words)
        assert said.code == 2 and message in said.err


def test_what_would_fit_is_said_without_writing_a_recipe(tunelab: Command) -> None:
    said = tunelab("plan", "Llama-3.2-3B", "--gpu", "24GB")
    assert "24GB: 24,000,000,000 bytes (22.35 GiB)" in said.err
    assert "LoRA may not fit; this would fit: train.micro_batch_tokens=3008" in said.err
    said = tunelab("plan", "Llama-3.2-3B", "--gpu", "24GB", "train.micro_batch_tokens=3008")
    assert "would fit" not in said.err and said.cells["LoRA *"][4] == "yes"
    said = tunelab("plan", "Llama-3.2-3B", "--gpu", "24GB", "method=full")
    assert "full fine-tuning does not fit; these would fit: LoRA, " in said.err


def test_several_gpus_are_planned_with_a_copy_on_each(tunelab: Command, bench: Bench) -> None:
    one, two = (
        json.loads(tunelab("plan", "gpt2", "--json", "--gpu", "A100", "--gpus", count, "method=full").out)["methods"]
        for count in ("1", "2")
    )
    one, two = (found["full fine-tuning"] for found in (one, two))
    assert two["device_bytes"] == two["on_each_of_several"]["copies"]
    assert two["device_bytes"][0] > one["device_bytes"][0] + 1.5 * 2**30
    assert two["largest_micro_batch_tokens"] < one["largest_micro_batch_tokens"]
    assert two["hours"] == [one["hours"][0] / 2, one["hours"][1] / 2]


def test_rows_that_are_too_long_are_shown(tunelab: Command, bench: Bench) -> None:
    said = tunelab("plan", bench.recipe, "--data", bench.rows, "data.template=plain", "data.max_length=40")
    assert said.code == 0, said.err
    assert re.search(r"\d+ longer than 40 tokens left out; micro-batches", said.out)


def test_auto_is_the_largest_micro_batch_that_fits_the_gpu(tunelab: Command, bench: Bench) -> None:
    auto = ("Llama-3.2-3B", "train.micro_batch_tokens=auto", "train.batch_size=64")
    said = tunelab("plan", *auto, "--gpu", "24GB")
    assert said.code == 0 and "micro-batches of 3,008 tokens" in said.out and said.cells["LoRA *"][4] == "yes"
    assert "train.micro_batch_tokens=auto: 3,008, the most that surely fit 22.35 GiB of the GPU" in said.err
    assert "micro-batches of 4,096 tokens" in tunelab("plan", *auto).out
    document = tunelab("plan", *auto, "--gpu", "24GB", "--json")
    assert json.loads(document.out)["micro_batch_tokens"] == 3008 and "auto: 3,008" in document.err
    here = tunelab("plan", bench.recipe, "train.micro_batch_tokens=auto")
    assert "a whole step, surely fits" in here.err and "of available memory" in here.err
    assert "the process, which holds 1 to 1.25 times that, and about 0.9 GiB for Python" in here.err


def test_a_gguf_file_is_refused(tunelab: Command) -> None:
    said = tunelab("plan", "model.Q4_K_M.gguf")
    assert said.code == 1 and "a GGUF file has no config.json" in said.err and "was made from" in said.err


def test_it_imports_no_torch() -> None:
    code = "import sys; from tunelab.cli.main import main; main(['plan', 'gpt2']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_guide_shows_what_the_command_prints(tunelab: Command) -> None:
    blocks = re.findall(r"```\n\$ tunelab (plan .*)\n((?:.*\n)*?)```", GUIDE.read_text(encoding="utf-8"))
    assert len(blocks) >= 2
    for words, shown in blocks:
        said = tunelab(*shlex.split(words))
        assert said.code == 0 and said.out.strip() == shown.strip(), words
