"""llama.cpp's greedy answers from GGUF files, next to those that tunelab stored for the same prompts.

    python scripts/llama_cpp_answers.py ANSWERS.jsonl MODEL FOLDER ...

    ANSWERS.jsonl    of `tunelab generate --model MODEL --file ... --out ANSWERS.jsonl`, greedy, in float32
    MODEL            the same model in transformers' form
    FOLDER           of `tunelab export RUN --to gguf`; the exit code is 1 if the first one's answers differ

Everything is llama.cpp's own: it renders the prompt with the chat template in the file, tokenizes it, and decodes.
Where an answer differs, its first token that does is shown, with how far tunelab's was ahead of it in MODEL in float32:
a difference of rounding if that is small. Needs xllamacpp: pip install "tunelab[llama-cpp]".
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """Answer of one model to one prompt: the length of the prompt in tokens, the answer's ids and text."""

    prompt: str
    prompt_tokens: int
    ids: tuple[int, ...]
    text: str


class LlamaCpp:
    """A llama.cpp server in this process, for one GGUF file."""

    def __init__(self, path: Path) -> None:
        binding = importlib.import_module("xllamacpp")
        parameters = binding.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 512, 1, -1
        parameters.warmup = parameters.fit_params = False
        parameters.use_jinja = True
        self.server = binding.Server(parameters)

    def post(self, place: str, **asked: Any) -> Any:
        url = f"{self.server.listening_address}/{place}"
        request = urllib.request.Request(url, json.dumps(asked).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    def answer(self, question: str, most: int) -> Answer:
        """Its greedy answer of at most `most` tokens."""
        turns = [{"role": "user", "content": question}]
        prompt = self.post("apply-template", messages=turns)["prompt"]
        greedy = {"temperature": 0.0, "samplers": ["temperature"]}
        done = self.post("completion", prompt=prompt, n_predict=most, return_tokens=True, cache_prompt=False, **greedy)
        return Answer(question, int(done["tokens_evaluated"]), tuple(done["tokens"]), str(done["content"]))


def stored(path: Path) -> list[Answer]:
    """The answers in a file of `tunelab generate`."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Answer(row["prompt"], row["prompt_tokens"], tuple(row["token_ids"]), row["text"]) for row in rows]


def first_difference(ours: Sequence[int], theirs: Sequence[int], ends: frozenset[int]) -> int | None:
    """Place of the first token that differs; None if there is none. An end that one of them leaves out is none."""
    ours, theirs = ([id for id in ids if id not in ends] for ids in (ours, theirs))
    if ours == theirs:
        return None
    pairs = zip(ours, theirs, strict=False)
    return next((place for place, pair in enumerate(pairs) if pair[0] != pair[1]), min(len(ours), len(theirs)))


class Exact:
    """The model in float32: how far one token is ahead of another."""

    def __init__(self, folder: str) -> None:
        os.environ["TQDM_DISABLE"] = "1"
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        ends = self.model.generation_config.eos_token_id
        self.ends = frozenset([ends] if isinstance(ends, int) else ends or ())

    def lead(self, ours: Answer, theirs: Answer, place: int) -> tuple[float, str, str]:
        """Nats between the two tokens at `place`, and the texts of both."""
        import torch

        turns = [{"role": "user", "content": ours.prompt}]
        prompt = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        end = min(self.ends, default=0)
        pair = [one.ids[place] if place < len(one.ids) else end for one in (ours, theirs)]
        with torch.no_grad():
            logits = self.model(torch.tensor([[*prompt, *ours.ids[:place]]])).logits[0, -1]
        return float(logits[pair[0]] - logits[pair[1]]), *(self.tokenizer.decode([id]) for id in pair)  # type: ignore[return-value]


def compared(ours: Sequence[Answer], path: Path, exact: Exact, most: int) -> tuple[list[str], bool]:
    """Lines about the answers from one GGUF file, and whether all are the same."""
    llama = LlamaCpp(path)
    theirs = [llama.answer(one.prompt, most) for one in ours]
    lines = []
    for mine, its in zip(ours, theirs, strict=True):
        place = first_difference(mine.ids, its.ids, exact.ends)
        if its.prompt_tokens != mine.prompt_tokens:
            lines.append(f"  {mine.prompt!r}: {its.prompt_tokens} prompt tokens, tunelab has {mine.prompt_tokens}")
        elif place is not None:
            ahead, here, there = exact.lead(mine, its, place)
            lines.append(
                f"  {mine.prompt!r}: token {place + 1} is {there!r}, tunelab's {here!r}, ahead by {ahead:.3f} nats in "
                "float32"
            )
    tokens = sum(len(one.ids) for one in ours)
    head = f"{path}: {len(ours) - len(lines)} of {len(ours)} answers are tunelab's, token by token ({tokens} tokens)"
    return [head, *lines], not lines


def main(words: Sequence[str]) -> int:
    if importlib.util.find_spec("xllamacpp") is None:
        print("skipped: xllamacpp is not installed")
        return 0
    answers, folder, *exports = words
    ours, exact = stored(Path(answers)), Exact(folder)
    most = json.loads(Path(f"{answers}.settings.json").read_text(encoding="utf-8"))["decoding"]["max_new_tokens"]
    results = [compared(ours, next(Path(one).glob("*.gguf")), exact, most) for one in exports]
    for lines, _ in results:
        print("\n".join(lines))
    return 0 if results[0][1] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
