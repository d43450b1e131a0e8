"""Evaluate a run or a model on benchmarks: responses are stored as they are generated, then scored.

    settings = BenchmarkSettings(limit=50, options={"mmlu": {"shots": 0}})
    scores = evaluate_benchmarks("runs/alpaca", ["mmlu", "ifeval"], settings)

generate_benchmarks() does the first half; `tunelab score` (scoring/score.py) does the second half on any machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelab.allowed_code import allow_python_files
from tunelab.answering.benchmark_items import LoadedBenchmark, load_benchmarks
from tunelab.answering.benchmark_prompts import EncodedPrompt, choice_questions, generation_prompts
from tunelab.answering.benchmark_settings import BenchmarkSettings, as_settings, names_of
from tunelab.answering.generate import open_responder, subject_of
from tunelab.answering.responder import ARMS, Responder
from tunelab.answering.text_likelihoods import encoded_texts, text_likelihoods
from tunelab.answering.vllm_responder import on_vllm
from tunelab.errors import Interrupted, ModelError, UsageError
from tunelab.evaluation.benchmark import Response, Score
from tunelab.evaluation.choices import choice_likelihoods
from tunelab.inference.sampling import Decoding
from tunelab.notebook import data_frame, html_table, shown_in_notebooks
from tunelab.progress import Progress, named, silent
from tunelab.records.evaluation_files import RESPONSES
from tunelab.records.responses import Record, ResponseFile, held, prompt_hash
from tunelab.records.runs import Run
from tunelab.report.table import score_notes, score_records, score_rows, score_text
from tunelab.scoring.score import ScoredFile, score_file
from tunelab.version import __version__

if TYPE_CHECKING:
    import pandas

BACKENDS = ("tunelab", "vllm")

#: In the header of a file of log-probabilities, in place of the decoding settings of a file of answers.
LIKELIHOOD = {"method": "likelihood of the choices"}


@dataclass(frozen=True)
class StoredResponses:
    """The responses of one arm to one benchmark.

    Args:
        path: the file.
        template: the prompt template's name; None = raw text.
        count: responses in the file.
        cut: answers that ended at the limit of new tokens or of the context.
        truncated: prompts truncated on the left to fit the context.
        notices: what the user should know about the prompts.
    """

    benchmark: str
    arm: str
    path: Path
    template: str | None
    count: int
    cut: int
    truncated: int
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class BenchmarkScores:
    """The result of one benchmark: arm -> its responses, and their scores."""

    benchmark: str
    responses: Mapping[str, StoredResponses]
    arms: Mapping[str, ScoredFile]

    def __repr__(self) -> str:
        main = {arm: one.scored.scores[0] for arm, one in self.arms.items()}
        metric = next(iter(main.values())).name.replace("_", " ")
        shown = ", ".join(f"{arm} {score_text(one)}" for arm, one in main.items())
        return f"BenchmarkScores({self.benchmark}: {metric} {shown})"

    def _repr_html_(self) -> str:
        return html_table(self.benchmark, *score_rows(self._scores), score_notes(self._scores))

    def to_frame(self) -> pandas.DataFrame:
        """One row per arm and metric: arm, metric, value, error (standard error), n, unit, higher_is_better.

        Raises:
            UsageError: pandas is not installed.
        """
        return data_frame([{"benchmark": self.benchmark, **one} for one in score_records(self._scores)])

    @property
    def _scores(self) -> dict[str, list[Score]]:
        return {arm: one.scored.scores for arm, one in self.arms.items()}


def evaluate_benchmarks(
    subject: Run | Path | str,
    benchmarks: str | Sequence[str],
    settings: BenchmarkSettings | Mapping[str, Any] | None = None,
    *,
    workers: int | None = None,
    progress: Progress = shown_in_notebooks,
) -> list[BenchmarkScores]:
    """Evaluate a finished run, or a model, on benchmarks and score the responses; one entry per benchmark.

    Args:
        subject: a run or its directory; otherwise a model's name or folder.
        benchmarks: names, or paths of your own .jsonl or .py files; one text may name several, comma-separated.
        settings: or a mapping with its fields, such as {"limit": 50}.
        workers: grading processes; None = one per core.

    Raises:
        As generate_benchmarks() does, and score_file().
    """
    stored = generate_benchmarks(subject, benchmarks, settings, progress=progress)
    found = []
    for name in dict.fromkeys(one.benchmark for one in stored):
        responses = {one.arm: one for one in stored if one.benchmark == name}
        scored = {arm: score_file(one.path, workers=workers) for arm, one in responses.items()}
        found.append(BenchmarkScores(name, responses, scored))
    return found


def generate_benchmarks(
    subject: Run | Path | str,
    benchmarks: str | Sequence[str],
    settings: BenchmarkSettings | Mapping[str, Any] | None = None,
    *,
    progress: Progress = shown_in_notebooks,
) -> list[StoredResponses]:
    """Generate the responses of a finished run, or of a model; each is stored at once, and stored ones are reused.

    Raises:
        UsageError: conflicting arguments, an unknown benchmark, or an option that it does not have.
        DataError: a benchmark's files are not available or unreadable, or items cannot be used: lists them all.
        RunError: the run is not finished, a file has another header, or another process is writing it.
        ModelError: the model cannot be loaded, or has no template although one is required.
        Interrupted: Ctrl-C; the responses so far are in the files.
    """
    settings = as_settings(settings)
    allow_python_files(names_of(benchmarks))
    loaded = load_benchmarks(names_of(benchmarks), settings.options, settings.limit)
    _check_backend(settings, loaded)
    run, model = subject_of(subject)
    if run is not None and (settings.adapter or settings.template or settings.changes):
        wrong = [str(one) for one in (settings.adapter, settings.template, *settings.changes) if one]
        raise UsageError(
            f"a run is evaluated with its own model and template; {', '.join(wrong)} cannot change it",
            "omit it, or give the model's name instead of the run",
        )
    out = run.evaluations if run is not None else Path(settings.out)
    stored: list[StoredResponses] = []
    for arm in _arms(run, settings):
        responder = open_arm(run, model, arm, settings)
        if settings.backend == "vllm":
            responder = on_vllm(responder)
        for benchmark in loaded:
            stored.append(respond(responder, benchmark, out, settings, progress=progress))
        del responder  # keep only one model in memory
    return stored


def open_arm(run: Run | None, model: str | None, arm: str | None, settings: BenchmarkSettings) -> Responder:
    """Open one arm of a run, or of a model, as the settings say. Raises as open_responder() does."""
    return open_responder(
        run,
        model=model,
        adapter=settings.adapter,
        arm=arm,
        template=settings.template,
        changes=settings.changes,
        base=settings.base,
    )


def _check_backend(settings: BenchmarkSettings, benchmarks: Sequence[LoadedBenchmark]) -> None:
    """Raises UsageError if the backend is unknown or does not support what is requested."""
    if settings.backend not in BACKENDS:
        raise UsageError(f"no backend named {settings.backend!r}", f"known: {', '.join(BACKENDS)}")
    if settings.backend == "tunelab":
        return
    likelihood = [one.label for one in benchmarks if one.about.kind != "generate"]
    if likelihood:
        raise UsageError(
            f"{', '.join(likelihood)}: scored by likelihood, which needs tunelab's engine, not {settings.backend}",
            f"omit --backend {settings.backend}, or evaluate them in a separate command",
        )
    if settings.micro_batch_tokens is not None:
        raise UsageError(
            f"micro_batch_tokens applies to tunelab's engine; {settings.backend} batches by itself", "omit it"
        )


def respond(
    responder: Responder,
    benchmark: LoadedBenchmark,
    out: Path,
    settings: BenchmarkSettings,
    *,
    progress: Progress = silent,
) -> StoredResponses:
    """The responses of one model to one benchmark, in out/BENCHMARK-ARM-HASH/responses.jsonl.

    Raises:
        As generate_benchmarks() does.
    """
    responder.raw = not _is_asked_in_template(responder, benchmark, settings)
    responder.forget_prompts()
    kinds: dict[str, type[_Asking]] = {"likelihood": _Choices, "generate": _Answers, "text": _Texts}
    asks = kinds[benchmark.about.kind]
    asking = asks(responder, benchmark, settings, named(progress, f"{benchmark.label} {responder.arm}"))
    header = {**benchmark.header, **asking.header(), "tunelab": __version__}
    folder = out / f"{benchmark.label}-{responder.arm}-{_short_hash(header)}"
    records = _stored(asking, folder / RESPONSES, header)
    return StoredResponses(
        benchmark=benchmark.label,
        arm=responder.arm,
        path=folder / RESPONSES,
        template=None if responder.raw else responder.recipe.data.template,
        count=len(records),
        cut=sum(record["stop_reason"] in ("length", "context") for record in records),
        truncated=sum(record["truncated_tokens"] > 0 for record in records),
        notices=tuple(responder.notices),
    )


def _stored(asking: _Asking, path: Path, header: Mapping[str, Any]) -> list[Record]:
    """Records of all items. Missing ones are computed in the engine's order and appended one by one."""
    items = asking.items
    with held(path), ResponseFile(path, header) as file:
        hashes = [asking.hash(header, index) for index in range(len(items))]
        kept = [file.get(item.id, hashes[index]) for index, item in enumerate(items)]
        made = {index: record for index, record in enumerate(kept) if record is not None}
        asking.progress("responding", len(made), len(items))
        if len(made) < len(items):
            try:
                for index, response in asking.responses(hashes, frozenset(made)):
                    made[index] = file.append(response.to_json())
                    asking.progress("responding", len(made), len(items))
            except KeyboardInterrupt:
                raise Interrupted(
                    f"interrupted; {len(file):,} of {len(items):,} responses are in {path}",
                    "run the same command again to resume",
                ) from None
    return [made[index] for index in range(len(items))]


class _Answers:
    """A benchmark with generated answers."""

    def __init__(
        self, responder: Responder, benchmark: LoadedBenchmark, settings: BenchmarkSettings, progress: Progress
    ) -> None:
        about = benchmark.about
        self.responder, self.items, self.progress = responder, benchmark.items, progress
        tokens = about.max_new_tokens if settings.max_new_tokens is None else settings.max_new_tokens
        self.decoding = Decoding(max_new_tokens=tokens, stop_strings=about.stop_strings)
        self.micro_batch_tokens = responder.micro_batch_tokens(settings.micro_batch_tokens)
        self.prompts: list[EncodedPrompt] = generation_prompts(responder, benchmark.label, benchmark.items, tokens)

    def header(self) -> dict[str, Any]:
        return self.responder.header(self.decoding)

    def hash(self, header: Mapping[str, Any], index: int) -> str:
        return prompt_hash(header, self.prompts[index].ids, header["decoding"])

    def responses(self, hashes: Sequence[str], skip: frozenset[int]) -> Iterator[tuple[int, Response]]:
        rows = [prompt.ids for prompt in self.prompts]
        for answer in self.responder.generations(rows, self.decoding, self.micro_batch_tokens, skip):
            item = self.items[answer.index]
            yield (
                answer.index,
                Response(
                    item=item.id,
                    prompt_hash=hashes[answer.index],
                    question=item.question,
                    target=item.target,
                    cluster=item.cluster,
                    text=self.responder.answer_text(answer),
                    stop_reason=answer.stop_reason,
                    prompt_tokens=answer.prompt_tokens,
                    truncated_tokens=self.prompts[answer.index].truncated,
                    answer_tokens=len(answer.token_ids),
                ),
            )


class _Choices:
    """A benchmark that compares the likelihoods of choices."""

    def __init__(
        self, responder: Responder, benchmark: LoadedBenchmark, settings: BenchmarkSettings, progress: Progress
    ) -> None:
        self.responder, self.items, self.progress = responder, benchmark.items, progress
        self.micro_batch_tokens = responder.micro_batch_tokens(settings.micro_batch_tokens)
        self.questions = choice_questions(responder, benchmark.label, benchmark.items, progress=progress)

    def header(self) -> dict[str, Any]:
        return {**self.responder.identity, "decoding": LIKELIHOOD}

    def hash(self, header: Mapping[str, Any], index: int) -> str:
        question = self.questions[index]
        scored: dict[str, Any] = {"continuations": question.continuations}
        if question.unscored:
            scored["unscored"] = question.unscored
        return prompt_hash(header, question.prompt_ids, scored)

    def responses(self, hashes: Sequence[str], skip: frozenset[int]) -> Iterator[tuple[int, Response]]:
        scored = choice_likelihoods(
            self.responder.model, self.questions, micro_batch_tokens=self.micro_batch_tokens, skip=skip
        )
        for likelihood in self.responder.computing(scored):
            item, question = self.items[likelihood.index], self.questions[likelihood.index]
            yield (
                likelihood.index,
                Response(
                    item=item.id,
                    prompt_hash=hashes[likelihood.index],
                    question=item.question,
                    target=item.target,
                    cluster=item.cluster,
                    choices=item.choices,
                    log_probabilities=likelihood.log_probabilities,
                    choice_tokens=tuple(map(len, question.scored)),
                    prompt_tokens=len(question.prompt_ids),
                    truncated_tokens=question.truncated,
                ),
            )


class _Texts:
    """A benchmark that measures the likelihood of texts."""

    def __init__(
        self, responder: Responder, benchmark: LoadedBenchmark, settings: BenchmarkSettings, progress: Progress
    ) -> None:
        self.responder, self.items, self.progress = responder, benchmark.items, progress
        self.micro_batch_tokens = responder.micro_batch_tokens(settings.micro_batch_tokens)
        self.texts = encoded_texts(responder, benchmark.label, benchmark.items)

    def header(self) -> dict[str, Any]:
        return {**self.responder.identity, "decoding": {"method": "likelihood of the text"}}

    def hash(self, header: Mapping[str, Any], index: int) -> str:
        windows = [list(ids) for ids, _ in self.texts[index].rows]
        return prompt_hash(header, windows[0], {"windows": windows[1:]})

    def responses(self, hashes: Sequence[str], skip: frozenset[int]) -> Iterator[tuple[int, Response]]:
        measured = text_likelihoods(
            self.responder.model, self.texts, micro_batch_tokens=self.micro_batch_tokens, skip=skip
        )
        for index, log_probability in self.responder.computing(measured):
            item, tokens = self.items[index], self.texts[index].tokens
            read = {"question": item.question, "target": item.target, "cluster": item.cluster}
            values: dict[str, Any] = {"log_probabilities": (log_probability,), "choice_tokens": (tokens,)}
            yield index, Response(item.id, hashes[index], **read, **values, prompt_tokens=tokens)


_Asking = _Choices | _Answers | _Texts


def _is_asked_in_template(responder: Responder, benchmark: LoadedBenchmark, settings: BenchmarkSettings) -> bool:
    wanted = settings.in_template
    if benchmark.about.kind == "text":
        if wanted or settings.template is not None:
            raise UsageError(
                f"{benchmark.label}: measures texts as they are, which no prompt template can hold",
                "omit --chat-template and --template, or evaluate it in a separate command",
            )
        return False
    if wanted is None and settings.template is not None:
        wanted = True  # a named template is meant to be used
    if wanted is None:
        return benchmark.about.chat and responder.has_prompt_template
    if wanted and not responder.has_prompt_template:
        raise ModelError(
            f"{responder.weights.name}: has no chat template (base models often have none)",
            "name a prompt template (--template alpaca), or prompt with raw text (--no-chat-template)",
        )
    return wanted


def _arms(run: Run | None, settings: BenchmarkSettings) -> tuple[str, ...]:
    """Raises UsageError if an arm is requested that a model without adapter does not have."""
    if settings.arms:
        return tuple(settings.arms)
    return ARMS if run is not None or settings.adapter is not None else ("base",)


def _short_hash(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()[:8]
