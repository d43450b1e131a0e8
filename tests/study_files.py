"""A small study on files of the tests' own: a base, LoRA, LoRA over four bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from own_benchmarks import write_benchmarks
from tiny import model_folder, rows_file

from tunelab.config.study import Study, parse_study


def write_study_files(folder: Path) -> Path:
    """Model, rows and benchmarks that study_of() names."""
    model_folder(folder / "model", "llama", hidden_size=64, intermediate_size=128)
    rows_file(folder / "rows.jsonl", rows=60)
    write_benchmarks(folder)
    return folder


def study_of(files: Path, **changes: Any) -> Study:
    """The study, with keys of its own laid over it."""
    tree: dict[str, Any] = {
        "title": "few bits",
        "recipe": {
            "model": str(files / "model"),
            "adapter": {"rank": 4},
            "data": {"sources": [str(files / "rows.jsonl")], "template": "plain", "held_out": 20},
            "train": {"steps": 6, "batch_size": 4, "lr": 5e-3, "save_every": 2, "device": "cpu", "dtype": "fp32"},
            "evaluate": {"max_new_tokens": 2},
        },
        "arms": {"base": {"tuned": False}, "lora": {}, "nf4": {"recipe": {"precision": "nf4"}}},
        "seeds": [0, 1],
        "benchmarks": {"held-out": {}},
        "questions": [{"ask": "Does LoRA help?", "is_better": "lora", "than": "base", "on": "held-out"}],
    }
    return parse_study(tree | changes)


def searched_study(files: Path, rows: str = "rows.jsonl", **changes: Any) -> Study:
    """The study with a search of three rates, of which the highest diverges, and validation rows to choose by."""
    recipe = {
        "model": str(files / "model"),
        "adapter": {"rank": 4},
        "data": {"sources": [str(files / rows)], "template": "plain", "held_out": 20, "validation": 10},
        "train": {"steps": 3, "batch_size": 4, "lr": 5e-3, "save_every": 1, "device": "cpu", "dtype": "fp32"},
        "evaluate": {"max_new_tokens": 2},
    }
    settings = {"search": {"factors": [0.2, 1, 1e32], "extend": 1}, "seeds": [0], "recipe": recipe}
    return study_of(files, **{**settings, **changes})


def write_evaluation(folder: Path, values: list[float], arm: str, unit: str) -> None:
    """What scoring writes of answers to a benchmark, one value per item."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {"benchmark": "mmlu", "arm": arm, "model": folder.name, "template": None}
    responses = [{"item": f"i{n}", "prompt_hash": folder.name, "question": f"{n}+1?"} for n in range(len(values))]
    grades = [{"item": f"i{n}", "cluster": "", "values": {"exact": value}} for n, value in enumerate(values)]
    for name, lines in (("responses", [header, *responses]), ("grades", grades)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    score = {"name": "exact", "value": sum(values) / len(values), "error": 0.1, "n": len(values), "unit": unit}
    score |= {"higher_is_better": True, "protocol": {"shots": 0}}
    (folder / "scores.json").write_text(
        json.dumps({"benchmark": "mmlu", "header": header, "scores": [score]}), encoding="utf-8"
    )
