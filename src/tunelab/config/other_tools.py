"""Keys of other fine-tuning tools: ours and the conversion, or why there is none.

The one table behind the hints for unknown keys and flags, `tunelab keys` and docs/guides/coming-from.md. Checked
against transformers 5.23, PEFT 0.21, and the sources of TRL 1.x, Axolotl and LLaMA-Factory of 2026.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunelab.config.other_values import other_value_remedy

TRAINER, PEFT, TRL, AXOLOTL, FACTORY = "transformers", "PEFT", "TRL", "Axolotl", "LLaMA-Factory"

#: Stands for a value that is not known, as in a hint for an unknown flag.
ANY = object()


@dataclass(frozen=True, slots=True)
class OtherKey:
    """A key of other tools.

    Args:
        name: their key.
        tools: the tools that have it. TRL and LLaMA-Factory also take the keys of transformers.
        ours: tunelab's key; "" = there is none.
        note: how to convert the value, or why there is no counterpart; "" = the value stays the same.
        values: their value -> what to write, for values that change; "" = omit it.
    """

    name: str
    tools: tuple[str, ...]
    ours: str
    note: str = ""
    values: Mapping[Any, str] = field(default_factory=dict)

    def remedy(self, value: Any = ANY) -> str:
        """What to write instead of it."""
        known = _lookup(self.values, value)
        if known is not None:
            return f"write {known} instead" if known else "omit it"
        if not self.ours:
            return f"tunelab has no counterpart: {self.note}"
        if found := other_value_remedy(self.ours, value):
            return found
        written = list(filter(None, self.values.values()))
        if written and not self.note:
            return f"write {' or '.join(written)} instead"
        if self.note:
            return f"{self.ours}: {self.note}"
        return f"write {self.ours}={'VALUE' if value is ANY else _word(value)} instead"

    def shown_values(self) -> list[tuple[str, str]]:
        """Their values as written in YAML, and what to write for each."""
        return [(_word(value), text) for value, text in self.values.items()]


def _lookup(values: Mapping[Any, str], value: Any) -> str | None:
    """The entry of a value; true is not 1."""
    return next((text for key, text in values.items() if key == value and type(key) is type(value)), None)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _switch(on: str, off: str = "") -> dict[Any, str]:
    return {True: on, False: off}


_T, _P, _R, _A, _F = (TRAINER,), (PEFT,), (TRL,), (AXOLOTL,), (FACTORY,)
_BATCH = "rows per optimizer step: per-device batch size × gradient accumulation × GPUs"
_STACKS = "names of experts' weights are in the same list; all-linear has them"
_ONLY_CAUSAL = "tunelab fine-tunes causal language models on instructions"
_PACKED = "rows are packed, or padded beside rows of similar length"
_ALWAYS = "every step is logged to metrics.jsonl"

#: Heading -> keys.
OTHER_KEYS: dict[str, tuple[OtherKey, ...]] = {
    "Model and method": (
        OtherKey("base_model", _A, "model.name"),
        OtherKey("model_name_or_path", (TRL, FACTORY), "model.name"),
        OtherKey("tokenizer_name", _T, "model.tokenizer"),
        OtherKey("tokenizer_config", _A, "model.tokenizer"),
        OtherKey("model_revision", (TRL, FACTORY), "model.revision"),
        OtherKey("revision_of_model", _A, "model.revision"),
        OtherKey("model_init_kwargs", _R, "model.revision", "revision and trust_remote_code are keys of `model`"),
        OtherKey("torch_dtype", (TRAINER, TRL), "train.dtype"),
        OtherKey("attn_implementation", (TRAINER, TRL), "", "packed attention is chosen by model and device"),
        OtherKey("flash_attention", _A, "", "packed attention is chosen by model and device"),
        OtherKey("flash_attn", _F, "", "packed attention is chosen by model and device"),
        OtherKey("finetuning_type", _F, "method", values={"lora": "method=lora", "full": "method=full"}),
        OtherKey("use_peft", _R, "method", values=_switch("method=lora", "method=full")),
        OtherKey("load_in_4bit", (TRAINER, TRL, AXOLOTL), "precision", values=_switch("precision=nf4")),
        OtherKey("load_in_8bit", (TRAINER, TRL, AXOLOTL), "precision", values=_switch("precision=int8")),
        OtherKey("quantization_bit", _F, "precision", values={4: "precision=nf4", 8: "precision=int8"}),
        OtherKey(
            "bnb_4bit_quant_type", (TRAINER, TRL), "precision", values={"nf4": "precision=nf4", "fp4": "precision=fp4"}
        ),
        OtherKey("bnb_4bit_compute_dtype", _T, "train.dtype"),
        OtherKey("bnb_4bit_use_double_quant", _T, "precision.options.double_quantization"),
        OtherKey("use_bnb_nested_quant", _R, "precision.options.double_quantization"),
        OtherKey("double_quantization", _F, "precision.options.double_quantization"),
        OtherKey("quantization_method", _F, "precision", "nf4, fp4, int8 and mxfp4 are built in"),
        OtherKey("peft_config", _R, "adapter", "the LoRA settings; method=lora is the default"),
    ),
    "LoRA": (
        OtherKey("r", _P, "adapter.rank"),
        OtherKey("lora_r", (TRL, AXOLOTL), "adapter.rank"),
        OtherKey("lora_model_dir", _A, "adapter.from", "a folder"),
        OtherKey("lora_rank", _F, "adapter.rank"),
        OtherKey("lora_alpha", (PEFT, TRL, AXOLOTL, FACTORY), "adapter.alpha"),
        OtherKey("lora_dropout", (PEFT, TRL, AXOLOTL, FACTORY), "adapter.dropout"),
        OtherKey("target_modules", _P, "adapter.targets"),
        OtherKey("lora_target_modules", (TRL, AXOLOTL), "adapter.targets"),
        OtherKey("lora_target", _F, "adapter.targets", "a list of names, or all-linear"),
        OtherKey("target_parameters", _P, "adapter.targets", _STACKS),
        OtherKey("lora_target_parameters", (TRL, AXOLOTL), "adapter.targets", _STACKS),
        OtherKey("lora_exclude_modules", _A, "adapter.exclude"),
        OtherKey("lora_target_linear", _A, "adapter.targets", values=_switch("adapter.targets=all-linear")),
        OtherKey("peft_use_rslora", _A, "adapter.use_rslora"),
        OtherKey("peft_use_dora", _A, "adapter.use_dora"),
        OtherKey(
            "init_lora_weights",
            _P,
            "adapter.init",
            "by the same names; zero is the default",
            {True: "", "loftq": "adapter.init=loftq precision=nf4"},
        ),
        OtherKey("loftq_config", _P, "adapter.init", "loftq; its rank and bits follow from adapter.rank and precision"),
        OtherKey("modules_to_save", _P, "adapter.also_train", "`embed_tokens`, `lm_head` and `norms` of any model"),
        OtherKey("trainable_token_indices", _P, "", "model.new_tokens=[...] adds tokens and trains their embeddings"),
        OtherKey(
            "peft_trainable_token_indices", _A, "", "model.new_tokens=[...] adds tokens and trains their embeddings"
        ),
        OtherKey("ensure_weight_tying", _P, "", "a tied head stays tied"),
        OtherKey("peft_ensure_weight_tying", _A, "", "a tied head stays tied"),
        OtherKey(
            "lora_modules_to_save",
            (TRL, AXOLOTL),
            "adapter.also_train",
            "`embed_tokens`, `lm_head` and `norms` of any model",
        ),
        OtherKey("additional_target", _F, "adapter.also_train", "a list"),
        OtherKey("bias", _P, "", "biases are frozen with method=lora, as in PEFT's default"),
        OtherKey("lora_bias", _P, "", "an adapter has no bias, as in PEFT's default"),
        OtherKey("rank_pattern", _P, "", "one rank for all layers"),
        OtherKey("alpha_pattern", _P, "", "one alpha for all layers"),
        OtherKey("exclude_modules", _P, "adapter.exclude"),
        OtherKey("layers_to_transform", _P, "adapter.layers", "a list"),
        OtherKey("layers_pattern", _P, "", "the number of a layer is the first in its name"),
        OtherKey("peft_layers_to_transform", _A, "adapter.layers", "a list"),
        OtherKey("fan_in_fan_out", _P, "", "set by the type of each layer"),
        OtherKey("task_type", _P, "", _ONLY_CAUSAL),
        OtherKey("loraplus_lr_ratio", (AXOLOTL, FACTORY), "train.loraplus_lr_ratio"),
        OtherKey("loraplus_lr_embedding", (AXOLOTL, FACTORY), "train.loraplus_lr_embedding"),
        OtherKey("pissa_init", _F, "adapter.init", values=_switch("adapter.init=pissa")),
        OtherKey("pissa_iter", _F, "adapter.init", "pissa_niter_N", {-1: "adapter.init=pissa"}),
        OtherKey("pissa_convert", _F, "", "the adapter is always saved as plain LoRA over the original base"),
        OtherKey("peft_init_lora_weights", _A, "adapter.init", "by the same names; zero is the default"),
        OtherKey("eva_config", _P, "", "adapter.init=eva has PEFT's defaults"),
        OtherKey("corda_config", _P, "", "adapter.init=corda has PEFT's defaults (ipm)"),
        OtherKey("lora_ga_config", _P, "", "LoRA-GA needs gradients of the base: not implemented"),
        OtherKey("layer_replication", _P, "", "the model keeps its layers"),
        OtherKey("alora_invocation_tokens", _P, "", "an adapter is active on every token"),
        OtherKey("use_qalora", _P, "", "QA-LoRA is not implemented; precision=nf4 is QLoRA"),
        OtherKey("qalora_group_size", _P, "", "QA-LoRA is not implemented; precision=nf4 is QLoRA"),
        OtherKey("use_bdlora", _P, "", "BD-LoRA is not implemented"),
        OtherKey("arrow_config", _P, "", "Arrow routes between adapters; a run trains one"),
        OtherKey("kasa_config", _P, "", "KaSA is not implemented"),
        OtherKey("monteclora_config", _P, "", "MonteCLoRA is not implemented"),
        OtherKey("velora_config", _P, "", "VeLoRA is not implemented; train.activation_checkpointing saves memory"),
        OtherKey("megatron_config", _P, "", "Megatron is not supported; torchrun trains on several GPUs (DDP)"),
        OtherKey("megatron_core", _P, "", "Megatron is not supported; torchrun trains on several GPUs (DDP)"),
        OtherKey("runtime_config", _P, "", "it is for initial matrices computed on a GPU from a base on the CPU"),
        OtherKey("create_new_adapter", _F, "", "adapter.from trains that adapter further; a new one is the default"),
        OtherKey("adapter_name_or_path", _F, "adapter.from", "a folder; tunelab eval and chat take --adapter DIR"),
    ),
    "Data": (
        OtherKey("dataset", _F, "data.sources", "a list of source names or files"),
        OtherKey("datasets", _A, "data.sources", "a list of {name, path}; `name` is the format, like Axolotl's `type`"),
        OtherKey("dataset_name", _R, "data.sources", "a source name, or {name: auto, path: FILE}"),
        OtherKey("dataset_dir", _F, "data.sources", "give the path of each file"),
        OtherKey("dataset_text_field", _R, "data.sources", "a source's options map its columns"),
        OtherKey("eval_dataset", _F, "data.held_out", "held out of data.sources; to choose by: data.validation"),
        OtherKey("test_datasets", _A, "data.held_out", "rows are held out of data.sources"),
        OtherKey("val_set_size", _A, "data.held_out"),
        OtherKey("val_size", _F, "data.held_out"),
        OtherKey("max_samples", _F, "data.size", "of all sources; data.sources.N.size of one"),
        OtherKey("interleave_probs", _F, "data.sources.N.weight", "one number per source"),
        OtherKey("mix_strategy", _F, "data.sources.N.weight", "without weights, sources are concatenated"),
        OtherKey("sequence_len", _A, "data.max_length"),
        OtherKey("cutoff_len", _F, "data.max_length"),
        OtherKey("max_seq_length", _R, "data.max_length"),
        OtherKey("truncation_mode", _R, "data.on_overflow", values={"keep_start": "data.on_overflow=truncate"}),
        OtherKey("excess_length_strategy", _A, "data.on_overflow"),
        OtherKey(
            "chat_template",
            _A,
            "data.template",
            "chat uses the tokenizer's chat template; a Jinja file goes into data.chat_template",
        ),
        OtherKey("chat_template_path", _R, "data.chat_template", "a Jinja file, with data.template=chat"),
        OtherKey("chat_template_jinja", _A, "data.chat_template", "a Jinja file, with data.template=chat"),
        OtherKey("train_on_inputs", _A, "data.loss_on", values=_switch("data.loss_on=all", "data.loss_on=completion")),
        OtherKey("train_on_prompt", _F, "data.loss_on", values=_switch("data.loss_on=all", "data.loss_on=completion")),
        OtherKey(
            "completion_only_loss", _R, "data.loss_on", values=_switch("data.loss_on=completion", "data.loss_on=all")
        ),
        OtherKey(
            "assistant_only_loss", _R, "data.loss_on", values=_switch("data.loss_on=completion", "data.loss_on=all")
        ),
        OtherKey("mask_history", _F, "", "mark each turn instead: `weight: 0` in its row makes it context"),
        OtherKey("eos_token", _R, "", "the prompt template sets the end token; `tunelab inspect` shows it"),
        OtherKey("special_tokens", _A, "", "the tokenizer's own are used; model.new_tokens=[...] adds others"),
        OtherKey("tokens", _A, "model.new_tokens"),
        OtherKey("add_tokens", _F, "model.new_tokens", "a list"),
        OtherKey("add_special_tokens", _F, "model.new_tokens", "a list"),
        OtherKey("dataset_num_proc", _R, "", "tokenized rows are cached; `tunelab prepare` tokenizes ahead"),
        OtherKey("preprocessing_num_workers", _F, "", "tokenized rows are cached; `tunelab prepare` tokenizes ahead"),
        OtherKey("overwrite_cache", _F, "", "the cache is keyed by everything that changes the tokens"),
        OtherKey("dataset_prepared_path", _A, "", "the cache directory is $TUNELAB_CACHE"),
        OtherKey("remove_unused_columns", _T, "", "a source reads the columns it needs"),
        OtherKey("dataloader_num_workers", _T, "", "rows are tokenized before training"),
    ),
    "Batches and optimizer": (
        OtherKey("per_device_train_batch_size", _T, "train.batch_size", _BATCH),
        OtherKey("micro_batch_size", _A, "train.batch_size", _BATCH),
        OtherKey("gradient_accumulation_steps", (TRAINER, AXOLOTL), "train.batch_size", _BATCH),
        OtherKey(
            "per_device_eval_batch_size", _T, "evaluate.micro_batch_tokens", "in tokens per forward pass, not rows"
        ),
        OtherKey("eval_batch_size", _A, "evaluate.micro_batch_tokens", "in tokens per forward pass, not rows"),
        OtherKey(
            "auto_find_batch_size", _T, "", "train.micro_batch_tokens=auto takes what fits; results do not change"
        ),
        OtherKey("sample_packing", _A, "train.packing"),
        OtherKey("neat_packing", _F, "train.packing"),
        OtherKey("packing_strategy", _R, "train.packing", "rows are packed whole"),
        OtherKey("eval_packing", _R, "", "packing of held-out rows is automatic and does not change scores"),
        OtherKey("eval_sample_packing", _A, "", "packing of held-out rows is automatic and does not change scores"),
        OtherKey("padding_free", _R, "", _PACKED),
        OtherKey("pad_to_sequence_len", _A, "", _PACKED),
        OtherKey("pad_to_multiple_of", _R, "", _PACKED),
        OtherKey("group_by_length", _T, "", _PACKED),
        OtherKey("train_sampling_strategy", _T, "", _PACKED),
        OtherKey("num_train_epochs", _T, "train.epochs"),
        OtherKey("num_epochs", _A, "train.epochs"),
        OtherKey("max_steps", (TRAINER, AXOLOTL), "train.steps", values={-1: ""}),
        OtherKey("learning_rate", (TRAINER, AXOLOTL), "train.lr"),
        OtherKey("lr_scheduler_type", _T, "train.schedule"),
        OtherKey("lr_scheduler", _A, "train.schedule"),
        OtherKey("lr_scheduler_kwargs", _T, "", "schedules have no options"),
        OtherKey("warmup_steps", (TRAINER, AXOLOTL), "train.warmup"),
        OtherKey("warmup_ratio", (TRAINER, AXOLOTL), "train.warmup"),
        OtherKey("optim", _T, "train.optimizer"),
        OtherKey("adam_beta1", (TRAINER, AXOLOTL), "train.betas", "[beta1, beta2]"),
        OtherKey("adam_beta2", (TRAINER, AXOLOTL), "train.betas", "[beta1, beta2]"),
        OtherKey("adam_epsilon", (TRAINER, AXOLOTL), "train.eps"),
        OtherKey(
            "bf16",
            (TRAINER, AXOLOTL),
            "train.dtype",
            values={**_switch("train.dtype=bf16"), "auto": "train.dtype=auto"},
        ),
        OtherKey("fp16", (TRAINER, AXOLOTL), "train.dtype", values=_switch("train.dtype=fp16")),
        OtherKey("pure_bf16", _F, "train.dtype", values=_switch("train.dtype=bf16")),
        OtherKey("tf32", (TRAINER, AXOLOTL), "", "fp32 is computed in fp32"),
        OtherKey("gradient_checkpointing", (TRAINER, AXOLOTL), "train.activation_checkpointing"),
        OtherKey(
            "gradient_checkpointing_kwargs", (TRAINER, AXOLOTL), "", "train.activation_checkpointing has no options"
        ),
        OtherKey("activation_offloading", _R, "", "not implemented; train.activation_checkpointing saves memory"),
        OtherKey("data_seed", _T, "train.seed", "it seeds row order too; data.seed is the sample and the split"),
        OtherKey("use_cpu", _T, "train.device", values=_switch("train.device=cpu")),
        OtherKey("label_smoothing_factor", _T, "", "not implemented"),
        OtherKey("neftune_noise_alpha", (TRAINER, AXOLOTL), "train.neftune_alpha"),
        OtherKey("use_liger_kernel", _T, "", "the loss is chunked and attention packed by tunelab's own code"),
        OtherKey("torch_compile", (TRAINER, AXOLOTL), "", "not implemented"),
        OtherKey("deepspeed", (TRAINER, AXOLOTL), "", "not implemented; torchrun trains on several GPUs (DDP)"),
        OtherKey("fsdp", (TRAINER, AXOLOTL), "train.sharding", "full: a LoRA's dense base; no full fine-tuning yet"),
        OtherKey("use_galore", _F, "", "GaLore is not implemented"),
        OtherKey("stage", _F, "", _ONLY_CAUSAL, {"sft": ""}),
        OtherKey("rl", _A, "", _ONLY_CAUSAL),
        OtherKey("freeze_trainable_layers", _F, "", "method is lora or full"),
    ),
    "Evaluation, checkpoints, logging": (
        OtherKey("eval_steps", (TRAINER, AXOLOTL), "train.eval_every"),
        OtherKey(
            "eval_strategy",
            (TRAINER, AXOLOTL),
            "train.eval_every",
            "in steps; null (the default): only at the end",
            {"no": ""},
        ),
        OtherKey(
            "evaluation_strategy",
            (TRAINER, AXOLOTL),
            "train.eval_every",
            "in steps; null (the default): only at the end",
            {"no": ""},
        ),
        OtherKey("evals_per_epoch", _A, "train.eval_every", "in steps, not per epoch"),
        OtherKey("do_eval", _T, "data.held_out", "held-out rows are always evaluated; 0: none"),
        OtherKey("eval_max_new_tokens", _A, "evaluate.max_new_tokens"),
        OtherKey("load_best_model_at_end", (TRAINER, AXOLOTL), "train.load_best_at_end"),
        OtherKey("metric_for_best_model", _T, "", "the best weights are those with the lowest validation loss"),
        OtherKey("greater_is_better", _T, "", "the best weights are those with the lowest validation loss"),
        OtherKey("early_stopping_steps", _F, "train.early_stopping_patience"),
        OtherKey("save_steps", (TRAINER, AXOLOTL), "train.save_every"),
        OtherKey("save_strategy", (TRAINER, AXOLOTL), "train.save_every", "in steps; null (the default): ten per run"),
        OtherKey("saves_per_epoch", _A, "train.save_every", "in steps, not per epoch"),
        OtherKey("save_total_limit", (TRAINER, AXOLOTL), "train.keep_checkpoints"),
        OtherKey("save_only_model", (TRAINER, AXOLOTL), "", "checkpoints can always be resumed"),
        OtherKey("resume_from_checkpoint", (TRAINER, AXOLOTL), "", "the command resumes: tunelab train --resume RUN"),
        OtherKey("output_dir", (TRAINER, AXOLOTL), "out"),
        OtherKey("overwrite_output_dir", _T, "", "a run is never overwritten by a key of its recipe"),
        OtherKey("logging_steps", (TRAINER, AXOLOTL), "", _ALWAYS),
        OtherKey("logging_strategy", _T, "", _ALWAYS),
        OtherKey("logging_dir", _T, "", "logs are in the run directory"),
        OtherKey("plot_loss", _F, "", "the report of a study or of tunelab compare --out plots it"),
        OtherKey("report_to", _T, "train.trackers", "a list: [wandb], [tensorboard], [trackio]"),
        OtherKey("use_tensorboard", _A, "train.trackers", values=_switch("train.trackers=[tensorboard]")),
        OtherKey("wandb_project", _A, "train.tracker_project"),
        OtherKey("project", _T, "train.tracker_project"),
        OtherKey("run_name", _T, "", "a run is named after its directory: out"),
        OtherKey("wandb_name", _A, "", "a run is named after its directory: out"),
        OtherKey("push_to_hub", _T, "", "after training: `tunelab push RUN OWNER/NAME`"),
        OtherKey("hub_model_id", (TRAINER, AXOLOTL), "", "after training: `tunelab push RUN OWNER/NAME`"),
        OtherKey("predict_with_generate", _F, "", "`tunelab eval` always generates answers to held-out rows"),
    ),
}

_BY_NAME = {one.name: one for part in OTHER_KEYS.values() for one in part}


def other_key(name: str) -> OtherKey | None:
    """The entry of another tool's key; None if the table does not have it."""
    return _BY_NAME.get(name)


def other_key_names() -> list[str]:
    """All keys of the table."""
    return list(_BY_NAME)
