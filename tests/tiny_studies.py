"""The studies that ship, on files that lie here: a small model of each family, rows and items of ../shared/data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
from tiny_tokenizers import byte_tokenizer

from tunelab.config.shipped_studies import shipped_studies
from tunelab.config.study import Study, load_study

STUDIES = [shipped.path for shipped in shipped_studies()]
#: Those that run on real rows and items, and are killed: two families, and every benchmark of the six first studies.
ON_REAL_DATA = [
    path
    for path in STUDIES
    if path.stem in ("distilgpt2-qlora-vs-full", "llama2-oasst1-qlora-vs-lora", "llama31-alpaca-cleaned-precision")
]
FAMILIES = {"distilgpt2": "gpt2", "meta-llama/": "llama"}
CHAT = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def local_study(path: Path, folder: Path, data: Path) -> Study:
    """A study at tiny scale whose models, rows and items are files; the models are written into `folder`."""
    study = load_study(path, scale="tiny")
    tree = study.model_dump(mode="json")
    recipe = study.arm_recipe(next(iter(study.arms)), 0)
    _write_model(recipe.model.name, folder / "model")
    source = recipe.data.sources[0]
    rows = data / "oasst/en_100_tree.jsonl" if source.name == "oasst1" else _few_rows(data, folder)
    tree["recipe"]["data"]["sources"] = [{"name": source.name, "path": str(rows), "options": source.options}]
    tree["recipe"]["data"]["max_length"] = 1024
    for name, options in tree["benchmarks"].items():
        if name != "held-out":
            options["data"] = str(data / {"tinymmlu": "mmlu"}.get(name, name))
    for arm in tree["arms"].values():
        arm["recipe"].pop("model", None)
    tree["recipe"]["model"] = str(folder / "model")
    (folder / "study.yaml").write_text(json.dumps(tree), encoding="utf-8")
    return load_study(folder / "study.yaml")


def _write_model(name: str, folder: Path) -> None:
    family = next(made for prefix, made in FAMILIES.items() if name.startswith(prefix))
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    longest = {"gpt2": "n_positions"}.get(family, "max_position_embeddings")
    model: Any = tiny.tiny_model(family, vocab_size=len(tokenizer), **{longest: 2048})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _few_rows(data: Path, folder: Path) -> Path:
    """The first rows of alpaca-cleaned: reading all 51,760 would take longer than all that is done with them."""
    rows = json.loads((data / "alpaca/alpaca_cleaned.json").read_text(encoding="utf-8"))[:200]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder / "rows.json"
