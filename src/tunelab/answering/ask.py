"""Generate answers, or open a chat, from Python: with a run, a model's name, or a responder that is already open."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, overload

from tunelab.answering.answer import Answer
from tunelab.answering.chat import Chat, chat_with_model, chat_with_run
from tunelab.answering.generate import open_responder, subject_of
from tunelab.answering.responder import Responder
from tunelab.data.prompts import Prompt, as_prompts, as_tools, read_prompts, read_tools
from tunelab.errors import UsageError
from tunelab.inference.sampling import Decoding
from tunelab.notebook import shown_in_notebooks
from tunelab.progress import Progress
from tunelab.records.runs import Run

Subject = Run | Path | str
PromptLike = str | Prompt | Mapping[str, Any]


@overload
def generate(subject: Subject | Responder, prompts: str, **settings: Any) -> Answer: ...


@overload
def generate(
    subject: Subject | Responder, prompts: Path | Mapping[str, Any] | Sequence[PromptLike], **settings: Any
) -> list[Answer]: ...


def generate(
    subject: Subject | Responder,
    prompts: str | Path | Mapping[str, Any] | Sequence[PromptLike],
    *,
    arm: str | None = None,
    adapter: Path | str | None = None,
    template: str | None = None,
    changes: Sequence[str] = (),
    raw: bool = False,
    micro_batch_tokens: int | None = None,
    progress: Progress = shown_in_notebooks,
    **decoding: Any,
) -> Answer | list[Answer]:
    """Answer prompts with a run or a model.

        generate("runs/first", "Name three colors.").text
        generate("distilgpt2", ["One.", "Two."], temperature=0.7, max_new_tokens=40)

    Args:
        subject: a finished run or its directory; a model's name or folder; or open_responder()'s result, which keeps
            the weights loaded for the next call.
        prompts: a text; or several texts or mappings ({"prompt": ...}, {"messages": [...]}); or the Path of a file of
            prompts.
        arm: "tuned" (the default if there is one) or "base".
        adapter, template, changes: with a model: its adapter, its prompt template, and recipe overrides such as
            "train.dtype=bf16".
        raw: use a prompt's text as it is, without the template.
        decoding: max_new_tokens, temperature, top_p, top_k, min_p, repetition_penalty, seed, stop_strings.

    Returns:
        The answer to a text; else the answers in the prompts' order.

    Raises:
        UsageError: conflicting arguments, or an unknown or invalid decoding setting.
        DataError: lists every prompt that cannot be used, before any is answered.
        RunError: the run is not finished.
        ModelError: the model cannot be loaded.
    """
    how = decoding_of(decoding)
    asked = _prompts(prompts)
    given = _given(arm=arm, adapter=adapter, template=template, raw=raw or None, changes=changes or None)
    if isinstance(subject, Responder):
        if given:
            raise UsageError(f"an open responder keeps its {', '.join(given)}", "give them to open_responder()")
        responder = subject
    else:
        run, model = subject_of(subject)
        responder = open_responder(run, model=model, **given)
    order = {prompt.item: place for place, prompt in enumerate(asked)}
    made: dict[int, Answer] = {}
    for answer in responder.answer(asked, how, micro_batch_tokens=micro_batch_tokens):
        made[order[answer.item]] = answer
        progress("answering", len(made), len(asked))
    answers = [made[place] for place in range(len(asked))]
    return answers[0] if isinstance(prompts, str) else answers


def chat(
    subject: Subject,
    *,
    adapter: Path | str | None = None,
    template: str | None = None,
    precision: str | None = None,
    system: str = "",
    tools: Sequence[Mapping[str, Any]] | Path | str = (),
    **decoding: Any,
) -> Chat:
    """Open a chat with a run and its base, or with a model: `chat("runs/first").ask("Name three colors.")`.

    Args:
        subject: a finished run or its directory; or a model's name or folder.
        adapter, template, precision: with a model: its adapter, its prompt template, its weight format ("nf4").
        system: the system message.
        tools: the functions that the model may call, or the JSON file that describes them.
        decoding: as for generate().

    Raises:
        DataError: the tools are no functions with names.
        BadRow: the chat template ignores them.
        UsageError: conflicting arguments, an unknown template, or an invalid decoding setting.
        RunError: the run is not finished.
        ModelError: model, adapter or tokenizer cannot be loaded.
    """
    how = decoding_of(decoding)
    run, model = subject_of(subject)
    named = _given(adapter=adapter, template=template, precision=precision)
    if run is not None and named:
        raise UsageError(
            f"a run has its own model and template; {', '.join(named)} cannot change it",
            "omit it, or give the model's name instead of the run",
        )
    named["tools"] = read_tools(tools) if isinstance(tools, Path | str) else as_tools(tools)
    opened = chat_with_run(run, tools=named["tools"]) if run is not None else chat_with_model(str(model), **named)
    if decoding:
        opened.session.decoding = replace(opened.session.decoding, **{name: getattr(how, name) for name in decoding})
    if system:
        opened.session.set_system(system)
    return opened


def decoding_of(settings: Mapping[str, Any]) -> Decoding:
    """Decoding settings by name.

    Raises:
        UsageError: unknown setting, or a value that is not of its type or outside its range.
    """
    known = [one.name for one in fields(Decoding)]
    if unknown := [name for name in settings if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"generation has no setting {unknown[0]!r}{meant}", f"known: {', '.join(known)}")
    defaults = Decoding()
    for name, value in settings.items():
        usual = getattr(defaults, name)
        allowed = (int, float) if isinstance(usual, float) else (type(usual), list) if usual == () else (int,)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise UsageError(f"{name} is {value!r}, expected a value such as {usual!r}", "omit it for the default")
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in settings.items()}
    return Decoding(**values)


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _prompts(prompts: object) -> list[Prompt]:
    if isinstance(prompts, Path):
        return read_prompts(prompts)
    if isinstance(prompts, str | Mapping | Prompt):
        return as_prompts([prompts])
    if not isinstance(prompts, Sequence) or isinstance(prompts, bytes):
        kind = type(prompts).__name__
        raise UsageError(f"prompts is {kind}, expected texts", "give a text, a list of texts, or the Path of a file")
    return as_prompts(prompts)
