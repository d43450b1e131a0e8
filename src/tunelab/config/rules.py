"""Rules between the keys of a recipe, and defaults that depend on other keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tunelab.config.recipe import Recipe
from tunelab.config.types import shown
from tunelab.errors import ConfigError, Problem
from tunelab.plugins import names

FORMATS = "models/formats"

#: More than any training takes; beyond them is a slip of the keyboard, or a plan that would never be done.
MOST_EPOCHS, MOST_STEPS = 100_000, 1_000_000_000

#: Built-in precisions; a .py file is accepted too.
PRECISIONS = ("none", *names(FORMATS))


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule between keys: the keys (the error is reported at the first), what must hold, the fix, and the test.

    Args:
        is_new: runs and studies of before may break it, and are still read and resumed.
    """

    keys: tuple[str, ...]
    wanted: str
    remedy: str
    broken: Callable[[Recipe], bool]
    is_new: bool = False


def _neither_share_nor_count(value: float) -> bool:
    return isinstance(value, float) and value >= 1


def _begins_elsewhere(recipe: Recipe) -> bool:
    return recipe.adapter.from_ is not None or recipe.adapter.init not in ("zero", "loftq")


RULES = (
    Rule(
        ("adapter.use_dora", "method"),
        "DoRA requires LoRA",
        "set method=lora or adapter.use_dora=false",
        lambda r: r.adapter.use_dora and r.method != "lora",
    ),
    Rule(
        ("adapter.use_rslora", "method"),
        "rsLoRA requires LoRA",
        "set method=lora or adapter.use_rslora=false",
        lambda r: r.adapter.use_rslora and r.method != "lora",
    ),
    Rule(
        ("train.loraplus_lr_ratio", "method"),
        "LoRA+ requires LoRA",
        "set method=lora or train.loraplus_lr_ratio=null",
        lambda r: r.train.loraplus_lr_ratio is not None and r.method != "lora",
    ),
    Rule(
        ("train.sharding", "method"),
        "full fine-tuning cannot be sharded yet",
        "set method=lora, or train.sharding=none",
        lambda r: r.train.sharding == "full" and r.method == "full",
    ),
    Rule(
        ("train.sharding", "precision.name"),
        "a quantized base cannot be sharded yet",
        "set precision=none, or train.sharding=none: each process then has all codes",
        lambda r: r.train.sharding == "full" and r.precision.name != "none",
    ),
    Rule(
        ("train.sharding", "adapter.also_train", "model.new_tokens", "adapter.use_dora"),
        "only LoRA's matrices can be trained next to a sharded base yet",
        "omit adapter.also_train, model.new_tokens and adapter.use_dora, or set train.sharding=none",
        lambda r: r.train.sharding == "full" and bool(r.adapter.also_train or r.model.new_tokens or r.adapter.use_dora),
    ),
    Rule(
        ("train.epochs",),
        f"expected at most {MOST_EPOCHS:,} passes over the rows",
        "lower train.epochs",
        lambda r: r.train.epochs > MOST_EPOCHS,
    ),
    Rule(
        ("train.steps",),
        f"expected at most {MOST_STEPS:,} steps",
        "lower train.steps",
        lambda r: (r.train.steps or 0) > MOST_STEPS,
    ),
    Rule(
        ("precision.name",),
        f"expected one of {', '.join(PRECISIONS)}, or a .py file",
        "set precision to one of them",
        lambda r: r.precision.name not in PRECISIONS and not r.precision.name.endswith(".py"),
    ),
    Rule(
        ("precision.name", "method"),
        "a quantized base is frozen and can only be trained with LoRA",
        "set method=lora, or precision=none",
        lambda r: r.precision.name != "none" and r.method == "full",
    ),
    Rule(
        ("adapter.from", "method"),
        "full fine-tuning starts from a model, not from an adapter",
        "set method=lora; or merge the adapter (tunelab merge) and give the result as model",
        lambda r: r.adapter.from_ is not None and r.method == "full",
    ),
    Rule(
        ("adapter.from", "adapter.init"),
        "an adapter that is trained further has its weights already",
        "omit adapter.init, or omit adapter.from for a new adapter",
        lambda r: r.adapter.from_ is not None and r.adapter.init != "zero",
    ),
    Rule(
        ("adapter.init", "precision.name"),
        "loftq corrects the quantization error and needs a quantized base",
        "set precision=nf4 (or another format), or adapter.init=zero",
        lambda r: r.adapter.init == "loftq" and r.precision.name == "none",
    ),
    Rule(
        ("adapter.init", "adapter.use_dora"),
        "DoRA is combined with zero, gaussian and orthogonal only",
        "set adapter.use_dora=false, or adapter.init=zero",
        lambda r: r.adapter.use_dora and r.adapter.init not in ("zero", "gaussian", "orthogonal"),
    ),
    Rule(
        ("adapter.init", "precision.name"),
        "the matrices are taken out of the base's weights, which a quantized base does not allow",
        "set precision=none, or adapter.init=loftq",
        lambda r: r.adapter.init.startswith(("pissa", "olora", "corda")) and r.precision.name != "none",
    ),
    Rule(
        ("adapter.init", "method"),
        "initial matrices require LoRA",
        "set method=lora or adapter.init=zero",
        lambda r: r.adapter.init != "zero" and r.method == "full",
    ),
    Rule(
        ("adapter.init", "adapter.rank"),
        "orthogonal matrices need an even rank",
        "set adapter.rank to an even number, or adapter.init=zero",
        lambda r: r.adapter.init == "orthogonal" and r.adapter.rank % 2 == 1,
    ),
    Rule(
        ("adapter.also_train", "method"),
        "full fine-tuning trains all modules already",
        "set method=lora or adapter.also_train=[]",
        lambda r: bool(r.adapter.also_train) and r.method != "lora",
    ),
    Rule(
        ("adapter.also_train", "adapter.from", "adapter.init"),
        "modules are trained in full only next to a new adapter that begins at zero or loftq",
        "omit adapter.also_train, or omit adapter.from and adapter.init",
        lambda r: bool(r.adapter.also_train) and _begins_elsewhere(r),
    ),
    Rule(
        ("model.new_tokens", "adapter.from", "adapter.init"),
        "new tokens are trained only next to a new adapter that begins at zero or loftq",
        "omit model.new_tokens, or omit adapter.from and adapter.init",
        lambda r: bool(r.model.new_tokens) and _begins_elsewhere(r),
    ),
    Rule(
        ("model.new_tokens",),
        "each token must be listed once",
        "remove the second one",
        lambda r: isinstance(tokens := r.model.new_tokens, tuple) and len(set(tokens)) < len(tokens),
    ),
    Rule(
        ("adapter.targets",),
        "the list of layers must not be empty",
        "name layers, or set adapter.targets=all-linear",
        lambda r: r.adapter.targets == (),
    ),
    Rule(
        ("adapter.layers",),
        "the list of layers must not be empty",
        "list numbers of layers, or set adapter.layers=null",
        lambda r: r.adapter.layers == (),
    ),
    Rule(
        ("data.sources",),
        "a source named `auto` needs a path or a repository to detect the format from",
        "give the source a name (see `tunelab inspect --help`), a path or a repository",
        lambda r: any(source.name == "auto" and not (source.path or source.repository) for source in r.data.sources),
    ),
    Rule(
        ("data.sources",),
        "either all sources have a weight or none",
        "give each source a weight, or remove them all",
        lambda r: len({source.weight is None for source in r.data.sources}) > 1,
    ),
    Rule(
        ("data.held_out",),
        "expected a fraction below 1, or an integer number of rows",
        "write 0.05 for 5 % of the rows, or 100 for 100 rows",
        lambda r: _neither_share_nor_count(r.data.held_out),
    ),
    Rule(
        ("data.validation",),
        "expected a fraction below 1, or an integer number of rows",
        "write 0.05 for 5 % of the rows, or 100 for 100 rows",
        lambda r: _neither_share_nor_count(r.data.validation),
    ),
    Rule(
        ("data.chat_template", "data.template"),
        "a chat template is used only with `template: chat`",
        "set data.template=chat or omit data.chat_template",
        lambda r: r.data.chat_template is not None and r.data.template not in ("chat", "auto"),
    ),
    Rule(
        ("data.date", "data.template"),
        "only a chat template writes a date",
        "set data.template=chat or omit data.date",
        lambda r: r.data.date is not None and r.data.template not in ("chat", "auto"),
    ),
    Rule(
        ("data.thoughts", "data.template"),
        "thoughts are ordinary text in a text template",
        "set data.template=chat or omit data.thoughts",
        lambda r: r.data.thoughts is not None and r.data.template not in ("chat", "auto"),
    ),
    Rule(
        ("data.max_length", "train.micro_batch_tokens"),
        "the longest row must fit into one micro-batch",
        "lower data.max_length or raise train.micro_batch_tokens",
        lambda r: r.train.micro_batch_tokens != "auto" and (r.data.max_length or 0) > r.train.micro_batch_tokens,
    ),
    Rule(
        ("train.batch_size", "train.batch_tokens"),
        "the batch size is set in rows or in tokens, not both",
        "keep one of the two and set the other to null",
        lambda r: r.train.batch_size is not None and r.train.batch_tokens is not None,
    ),
    Rule(
        ("train.warmup",),
        "expected a fraction below 1, or an integer number of steps",
        "write 0.03 for 3 % of the steps, or 100 for 100 steps",
        lambda r: _neither_share_nor_count(r.train.warmup),
    ),
    Rule(
        ("train.warmup", "train.steps"),
        "warmup must end before training does, or the learning rate never reaches train.lr",
        "lower train.warmup or raise train.steps",
        lambda r: r.train.steps is not None and r.train.warmup >= max(1, r.train.steps),
    ),
    Rule(
        ("train.eval_every", "data.validation", "data.held_out"),
        "evaluation during training needs validation or held-out rows",
        "set data.validation=0.05 or train.eval_every=null",
        lambda r: r.train.eval_every is not None and r.data.held_out == r.data.validation == 0,
    ),
    Rule(
        ("train.early_stopping_patience", "train.eval_every"),
        "early stopping needs evaluations during training",
        "set train.eval_every, or train.early_stopping_patience=null",
        lambda r: r.train.early_stopping_patience is not None and r.train.eval_every is None,
    ),
    Rule(
        ("train.load_best_at_end", "train.eval_every"),
        "finding the best weights needs evaluations during training",
        "set train.eval_every, or train.load_best_at_end=false",
        lambda r: r.train.load_best_at_end and r.train.eval_every is None,
    ),
    Rule(
        ("train.early_stopping_patience", "data.validation"),
        "early stopping chooses by validation rows; held-out rows only measure the result",
        "set data.validation=0.05, or train.early_stopping_patience=null",
        lambda r: r.train.early_stopping_patience is not None and r.data.validation == 0,
        is_new=True,
    ),
    Rule(
        ("train.load_best_at_end", "data.validation"),
        "the best weights are chosen by validation rows; held-out rows only measure the result",
        "set data.validation=0.05, or train.load_best_at_end=false",
        lambda r: r.train.load_best_at_end and r.data.validation == 0,
        is_new=True,
    ),
    Rule(
        ("train.dtype", "train.device"),
        "fp16 needs a GPU",
        "set train.dtype=fp32 or bf16, or train.device=cuda",
        lambda r: r.train.dtype == "fp16" and r.train.device == "cpu",
    ),
)


def value_at(recipe: Recipe, path: str) -> Any:
    """The value of a dotted key ("train.lr")."""
    value: Any = recipe
    for name in path.split("."):
        value = getattr(value, f"{name}_" if hasattr(value, f"{name}_") else name)
    return value


def broken_rules(recipe: Recipe, ignore: frozenset[str] = frozenset(), *, is_asked: bool = True) -> list[Problem]:
    """A problem for each broken rule; rules on a key in `ignore` (dotted paths) are skipped.

    Args:
        is_asked: False for a recipe that a run or study of before may carry along: new rules are skipped.
    """
    problems = []
    for rule in RULES:
        if rule.is_new and not is_asked:
            continue
        if ignore.isdisjoint(rule.keys) and rule.broken(recipe):
            values = [f"{key} is {shown(value_at(recipe, key))}" for key in rule.keys if key != "data.sources"]
            problems.append(
                Problem(rule.keys[0], rule.wanted + (f" ({', '.join(values)})" if values else ""), rule.remedy)
            )
    return problems


LR_ADAPTER, LR_FULL, BATCH_SIZE = 2e-4, 2e-5, 16


def default_lr(recipe: Recipe) -> float:
    """The learning rate of a recipe that names none."""
    return LR_FULL if recipe.method == "full" else LR_ADAPTER


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with the defaults that depend on other keys filled in: train.lr and train.batch_size.

    Raises:
        ConfigError: the recipe breaks a rule (possible if it was built in Python instead of by load_recipe).
    """
    problems = broken_rules(recipe)
    if problems:
        raise ConfigError("recipe", problems)
    filled: dict[str, Any] = {}
    if recipe.train.lr is None:
        filled["lr"] = default_lr(recipe)
    if recipe.train.batch_size is None and recipe.train.batch_tokens is None:
        filled["batch_size"] = BATCH_SIZE
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=filled)})
