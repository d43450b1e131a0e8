"""A recipe: every key with its unit, its default and the reason for it.

A recipe contains only what differs from these defaults. Rules between keys, and defaults that depend on other keys, are
in rules.py; reading YAML and overrides in reading.py; JSON Schema and the reference page in reference.py.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tunelab.config.types import (
    Count,
    CountOrAuto,
    CountOrZero,
    Date,
    Flag,
    FlagOrAuto,
    NotNegative,
    Pattern,
    PissaIterations,
    Positive,
    Share,
    ShareOrCount,
    TargetWord,
    Text,
)


class Section(BaseModel):
    """One section of a recipe: frozen; an unknown key is an error."""

    # Validate defaults too, so that 32 becomes 32.0, as when a run's stored recipe is read. A key that is a word of
    # Python's has an underscore here (from_).
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, serialize_by_alias=True)
    shorthand: ClassVar[str] = ""  # a value accepted instead of the whole section, in words
    shorthand_types: ClassVar[tuple[str, ...]] = ()  # its types in JSON Schema

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        if cls.shorthand_types:
            # The definition itself accepts the shorthand, so every reference to it does.
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
        """The section as a mapping if `value` is its shorthand; other values unchanged."""
        return value


class ModelSettings(Section):
    """The base model and its tokenizer."""

    shorthand: ClassVar[str] = "a string (the model's name)"
    shorthand_types: ClassVar[tuple[str, ...]] = ("string",)

    name: Text = Field(description="Hub name, local folder or .gguf file of the base model.")
    revision: Text | None = Field(
        None, description="Commit, tag or branch on the hub. null: the latest; the run records the commit."
    )
    tokenizer: Text | None = Field(
        None, description="Hub name or local folder of the tokenizer. null: the model's own."
    )
    new_tokens: Literal["template"] | tuple[Text, ...] | dict[Text, Text | None] | None = Field(
        None,
        description="Tokens to add to the tokenizer; their embeddings start at the mean, or at that of a mapping's "
        "words (`{<think>: think}`), and are trained. template: those of the chat template that it lacks. null: none, "
        "and refuse a template that needs some; []: train on their pieces.",
    )
    trust_remote_code: Flag = Field(
        False, description="Run Python code from the model's repository. Only for code you trust."
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """`gpt2` is `{name: gpt2}`."""
        return {"name": value} if isinstance(value, str) else value


class PrecisionSettings(Section):
    """Weight format of the frozen base's linear layers."""

    shorthand: ClassVar[str] = "a string (its name)"
    shorthand_types: ClassVar[tuple[str, ...]] = ("string",)

    name: Text = Field(
        "none",
        description="`nf4`, `fp4`, `int8` or `mxfp4`; your own .py file; none: the compute dtype (train.dtype).",
    )
    options: dict[Text, Any] = Field(
        default_factory=dict,
        description="Options of the format: `double_quantization` (nf4, fp4; true), `scale_rule` (mxfp4; even).",
    )
    skip: tuple[Text, ...] = Field(
        (), description="Linear layers to keep in 16 or 32 bits, by the last part of their names; always the LM head."
    )

    @classmethod
    def expand(cls, value: Any) -> Any:
        """`nf4` is `{name: nf4}`."""
        return {"name": value} if isinstance(value, str) else value

    @property
    def identity(self) -> str | dict[str, Any]:
        """Identifies the format: its name, with options if there are any."""
        return self.model_dump(mode="json") if self.options or self.skip else self.name


class AdapterSettings(Section):
    """LoRA settings; used only by `method: lora`."""

    rank: Count = Field(
        16, description="LoRA rank. 16 is enough for most instruction data; memory and time grow with it."
    )
    alpha: Positive = Field(32, description="The update is scaled by alpha / rank. Twice the rank is the usual choice.")
    dropout: Share = Field(0.0, description="Dropout probability of the adapter's inputs. 0: fastest.")
    use_rslora: Flag = Field(False, description="Scale by alpha / sqrt(rank) (rsLoRA); more stable at ranks above 64.")
    use_dora: Flag = Field(
        False, description="Train direction and magnitude of each weight vector separately (DoRA); slower, more memory."
    )
    init: (
        Literal["zero", "gaussian", "orthogonal", "pissa", "olora", "mica", "eva", "corda", "loftq"] | PissaIterations
    ) = Field(
        "zero",
        description="Initial matrices, by PEFT's names; zero: PEFT's default (product zero). loftq: a low-rank "
        "approximation of the quantization error.",
    )
    targets: TargetWord | Pattern | tuple[Text, ...] = Field(
        "all-linear",
        description="Layers with adapters: all linear layers except the LM head, and experts; attention; names; or a "
        "regular expression that matches whole names (`.*[02468]\\.self_attn\\.q_proj`).",
    )
    layers: tuple[CountOrZero, ...] | None = Field(
        None, description="Adapters only in these layers of the model, numbered from 0. null: in all."
    )
    exclude: Pattern | tuple[Text, ...] = Field(
        (), description="Linear layers without an adapter: a list of names, or a regular expression for whole names."
    )
    from_: Text | None = Field(
        None,
        alias="from",
        description="Folder of an adapter to train further: a run, or an adapter saved by PEFT. Its rank, alpha and "
        "layers are kept. null: a new one.",
    )
    also_train: tuple[Text, ...] = Field(
        (),
        description="Modules to train in full next to the adapter (PEFT's modules_to_save): `embed_tokens`, `lm_head`, "
        "`norms`, or module names.",
    )


DATA_FILE_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
#: owner/name of a dataset on the hub; a source of one's own ends with .py.
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?<!\.py)")


class SourceSettings(Section):
    """One data source."""

    shorthand: ClassVar[str] = (
        f"a string (a source's name, or OWNER/NAME of a hub dataset), or a file ending with "
        f"{', '.join(DATA_FILE_ENDINGS)} (also .gz)"
    )
    shorthand_types: ClassVar[tuple[str, ...]] = ("string",)

    name: Text = Field(
        "auto",
        description="A source's name, your own .py file, or `auto`: detect the format from the columns.",
    )
    path: Text | None = Field(None, description="Local file instead of the hub, relative to the working directory.")
    repository: Text | None = Field(None, description="Hub dataset to read, as owner/name. null: the source's own.")
    subset: Text | None = Field(None, description="Configuration (subset) of the dataset, if it has several.")
    revision: Text | None = Field(
        None,
        description="Commit, tag or branch of the hub dataset. null: the source's pinned one, else the latest.",
    )
    split: Text | None = Field(None, description="Split of the dataset. null: the source's default.")
    size: Count | None = Field(None, description="Rows sampled from this source. null: all.")
    weight: Positive | None = Field(
        None, description="Mixture weight, relative to the other sources. null for all: proportional to their rows."
    )
    options: dict[Text, Any] = Field(default_factory=dict, description="Options of this source; its page lists them.")

    @classmethod
    def expand(cls, value: Any) -> Any:
        """`alpaca` is `{name: alpaca}`; `rows.jsonl` and `owner/name` are `auto` with a path or a repository."""
        if not isinstance(value, str):
            return value
        is_file = value.lower().removesuffix(".gz").endswith(DATA_FILE_ENDINGS)
        if is_file:
            return {"name": "auto", "path": value}
        is_on_hub = HUB_NAME.fullmatch(value) and not value.startswith(".")
        return {"name": "auto", "repository": value} if is_on_hub else {"name": value}


class DataSettings(Section):
    """Which rows, which prompt template, and which tokens are in the loss."""

    shorthand: ClassVar[str] = "a string or a list (its sources)"
    shorthand_types: ClassVar[tuple[str, ...]] = ("string", "array")

    sources: tuple[SourceSettings, ...] = Field(min_length=1, description="Data sources, one or several.")
    size: Count | None = Field(None, description="Total rows, sampled over the sources. null: all.")
    train_size: Count | None = Field(
        None,
        description="Training rows, a sample of those left after held-out and validation rows, part of any larger one. "
        "null: all.",
    )
    held_out: ShareOrCount = Field(
        0.05, description="Rows held out for evaluation: a fraction of all rows, or a count. 0: none."
    )
    validation: ShareOrCount = Field(
        0,
        description="Rows to choose by (best weights, early stopping, a study's learning rates), apart from training "
        "and held-out rows: a fraction, or a count. 0: none.",
    )
    template: Text = Field(
        "auto",
        description="Prompt template: `chat` (the model's), a chat template by name (`chatml`, `gemma`, `llama3`, "
        "`mistral`, `phi3`), `alpaca`, `alpaca-short`, `plain` or `human-assistant`. auto: `chat` if the tokenizer has "
        "a chat template, else `alpaca`.",
    )
    chat_template: Text | None = Field(
        None,
        description="Jinja file used by `template: chat` instead of the tokenizer's, or the name of one of the "
        "tokenizer's several; the run keeps its text.",
    )
    date: Date | None = Field(
        None,
        description="Date (2026-01-31) for a chat template that writes one (Llama 3.2). null: today, in a study "
        "its first day; the run keeps it.",
    )
    thoughts: Literal["last", "each"] | None = Field(
        None,
        description="Rows with thoughts whose chat template drops earlier ones: last answer only, or one example each. "
        "null: refuse.",
    )
    loss_on: Literal["completion", "all"] = Field(
        "completion", description="Tokens in the loss: completions only, or prompts as well."
    )
    max_length: Count | None = Field(
        None,
        description="Maximum tokens per row. null: 1024, or the context window or train.micro_batch_tokens if smaller.",
    )
    on_overflow: Literal["drop", "truncate"] = Field(
        "drop",
        description="Longer rows: drop, or truncate the end; both are counted. drop: no incomplete answers.",
    )
    on_bad_row: Literal["error", "skip"] = Field(
        "error", description="Invalid rows: stop with an error that lists them, or skip and count them."
    )
    allow: tuple[Text, ...] = Field(
        (),
        description="Errors of the data checks (`tunelab lint`) that do not stop a training, by name.",
    )
    seed: CountOrZero = Field(0, description="Seed of the sample, the mixture and the split.")

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
    """Optimization: duration, learning rate, batches, and checkpoints."""

    epochs: Positive = Field(3, description="Passes over the training rows. 3 is Alpaca's choice.")
    steps: Count | None = Field(None, description="Optimizer steps; overrides epochs. null: set by epochs.")
    lr: Positive | None = Field(None, description="Peak learning rate. null: 2e-4 for LoRA, 2e-5 for full fine-tuning.")
    loraplus_lr_ratio: Positive | None = Field(
        None,
        description="LoRA+: B matrices learn this many times as fast as A (16 is usual). null: as fast.",
    )
    loraplus_lr_embedding: Positive = Field(
        1e-6, description="Learning rate of adapters on embeddings (of adapter.from), with loraplus_lr_ratio."
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Learning rate after warmup: decay to 0, or constant."
    )
    warmup: ShareOrCount = Field(
        0.03, description="Steps of linear warmup from 0: a fraction of all steps, or a count."
    )
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        "adamw", description="adamw-8bit: 8-bit optimizer moments, a quarter of the memory; paged on a GPU (QLoRA)."
    )
    weight_decay: NotNegative = Field(
        0.0, description="AdamW's weight decay. 0: it rarely helps in a few epochs of fine-tuning."
    )
    betas: tuple[Share, Share] = Field(
        (0.9, 0.999), description="AdamW's decay rates of the gradient moments (beta1, beta2)."
    )
    eps: Positive = Field(1e-8, description="AdamW's epsilon, for numerical stability.")
    max_grad_norm: Positive | None = Field(
        1.0, description="Gradient clipping: larger gradient norms are scaled down to this. null: no clipping."
    )
    neftune_alpha: Positive | None = Field(
        None,
        description="NEFTune: uniform noise on the embeddings of training rows, up to alpha / sqrt(length of the row × "
        "width); 5 is usual. null: none.",
    )
    batch_size: Count | None = Field(
        None, description="Rows per optimizer step (effective batch size). null: 16, unless batch_tokens is set."
    )
    batch_tokens: Count | None = Field(None, description="Tokens per optimizer step, instead of batch_size.")
    micro_batch_tokens: CountOrAuto = Field(
        4096, description="Tokens per forward pass, rows packed or padded. auto: the most that surely fit the memory."
    )
    packing: FlagOrAuto = Field(
        "auto",
        description="Pack rows into one sequence, no padding, no attention across rows. Same gradients as padded rows. "
        "auto: pack where that gives the model's own logits, else pad.",
    )
    activation_checkpointing: Flag = Field(
        False, description="Recompute activations in the backward pass (gradient checkpointing): less memory, slower."
    )
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Compute dtype of forward and backward. auto: bf16 on a GPU that supports it, and on a CPU with "
        "bf16 instructions if the checkpoint is in bf16 or fp16; else fp32.",
    )
    save_dtype: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Dtype of fully trained weights on disk. auto: the checkpoint's, unless rounding costs too much.",
    )
    eval_every: Count | None = Field(
        None,
        description="Steps between evaluations on validation rows, or on held-out rows if there are none. null: only "
        "at the end.",
    )
    early_stopping_patience: Count | None = Field(
        None, description="Evaluations on validation rows without improvement before training stops. null: never."
    )
    load_best_at_end: Flag = Field(
        False, description="Load the weights with the lowest validation loss at the end. false: keep the last ones."
    )
    save_every: Count | None = Field(
        None, description="Steps between checkpoints for resuming. null: ten checkpoints per run."
    )
    keep_checkpoints: Count = Field(2, description="Checkpoints to keep, newest first. 2: one as a fallback.")
    trackers: tuple[Literal["wandb", "tensorboard", "trackio"], ...] = Field(
        (), description="Experiment trackers that get the metrics, besides metrics.jsonl."
    )
    tracker_project: Text = Field("tunelab", description="Project name in the trackers.")
    tracker_group: Text | None = Field(
        None, description="Group name in the trackers. null: none; in a study, its title."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where it trains. auto: a GPU if there is one.")
    sharding: Literal["none", "full"] = Field("none", description="full: each process holds a share of a LoRA's base.")
    deterministic: Flag = Field(False, description="On a GPU, steps use only kernels that repeat their bits.")
    seed: CountOrZero = Field(0, description="Seed of adapter initialization, row order and dropout.")


class EvaluateSettings(Section):
    """Evaluation on held-out rows."""

    max_new_tokens: Count = Field(128, description="Maximum tokens per generated answer.")
    limit: Count | None = Field(
        None, description="Held-out rows to evaluate, a sample, the same for all models. null: all."
    )
    micro_batch_tokens: Count = Field(4096, description="Tokens per forward pass. Changes speed, not scores.")


class Recipe(Section):
    """What to train: model, method, precision, adapter, data, optimization."""

    model: ModelSettings = Field(description="The base model.")
    method: Literal["lora", "full"] = Field(
        "lora",
        description="lora: train low-rank adapters on a frozen base. full: full fine-tuning, all weights.",
    )
    precision: PrecisionSettings = Field(
        default_factory=PrecisionSettings, description="Weight format of the frozen base's linear layers."
    )
    adapter: AdapterSettings = Field(default_factory=AdapterSettings, description="LoRA settings.")
    data: DataSettings = Field(description="Data and prompt template.")
    train: TrainSettings = Field(default_factory=TrainSettings, description="Optimization.")
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings, description="Evaluation.")
    out: Text | None = Field(None, description="Run directory. null: named after model, adapter and data.")
