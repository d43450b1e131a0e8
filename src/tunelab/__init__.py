"""tunelab: which fine-tuning method is worth it on my model, my data and my hardware?

The Python API mirrors the command line, prints nothing and returns plain typed objects:

    run = tunelab.finetune("recipe.yaml")          # or a mapping, or a Recipe
    scores = tunelab.evaluate(run)
    scores = tunelab.evaluate_benchmarks(run, ["mmlu", "ifeval"], tunelab.BenchmarkSettings(limit=50))
    found = tunelab.compare("runs/full", run)
    tunelab.merge(run, "merged")

Names are imported on first use, so `import tunelab` is cheap.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tunelab.version import __version__

# bitsandbytes, which PEFT and accelerate import too, warns on import about optional kernels that tunelab does not use.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

if TYPE_CHECKING:
    from tunelab.answering.benchmark_responses import BenchmarkScores, BenchmarkSettings, evaluate_benchmarks
    from tunelab.answering.held_out_evaluation import Scores, evaluate, evaluate_model
    from tunelab.comparison.compare_runs import compare_runs
    from tunelab.comparison.compare_runs import compare_runs as compare
    from tunelab.config import Recipe, load_recipe
    from tunelab.errors import TunelabError
    from tunelab.preparation.rows import prepare
    from tunelab.publishing.merge import Merged, merge
    from tunelab.records.runs import Run, open_run
    from tunelab.studies.comparison_report import compare_report
    from tunelab.studies.run_study import run_study
    from tunelab.training.finetune import finetune, resume

#: Public name -> the module that defines it, with `:NAME` where it has another name there.
_HOMES = {
    "BenchmarkScores": "tunelab.answering.benchmark_responses",
    "BenchmarkSettings": "tunelab.answering.benchmark_responses",
    "evaluate_benchmarks": "tunelab.answering.benchmark_responses",
    "Recipe": "tunelab.config",
    "load_recipe": "tunelab.config",
    "TunelabError": "tunelab.errors",
    "Run": "tunelab.records.runs",
    "open_run": "tunelab.records.runs",
    "Scores": "tunelab.answering.held_out_evaluation",
    "evaluate": "tunelab.answering.held_out_evaluation",
    "evaluate_model": "tunelab.answering.held_out_evaluation",
    "Merged": "tunelab.publishing.merge",
    "merge": "tunelab.publishing.merge",
    "finetune": "tunelab.training.finetune",
    "resume": "tunelab.training.finetune",
    "prepare": "tunelab.preparation.rows",
    "compare_report": "tunelab.studies.comparison_report",
    "compare": "tunelab.comparison.compare_runs:compare_runs",
    "compare_runs": "tunelab.comparison.compare_runs",  # the name of `compare` before 0.1.0
    "run_study": "tunelab.studies.run_study",
}

__all__ = [
    "BenchmarkScores",
    "BenchmarkSettings",
    "Merged",
    "Recipe",
    "Run",
    "Scores",
    "TunelabError",
    "__version__",
    "compare",
    "compare_report",
    "compare_runs",
    "evaluate",
    "evaluate_benchmarks",
    "evaluate_model",
    "finetune",
    "load_recipe",
    "merge",
    "open_run",
    "prepare",
    "resume",
    "run_study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tunelab' has no attribute {name!r}")
    home, _, there = _HOMES[name].partition(":")
    return getattr(import_module(home), there or name)
