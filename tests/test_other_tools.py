"""Keys and values of other fine-tuning tools: each is answered with ours and the conversion, or with the reason why
there is none; never with one of ours that means something else."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import peft
import pytest
import transformers

from tunelab.cli._parser import VerbParser
from tunelab.config import load_recipe
from tunelab.config.other_tools import OTHER_KEYS, other_key
from tunelab.config.other_values import OTHER_VALUES
from tunelab.config.reference import recipe_keys
from tunelab.config.study import parse_study
from tunelab.config.study_reference import find_keys, study_keys
from tunelab.errors import ConfigError, Problem, UsageError

SMALL: dict[str, Any] = {"model": "gpt2", "data": "alpaca"}
KEYS = [key for part in OTHER_KEYS.values() for key in part]
PATHS = {key.path for key in recipe_keys()}
SECTIONS = ("", "train.", "adapter.", "data.", "model.", "evaluate.")


def problem_of(override: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        load_recipe(None, [override], SMALL)
    (problem,) = caught.value.problems
    return problem


def test_every_key_of_peft_s_lora_is_answered() -> None:
    """By a key of ours of that name, or by an entry of the table."""
    theirs = set(peft.LoraConfig.__annotations__) - {"base_model_name_or_path"}
    ours = {path.rpartition(".")[2] for path in PATHS if path.startswith("adapter.")}
    assert theirs - ours - {key.name for key in KEYS} == set()


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("save_steps=500", "write train.save_every=500 instead"),
        ("train.save_steps=500", "write train.save_every=500 instead"),
        ("train.eval_steps=50", "write train.eval_every=50 instead"),
        ("adapter.r=8", "write adapter.rank=8 instead"),
        ("adapter=qlora", "write method=lora precision=nf4 instead"),
        ("method=qlora", "write method=lora precision=nf4 instead"),
        ("load_in_4bit=true", "write precision=nf4 instead"),
        ("load_in_4bit=false", "omit it"),
        ("quantization_bit=8", "write precision=int8 instead"),
        ("quantization_bit=1", "write precision=nf4 or precision=int8 instead"),
        ("sequence_len=2048", "write data.max_length=2048 instead"),
        ("lora_target_modules=[q_proj, v_proj]", 'write adapter.targets=["q_proj", "v_proj"] instead'),
        ("train_on_inputs=false", "write data.loss_on=completion instead"),
        ("train_on_inputs=true", "write data.loss_on=all instead"),
        ("model_name_or_path=gpt2", "write model.name=gpt2 instead"),
        (
            "per_device_train_batch_size=4",
            "train.batch_size: rows per optimizer step: per-device batch size × gradient",
        ),
        (
            "gradient_accumulation_steps=4",
            "train.batch_size: rows per optimizer step: per-device batch size × gradient",
        ),
        ("logging_steps=10", "tunelab has no counterpart: every step is logged to metrics.jsonl"),
        ("neftune_noise_alpha=5", "write train.neftune_alpha=5 instead"),
        ("max_steps=-1", "omit it"),
        ("max_steps=100", "write train.steps=100 instead"),
        ("bf16=true", "write train.dtype=bf16 instead"),
        ("bf16=1", "write train.dtype=bf16 or train.dtype=auto instead"),
        ("optim=paged_adamw_8bit", "write train.optimizer=adamw-8bit instead"),
        ("train.optimizer=adafactor", "tunelab has no counterpart: only AdamW is implemented"),
        ("lr_scheduler_type=cosine_with_restarts", "tunelab has no counterpart: only cosine, linear and constant are"),
        ("train.schedule=constant_with_warmup", "write train.schedule=constant instead"),
        ("report_to=wandb", "write train.trackers=[wandb] instead"),
        ("train.trackers=wandb", "write train.trackers=[wandb] instead"),
        ("adapter.init=lora_ga", "tunelab has no counterpart: LoRA-GA needs gradients of the base"),
        ("pissa_init=true", "write adapter.init=pissa instead"),
        ("chat_template=chatml", "data.template: chat uses the tokenizer's chat template"),
        ("train.dtype=bfloat16", "write train.dtype=bf16 instead"),
        # A slip in another tool's key means that key, not the nearest of ours.
        ("train.save_step=5", "if you mean save_steps of transformers: write train.save_every=5 instead"),
    ],
)
def test_what_other_tools_call_it(override: str, hint: str) -> None:
    assert problem_of(override).hint.startswith(hint)


def test_the_tools_are_named() -> None:
    assert problem_of("save_steps=5").message == "unknown key (of transformers, Axolotl)"


def test_every_key_is_answered_with_its_own_counterpart() -> None:
    """In whatever section it is written; ours exists, and what is to be written is accepted."""
    for key in KEYS:
        assert key.ours or key.note, key
        assert not key.ours or key.ours in PATHS or key.ours == "precision.options.double_quantization", key
        assert key.tools and key.name not in {path for path in PATHS if "." not in path}, key
        for path in {f"{section}{key.name}" for section in SECTIONS} - PATHS:
            hint = problem_of(f"{path}=0.123").hint
            assert hint == key.remedy(0.123) and "did you mean" not in hint, path
            assert key.ours in hint if key.ours else hint.startswith("tunelab has no counterpart: "), path
        for written in key.values.values():
            load_recipe(None, written.split(), SMALL)


def test_values_are_ours_and_not_already_accepted() -> None:
    for path, values in OTHER_VALUES.items():
        assert path in PATHS
        for value, (written, reason) in values.items():
            assert bool(written) != bool(reason)
            load_recipe(None, written.split(), SMALL)
            assert problem_of(f"{path}={value}").hint.startswith(f"write {written}" if written else "tunelab has no")


def test_there_are_enough_and_each_once() -> None:
    names = [key.name for key in KEYS]
    assert len(names) >= 80 and len(names) == len(set(names))
    assert other_key("lr") is None


def test_keys_of_the_installed_libraries_exist_there() -> None:
    renamed = {"group_by_length", "evaluation_strategy", "warmup_ratio", "logging_dir", "overwrite_output_dir"}
    elsewhere = {"torch_dtype", "attn_implementation", "tokenizer_name", "load_in_4bit", "load_in_8bit"}
    theirs = {one.name for one in dataclasses.fields(transformers.TrainingArguments)} | renamed | elsewhere
    quantization = {name for name in dir(transformers.BitsAndBytesConfig()) if name.startswith("bnb_4bit")}
    assert {key.name for key in KEYS if "transformers" in key.tools} <= theirs | quantization
    lora = {one.name for one in dataclasses.fields(peft.LoraConfig)}
    assert {key.name for key in KEYS if "PEFT" in key.tools} <= lora


def test_flags_of_other_tools() -> None:
    for flag in ("--learning_rate", "--learning-rate"):
        with pytest.raises(UsageError, match=rf"unknown flag {flag} \(transformers, Axolotl\)") as caught:
            VerbParser(prog="tunelab train").parse_args([flag, "1e-4"])
        assert caught.value.hint == "write train.lr=VALUE instead"


def test_a_study_s_file_too() -> None:
    tree = {"title": "t", "recipe": SMALL, "arms": {"a": {}}, "benchmarks": {"held-out": {}}}
    with pytest.raises(ConfigError, match=r"write it under recipe, as recipe\.train"):
        parse_study({**tree, "train": {"lr": 1}})
    with pytest.raises(ConfigError, match=r"under recipe: write train\.save_every=5 instead"):
        parse_study({**tree, "save_steps": 5})
    with pytest.raises(ConfigError, match=r"arms\.a: save_steps: unknown key(.|\n)*write train\.save_every=5 instead"):
        parse_study({**tree, "arms": {"a": {"recipe": {"save_steps": 5}}}})


# The search of `tunelab keys`.


def test_a_word_finds_keys_by_name_description_and_other_tools_names() -> None:
    recipe, study, others = find_keys("packing")
    assert [key.path for key in recipe] == ["train.packing"] and study == []
    assert "sample_packing" in [key.name for key in others]
    assert "train.activation_checkpointing" in [key.path for key in find_keys("Gradient checkpointing")[0]]
    assert [key.path for key in find_keys("save_steps")[0]] == ["train.save_every"]
    assert [key.path for key in find_keys("price")[1]] == ["price_per_hour"]
    with pytest.raises(UsageError, match="no key has 'epochz' in its name or description") as caught:
        find_keys("epochz")
    assert caught.value.hint == "did you mean train.epochs?"
    with pytest.raises(UsageError, match="no key has 'xyzzy'") as caught:
        find_keys("xyzzy")
    assert caught.value.hint == "tunelab keys lists all"


def test_keys_of_a_study_are_all_described() -> None:
    found = study_keys()
    assert all(key.description and key.accepts and not re.search(r"None|class", key.accepts) for key in found)
    assert {"title", "arms.NAME.tuned", "questions.N.metric", "published.N.source", "tiny"} <= {
        key.path for key in found
    }
    assert next(key for key in found if key.path == "seeds").accepts == "a list, each an integer"
