"""Chat with a run, or with a model with or without an adapter: loaded once for many questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from tunelab.answering.chat_session import BASE, TUNED, ChatSession, ModelSource
from tunelab.answering.generate import prompted
from tunelab.config import Recipe, load_recipe, resolve
from tunelab.files import as_path
from tunelab.inference.engine import context_length
from tunelab.inference.sampling import Decoding
from tunelab.models.adapters import load_adapter, without_adapter
from tunelab.models.load import check_tokenizer_fits
from tunelab.preparation.base import dated, own_recipe, run_tokenizer, trained_recipe, trained_weights
from tunelab.preparation.model import autocast, load_base, load_trained
from tunelab.preparation.rows import row_encoder
from tunelab.records.runs import Run, check_finished, open_run


@dataclass(frozen=True)
class Chat:
    """A chat session, with a description of the model, and the name of its template with the date that it writes."""

    session: ChatSession
    title: str
    template: str

    def ask(self, question: str) -> str:
        """The answer to a question, in the conversation so far; if base and tuned both answer, under their names.

        Raises:
            UsageError, BadRow, ModelError: see ChatSession.ask(); the conversation stays as it was.
        """
        reply = self.session.ask(question)
        for _ in reply.pieces:
            pass
        if len(reply.texts) == 1:
            return next(iter(reply.texts.values()))
        return "\n".join(f"{name}: {text}" for name, text in reply.texts.items())


def chat_with_run(
    run: Run | Path | str,
    *,
    base: Path | str | None = None,
    decoding: Decoding | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Chat:
    """A chat with a finished run and its base model, in the template that it was trained with.

    Args:
        base: the folder where the run's base is now, if it moved.
        decoding: None = greedy, at most 128 new tokens, or half of the model's context window if that is less.
        tools: the functions that the model may call, as OpenAI describes them.

    Raises:
        BadRow: the template ignores the tools.
        RunError: there is no run, it is not finished, or its base is not the one that it was trained on.
        UsageError: the run's device is not available.
        ModelError: model or adapter cannot be loaded.
    """
    run = open_run(run)
    check_finished(run)
    tokenizer = run_tokenizer(run)
    if run.adapter.exists():
        recipe = trained_recipe(run, base)
        models, context = _with_adapter(recipe, run.adapter, tokenizer)
        encoder, what = row_encoder(tokenizer, recipe), "adapter"
    else:
        models, context = _with_own_weights(run, base, tokenizer)
        encoder, what = row_encoder(tokenizer, trained_weights(run)), "full fine-tuning"
    session = ChatSession(models, encoder, context=context, decoding=decoding or _fitting(context), tools=tools)
    title = f"{run.path} ({what}, base {run.recipe.model.name})"
    return Chat(session, title, _named_template(run.recipe, tokenizer))


def chat_with_model(
    model: Path | str,
    *,
    adapter: Path | str | None = None,
    template: str | None = None,
    precision: str = "none",
    decoding: Decoding | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Chat:
    """A chat with a model, optionally with an adapter.

    The template is the requested one; otherwise, for an adapter in a run's directory, the one that it was trained
    with; otherwise the tokenizer's chat template, or Alpaca's if it has none.

    Args:
        precision: how the model's linear weights are stored.
        decoding, tools: as for chat_with_run().

    Raises:
        BadRow: the template ignores the tools.
        UsageError: unknown template.
        ModelError: model, adapter or tokenizer cannot be loaded, or the tokenizer has no chat template.
    """
    model, adapter = str(as_path(model, "model")), None if adapter is None else as_path(adapter, "adapter")
    # A recipe requires data sources; none are read here.
    flags = {"model": model, "precision": precision, "data.template": template, "data.sources": ["alpaca"]}
    recipe, tokenizer, _ = prompted(resolve(load_recipe(None, [], flags)), adapter)
    if adapter is None:
        loaded = _fitted(load_base(recipe, tokenizer), tokenizer)
        models: dict[str, ModelSource] = {BASE: lambda: _computing(recipe, loaded)}
        context = context_length(loaded)
    else:
        models, context = _with_adapter(recipe, adapter, tokenizer)
    encoder = row_encoder(tokenizer, recipe)
    session = ChatSession(models, encoder, context=context, decoding=decoding or _fitting(context), tools=tools)
    title = model if adapter is None else f"{adapter} (adapter, base {model})"
    return Chat(session, title, _named_template(recipe, tokenizer))


def _named_template(recipe: Recipe, tokenizer: Any) -> str:
    day = dated(tokenizer, recipe)
    return recipe.data.template + (f" (date {day})" if day else "")


def _fitting(context: int | None) -> Decoding:
    """Default settings; answers take at most half of the context window and leave the rest for the conversation."""
    usual = Decoding()
    return usual if context is None else replace(usual, max_new_tokens=max(1, min(usual.max_new_tokens, context // 2)))


def _with_adapter(recipe: Recipe, folder: Path, tokenizer: Any) -> tuple[dict[str, ModelSource], int | None]:
    """Base and tuned from a single load of the weights: adapter off and on."""
    loaded = load_base(recipe, tokenizer)
    model = load_adapter(loaded, folder)
    _fitted(loaded, tokenizer)

    @contextmanager
    def base() -> Iterator[nn.Module]:
        with without_adapter(model), _computing(recipe, model):
            yield model

    return {BASE: base, TUNED: lambda: _computing(recipe, model)}, context_length(model)


def _with_own_weights(run: Run, base: Path | str | None, tokenizer: Any) -> tuple[dict[str, ModelSource], int | None]:
    """Two models: the tuned one is loaded now, the base on first use; both stay in memory."""
    recipe = own_recipe(run)
    tuned = _fitted(load_trained(recipe, run.model), tokenizer)

    @cache
    def untuned() -> nn.Module:
        loaded: nn.Module = _fitted(load_base(trained_recipe(run, base), tokenizer), tokenizer)
        return loaded

    models: dict[str, ModelSource] = {
        BASE: lambda: _computing(recipe, untuned()),
        TUNED: lambda: _computing(recipe, tuned),
    }
    return models, context_length(tuned)


@contextmanager
def _computing(recipe: Recipe, model: nn.Module) -> Iterator[nn.Module]:
    """The model, with forward passes in its compute dtype, as in evaluation."""
    with autocast(recipe):
        yield model


def _fitted(model: Any, tokenizer: Any) -> Any:
    check_tokenizer_fits(model, tokenizer)
    return model
