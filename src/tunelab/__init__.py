"""tunelab: which way of fine-tuning is worth it on my model, my data and my hardware?

The library's face says the same as the command line, prints nothing and returns plain typed objects:

    run = tunelab.finetune("recipe.yaml")          # or a mapping, or a Recipe
    scores = tunelab.evaluate(run)
    scores = tunelab.evaluate_benchmarks(run, ["mmlu", "ifeval"], tunelab.BenchmarkSettings(limit=50))
    found = tunelab.compare_runs("runs/full", run)  # not `compare`: that is the room of its statistics
    tunelab.merge(run, "merged")

Names are imported when they are first used, so that `import tunelab` costs nothing.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# bitsandbytes, which PEFT and accelerate import too, warns when it is imported of optional kernels that are not used.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

if TYPE_CHECKING:
    from tunelab.config import Recipe, load_recipe
    from tunelab.errors import TunelabError
    from tunelab.runs import Run, open_run
    from tunelab.workflows.benchmarks import BenchmarkScores, BenchmarkSettings, evaluate_benchmarks
    from tunelab.workflows.compare import compare_runs
    from tunelab.workflows.compare_report import compare_report
    from tunelab.workflows.evaluate import Scores, evaluate, evaluate_model
    from tunelab.workflows.finetune import finetune, resume
    from tunelab.workflows.merge import Merged, merge
    from tunelab.workflows.prepare import prepare
    from tunelab.workflows.study import run_study

_HOMES = {
    "BenchmarkScores": "tunelab.workflows.benchmarks",
    "BenchmarkSettings": "tunelab.workflows.benchmarks",
    "evaluate_benchmarks": "tunelab.workflows.benchmarks",
    "Recipe": "tunelab.config",
    "load_recipe": "tunelab.config",
    "TunelabError": "tunelab.errors",
    "Run": "tunelab.runs",
    "open_run": "tunelab.runs",
    "Scores": "tunelab.workflows.evaluate",
    "evaluate": "tunelab.workflows.evaluate",
    "evaluate_model": "tunelab.workflows.evaluate",
    "Merged": "tunelab.workflows.merge",
    "merge": "tunelab.workflows.merge",
    "finetune": "tunelab.workflows.finetune",
    "resume": "tunelab.workflows.finetune",
    "prepare": "tunelab.workflows.prepare",
    "compare_report": "tunelab.workflows.compare_report",
    "compare_runs": "tunelab.workflows.compare",
    "run_study": "tunelab.workflows.study",
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
    return getattr(import_module(_HOMES[name]), name)
