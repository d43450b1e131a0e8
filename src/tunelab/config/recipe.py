"""A recipe: every key that can be written, its unit, its default and why.

A recipe says only what differs from the defaults below. What must hold between keys, and the defaults that depend on
other keys, stand in rules.py; reading YAML and overrides in reading.py; JSON Schema and reference page in reference.py.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tunelab.config.types import Count, CountOrZero, Flag, NotNegative, Positive, Share, ShareOrCount, Text


class Section(BaseModel):
    """One level of the tree: frozen, and a key that it does not know is an error."""

    # Defaults are checked too: 32 becomes 32.0, as it does when a run's own recipe is read again.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    shorthand: ClassVar[str] = ""  # what may stand in place of the whole section, in words
    shorthand_types: ClassVar[tuple[str, ...]] = ()  # its types in JSON Schema

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        if cls.shorthand_types:
            # The definition itself admits the shorthand, so that every place that refers to it does.
            section = dict(schema)
            schema.clear()
            schema["anyOf"] = [*({"type": name} for name in cls.shorthand_types), section]
        return reference

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        return cls.expand(value)

    @classmethod
    def expand(cls, value: Any) -> Any:
        """The section as a mapping where `value` is its shorthand; anything else as it is."""
        return value


class ModelSettings(Section):
    """Which weights and which tokenizer."""

    shorthand: ClassVar[str] = "a text: the model's name"
    shorthand_types: ClassVar[tuple[str, ...]] = ("string",)

    name: Text = Field(description="Hub name or local folder of the base model.")
    revision: Text | None = Field(
        None, description="Commit, tag or branch on the hub. null: the latest; the run records which commit that was."
    )
    tokenizer: Text | None = Field(
        None, description="Hub name or local folder of the tokenizer. null: the model's own."
    )
    trust_remote_code: Flag = Field(
        False, description="Run Python code that comes with the model. Off: a model should not bring a program."
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """`gpt2` is `{name: gpt2}`."""
        return {"name": value} if isinstance(value, str) else value


class PrecisionSettings(Section):
    """How the frozen base's linear weights are stored."""

    shorthand: ClassVar[str] = "a text: its name"
    shorthand_types: ClassVar[tuple[str, ...]] = ("string",)

    name: Text = Field(
        "none",
        description="`nf4`, `fp4`, `int8` or `mxfp4`; a .py file of your own; none: as they are computed with.",
    )
    options: dict[Text, Any] = Field(
        default_factory=dict,
        description="Of this format alone: `double_quantization` (nf4, fp4; true), `scale_rule` (mxfp4; even).",
    )
    skip: tuple[Text, ...] = Field(
        (), description="Linear layers that stay in 16 or 32 bits, by their names' last parts; the head always does."
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """`nf4` is `{name: nf4}`."""
        return {"name": value} if isinstance(value, str) else value

    @property
    def identity(self) -> str | dict[str, Any]:
        """What tells two ways of storing apart: the name, with options where there are any."""
        return self.model_dump(mode="json") if self.options or self.skip else self.name


class AdapterSettings(Section):
    """The LoRA matrices beside the frozen weights; read by `method: lora` alone."""

    rank: Count = Field(
        16, description="Rank of the matrices. 16 is enough for most instruction data; costs grow with it."
    )
    alpha: Positive = Field(32, description="The update is scaled by alpha / rank. Twice the rank is the usual choice.")
    dropout: Share = Field(0.0, description="Share of an adapter's inputs dropped in training. 0: exact and fastest.")
    use_rslora: Flag = Field(False, description="Scale by alpha / sqrt(rank) (rsLoRA), steadier at ranks above 64.")
    use_dora: Flag = Field(
        False, description="Train direction and length of each column apart (DoRA): slower, more memory."
    )
    init: Literal["zero", "loftq"] = Field(
        "zero",
        description="First product of the matrices. loftq: what quantising the base took away, at their rank.",
    )
    targets: Literal["all-linear", "attention"] | tuple[Text, ...] = Field(
        "all-linear",
        description="Layers that get an adapter: every linear layer but the head, attention's, or their names.",
    )


DATA_FILE_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


class SourceSettings(Section):
    """One place that rows come from."""

    shorthand: ClassVar[str] = (
        f"a text: a source's name, or a file ending with {', '.join(DATA_FILE_ENDINGS)} (also .gz)"
    )
    shorthand_types: ClassVar[tuple[str, ...]] = ("string",)

    name: Text = Field(
        "auto",
        description="A source's name, a .py file of your own, or `auto`: the format is seen from the file's columns.",
    )
    path: Text | None = Field(None, description="Local file instead of the hub; relative to the working directory.")
    repository: Text | None = Field(
        None, description="Dataset on the hub that a format is read from, as owner/name. null: the source's own."
    )
    subset: Text | None = Field(None, description="Configuration of `repository`, where it has several.")
    revision: Text | None = Field(
        None,
        description="Commit, tag or branch of the dataset on the hub. null: what the source pins, else the latest.",
    )
    split: Text | None = Field(None, description="Split of the dataset. null: the source's own choice.")
    size: Count | None = Field(None, description="Rows sampled from this source. null: all.")
    weight: Positive | None = Field(
        None, description="Share in the mixture, relative to the other sources' weights. null for all: by their rows."
    )
    options: dict[Text, Any] = Field(
        default_factory=dict, description="Settings of this source alone; its page lists them."
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """`alpaca` is `{name: alpaca}`; `rows.jsonl` is `{name: auto, path: rows.jsonl}`."""
        if not isinstance(value, str):
            return value
        is_file = value.lower().removesuffix(".gz").endswith(DATA_FILE_ENDINGS)
        return {"name": "auto", "path": value} if is_file else {"name": value}


class DataSettings(Section):
    """Which rows, how they become text, and which tokens are in the loss."""

    shorthand: ClassVar[str] = "a text or a list: its sources"
    shorthand_types: ClassVar[tuple[str, ...]] = ("string", "array")

    sources: tuple[SourceSettings, ...] = Field(min_length=1, description="Where the rows come from, one or several.")
    size: Count | None = Field(None, description="Rows in all, sampled over the sources. null: all there are.")
    held_out: ShareOrCount = Field(
        0.05, description="Rows kept from training for evaluation: a share of all, or their number. 0: none."
    )
    template: Text = Field(
        "alpaca",
        description="Prompt template: `alpaca`, `alpaca-short`, `plain`, `human-assistant`, or `chat` (the model's)",
    )
    chat_template: Text | None = Field(
        None, description="Jinja file used by `template: chat` in place of the tokenizer's own chat template."
    )
    loss_on: Literal["completion", "all"] = Field(
        "completion", description="Tokens in the loss: the answers alone, or the prompt as well."
    )
    max_length: Count | None = Field(
        None, description="Tokens of a row at most. null: 1024, or the model's window where that is smaller."
    )
    on_overflow: Literal["drop", "truncate"] = Field(
        "drop",
        description="Longer rows: leave out, or cut the end off. Both are counted. drop: an answer cut is learned cut.",
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="Rows that cannot be used: stop and name them, or leave them out and count them."
    )
    seed: CountOrZero = Field(0, description="Draws the sample, the mixture and the held-out rows.")

    @classmethod
    def expand(cls, value: Any) -> Any:
        """`alpaca` is `{sources: [alpaca]}`, a list is `{sources: ...}`; so are the sources' own shorthands."""
        tree = {"sources": value} if isinstance(value, str | list | tuple) else value
        if isinstance(tree, dict) and "sources" in tree:
            sources = tree["sources"]
            sources = [sources] if isinstance(sources, str | dict) else sources
            if isinstance(sources, list | tuple):
                sources = [SourceSettings.expand(source) for source in sources]
            return {**tree, "sources": sources}
        return tree


class TrainSettings(Section):
    """Optimisation: how long, how fast, in which batches, and what is kept."""

    epochs: Positive = Field(3, description="Passes over the training rows. 3 is Alpaca's choice.")
    steps: Count | None = Field(None, description="Optimizer steps; takes the place of epochs. null: as epochs say.")
    lr: Positive | None = Field(
        None, description="Peak learning rate. null: 2e-4 with LoRA, 2e-5 where every weight is trained."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="The rate after warm-up: down to 0, or constant."
    )
    warmup: ShareOrCount = Field(
        0.03, description="Steps over which the rate rises from 0: a share of all steps, or their number."
    )
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        "adamw", description="adamw-8bit: its averages in 8 bits, a quarter of the memory; paged on a GPU (QLoRA)."
    )
    weight_decay: NotNegative = Field(
        0.0, description="AdamW's decay. 0: a few epochs of fine-tuning gain nothing from it."
    )
    betas: tuple[Share, Share] = Field(
        (0.9, 0.999), description="AdamW's running averages of gradient and squared gradient."
    )
    eps: Positive = Field(1e-8, description="AdamW's term against division by zero.")
    max_grad_norm: Positive | None = Field(
        1.0, description="Largest gradient norm; longer gradients are scaled down. null: never."
    )
    batch_size: Count | None = Field(
        None, description="Rows of one optimizer step (effective batch size). null: 16, unless batch_tokens is given."
    )
    batch_tokens: Count | None = Field(None, description="Tokens of one optimizer step, in place of batch_size.")
    micro_batch_tokens: Count = Field(
        4096, description="Tokens that go through the model at once (one packed sequence). Memory grows with it."
    )
    packing: Flag = Field(
        True,
        description="Several rows in one packed sequence, kept apart: no padding. Gives the gradients of single rows.",
    )
    activation_checkpointing: Flag = Field(
        False, description="Compute activations twice instead of keeping them: less memory, slower."
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Numbers in forward and backward. auto: bf16 on a GPU that has it, fp32 elsewhere."
    )
    eval_every: Count | None = Field(
        None, description="Steps between evaluations on the held-out rows. null: only at the end."
    )
    early_stopping_patience: Count | None = Field(
        None, description="Evaluations without improvement before training stops early. null: never."
    )
    load_best_at_end: Flag = Field(
        False, description="End with the weights of the best evaluation. false: with the last ones."
    )
    save_every: Count | None = Field(
        None, description="Steps between checkpoints to resume from. null: ten times over the run."
    )
    keep_checkpoints: Count = Field(2, description="Newest checkpoints that are kept. 2: one to fall back on.")
    trackers: tuple[Literal["wandb", "tensorboard", "trackio"], ...] = Field(
        (), description="Where metrics go besides metrics.jsonl."
    )
    tracker_project: Text = Field("tunelab", description="Project name at the trackers.")
    tracker_group: Text | None = Field(
        None, description="Runs of one group stand together at the trackers. null: none; in a study, its title."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train. auto: the GPU where there is one."
    )
    seed: CountOrZero = Field(0, description="Draws adapter weights, row order and dropout.")


class EvaluateSettings(Section):
    """How held-out rows are measured and answered."""

    max_new_tokens: Count = Field(128, description="Tokens of one generated answer at most.")
    limit: Count | None = Field(None, description="Held-out rows evaluated at most. null: all.")
    micro_batch_tokens: Count = Field(
        4096, description="Tokens that go through the model at once. Changes speed, never scores."
    )


class Recipe(Section):
    """What to train: model, method, precision, adapter, data, optimisation."""

    model: ModelSettings = Field(description="The base model.")
    method: Literal["lora", "full"] = Field(
        "lora",
        description="What is trained. lora: low-rank matrices, the base is frozen. full: every weight.",
    )
    precision: PrecisionSettings = Field(
        default_factory=PrecisionSettings, description="How the frozen base's linear weights are stored."
    )
    adapter: AdapterSettings = Field(default_factory=AdapterSettings, description="The LoRA matrices.")
    data: DataSettings = Field(description="The rows.")
    train: TrainSettings = Field(default_factory=TrainSettings, description="Optimisation.")
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings, description="Measuring.")
    out: Text | None = Field(
        None, description="Directory of the run. null: one is named after model, adapter and data."
    )
