"""A model that answers prompts: they are rendered as in training, and answers are stored as they are generated."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

from torch import nn

from tunelab.answering.answer import Answer, answer_of_record
from tunelab.config import Recipe
from tunelab.data.prompts import Prompt, as_prompts, bad_prompts, in_words, leading_text, prompt_columns
from tunelab.data.tokenize import RowEncoder, leading_special_ids
from tunelab.data.vocabulary import dropped_characters, dropped_from_template
from tunelab.errors import BadRow, Interrupted, UsageError
from tunelab.inference import engine
from tunelab.inference.row import Generation
from tunelab.inference.sampling import Decoding
from tunelab.models.adapters import load_adapter
from tunelab.models.digest import adapter_hash
from tunelab.models.load import check_tokenizer_fits, context_window, model_fingerprint
from tunelab.models.structure import slower_ways
from tunelab.preparation.base import dated
from tunelab.preparation.model import autocast, compute_dtype, load_base, load_trained
from tunelab.preparation.rows import row_encoder
from tunelab.progress import Progress, silent
from tunelab.records.answers import AnswersFile
from tunelab.records.responses import held, prompt_hash
from tunelab.version import __version__

ARMS = ("base", "tuned")
T = TypeVar("T")
_VERSION = {"tunelab": __version__}


def checked_arms(arms: str | Sequence[str]) -> tuple[str, ...]:
    """The named arms, each once.

    Raises:
        UsageError: unknown arm.
    """
    named = (arms,) if isinstance(arms, str) else tuple(dict.fromkeys(arms))
    for arm in named:
        if arm not in ARMS:
            near = difflib.get_close_matches(str(arm), ARMS, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"no arm named {arm!r}{meant}", f"known: {', '.join(ARMS)}")
    return named


@dataclass(frozen=True)
class Weights:
    """Which weights answer: a model, optionally with an adapter.

    Args:
        digest: of weights that a run trained; None for others.
        called: the model's name in the records; None = the recipe's.
        fingerprint: of the model's files, where a run knows it; None = computed on first use.
    """

    name: str
    revision: str | None = None
    adapter: Path | None = None
    digest: Any = None
    called: str | None = None
    fingerprint: str | None = None


@dataclass
class Responder:
    """A model ready to answer; its weights are loaded on first use.

    Args:
        recipe: its model, template, dtype and device are used.
        raw: a prompt's text goes to the model as it is, including special tokens.
        has_prompt_template: the template comes from a run, a chat template or the caller; otherwise it is a guess.
    """

    recipe: Recipe
    tokenizer: Any
    arm: str
    raw: bool
    weights: Weights = field(repr=False)
    has_prompt_template: bool = True
    _lost: Counter[str] = field(default_factory=Counter, init=False, repr=False)
    _prompts: int = field(default=0, init=False, repr=False)
    _lossy_prompts: int = field(default=0, init=False, repr=False)
    _loading: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    @cached_property
    def encoder(self) -> RowEncoder:
        """Renders and tokenizes prompts. Its end tokens are those of the weights that answer."""
        return row_encoder(self.tokenizer, self._placed_recipe)

    @property
    def _placed_recipe(self) -> Recipe:
        """The recipe with its weights where they are now."""
        update = {"name": self.weights.name, "revision": self.weights.revision}
        return self.recipe.model_copy(update={"model": self.recipe.model.model_copy(update=update)})

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, as in evaluation."""
        return tuple(self.encoder.stop_token_ids())

    @property
    def notices(self) -> list[str]:
        """What the user should know about the prompts since forget_prompts(), and what the model cannot do as usual."""
        found = []
        if self._lost:
            prompts = f"{self._lossy_prompts:,} of {self._prompts:,} prompts"
            found.append(dropped_characters(self._lost, self._lost.total(), prompts))
        if self._prompts and not self.raw and (lost := self.encoder.lost_of_template()):
            found.append(dropped_from_template(lost))
        if self._prompts and self.date:
            found.append(f"the chat template writes a date: {self.date} in every prompt")
        if "model" in vars(self):  # vLLM has its own
            found += slower_ways(self.model)
        return found

    def forget_prompts(self) -> None:
        """Start the notices anew, before other prompts."""
        self._lost.clear()
        self._prompts = self._lossy_prompts = 0

    def note_prompt(self, text: str) -> None:
        """Count the characters of a prompt that the tokenizer drops, for the notices."""
        lost = self.encoder.vocabulary.lost(text)
        self._lost.update(lost)
        self._prompts += 1
        self._lossy_prompts += bool(lost)

    @cached_property
    def model(self) -> nn.Module:
        """The weights, with the adapter applied if there is one; loaded once, also for several threads."""
        with self._loading:
            if "model" not in vars(self):
                vars(self)["model"] = self._loaded()
            return cast(nn.Module, vars(self)["model"])

    def _loaded(self) -> nn.Module:
        if self.weights.digest is not None:
            loaded = load_trained(self.recipe, Path(self.weights.name))
        else:
            loaded = load_base(self._placed_recipe, self.tokenizer)
        adapted: nn.Module = load_adapter(loaded, self.weights.adapter) if self.weights.adapter else loaded
        check_tokenizer_fits(loaded, self.tokenizer)  # an adapter may have embeddings of new tokens
        return adapted

    def header(self, decoding: Decoding) -> dict[str, Any]:
        """What produced the answers, as in the header line of a response file."""
        how = {**asdict(decoding), "stop_strings": list(decoding.stop_strings)}
        return {**self.identity, "decoding": {**how, "stop_token_ids": list(self.stop_token_ids)}, **_VERSION}

    @property
    def identity(self) -> dict[str, Any]:
        """Model and prompt: weights, adapter, arm, precision, dtype, template."""
        own: dict[str, Any] = {"weights": self.weights.digest} if self.weights.digest else {"model": self.fingerprint}
        if self.weights.adapter:
            own["adapter"] = adapter_hash(self.weights.adapter)
        model = self.recipe.model
        # A local path is reduced to its last part: its location varies by machine, and the fingerprint identifies it.
        name = Path(model.name).resolve().name if Path(model.name).exists() else model.name
        return {
            "model_name": self.weights.called or name,
            "revision": model.revision,
            **own,
            "arm": self.arm,
            "precision": self.recipe.precision.identity,
            "dtype": compute_dtype(self.recipe),
            "template": None if self.raw else self.recipe.data.template,
            **({"date": self.date} if self.date else {}),
            **({"new_tokens": model.new_tokens} if model.new_tokens else {}),
        }

    @property
    def date(self) -> str | None:
        """The date (YYYY-MM-DD) in every prompt; None if the template writes none."""
        return None if self.raw else dated(self.tokenizer, self.recipe)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies weights that no run trained. Loads them, unless a run knows it."""
        return self.weights.fingerprint or model_fingerprint(self.weights.name, cast(Any, self.model))

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of each prompt: what training would have put before the answer.

        Raises:
            DataError: lists every prompt that cannot be rendered or leaves no room in the model's context.
        """
        rows, bad = [], []
        self.forget_prompts()
        for prompt in prompts:
            self.note_prompt(prompt.text)
            try:
                rows.append(self._prompt_ids(prompt))
            except BadRow as reason:
                bad.append(f"{prompt.origin}: {in_words(reason)}")
        if bad:
            raise bad_prompts(bad, len(prompts))
        return rows

    def stream(self, prompt: str | Prompt, decoding: Decoding | None = None) -> Generator[str, None, Answer]:
        """Stream the answer's text as it is generated; the generator returns the whole Answer.

        Raises:
            DataError: the prompt cannot be rendered, or leaves no room in the model's context.
        """
        (asked,) = as_prompts([prompt])
        (ids,) = self.encode([asked])
        made = engine.stream(
            self.model, self.tokenizer, ids, decoding or Decoding(), stop_token_ids=self.stop_token_ids
        )
        pieces = self.computing(made)
        held, lead = "", self._lead
        while True:
            try:
                held += next(pieces)
            except StopIteration as end:
                generation: Generation = end.value
                break
            if lead.startswith(held) and held != lead:
                continue  # may be what the template puts before every answer
            held, lead = held.removeprefix(lead), ""
            if held:
                yield held
            held = ""
        if held:
            yield held
        return self._answer(asked.item, generation)

    def answer(
        self,
        prompts: Sequence[str | Prompt],
        decoding: Decoding | None = None,
        *,
        micro_batch_tokens: int | None = None,
    ) -> Iterator[Answer]:
        """Answers to all prompts in the order in which they finish; prompt i samples with the seed (seed, i).

        Raises:
            DataError: lists every prompt that cannot be used, before any is answered.
        """
        asked = as_prompts(prompts)
        rows = self.encode(asked)
        for generation in self.generations(rows, decoding or Decoding(), micro_batch_tokens, frozenset()):
            yield self._answer(asked[generation.index].item, generation)

    def answer_into(
        self,
        path: Path | str,
        prompts: Sequence[str | Prompt],
        decoding: Decoding | None = None,
        *,
        micro_batch_tokens: int | None = None,
        progress: Progress = silent,
    ) -> list[Answer]:
        """Answers to all prompts, in their order. Each is appended to a file as soon as it is generated.

        An existing file is resumed: no prompt is answered twice, and the final content is the same as without an
        interruption (records/answers.py).

        Raises:
            DataError: lists every prompt that cannot be used; nothing is written.
            RunError: the file is of another model, decoding, version or set of prompts, or is in use.
            Interrupted: Ctrl-C; the answers so far are in the file.
        """
        target, asked, how = Path(path), as_prompts(prompts), decoding or Decoding()
        rows = self.encode(asked)
        if target.is_dir():
            raise UsageError(f"{target}: is a directory", "give the path of a file, such as answers.jsonl")
        header, texts = self.header(how), prompt_columns(asked)
        made: dict[int, Answer] = {}

        def record(index: int) -> dict[str, Any]:
            answer = asdict(made[index])
            return {"item": answer.pop("item"), **texts[index], **answer, "prompt_hash": hashes[index]}

        with held(target), AnswersFile(target, header) as file:
            hashes = [prompt_hash(header, ids, header["decoding"]) for ids in rows]
            for index, prompt in enumerate(asked):
                if (stored := file.get(prompt.item, hashes[index])) is not None:
                    made[index] = answer_of_record(target, stored)
            progress("answering", len(made), len(asked))
            try:
                for generation in self.generations(rows, how, micro_batch_tokens, frozenset(made)):
                    made[generation.index] = self._answer(asked[generation.index].item, generation)
                    file.append(record(generation.index))
                    progress("answering", len(made), len(asked))
            except KeyboardInterrupt:
                raise Interrupted(
                    f"interrupted; {len(file):,} of {len(asked):,} answers are in {target}",
                    "run the same command again to resume",
                ) from None
            file.finish([record(index) for index in range(len(asked))])
        return [made[index] for index in range(len(asked))]

    def generations(
        self, rows: Sequence[Sequence[int]], decoding: Decoding, micro_batch_tokens: int | None, skip: frozenset[int]
    ) -> Iterator[Generation]:
        """The engine's answers to token ids, in the order in which they finish; indices in `skip` are left out.

        Raises:
            UsageError: micro_batch_tokens is below 1.
        """
        tokens, stops = self.micro_batch_tokens(micro_batch_tokens), self.stop_token_ids
        return self.computing(
            engine.generate(
                self.model, self.tokenizer, rows, decoding, stop_token_ids=stops, micro_batch_tokens=tokens, skip=skip
            )
        )

    def micro_batch_tokens(self, given: int | None) -> int:
        """Tokens computed at once: the given value, or the recipe's. Raises UsageError below 1."""
        tokens = self.recipe.evaluate.micro_batch_tokens if given is None else given
        if tokens < 1:
            raise UsageError(f"micro_batch_tokens is {tokens}, expected a positive integer")
        return tokens

    def computing(self, steps: Iterator[T]) -> Generator[T, None, Any]:
        """Run each step in the model's compute dtype; the caller's code between steps is not affected."""
        while True:
            with autocast(self.recipe):
                try:
                    step = next(steps)
                except StopIteration as end:
                    return end.value
            yield step

    def _answer(self, item: str, generation: Generation) -> Answer:
        text = self.answer_text(generation)
        return Answer(item, text, generation.token_ids, generation.stop_reason, generation.prompt_tokens)

    def answer_text(self, generation: Generation) -> str:
        """The answer's text, without what the template itself puts before an answer."""
        return generation.text.removeprefix(self._lead)

    @property
    def _lead(self) -> str:
        return "" if self.raw else self._template_lead

    @cached_property
    def _template_lead(self) -> str:
        """What the template puts before an answer: a space, which tokenizers join to the answer's first word."""
        return leading_text(self.encoder.template)

    @cached_property
    def context(self) -> int | None:
        """Read from the configuration alone, so that prompts are checked before weights are loaded."""
        remote = self.recipe.model.trust_remote_code
        return context_window(self.weights.name, revision=self.weights.revision, trust_remote_code=remote)

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if self.raw:
            if len(prompt.messages) != 1 or prompt.messages[0].input or prompt.tools:
                raise BadRow("has a system message, an input, tools or several turns, which raw text cannot express")
            text = prompt.messages[0].content
            ids = leading_special_ids(self.tokenizer) + self.tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = self.encoder.prompt_ids(prompt.conversation)
        if self.context is not None and len(ids) >= self.context:
            raise BadRow(f"{len(ids)} tokens, but the model's context is {self.context}: no room for an answer")
        return list(ids)
