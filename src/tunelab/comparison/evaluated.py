"""What an evaluation left in its folder, read back item by item; no model, no torch, no library of metrics."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tunelab.comparison.align import GradedItems
from tunelab.config.study import BLEU, COMPLETION_LOSS, HELD_OUT, ROUGE_L
from tunelab.errors import RunError
from tunelab.evaluation.held_out import AnswerScore, LikelihoodRecord
from tunelab.files import read_json_lines
from tunelab.records.evaluation_files import ANSWER_SCORES, GRADES, LIKELIHOODS, RESPONSES, SCORES
from tunelab.records.old_format import read_scores
from tunelab.records.responses import read_responses
from tunelab.records.runs import Run

#: The stored score of a held-out evaluation that says whether a metric can be compared: the loss is perplexity's log.
_STORED_AS = {COMPLETION_LOSS: "completion_perplexity", BLEU: "bleu", ROUGE_L: "rougeL"}

#: Keys of a held-out score's protocol without which its values cannot be compared.
_OF_THE_METRIC = ("signature", "implementation", "stemming")


@dataclass(frozen=True)
class Metric:
    """A figure as it is compared: its name, what it counts, and which way is good."""

    name: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class Evaluated:
    """A folder that scoring wrote: one arm's scores on one benchmark, or on held-out rows.

    Its files are read when they are first asked for, and kept: an arm stands in several comparisons.
    """

    folder: Path
    benchmark: str
    arm: str
    content: dict[str, Any]

    @property
    def is_held_out(self) -> bool:
        return self.benchmark == HELD_OUT

    def metrics(self) -> list[Metric]:
        """What can be compared, the headline metric first."""
        stored = {one["name"]: one for one in self.content["scores"]}
        if not self.is_held_out:
            return [Metric(name, one["unit"], one["higher_is_better"]) for name, one in stored.items()]
        found = []
        for name, score in _STORED_AS.items():
            if score in stored:
                unit = "nats per token" if name == COMPLETION_LOSS else stored[score]["unit"]
                found.append(Metric(name, unit, stored[score]["higher_is_better"]))
        return found

    def metric(self, name: str | None = None) -> Metric:
        """One of them by its name; None = the headline metric.

        Raises:
            RunError: it was not scored.
        """
        known = self.metrics()
        found = [one for one in known if name in (None, one.name)]
        if not found:
            names = ", ".join(one.name for one in known) or "none"
            raise RunError(
                f"{self.benchmark} was not scored by {name or 'anything'}, but by: {names}",
                f"see {self.folder / SCORES}",
            )
        return found[0]

    def graded(self, name: str, metric: str | None = None) -> GradedItems:
        """Each item's value of a metric (None = the headline metric), its question and its cluster; what has no value
        is left out. Of held-out rows the response's nats, or the answer's ROUGE-L; for BLEU, whose items have no
        values of their own, 0 each (bleu_counts holds what counts).

        Args:
            name: what the items' model is called in errors and verdicts.

        Raises:
            RunError: it was not scored, or a file is missing or damaged.
        """
        chosen = self.metric(metric)
        if chosen.name == COMPLETION_LOSS and self.is_held_out:
            return self._row_losses(name)
        header, records = self.responses
        if self.is_held_out:
            values = {one.item: one.rougeL if chosen.name == ROUGE_L else 0.0 for one in self.answer_scores()}
            prompts = {record["item"]: record["reference"] for record in records}
            return GradedItems(name, values, prompts, {}, header, self._protocol(_STORED_AS[chosen.name]))
        values, clusters = {}, {}
        for line in (self.folder / GRADES).read_text(encoding="utf-8").splitlines():
            grade = json.loads(line)
            if grade["values"].get(chosen.name) is not None:
                values[grade["item"]] = float(grade["values"][chosen.name])
                clusters[grade["item"]] = grade["cluster"]
        prompts = {record["item"]: record["question"] for record in records}
        return GradedItems(name, values, prompts, clusters, header, self._protocol(chosen.name))

    def figure(self, metric: str) -> float:
        """The metric's value over all items, as scoring stored it."""
        name = _STORED_AS[metric] if self.is_held_out else metric
        value = float(next(one["value"] for one in self.content["scores"] if one["name"] == name))
        return math.log(value) if self.is_held_out and metric == COMPLETION_LOSS else value

    @cached_property
    def responses(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Header and answers, as responses.jsonl has them."""
        return read_responses(self.folder / RESPONSES)

    @cached_property
    def _likelihoods(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        return read_responses(self.folder / LIKELIHOODS)

    def likelihoods(self) -> dict[str, LikelihoodRecord]:
        """What the model gave to each held-out row, by the row's id."""
        _, records = self._likelihoods
        return {record["item"]: LikelihoodRecord.from_json(record) for record in records}

    def answer_scores(self) -> list[AnswerScore]:
        """What each answer to a held-out row adds to ROUGE and BLEU.

        Raises:
            RunError: the file is missing, or none of ours.
        """
        path = self.folder / ANSWER_SCORES
        if not path.exists():
            raise RunError(
                f"{path}: no such file: an earlier version did not store what each answer scored",
                "evaluate once more (tunelab eval RUN); answers that were stored are not made again",
            )
        try:
            return [AnswerScore.from_json(record) for record in read_json_lines(path)[0]]
        except ValueError as error:
            raise RunError(f"{path}: a line is not JSON", "remove it and evaluate once more") from error

    def _row_losses(self, name: str) -> GradedItems:
        header, records = self._likelihoods
        values = {record["item"]: float(record["completion_nll"]) for record in records}
        # Tokens tell rows apart well enough where the header's hash of all rows was allowed to differ.
        prompts = {
            record["item"]: f"{record['completion_tokens']} answer tokens, {record['completion_bytes']} bytes"
            for record in records
        }
        return GradedItems(name, values, prompts, {}, header)

    def _protocol(self, score: str) -> dict[str, Any]:
        """A stored score's protocol; of held-out rows what concerns the metric, as the rest is the header's."""
        protocol: dict[str, Any] = next(one["protocol"] for one in self.content["scores"] if one["name"] == score)
        if self.is_held_out:
            return {key: value for key, value in protocol.items() if key in _OF_THE_METRIC}
        return protocol


def evaluated_in(path: Path | str) -> list[Evaluated]:
    """Everything that was scored under a run, a folder of evaluations, or in one evaluation's folder.

    Raises:
        RunError: nothing was scored there, or a file is none of ours.
    """
    root = Path(path)
    if not root.is_dir():
        raise RunError(f"{root}: no such directory", "give a run, or the folder of an evaluation")
    root = Run(root).evaluations if Run(root).recipe_file.exists() else root
    folders = [root] if _was_scored(root) else [one for one in sorted(root.glob("*")) if _was_scored(one)]
    found = [_read(folder) for folder in folders]
    if not found:
        raise RunError(
            f"{path}: nothing was scored there",
            f"tunelab eval {path} asks its held-out rows, --benchmarks mmlu a benchmark",
        )
    return found


def _was_scored(folder: Path) -> bool:
    """A held-out evaluation that was stopped has likelihoods, and no scores yet."""
    return (folder / GRADES).exists() or ((folder / LIKELIHOODS).exists() and (folder / SCORES).exists())


def _read(folder: Path) -> Evaluated:
    try:
        content = read_scores(json.loads((folder / SCORES).read_text(encoding="utf-8")), folder / SCORES)
        name = HELD_OUT if (folder / LIKELIHOODS).exists() else content["benchmark"]
        label = Path(name).stem if name.endswith(".py") else name
        return Evaluated(folder, label, content["header"].get("arm", ""), content)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{folder / SCORES}: not a file of scores", f"score it again: tunelab score {folder}") from error
