"""The sections of a model card, as blocks of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunelab import plugins
from tunelab.config import Recipe
from tunelab.config.questions import HELD_OUT
from tunelab.config.shareable import place_name, shareable_yaml
from tunelab.data.sources._source import UNKNOWN_LICENCE
from tunelab.data.templates import TEXT_TEMPLATES
from tunelab.report.markdown_page import escaped, fenced, table_row
from tunelab.report.stored_scores import Measured, StoredScore
from tunelab.report.table import EQUAL_VALUES, has_equal_values, score_rows
from tunelab.units import (
    format_bytes,
    format_count,
    format_counted,
    format_duration,
    format_loss,
    format_scientific,
    format_significant,
)

PROJECT = "https://github.com/tunelab/tunelab"

#: In place of a fact that nobody stated.
NOT_STATED = "not stated"

Blocks = list[str]


@dataclass(frozen=True)
class Facts:
    """What a card states.

    Args:
        title: the model's name.
        name: "owner/name" on the hub; "" = not there.
        base_on_hub, base_commit, base_license: of the base; "" or None = not known.
        base_folder: the name of a local base's folder.
        merged: what merge.json says; None = nothing was merged.
    """

    manifest: Mapping[str, Any]
    recipe: Recipe
    title: str
    name: str
    base_on_hub: str
    base_commit: str | None
    base_license: str
    base_folder: str
    is_adapter: bool
    merged: Mapping[str, Any] | None

    @property
    def base(self) -> str:
        """The base in Markdown: a link, or the name of its folder."""
        if self.base_on_hub:
            return f"[{escaped(self.base_on_hub)}](https://huggingface.co/{self.base_on_hub})"
        return f"{escaped(self.base_folder)} (a local folder)"

    @property
    def method(self) -> str:
        """ "LoRA (rank 16) over a base in nf4", or "full fine-tuning"."""
        if self.recipe.method != "lora":
            return "full fine-tuning"
        form = plugins.label(self.recipe.precision.name)
        return f"LoRA (rank {self.recipe.adapter.rank})" + ("" if form == "none" else f" over a base in {form}")

    @property
    def summary(self) -> str:
        """One sentence: what this is."""
        what = "An adapter for" if self.is_adapter else "A model tuned from"
        merged = "" if self.merged is None else ", the adapter merged into the weights"
        version = self.manifest["sessions"][-1]["environment"]["tunelab"]
        made = str(self.manifest["ended"])[:10]
        return f"{what} {self.base}: {self.method}{merged}. Trained with [tunelab]({PROJECT}) {version}, {made}."


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [table_row(list(columns)), table_row(["---"] * len(columns))]
    return "\n".join([*lines, *(table_row(list(row)) for row in rows)])


def model_section(facts: Facts) -> Blocks:
    """Base, revision, hash, method, size."""
    model = facts.manifest["model"]
    digest, weights = model["digest"], model.get("weights_sha256")
    rows = [
        ("base model", facts.base),
        ("base revision", facts.base_commit or NOT_STATED),
        *([("base weights", weights)] if weights else []),
        ("license of the base", facts.base_license or NOT_STATED),
        ("method", facts.method),
        ("trained parameters", f"{format_count(digest['trainable'])} of {format_count(digest['parameters'])}"),
        *_merged_rows(facts.merged),
    ]
    return ["## Model", _table(("what", "value"), rows)]


def _merged_rows(merged: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if merged is not None:
        yield "merged as", f"{merged['format']}, {merged['dtype']}, {format_bytes(merged['bytes'])}"


def data_section(facts: Facts) -> Blocks:
    """Sources with their licenses, and what of their rows was used."""
    data = facts.manifest["data"]
    sources = [
        (_origin(one), plugins.label(one["name"]), f"{one['rows_read']:,}", escaped(license_of(one)))
        for one in data["sources"]
    ]
    names = {"train": "training", "held_out": "held-out", "validation": "validation"}
    splits = [
        (title, *(f"{data[name][key]:,}" for key in ("kept", "tokens", "targets")), _lost(data[name]))
        for name, title in names.items()
        if name in data and data[name]["given"]
    ]
    return [
        "## Data",
        _table(("source", "format", "rows read", "license"), sources),
        _table(("split", "rows", "tokens", "tokens in the loss", "left out"), splits),
    ]


def _origin(source: Mapping[str, Any]) -> str:
    if source.get("identity", "").startswith("hub:"):
        name = source["origin"].partition("@")[0].partition(":")[0]
        return f"[{escaped(source['origin'])}](https://huggingface.co/datasets/{name})"
    return f"{escaped(place_name(source['origin']))} (a local file)"


def license_of(source: Mapping[str, Any]) -> str:
    """The license of a source, for readers to whom the data is not their own."""
    return str(source["licence"]).replace(UNKNOWN_LICENCE, NOT_STATED)


def _lost(counts: Mapping[str, Any]) -> str:
    lost = {"too long": counts["dropped_too_long"], "truncated": counts["truncated"], "invalid": counts["bad"]}
    return ", ".join(f"{count:,} {why}" for why, count in lost.items() if count) or "none"


def template_section(facts: Facts) -> Blocks:
    """How a prompt is written."""
    name = facts.recipe.data.template
    if name not in TEXT_TEMPLATES:
        said = "The chat template that is stored with the tokenizer (`chat_template.jinja`)"
        day = facts.manifest["data"].get("date")
        return ["## Prompt template", f"{said}{f', dated {day}' if day else ''}. Other templates were not tried."]
    text = TEXT_TEMPLATES[name]
    turn = text.turn.format(content="{prompt}") if "{content}" in text.turn else text.turn
    return [
        "## Prompt template",
        f"`{name}`; the tokenizer's chat template writes it. A prompt:",
        fenced(f"{text.preamble}{turn}"),
    ]


def training_section(facts: Facts) -> Blocks:
    """What ran, what it cost, and the recipe."""
    manifest, trained = facts.manifest, facts.manifest["trained"]
    compute, session = manifest["compute"], manifest["sessions"][-1]["environment"]
    processor = f"{session['processor']}, {format_counted(compute['threads'], 'thread')}"
    before, after = manifest.get("held_out_loss_before"), manifest.get("held_out_loss_after")
    rows = [
        ("steps", f"{trained['steps']:,} ({manifest['status']})"),
        ("tokens in the loss", f"{trained['targets']:,}"),
        ("learning rate", format_significant(facts.recipe.train.lr or 0.0)),
        ("dtype", facts.recipe.train.dtype),
        ("seed", f"{facts.recipe.train.seed}"),
        ("training time", format_duration(trained["training_seconds"])),
        (
            "hardware",
            escaped(compute["gpu"] or processor),
        ),
    ]
    if before is not None and after is not None:
        rows.append(("held-out loss", f"{format_loss(before)} → {format_loss(after)} nats per token in the loss"))
    recipe = shareable_yaml(facts.recipe, has_local_base=not facts.base_on_hub)
    block = f"<details><summary>Recipe</summary>\n\n{fenced(recipe)}\n\n</details>"
    return ["## Training", _table(("what", "value"), rows), block]


def results_section(found: Sequence[Measured]) -> Blocks:
    """One table per benchmark: base and tuned, with standard errors and numbers of items."""
    if not found:
        return []
    blocks = ["## Results", "± is one standard error over items."]
    for one in found:
        arms: dict[str, list[StoredScore]] = {arm: one.arms[arm] for arm in ("base", "tuned") if arm in one.arms}
        columns, rows = score_rows(arms)
        items = {score.name.replace("_", " "): score.n for scores in arms.values() for score in scores}
        blocks += [
            f"### {escaped(one.title)}",
            _table([*columns, "items"], [[*row, f"{items[row[0]]:,}"] for row in rows]),
        ]
    if any(has_equal_values(score) for one in found for scores in one.arms.values() for score in scores):
        blocks.append(EQUAL_VALUES)
    return blocks


def caveats(facts: Facts, found: Sequence[Measured]) -> Iterator[str]:
    """What the scores do not show, and what a user has to find out."""
    yield (
        f"Trained once (seed {facts.recipe.train.seed}): another training would score otherwise, and standard errors "
        "over items do not cover that."
    )
    yield from _not_measured(facts, found)
    yield from _chosen_by_held_out_rows(facts.recipe)
    if facts.merged is not None:
        yield from _of_the_merge(facts.merged, bool(found))
    elif (saved := facts.manifest.get("saved")) and "kl" in saved:
        distance = f"KL {format_scientific(saved['kl'])} nats per token"
        yield f"The trained weights were rounded to {saved['dtype']}: {distance} from what was trained."
    yield _licenses(facts.base_license or NOT_STATED, [license_of(one) for one in facts.manifest["data"]["sources"]])


def _licenses(base: str, data: Sequence[str]) -> str:
    said = f"Licenses: the base, {base}; the data, {escaped('; '.join(dict.fromkeys(data)))}."
    if NOT_STATED not in (base, *data):
        return f"{said} Both bind this model; whether they permit your use was not checked."
    return f"{said} Where none is stated, find out which license binds this model before you use or share it."


def _not_measured(facts: Facts, found: Sequence[Measured]) -> Iterator[str]:
    named = ", ".join(dict.fromkeys(one.benchmark for one in found))
    if not found:
        yield "No benchmark was run and no answer was scored; what the model does well or badly is not known."
    else:
        yield f"Measured on {escaped(named)} alone. Safety, bias, other tasks and other languages were not measured."
    rows = facts.manifest["data"]["held_out"]["kept"]
    for one in found:
        if one.benchmark == HELD_OUT and one.items < rows:
            yield f"{one.benchmark}: {one.items:,} of {format_counted(rows, 'row')} were evaluated."
        elif one.limit is not None:
            yield f"{escaped(one.benchmark)}: only {format_counted(one.limit, 'item')} were evaluated."
        if "base" not in one.arms:
            yield f"{escaped(one.benchmark)}: the base was not evaluated, so what training changed is not known."
        if "tuned" not in one.arms:
            yield f"{escaped(one.benchmark)}: only the base was evaluated."
    if found and all(one.benchmark == HELD_OUT for one in found):
        yield "What training cost elsewhere (forgetting) was not measured."


def _chosen_by_held_out_rows(recipe: Recipe) -> Iterator[str]:
    chosen = recipe.train.load_best_at_end or recipe.train.early_stopping_patience is not None
    if chosen and not recipe.data.validation:
        yield "Held-out rows chose the weights and then measured them: those results look better than they are."


def _of_the_merge(merged: Mapping[str, Any], has_scores: bool) -> Iterator[str]:
    quality = merged.get("quality")
    measured = "not measured"
    if quality is not None:
        counted = format_counted(quality["tokens"], "held-out token")
        measured = f"KL {format_scientific(quality['kl'])} nats per token, over {counted}"
    scores = " The scores are of base and adapter before they were merged." if has_scores else ""
    yield f"Merged as {merged['format']}: its distance from the trained model is {measured}.{scores}"


def loading_section(facts: Facts) -> Blocks:
    """Code that loads it."""
    here = facts.name or "path/to/this/folder"
    classes = "AutoModelForCausalLM, AutoTokenizer"
    tokenizer = f'tokenizer = AutoTokenizer.from_pretrained("{here}")'
    if not facts.is_adapter:
        model = f'model = AutoModelForCausalLM.from_pretrained("{here}")'
        return ["## Loading it", _python(f"from transformers import {classes}", "", tokenizer, model)]
    revision = f', revision="{facts.base_commit}"' if facts.base_commit else ""
    base = f'base = AutoModelForCausalLM.from_pretrained("{facts.base_on_hub or facts.base_folder}"{revision})'
    imports = ("from peft import PeftModel", f"from transformers import {classes}", "")
    model = f'model = PeftModel.from_pretrained(base, "{here}")'
    blocks = ["## Loading it", _python(*imports, tokenizer, base, *_longer_tables(facts), model)]
    form = plugins.label(facts.recipe.precision.name)
    if form != "none":
        blocks.append(f"It was trained over the base in {form}; over other weights it answers somewhat differently.")
    return blocks


def _longer_tables(facts: Facts) -> tuple[str, ...]:
    """Code that gives the base rows for new tokens where it has too few; PEFT then puts the trained ones there."""
    if not facts.recipe.model.new_tokens:
        return ()
    return (
        "if len(tokenizer) > base.get_input_embeddings().num_embeddings:",
        "    base.resize_token_embeddings(len(tokenizer))",
    )


def _python(*lines: str) -> str:
    return "\n".join(("```python", *lines, "```"))
