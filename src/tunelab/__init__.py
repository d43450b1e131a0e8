"""tunelab: which fine-tuning method is worth it on my model, my data and my hardware?

The Python API mirrors the command line, prints nothing and returns plain typed objects:

    run = tunelab.finetune("recipe.yaml", train={"lr": 1e-4})
    scores = tunelab.evaluate(run)
    scores = tunelab.evaluate_benchmarks(run, ["mmlu", "mine.jsonl"], {"limit": 50})
    found = tunelab.compare("runs/full", run)
    tunelab.merge(run, "merged")

Every function takes a path, a text, a mapping or an object where that makes sense. What the user can fix is raised as
a TunelabError with a message and a hint. In a notebook, progress bars are shown (pass progress=tunelab.silent for none)
and results are tables; `to_frame()` gives a pandas data frame. Guide: docs/guides/python.md.

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
    from tunelab.allowed_code import allow_code
    from tunelab.answering.answer import Answer
    from tunelab.answering.ask import chat, generate
    from tunelab.answering.benchmark_responses import BenchmarkScores, evaluate_benchmarks
    from tunelab.answering.benchmark_settings import BenchmarkSettings
    from tunelab.answering.chat import Chat
    from tunelab.answering.generate import open_responder
    from tunelab.answering.held_out_evaluation import Scores, evaluate, evaluate_model
    from tunelab.answering.responder import Responder
    from tunelab.comparison.compare_runs import compare_runs
    from tunelab.comparison.compare_runs import compare_runs as compare
    from tunelab.comparison.paired_comparison import Comparison, Comparisons
    from tunelab.comparison.verdict import verdict
    from tunelab.config import Recipe, load_recipe
    from tunelab.config.study import Study, load_study
    from tunelab.errors import (
        BadRow,
        ConfigError,
        DataError,
        Interrupted,
        ModelError,
        RunError,
        TrainingError,
        TunelabError,
        UsageError,
    )
    from tunelab.linting.lint import Lint
    from tunelab.preparation.inspection import Inspection, inspect
    from tunelab.preparation.lint import lint
    from tunelab.preparation.rows import prepare
    from tunelab.progress import silent
    from tunelab.publishing.export import Exported, export
    from tunelab.publishing.merge import Merged, merge
    from tunelab.publishing.push import Pushed, push
    from tunelab.publishing.quantize import Quantized, quantize
    from tunelab.records.runs import Run, open_run
    from tunelab.studies.comparison_report import compare_report
    from tunelab.studies.run_study import run_study
    from tunelab.studies.study_report import study_report
    from tunelab.training.finetune import finetune, resume

#: Public name -> the module that defines it, with `:NAME` where it has another name there.
_HOMES = {
    "allow_code": "tunelab.allowed_code",
    "chat": "tunelab.answering.ask",
    "generate": "tunelab.answering.ask",
    "BenchmarkScores": "tunelab.answering.benchmark_responses",
    "BenchmarkSettings": "tunelab.answering.benchmark_settings",
    "evaluate_benchmarks": "tunelab.answering.benchmark_responses",
    "Chat": "tunelab.answering.chat",
    "open_responder": "tunelab.answering.generate",
    "Scores": "tunelab.answering.held_out_evaluation",
    "evaluate": "tunelab.answering.held_out_evaluation",
    "evaluate_model": "tunelab.answering.held_out_evaluation",
    "Answer": "tunelab.answering.answer",
    "Responder": "tunelab.answering.responder",
    "compare_runs": "tunelab.comparison.compare_runs",  # the name of `compare` before 0.1.0
    "compare": "tunelab.comparison.compare_runs:compare_runs",
    "Comparison": "tunelab.comparison.paired_comparison",
    "Comparisons": "tunelab.comparison.paired_comparison",
    "verdict": "tunelab.comparison.verdict",
    "Recipe": "tunelab.config",
    "load_recipe": "tunelab.config",
    "Study": "tunelab.config.study",
    "load_study": "tunelab.config.study",
    "BadRow": "tunelab.errors",
    "ConfigError": "tunelab.errors",
    "DataError": "tunelab.errors",
    "Interrupted": "tunelab.errors",
    "ModelError": "tunelab.errors",
    "RunError": "tunelab.errors",
    "TrainingError": "tunelab.errors",
    "TunelabError": "tunelab.errors",
    "UsageError": "tunelab.errors",
    "Inspection": "tunelab.preparation.inspection",
    "inspect": "tunelab.preparation.inspection",
    "Lint": "tunelab.linting.lint",
    "lint": "tunelab.preparation.lint",
    "prepare": "tunelab.preparation.rows",
    "silent": "tunelab.progress",
    "Exported": "tunelab.publishing.export",
    "export": "tunelab.publishing.export",
    "Merged": "tunelab.publishing.merge",
    "merge": "tunelab.publishing.merge",
    "Pushed": "tunelab.publishing.push",
    "push": "tunelab.publishing.push",
    "Quantized": "tunelab.publishing.quantize",
    "quantize": "tunelab.publishing.quantize",
    "Run": "tunelab.records.runs",
    "open_run": "tunelab.records.runs",
    "compare_report": "tunelab.studies.comparison_report",
    "run_study": "tunelab.studies.run_study",
    "study_report": "tunelab.studies.study_report",
    "finetune": "tunelab.training.finetune",
    "resume": "tunelab.training.finetune",
}

__all__ = [
    "Answer",
    "BadRow",
    "BenchmarkScores",
    "BenchmarkSettings",
    "Chat",
    "Comparison",
    "Comparisons",
    "ConfigError",
    "DataError",
    "Exported",
    "Inspection",
    "Interrupted",
    "Lint",
    "Merged",
    "ModelError",
    "Pushed",
    "Quantized",
    "Recipe",
    "Responder",
    "Run",
    "RunError",
    "Scores",
    "Study",
    "TrainingError",
    "TunelabError",
    "UsageError",
    "__version__",
    "allow_code",
    "chat",
    "compare",
    "compare_report",
    "compare_runs",
    "evaluate",
    "evaluate_benchmarks",
    "evaluate_model",
    "export",
    "finetune",
    "generate",
    "inspect",
    "lint",
    "load_recipe",
    "load_study",
    "merge",
    "open_responder",
    "open_run",
    "prepare",
    "push",
    "quantize",
    "resume",
    "run_study",
    "silent",
    "study_report",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tunelab' has no attribute {name!r}")
    home, _, there = _HOMES[name].partition(":")
    return getattr(import_module(home), there or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
