"""Show answers: streamed, in the order of the prompts, or as JSON Lines."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tunelab.answering.answer import Answer
from tunelab.answering.responder import Responder
from tunelab.cli._console import progress_bar, say
from tunelab.data.prompts import Prompt, prompt_columns
from tunelab.errors import Interrupted
from tunelab.inference.sampling import Decoding
from tunelab.records.answers import settings_file
from tunelab.units import format_counted

CUT = {
    "length": "the answer was cut off at {} tokens; raise --max-new-tokens",
    "context": "the answer was cut off at {} tokens: the context window is full",
}


def answer_prompts(
    responder: Responder, texts: Sequence[str], decoding: Decoding, micro_batch_tokens: int | None
) -> None:
    """One prompt: stream the answer. Several: print the answers in the order of the prompts, each with its number."""
    if len(texts) == 1:
        _stream(responder, texts[0], decoding)
        return
    waiting: dict[str, Answer] = {}
    shown = 0
    for answer in responder.answer(texts, decoding, micro_batch_tokens=micro_batch_tokens):
        waiting[answer.item] = answer
        while (ready := waiting.pop(f"{shown + 1:06d}", None)) is not None:
            shown += 1
            say(f"prompt {shown}:")
            print(ready.text, flush=True)
            _say_cut(ready)
    _say_notices(responder)


def answer_file(
    responder: Responder, prompts: Sequence[Prompt], out: str | None, decoding: Decoding, micro_batch_tokens: int | None
) -> None:
    """Write each answer as soon as it is finished, to the file `out` or as JSON Lines on stdout.

    Raises:
        Interrupted: Ctrl-C; the message says how many answers were written, and how to resume.
    """
    if out is not None:
        with progress_bar() as progress:
            answers = responder.answer_into(
                out, prompts, decoding, micro_batch_tokens=micro_batch_tokens, progress=progress
            )
        say(f"{format_counted(len(answers), 'answer')}: {out}; settings: {settings_file(Path(out))}")
        _say_notices(responder)
        return
    readable = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    asked = {prompt.item: columns for prompt, columns in zip(prompts, prompt_columns(prompts), strict=True)}
    written = 0
    try:
        for answer in responder.answer(prompts, decoding, micro_batch_tokens=micro_batch_tokens):
            line = {"item": answer.item, **asked[answer.item], **dataclasses.asdict(answer)}
            print(json.dumps(line, ensure_ascii=not readable), flush=True)
            written += 1
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {written:,} of {len(prompts):,} answers were written",
            "with --out FILE, the same command resumes",
        ) from None
    _say_notices(responder)


def _stream(responder: Responder, text: str, decoding: Decoding) -> None:
    pieces = responder.stream(text, decoding)
    ends_line = False
    try:
        while True:
            piece = next(pieces)
            print(piece, end="", flush=True)
            ends_line = piece.endswith("\n")
    except StopIteration as end:
        answer: Answer = end.value
    except KeyboardInterrupt:
        print(flush=True)
        raise
    print(end="" if ends_line else "\n", flush=True)
    _say_notices(responder)
    _say_cut(answer)


def _say_cut(answer: Answer) -> None:
    if answer.stop_reason in CUT:
        say(CUT[answer.stop_reason].format(f"{len(answer.token_ids):,}"))


def _say_notices(responder: Responder) -> None:
    for notice in responder.notices:
        say(notice)
