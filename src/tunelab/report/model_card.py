"""A run's model card: what its report would say, as README.md with the metadata that the Hugging Face hub reads.

Made from the run's records alone. Training writes it next to the weights, every evaluation of the run writes it again,
and `tunelab push`, which knows the base's name and licence on the hub, makes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelab.config import Recipe
from tunelab.config.shareable import place_name
from tunelab.errors import TunelabError
from tunelab.files import write_text_atomically
from tunelab.records.runs import Run
from tunelab.report.card_sections import (
    Facts,
    caveats,
    data_section,
    loading_section,
    model_section,
    results_section,
    template_section,
    training_section,
)
from tunelab.report.stored_scores import Measured, measured
from tunelab.report.table import has_equal_values

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

#: The card's file, next to the weights.
CARD = "README.md"


@dataclass(frozen=True)
class HubBase:
    """A run's base on the Hugging Face hub.

    Args:
        name: "owner/name".
        commit: the very revision, if known.
        license: as its card says, an identifier ("apache-2.0"); "" = it does not say, or was not asked.
    """

    name: str
    commit: str | None = None
    license: str = ""


def model_card(
    run: Run,
    manifest: Mapping[str, Any] | None = None,
    *,
    base: HubBase | None = None,
    merged: Mapping[str, Any] | None = None,
    name: str = "",
) -> ModelCard:
    """The card of a trained run.

    Args:
        manifest: in place of the stored one, of a run that is about to be finished.
        base: where the base is on the hub; None = as the run says.
        merged: what merge.json says, of base and adapter in one; None = the run's own result.
        name: the model's on the hub, "owner/name"; "" = the run's directory.
    """
    from huggingface_hub import ModelCard, ModelCardData

    facts = _facts(run, run.manifest if manifest is None else manifest, base, merged, name)
    found = measured(run)
    results = list(_results(found))
    data = ModelCardData(
        base_model=facts.base_on_hub or None,
        base_model_relation=("adapter" if facts.is_adapter else "finetune") if facts.base_on_hub else None,
        library_name="peft" if facts.is_adapter else "transformers",
        pipeline_tag="text-generation",
        license=facts.base_license or None,
        datasets=_datasets(facts.manifest) or None,
        tags=_tags(facts.recipe),
        model_name=facts.title if results else None,
        eval_results=results or None,
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_body(facts, found)}")


def write_model_card(
    run: Run,
    manifest: Mapping[str, Any] | None = None,
    *,
    merged: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> None:
    """Write the card to a folder (None = next to the run's weights); other arguments as for model_card()."""
    place = folder or (run.adapter if run.adapter.exists() else run.model)
    write_text_atomically(place / CARD, str(model_card(run, manifest, merged=merged)))


def update_model_card(evaluation: Path) -> None:
    """Write the card again with the scores of an evaluation; does nothing for one of no run.

    An evaluation does not fail over a card: what of the run's records is damaged is said where they are needed.
    """
    run = Run(evaluation.parent.parent)
    if evaluation.parent != run.evaluations or not run.recipe_file.exists():
        return
    with suppress(TunelabError, OSError, KeyError):
        if run.is_done and (run.adapter.exists() or run.model.exists()):
            write_model_card(run)


def _facts(
    run: Run, manifest: Mapping[str, Any], base: HubBase | None, merged: Mapping[str, Any] | None, name: str
) -> Facts:
    model, recipe = manifest["model"], run.recipe
    if base is None:
        place = model.get("path")
        on_hub = not place and not model["fingerprint"].startswith("sha256:")
        commit = model["fingerprint"].rpartition("@")[2] if on_hub else None
        base = HubBase(recipe.model.name if on_hub else "", commit, _license_of(place))
    return Facts(
        manifest=manifest,
        recipe=recipe,
        title=name.rpartition("/")[2] or run.path.resolve().name,
        name=name,
        base_on_hub=base.name,
        base_commit=base.commit,
        base_license=base.license,
        base_folder=place_name(model.get("path") or recipe.model.name),
        is_adapter=recipe.method == "lora" and merged is None,
        merged=merged,
    )


def _license_of(place: str | None) -> str:
    """The licence that the card in a local base's folder states; "" if there is none to read."""
    from huggingface_hub.repocard import metadata_load

    with suppress(Exception):  # no card, or one that is not YAML: not known
        found = (metadata_load(Path(place or "") / CARD) or {}).get("license")
        return found if isinstance(found, str) else ""
    return ""


def _body(facts: Facts, found: Sequence[Measured]) -> str:
    parts = (
        [f"# {facts.title}", facts.summary],
        model_section(facts),
        data_section(facts),
        template_section(facts),
        training_section(facts),
        results_section(found),
        ["## Caveats", "\n".join(f"- {sentence}" for sentence in caveats(facts, found))],
        loading_section(facts),
    )
    return "\n\n".join(block for part in parts for block in part) + "\n"


def _datasets(manifest: Mapping[str, Any]) -> list[str]:
    """Names on the hub of the data sets that were read from there."""
    origins = [one["origin"] for one in manifest["data"]["sources"] if one.get("identity", "").startswith("hub:")]
    return list(dict.fromkeys(origin.partition("@")[0].partition(":")[0] for origin in origins))


def _tags(recipe: Recipe) -> list[str]:
    quantized = [] if recipe.precision.name == "none" else ["qlora"]
    return ["tunelab", *(["lora", *quantized] if recipe.method == "lora" else ["full-fine-tuning"])]


def _results(found: Sequence[Measured]) -> Iterator[EvalResult]:
    """The tuned model's scores as the hub's metadata."""
    from huggingface_hub import EvalResult

    for one in found:
        for score in one.arms.get("tuned", ()):
            if not score.is_blind:
                yield EvalResult(
                    task_type="text-generation",
                    dataset_type=one.benchmark,
                    dataset_name=one.title,
                    metric_type=score.name,
                    metric_value=score.value,
                    metric_args={"standard_error": None if has_equal_values(score) else score.error, "items": score.n},
                )
