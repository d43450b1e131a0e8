"""lm-evaluation-harness on local items: its own code for few-shot prompts, tokens and likelihoods, no network."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

QUESTION = "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"


def write_mmlu_tasks(folder: Path, data: Path, subjects: Sequence[str], shots: int) -> list[str]:
    """A task a subject, as tasks/mmlu/default has it, on rows that lie here; gives the tasks' names.

    Args:
        data: dev/SUBJECT_dev.csv and test/SUBJECT_test.csv.
    """
    import csv

    names = []
    for subject in subjects:
        files = {}
        for split in ("dev", "test"):
            files[split] = str(folder / f"{subject}_{split}.jsonl")
            with open(data / split / f"{subject}_{split}.csv", encoding="utf-8", newline="") as file:
                rows = [
                    {
                        "question": row["question"],
                        "choices": [row[f"choice{number}"] for number in range(4)],
                        "answer": int(row["answer"]),
                    }
                    for row in csv.DictReader(file)
                ]
            Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        task = {
            "task": f"local_mmlu_{subject}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "test_split": "test",
            "fewshot_split": "dev",
            "fewshot_config": {"sampler": "first_n"},
            "num_fewshot": shots,
            "output_type": "multiple_choice",
            "description": "The following are multiple choice questions (with answers) about "
            f"{subject.replace('_', ' ')}.\n\n",
            "doc_to_text": QUESTION,
            "doc_to_choice": ["A", "B", "C", "D"],
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }
        (folder / f"{subject}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        names.append(task["task"])
    return names


def write_ending_tasks(folder: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The harness's own tasks, such as hellaswag, on rows that lie here; gives the tasks' names.

    Args:
        rows: of each task, in the form of its hub's.
    """
    import lm_eval

    own = {"hellaswag": "hellaswag/hellaswag", "winogrande": "winogrande/default"}
    names = []
    for task, of_task in rows.items():
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_task), encoding="utf-8")
        settings = {
            "include": str(Path(lm_eval.__file__).parent / "tasks" / f"{own.get(task, f'arc/{task}')}.yaml"),
            "task": f"local_{task}",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {"validation": str(folder / f"{task}.jsonl")}},
            "training_split": None,
            "validation_split": "validation",
            "test_split": None,
        }
        (folder / f"{task}.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        names.append(f"local_{task}")
    return names


def harness_model(
    folder: Path, *, dtype: str = "float32", batch_size: int = 1, device: str = "cpu", adapter: Path | None = None
) -> Any:
    """The `hf` backend of the harness on a local model."""
    from lm_eval.models.huggingface import HFLM

    more = {"peft": str(adapter)} if adapter is not None else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT reads a property that transformers has renamed
        return HFLM(pretrained=str(folder), device=device, dtype=dtype, batch_size=batch_size, **more)


def load_tasks(folder: Path, names: Sequence[str]) -> Any:
    """The tasks that write_mmlu_tasks() wrote, with their rows read."""
    from lm_eval.tasks import TaskManager, get_task_dict

    return get_task_dict(list(names), TaskManager(include_path=str(folder), include_defaults=False))


def evaluate_tasks(model: Any, tasks: Any, limit: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """Samples of each task: "doc_id", "resps" (log-likelihood of each choice), "acc", "arguments"."""
    import lm_eval

    found = lm_eval.evaluate(lm=model, task_dict=tasks, limit=limit, log_samples=True, bootstrap_iters=0)
    samples: dict[str, list[dict[str, Any]]] = found["samples"]
    return samples
