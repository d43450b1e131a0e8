"""Read a finished evaluation back from its folder, item by item; needs no model, no torch, no metric library."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, TypeAdapter
from typing_extensions import Required, TypedDict

from tunelab import plugins
from tunelab.comparison.align import GradedItems
from tunelab.config.held_out_metrics import BLEU, CHRF, EXACT_MATCH, ROUGE_L
from tunelab.config.questions import COMPLETION_LOSS, HELD_OUT
from tunelab.errors import RunError
from tunelab.evaluation.benchmark import Score
from tunelab.evaluation.held_out import AnswerScore, LikelihoodRecord
from tunelab.evaluation.metrics.exact_match import matches
from tunelab.evaluation.metrics.unseen import not_seen
from tunelab.evaluation.probabilities import CALIBRATION_ERROR, CONFIDENCE, calibration_counts
from tunelab.failures import explained
from tunelab.files import file_sha256, read_json_lines
from tunelab.records.cells import STUDY_FILE
from tunelab.records.evaluation_files import ANSWER_SCORES, GRADES, LIKELIHOODS, RESPONSES, SCORES
from tunelab.records.old_format import read_scores
from tunelab.records.responses import read_responses
from tunelab.records.runs import Run, eval_command

#: Stored score of a held-out evaluation that shows that a metric is available: the loss is the perplexity's logarithm.
_STORED_AS = {
    COMPLETION_LOSS: "completion_perplexity",
    **{name: name for name in (BLEU, ROUGE_L, CHRF, EXACT_MATCH)},
}

#: Keys of a held-out score's protocol that must be equal for its values to be comparable.
_OF_THE_METRIC = ("signature", "implementation", "stemming")


#: Files of scores per answer that are kept as read: all metrics of a pair of arms ask for those of its seeds.
MOST_KEPT = 100


@dataclass(frozen=True)
class Metric:
    """A metric in a comparison: its name, its unit, and whether higher is better."""

    name: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class Evaluated:
    """A folder written by scoring: one arm's scores on one benchmark, or on held-out rows.

    Files are read on first use and cached, as one arm appears in several comparisons.
    """

    folder: Path
    benchmark: str
    arm: str
    content: dict[str, Any]

    @property
    def is_held_out(self) -> bool:
        return self.benchmark == HELD_OUT

    @cached_property
    def scores(self) -> list[Score]:
        """The stored scores."""
        return [Score.from_json(one) for one in self.content["scores"]]

    @property
    def response_hashes(self) -> tuple[str, ...]:
        """SHA-256 of each file of responses that was scored; () where it was not recorded."""
        return tuple(sorted(self.content.get("responses", {}).values()))

    @property
    def blind_metrics(self) -> list[str]:
        """Metrics whose values mean nothing here, as they cannot see the references."""
        return [one.name for one in self.scores if one.is_blind]

    def metrics(self) -> list[Metric]:
        """The metrics that can be compared, the headline metric first."""
        stored = {one["name"]: one for one in self.content["scores"] if one["name"] not in self.blind_metrics}
        if not self.is_held_out:
            return [Metric(name, one["unit"], one["higher_is_better"]) for name, one in stored.items()]
        found = []
        for name, score in _STORED_AS.items():
            if score in stored:
                unit = "nats per token" if name == COMPLETION_LOSS else stored[score]["unit"]
                found.append(Metric(name, unit, stored[score]["higher_is_better"]))
        return found

    def metric(self, name: str | None = None) -> Metric:
        """A metric by name; None = the headline metric.

        Raises:
            RunError: there is no score for it, or it cannot see the references.
        """
        known = self.metrics()
        found = [one for one in known if name in (None, one.name)]
        if not found:
            names = ", ".join(one.name for one in known) or "none"
            if name in self.blind_metrics:
                (said,) = not_seen([one for one in self.scores if one.name == name])
                raise RunError(f"{self.benchmark}: {said}", f"compare by one of: {names}")
            raise RunError(
                f"{self.benchmark} was not scored by {name or 'anything'}, but by: {names}",
                f"see {self.folder / SCORES}",
            )
        return found[0]

    def graded(self, name: str, metric: str | None = None) -> GradedItems:
        """Each item's value of a metric (None = the headline metric), with its prompt and cluster. Items without a
        value are left out. For held-out rows the value is the completion's nats, ROUGE-L or the exact match; for corpus
        metrics, which have no values per item, it is 0 (see counts).

        Args:
            name: the model's name in errors and verdicts.

        Raises:
            RunError: there is no score for it, or a file is missing or damaged.
        """
        chosen = self.metric(metric)
        if chosen.name == COMPLETION_LOSS and self.is_held_out:
            return self._row_losses(name)
        if chosen.name == CALIBRATION_ERROR and not self.is_held_out:
            return self._confidences(name)
        header, records = self.responses
        if self.is_held_out:
            values = {one.item: one.rougeL if chosen.name == ROUGE_L else 0.0 for one in self.answer_scores()}
            if chosen.name == EXACT_MATCH:
                values = {one["item"]: float(matches(one["text"], one["reference"])) for one in records}
            prompts = {record["item"]: record["reference"] for record in records}
            return GradedItems(name, values, prompts, {}, header, self._protocol(_STORED_AS[chosen.name]))
        values, clusters, alone = {}, {}, set[str]()
        for line in (self.folder / GRADES).read_text(encoding="utf-8").splitlines():
            grade = json.loads(line)
            numbers = {name: value for name, value in grade["values"].items() if isinstance(value, int | float)}
            alone.update(numbers)
            if chosen.name in numbers:
                values[grade["item"]] = float(numbers[chosen.name])
                clusters[grade["item"]] = grade["cluster"]
        if not values:
            names = ", ".join(one.name for one in self.metrics() if one.name in alone) or "none"
            raise RunError(
                f"{self.benchmark}: {chosen.name} has no single value per item, and items are what is compared",
                f"compare by one of: {names}",
            )
        prompts = {record["item"]: record["question"] for record in records}
        return GradedItems(
            name, values, prompts, clusters, header, self._protocol(chosen.name), clustered_by=self._clustered_by()
        )

    def figure(self, metric: str) -> float:
        """The metric over all items, as stored by scoring."""
        name = _STORED_AS[metric] if self.is_held_out else metric
        value = float(next(one["value"] for one in self.content["scores"] if one["name"] == name))
        return math.log(value) if self.is_held_out and metric == COMPLETION_LOSS else value

    @cached_property
    def responses(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Header and answers in responses.jsonl, of the items that the scores are of."""
        return self._scored(RESPONSES)

    @cached_property
    def _grades(self) -> list[dict[str, Any]]:
        """The lines of grades.jsonl: item, cluster and values of each response."""
        return [json.loads(line) for line in (self.folder / GRADES).read_text(encoding="utf-8").splitlines()]

    @cached_property
    def _likelihoods(self) -> tuple[dict[str, Any], dict[str, LikelihoodRecord]]:
        header, records = self._scored(LIKELIHOODS)
        return header, {record["item"]: LikelihoodRecord.from_json(record) for record in records}

    def _scored(self, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Header and records of a file. Held-out rows of an earlier evaluation with a higher limit are left out."""
        header, records = read_responses(self.folder / name)
        rows = set(self.content.get("rows", ()))  # files of before do not say them
        return header, [record for record in records if not rows or record["item"] in rows]

    def likelihoods(self) -> dict[str, LikelihoodRecord]:
        """The likelihood of each held-out row, by row id."""
        _, found = self._likelihoods
        return found

    def answer_scores(self) -> list[AnswerScore]:
        """What each answer to a held-out row contributes to ROUGE, BLEU and chrF.

        Raises:
            RunError: the file is missing or not valid.
        """
        path = self.folder / ANSWER_SCORES
        if not path.exists():
            raise RunError(
                f"{path}: no such file: an earlier version did not store scores per answer",
                "evaluate again (tunelab eval RUN); stored answers are reused",
            )
        return list(_stored_answer_scores(path, path.stat().st_mtime_ns))

    def counts(self, metric: str) -> dict[str, tuple[float, ...]]:
        """What each item contributes to a corpus metric, by item id: BLEU and chrF of held-out rows, which raise as
        above, or the calibration error."""
        if metric == CALIBRATION_ERROR:
            right = self.metrics()[0].name
            confident = [one for one in self._grades if CONFIDENCE in one["values"]]
            return {
                one["item"]: calibration_counts(one["values"][CONFIDENCE], one["values"][right]) for one in confident
            }
        return {one.item: one.bleu_counts if metric == BLEU else one.chrf_counts for one in self.answer_scores()}

    def _row_losses(self, name: str) -> GradedItems:
        header, rows = self._likelihoods
        values = {item: float(row.completion_nll) for item, row in rows.items()}
        # Token counts tell rows apart well enough if the header's hash of all rows was allowed to differ.
        prompts = {
            item: f"{row.completion_tokens} completion tokens, {row.completion_bytes} bytes"
            for item, row in rows.items()
        }
        return GradedItems(name, values, prompts, {}, header)

    def _confidences(self, name: str) -> GradedItems:
        """The items with a confidence, which is their value; see counts."""
        header, records = self.responses
        confident = [one for one in self._grades if CONFIDENCE in one["values"]]
        values = {one["item"]: float(one["values"][CONFIDENCE]) for one in confident}
        clusters = {one["item"]: one["cluster"] for one in confident}
        prompts = {record["item"]: record["question"] for record in records}
        protocol = self._protocol(CALIBRATION_ERROR)
        return GradedItems(name, values, prompts, clusters, header, protocol, clustered_by=self._clustered_by())

    def _clustered_by(self) -> str:
        """What the items are clustered by, as the protocol of a clustered score says; "" = not known."""
        errors = (str(one["protocol"].get("error", "")) for one in self.content["scores"])
        return next((one.partition("clustered by ")[2] for one in errors if "clustered by " in one), "")

    def _protocol(self, score: str) -> dict[str, Any]:
        """A stored score's protocol; for held-out rows only what concerns the metric, as the header has the rest."""
        protocol: dict[str, Any] = next(one["protocol"] for one in self.content["scores"] if one["name"] == score)
        if self.is_held_out:
            return {key: value for key, value in protocol.items() if key in _OF_THE_METRIC}
        return protocol


@lru_cache(maxsize=MOST_KEPT)
def _stored_answer_scores(path: Path, written: int) -> tuple[AnswerScore, ...]:
    """The file's content. `written`: when, so that one that is written again is read again."""
    with explained(f"{path}: not scores of answers", RunError, "remove it and evaluate again"):
        return tuple(AnswerScore.from_json(record) for record in read_json_lines(path)[0])


def evaluated_in(path: Path | str) -> list[Evaluated]:
    """All evaluations with scores under a run, a folder of evaluations, or one evaluation's folder.

    Raises:
        RunError: there are no scores, a file is not valid, or it has changed since it was scored.
    """
    root = Path(path)
    if not root.is_dir():
        raise RunError(f"{root}: no such directory", "give a run, or the folder of an evaluation")
    root = Run(root).evaluations if is_run(root) else root
    folders = [root] if _was_scored(root) else [one for one in sorted(root.glob("*")) if _was_scored(one)]
    found = [_unchanged(_read(folder)) for folder in folders]
    if not found:
        raise RunError(f"{path}: no scores found", _where_scores_are(Path(path)))
    return found


def _where_scores_are(path: Path) -> str:
    if is_run(path):
        return f"{eval_command(path)} evaluates its held-out rows, --benchmarks mmlu a benchmark"
    if (path / STUDY_FILE).exists():
        return f"it is a study: give its runs, in {path / 'runs'}; `tunelab report {path}` shows its comparisons"
    return "give a run, or the folder of an evaluation"


def is_run(path: Path | str) -> bool:
    """Whether this directory is a run's, and not a folder of evaluations."""
    return Run(Path(path)).recipe_file.exists()


def _was_scored(folder: Path) -> bool:
    """An interrupted held-out evaluation has likelihoods but no scores yet."""
    return (folder / GRADES).exists() or ((folder / LIKELIHOODS).exists() and (folder / SCORES).exists())


class _Protocol(TypedDict, total=False):
    references_not_seen: int


class _StoredScore(TypedDict):
    name: str
    value: FiniteFloat
    error: FiniteFloat | None
    n: int
    unit: str
    higher_is_better: bool
    protocol: _Protocol


class _Header(TypedDict, total=False):
    arm: str


class _ScoreFile(TypedDict, total=False):
    """What is read of scores.json."""

    header: Required[_Header]
    scores: Required[Annotated[list[_StoredScore], Field(min_length=1)]]
    rows: list[str]
    responses: dict[str, str]


_SCORE_FILE = TypeAdapter(_ScoreFile)


def _read(folder: Path) -> Evaluated:
    try:
        content = read_scores(json.loads((folder / SCORES).read_text(encoding="utf-8")), folder / SCORES)
        _SCORE_FILE.validate_python(content, strict=True)
        name = HELD_OUT if (folder / LIKELIHOODS).exists() else content["benchmark"]
        return Evaluated(folder, plugins.label(name), content["header"].get("arm", ""), content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        score_again = shlex.join(["tunelab", "score", str(folder)])
        raise RunError(f"{folder / SCORES}: not a valid score file", f"score again: {score_again}") from error


def _unchanged(found: Evaluated) -> Evaluated:
    """The evaluation, if its files are those that its scores are of.

    Raises:
        RunError: responses were added or replaced after scoring, or scoring was killed between its files.
    """
    of_files = {**found.content.get("responses", {}), GRADES: found.content.get("grades")}
    for name in (RESPONSES, GRADES):
        known, path = of_files.get(name), found.folder / name
        if known and path.exists() and known != f"sha256:{file_sha256(path)}":
            score_again = shlex.join(["tunelab", "score", str(found.folder)])
            raise RunError(f"{path}: has changed since it was scored", f"score again: {score_again}")
    return found
