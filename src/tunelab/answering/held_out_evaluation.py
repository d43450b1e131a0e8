"""Evaluate base and tuned side by side on held-out rows: responses are stored first, then scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from tunelab.answering.generate import prompted
from tunelab.answering.responder import ARMS, checked_arms
from tunelab.config import Recipe, RecipeLike, as_recipe, resolve
from tunelab.config.recipe import EvaluateSettings
from tunelab.data.prepared import PreparedData
from tunelab.data.select import sample
from tunelab.errors import DataError, RunError, UsageError
from tunelab.evaluation.benchmark import Score
from tunelab.evaluation.held_out import HeldOutPrompt, HeldOutRow, LikelihoodRecord, write_answer_scores
from tunelab.evaluation.metrics.perplexity import predicted_bytes
from tunelab.evaluation.runner import answer_scores, held_out_likelihoods, held_out_responses, score_held_out
from tunelab.files import as_path, write_json_atomically
from tunelab.models.adapters import load_adapter, without_adapter
from tunelab.models.digest import adapter_hash
from tunelab.models.load import check_tokenizer_fits, model_fingerprint
from tunelab.models.structure import slower_ways
from tunelab.notebook import data_frame, html_table, shown_in_notebooks
from tunelab.preparation.base import dated, run_tokenizer, trained_recipe, trained_weights
from tunelab.preparation.model import autocast, compute_dtype, load_base, load_trained
from tunelab.preparation.rows import check_local_files, fit_to_model, prepare_with
from tunelab.progress import Progress, named
from tunelab.records.evaluation_files import LIKELIHOODS, RESPONSES, SCORES
from tunelab.records.old_format import stamped
from tunelab.records.responses import held
from tunelab.records.runs import Run, check_finished, open_run
from tunelab.report.model_card import update_model_card
from tunelab.report.table import score_notes, score_records, score_rows, score_text
from tunelab.statistics.standard_errors import Estimate, paired_ratio_difference
from tunelab.units import format_counted
from tunelab.version import __version__

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Scores:
    """Result of an evaluation.

    Args:
        arms: name ("base", "tuned") -> its scores.
        loss_change: of the completions, tuned minus base, nats per token (negative is better), with its standard
            error paired over rows; None if there is only one arm.
        path: directory of responses, likelihoods and scores.
        rows: number of held-out rows evaluated.
        likelihoods: arm -> likelihood of each row, in the rows' order; arms can be compared row by row.
        folders: arm -> directory of its responses, likelihoods and scores, under `path`.
        notices: what of it ran in a slower way than usual, since the architecture needs it.
    """

    arms: Mapping[str, list[Score]]
    loss_change: Estimate | None
    path: Path
    rows: int
    likelihoods: Mapping[str, list[LikelihoodRecord]]
    folders: Mapping[str, Path] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shown = [f"{arm} {score_text(found[0])}" for arm, found in self.arms.items()]
        metric = next(iter(self.arms.values()))[0].name.replace("_", " ")
        return f"Scores({format_counted(self.rows, 'held-out row')}: {metric} {', '.join(shown)})"

    def _repr_html_(self) -> str:
        return html_table(format_counted(self.rows, "held-out row"), *score_rows(self.arms), score_notes(self.arms))

    def to_frame(self) -> pandas.DataFrame:
        """One row per arm and metric: arm, metric, value, error (standard error), n, unit, higher_is_better.

        Raises:
            UsageError: pandas is not installed.
        """
        return data_frame(score_records(self.arms))


@dataclass(frozen=True)
class Arm:
    """One model to evaluate: its name, what identifies its weights, and how to load it."""

    name: str
    identity: dict[str, Any]
    model: Callable[[], AbstractContextManager[nn.Module]]


def evaluate(
    run: Run | Path | str,
    *,
    settings: EvaluateSettings | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    micro_batch_tokens: int | None = None,
    arms: str | Sequence[str] = ARMS,
    base: Path | str | None = None,
    progress: Progress = shown_in_notebooks,
) -> Scores:
    """Evaluate a finished run and its base model on the run's held-out rows.

    Args:
        settings: in place of the recipe's `evaluate` section.
        limit, max_new_tokens, micro_batch_tokens: override single keys of it.
        arms: "base", "tuned" or both.
        base: the folder where the run's base is now, if it moved.

    Raises:
        UsageError: unknown arm, or an override that is not an integer.
        RunError: the run is not finished, or data or base are not what it was trained with.
        DataError: the run has no held-out rows.
    """
    arms = checked_arms(arms)
    if not arms:
        raise UsageError("no arm is named", f"known: {', '.join(ARMS)}")
    run = open_run(run)
    check_finished(run)
    needs_base = "base" in arms or run.adapter.exists()
    recipe = trained_recipe(run, base) if needs_base else trained_weights(run)
    recipe = recipe.model_copy(update={"evaluate": settings or recipe.evaluate})
    recipe = _with_evaluation(recipe, limit, max_new_tokens, micro_batch_tokens)
    tokenizer = run_tokenizer(run)
    data = prepare_with(tokenizer, recipe, progress=progress)
    if data.held_out.sha256 != run.manifest["data"]["held_out"]["sha256"]:
        raise RunError(
            f"{run.path}: the held-out rows differ from those of its training: the data changed, or how it is split "
            "or tokenized",
            "the new rows may be in the training set; restore the data, or train again",
        )
    known = _run_arms(run, recipe, tokenizer)
    chosen = [known[name]() for name in arms]
    with run.locked():
        return _evaluate_arms(chosen, recipe, tokenizer, data, run.evaluations, progress)


def evaluate_model(
    recipe: RecipeLike,
    *,
    adapter: Path | str | None = None,
    out: Path | str = "evaluations",
    progress: Progress = shown_in_notebooks,
) -> Scores:
    """Evaluate the recipe's model, optionally with an adapter, on the recipe's held-out rows.

    With an adapter, rows are rendered and tokenized as it was trained: see generate.prompted().

    Args:
        recipe: its object, a mapping, or a YAML file's path.

    Raises:
        TunelabError: the recipe, its data, model or adapter cannot be used, or another process evaluates them; the
            message says why.
    """
    recipe = resolve(as_recipe(recipe))
    adapter = None if adapter is None else as_path(adapter, "adapter")
    check_local_files(recipe.data)
    recipe, tokenizer, _ = prompted(recipe, adapter)
    recipe = fit_to_model(recipe, tokenizer)
    data = prepare_with(tokenizer, recipe, progress=progress)
    arms = list(_adapter_arms(recipe, tokenizer, adapter).values()) if adapter else [_base_arm(recipe, tokenizer)]
    return _evaluate_arms(arms, recipe, tokenizer, data, as_path(out, "out"), progress)


def _evaluate_arms(
    arms: list[Arm], recipe: Recipe, tokenizer: Any, data: PreparedData, out: Path, progress: Progress
) -> Scores:
    rows, items = held_out_rows(data, tokenizer, recipe.evaluate.limit)
    settings = recipe.evaluate
    scores: dict[str, list[Score]] = {}
    likelihoods: dict[str, list[LikelihoodRecord]] = {}
    folders: dict[str, Path] = {}
    notices: dict[str, None] = {}
    for arm in arms:
        header = {
            **arm.identity,
            "arm": arm.name,
            "precision": recipe.precision.identity,
            "dtype": compute_dtype(recipe),
            "template": recipe.data.template,
            **({"date": day} if (day := dated(tokenizer, recipe)) else {}),
            **({"new_tokens": recipe.model.new_tokens} if recipe.model.new_tokens else {}),
            "data": data.held_out.sha256,
            "tunelab": __version__,
        }
        folder = folders[arm.name] = (
            out / f"{arm.name}-{_short_hash({**header, 'max_new_tokens': settings.max_new_tokens})}"
        )
        with held(folder / LIKELIHOODS), arm.model() as model, autocast(recipe):
            check_tokenizer_fits(model, tokenizer)
            notices |= dict.fromkeys(slower_ways(model))
            likelihoods[arm.name] = held_out_likelihoods(
                model,
                rows,
                folder / LIKELIHOODS,
                header,
                micro_batch_tokens=settings.micro_batch_tokens,
                progress=named(progress, arm.name),
            )
            responses = held_out_responses(
                model,
                tokenizer,
                items,
                folder / RESPONSES,
                header,
                max_new_tokens=settings.max_new_tokens,
                stop_token_ids=data.stop_token_ids,
                micro_batch_tokens=settings.micro_batch_tokens,
                progress=named(progress, arm.name),
            )
        protocol = {"template": recipe.data.template, "rows": len(rows), "rows_without_prompt": len(rows) - len(items)}
        by_answer = answer_scores(responses)
        scores[arm.name] = score_held_out(responses, likelihoods[arm.name], protocol, by_answer=by_answer)
        # Written before the scores: an evaluation counts as scored once the scores exist.
        write_answer_scores(folder, by_answer)
        found: dict[str, Any] = {"header": header, "scores": [score.to_json() for score in scores[arm.name]]}
        found |= {"rows": [row.id for row in rows], "limit": settings.limit}
        write_json_atomically(folder / SCORES, stamped(found))
        update_model_card(folder)
    base, tuned = likelihoods.get("base"), likelihoods.get("tuned")
    change = completion_loss_change(base, tuned) if base and tuned else None
    return Scores(scores, change, out, len(rows), likelihoods, folders, tuple(notices))


def held_out_rows(
    data: PreparedData, tokenizer: Any, limit: int | None
) -> tuple[list[HeldOutRow], list[HeldOutPrompt]]:
    """The rows whose likelihood is measured, and the items to answer: the rows that have a prompt.

    With a limit they are a sample, the same for all models, since files are often sorted and sources follow each other;
    a smaller one is part of a larger one.

    Raises:
        UsageError: the limit is below 1.
        DataError: there are no held-out rows.
    """
    table = data.held_out
    if limit is not None and limit < 1:
        raise UsageError(f"evaluate.limit is {limit}, expected 1 or more", "omit it to evaluate all held-out rows")
    count = len(table) if limit is None else min(len(table), limit)
    if count == 0:
        raise DataError("there are no held-out rows to evaluate on", "train with data.held_out=0.05")

    def decode(ids: Any) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    rows, items = [], []
    for index in sample(range(len(table)), count, seed=0, purpose="limit"):
        ids, mask = (array.tolist() for array in table.row(index))
        completion_bytes, sequence_bytes = predicted_bytes(decode, ids, mask)
        name = f"{index:06d}"
        rows.append(HeldOutRow(name, tuple(ids), tuple(mask), completion_bytes, sequence_bytes))
        prompt = tuple(ids[: int(table.prompt_lengths[index])])
        if prompt and data.references[index].text.strip():
            items.append(HeldOutPrompt(name, prompt, data.references[index].text))
    return rows, items


def _run_arms(run: Run, recipe: Recipe, tokenizer: Any) -> dict[str, Callable[[], Arm]]:
    """How to load each arm of a run; its base's weights are known to be those that the run names."""
    fingerprint = run.manifest["model"]["fingerprint"]
    if run.adapter.exists():
        both = _adapter_arms(recipe, tokenizer, run.adapter, fingerprint)
        return {"base": lambda: both["base"], "tuned": lambda: both["tuned"]}
    weights = {"weights": run.manifest["weights_after"]}
    tuned = Arm("tuned", weights, lambda: nullcontext(load_trained(recipe, run.model)))
    return {"base": lambda: _base_arm(recipe, tokenizer, fingerprint), "tuned": lambda: tuned}


def _base_arm(recipe: Recipe, tokenizer: Any, fingerprint: str | None = None) -> Arm:
    model = load_base(recipe, tokenizer)
    known = fingerprint or model_fingerprint(recipe.model.name, model)
    return Arm("base", {"model": known}, lambda: nullcontext(model))


def _adapter_arms(recipe: Recipe, tokenizer: Any, adapter: Path, fingerprint: str | None = None) -> dict[str, Arm]:
    """Base and tuned from a single load of the weights: adapter off and on."""
    base = load_base(recipe, tokenizer)
    known = fingerprint or model_fingerprint(recipe.model.name, base)
    model = load_adapter(base, adapter)

    identity = {"model": known, "adapter": adapter_hash(adapter)}
    return {
        "base": Arm("base", {"model": known}, lambda: without_adapter(model)),
        "tuned": Arm("tuned", identity, lambda: nullcontext(model)),
    }


def completion_loss_change(base: list[LikelihoodRecord], tuned: list[LikelihoodRecord]) -> Estimate:
    """Mean completion loss, tuned minus base over the same rows, nats per token, with its paired standard error."""
    return paired_ratio_difference(
        [row.completion_nll for row in tuned],
        [row.completion_tokens for row in tuned],
        [row.completion_nll for row in base],
        [row.completion_tokens for row in base],
    )


def _with_evaluation(
    recipe: Recipe, limit: int | None, max_new_tokens: int | None, micro_batch_tokens: int | None
) -> Recipe:
    given = {"limit": limit, "max_new_tokens": max_new_tokens, "micro_batch_tokens": micro_batch_tokens}
    changes = {name: value for name, value in given.items() if value is not None}
    for name, value in changes.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise UsageError(f"{name} is {value!r}, expected a positive integer", f"for example {name}=100")
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=changes)})


def _short_hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
