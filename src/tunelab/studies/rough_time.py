"""How long a study's jobs will take, roughly, before any has run: the model's size, the rows, this machine's speed.

Good to a factor of about two for trainings of 2M and 135M parameters on two CPU cores, where it was compared with the
time that they took; elsewhere not compared. An hour can be told from a week. Jobs that are done say it better.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM

from tunelab.config import Recipe
from tunelab.config.questions import HELD_OUT
from tunelab.config.study import FORGETTING, Study
from tunelab.evaluation.benchmark_files import load_benchmark, read_items
from tunelab.failures import in_words
from tunelab.models.load import DTYPES, load_config
from tunelab.preparation.model import compute_device, compute_dtype
from tunelab.preparation.rows import fit_to_model, read_source, row_encoder, select
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.records.cells import Cell
from tunelab.training.forecast import PASSES

_T = TypeVar("_T")

#: Jobs that are estimated: trainings, and evaluations on these.
_ESTIMATED = ("", HELD_OUT, FORGETTING)

#: Rows that are tokenized to know how long rows are.
ROWS_TOKENIZED = 100

#: Shape of the matrix products that are timed, and for how long in seconds.
TOKENS_TIMED, SECONDS_TIMED = 512, 0.1

#: Speed of a model relative to that of a matrix product of its width: attention, norms, the loss, the optimizer and
#: Python take the rest. Trainings had 0.45 (135M, benchmarks/results/2026-11-30-real-model.md) and 0.25 (2.2M).
SHARE_OF_PRODUCT = 0.4

#: Time of a generated token in tokens of a forward pass: decoding computes one token per row at a time.
TOKENS_PER_GENERATED = 8

#: Of a text in English, by tokenizers of today.
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class _Rows:
    """How many rows of each kind, and mean tokens per row and per answer."""

    training: int
    held_out: int
    validation: int
    tokens: float
    answer_tokens: float


@dataclass(frozen=True, slots=True)
class RoughTime:
    """What jobs will take.

    Args:
        seconds: by key, of the trainings, and of the evaluations on held-out rows and general texts.
        unknown: why there is no time for the others, in sentences.
    """

    seconds: dict[str, float]
    unknown: list[str]


def rough_time(study: Study, cells: Sequence[Cell]) -> RoughTime:
    """The time of these jobs, as far as it can be estimated."""
    found: dict[str, float] = {}
    lacking: dict[str, list[str]] = {}  # why -> arms
    rates: dict[str, float | str] = {}
    counted: dict[str, _Rows | str] = {}
    texts = _text_bytes() / BYTES_PER_TOKEN
    for cell in cells:
        if cell.benchmark not in _ESTIMATED:
            continue
        recipe = study.at(cell.budget).arm_recipe(cell.arm, study.seeds[0])
        settings = recipe.train
        rate = _known(rates, f"{recipe.model!r} {settings.dtype} {settings.device}", partial(_forward_rate, recipe))
        rows = _known(counted, f"{recipe.model!r} {recipe.data!r}", partial(_row_counts, recipe))
        if isinstance(rate, str) or isinstance(rows, str):
            lacking.setdefault(rate if isinstance(rate, str) else str(rows), []).append(cell.arm)
        else:
            tokens = {"": _training_tokens(recipe, rows), HELD_OUT: _evaluation_tokens(recipe, rows)}
            found[cell.key] = tokens.get(cell.benchmark, texts) / rate
    unknown = [f"{', '.join(dict.fromkeys(arms))}: {why}" for why, arms in lacking.items()]
    if others := dict.fromkeys(cell.benchmark for cell in cells if cell.benchmark not in _ESTIMATED):
        unknown.append(f"jobs on {', '.join(others)} are not estimated before one is done")
    return RoughTime(found, unknown)


def _text_bytes() -> int:
    """Size of the general texts that ship."""
    module = load_benchmark(FORGETTING)
    return sum(int(item.target) for item in read_items(FORGETTING, module, module.Options())[0])


def _known(known: dict[str, _T | str], key: str, compute: Callable[[], _T]) -> _T | str:
    """A value that is computed once; a text = why it cannot be."""
    if key not in known:
        try:
            known[key] = compute()
        except Exception as failure:  # the code of any architecture
            known[key] = in_words(failure).message
    return known[key]


def _training_tokens(recipe: Recipe, rows: _Rows) -> float:
    """A training in tokens of a forward pass: its steps, and the losses before and after."""
    settings = recipe.train
    trained = settings.epochs * rows.training * rows.tokens
    if settings.steps is not None:
        trained = settings.steps * (settings.batch_tokens or (settings.batch_size or 16) * rows.tokens)
    passes = PASSES[recipe.method] + settings.activation_checkpointing
    return passes * trained + 2 * (rows.held_out + rows.validation) * rows.tokens


def _evaluation_tokens(recipe: Recipe, rows: _Rows) -> float:
    """An evaluation on held-out rows in tokens of a forward pass: likelihoods and generated answers."""
    count = min(rows.held_out, recipe.evaluate.limit or rows.held_out)
    generated = min(2 * rows.answer_tokens, recipe.evaluate.max_new_tokens)
    return count * (rows.tokens + TOKENS_PER_GENERATED * generated)


def _forward_rate(recipe: Recipe) -> float:
    """Tokens per second of a forward pass: two operations per weight, at a share of the speed of a matrix product."""
    model = recipe.model
    config = load_config(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    width = int(config.get_text_config().hidden_size)
    return SHARE_OF_PRODUCT * _operations_per_second(width, recipe) / (2 * _weights(config))


def _weights(config: Any) -> int:
    """Weights that a token is multiplied with: all but those of an embedding that is not the LM head as well."""
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config)
    embedding = model.get_input_embeddings().weight
    is_tied = model.get_output_embeddings().weight is embedding
    return sum(int(one.numel()) for one in model.parameters()) - (0 if is_tied else int(embedding.numel()))


def _operations_per_second(width: int, recipe: Recipe) -> float:
    """Floating-point operations per second of a matrix product of this width, measured now."""
    device, dtype = compute_device(recipe), DTYPES[compute_dtype(recipe)]
    left = torch.ones(TOKENS_TIMED, width, device=device, dtype=dtype)
    right = torch.ones(width, 4 * width, device=device, dtype=dtype)
    products = 0
    (left @ right).sum().item()  # the first one also starts the library
    began = time.perf_counter()
    while (seconds := time.perf_counter() - began) < SECONDS_TIMED or not products:
        (left @ right)[0, 0].item()  # waits for the device
        products += 1
    return products * 2 * TOKENS_TIMED * width * 4 * width / seconds


def _row_counts(recipe: Recipe) -> _Rows:
    """Rows as the study divides them; the first hundred say how long they are."""
    tokenizer = load_recipe_tokenizer(recipe)
    fitted = fit_to_model(recipe, tokenizer)
    sources = [read_source(fitted.data, number) for number in range(len(fitted.data.sources))]
    selection, encoder = select(fitted.data, sources), row_encoder(tokenizer, fitted)
    rows = [encoder.encode(example) for example in selection.train[:ROWS_TOKENIZED]]
    longest = fitted.data.max_length or max(len(row.input_ids) for row in rows)
    tokens = [min(len(row.input_ids), longest) for row in rows]
    answers = [int(row.answer_mask.sum()) for row in rows]
    return _Rows(
        training=len(selection.train),
        held_out=len(selection.held_out),
        validation=len(selection.validation),
        tokens=float(np.mean(tokens)),
        answer_tokens=float(np.mean(answers)),
    )
