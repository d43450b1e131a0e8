"""Forgetting: bits per byte on short general texts, to see what tuning cost elsewhere.

The texts ship with tunelab (assets/forgetting; its README describes them): two of each of 14 kinds, among them code and
other languages, about 1 kB each, written for it. `data` names a folder of your own with one text per DOMAIN-NAME.txt.

A text's bits per byte are the nats of all its tokens / ln 2 / its UTF-8 bytes. Its first token is predicted from what
the tokenizer puts before a text (its BOS token), or else from the BOS, or else from the EOS token, as in
lm-evaluation-harness. Texts are measured as they are, never in a chat template. A text longer than the model's context
is measured in windows of the context's length; each begins with the last token of the one before, so that every token
is predicted once. (Perplexity per token could not be compared across tokenizers; this can.)

Source of the idea: Biderman et al. 2024, LoRA Learns Less and Forgets Less (arXiv:2405.09673), with other data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import (
    Benchmark,
    BenchmarkOptions,
    Example,
    Graded,
    Item,
    Response,
    Score,
    Scored,
)
from tunelab.evaluation.benchmarks._rows import find_files
from tunelab.evaluation.multiple_choice import by_cluster
from tunelab.statistics.standard_errors import clustered_mean_with_error, mean_with_error

BITS_PER_BYTE = "bits_per_byte"

BENCHMARK = Benchmark(
    kind="text",
    metric=BITS_PER_BYTE,
    chance=None,
    cluster="domain",
    source="texts written for tunelab (assets/forgetting); Biderman et al. 2024 (arXiv:2405.09673)",
    licence="Apache-2.0",
    hub=None,
    shipped="forgetting",
    size=28,
)


class Options(BenchmarkOptions):
    """Only `data`: a folder of texts in place of those that ship."""


def items(folder: Path, options: Options) -> list[Item]:
    """One item per text; its target is its length in UTF-8 bytes. A text is its file without the last line break.

    Args:
        folder: with files DOMAIN-NAME.txt in UTF-8; the domain is what precedes the last hyphen, or the whole name.

    Raises:
        DataError: there are no such files, or one is empty or not UTF-8.
    """
    found = []
    for path in find_files(folder, ("*.txt",)):
        try:
            text = path.read_bytes().decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 at byte {error.start}", "save the text as UTF-8") from None
        if not text.strip():
            raise DataError(f"{path}: contains no text", "remove the file")
        domain = path.stem.rpartition("-")[0] or path.stem
        found.append(Item(path.stem, text, len(text.encode("utf-8")), cluster=domain))
    return found


def grade(response: Response, options: BenchmarkOptions) -> dict[str, float]:
    """`bits_per_byte` of the text.

    Raises:
        DataError: the response is not the log-probability of one text, or the target is not a number of bytes.
    """
    size = response.target
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise DataError(f"item {response.item}: target is {size!r}, expected the text's number of bytes")
    if len(response.log_probabilities) != 1 or not math.isfinite(response.log_probabilities[0]):
        raise DataError(
            f"item {response.item}: log-probabilities {list(response.log_probabilities)}, expected one finite number",
            "generate the responses again",
        )
    return {BITS_PER_BYTE: -response.log_probabilities[0] / math.log(2) / size}


def summarise(graded: Sequence[Graded], options: Options) -> Scored:
    """Mean bits per byte over the texts, with a standard error clustered by domain; and of each domain.

    Raises:
        DataError: there are no responses.
    """
    domains = by_cluster(graded)
    values = [one.values[BITS_PER_BYTE] for one in graded]
    mean = clustered_mean_with_error(values, [one.response.cluster for one in graded])
    protocol = {"first_token": "predicted from BOS, or else EOS", "average": "over texts"}
    score = Score(
        BITS_PER_BYTE,
        mean.value,
        mean.error,
        mean.n,
        "bits/byte",
        higher_is_better=False,
        protocol={**protocol, "error": "clustered by domain"},
    )
    return Scored(
        scores=[score],
        groups={f"domain {name}": [_of_domain(domains[name], protocol)] for name in sorted(domains)},
        facts={"domains": len(domains), "bytes": sum(int(one.response.target) for one in graded)},
    )


def _of_domain(graded: Sequence[Graded], protocol: dict[str, str]) -> Score:
    mean = mean_with_error([one.values[BITS_PER_BYTE] for one in graded])
    of = {**protocol, "error": "texts independent"}
    return Score(BITS_PER_BYTE, mean.value, mean.error, mean.n, "bits/byte", higher_is_better=False, protocol=of)


_TEXT = "The river was the color of tea."
_SIZE = len(_TEXT)
_ITEM = Item("stories-1", _TEXT, _SIZE, cluster="stories")


def _example(bits: float) -> Response:
    """The response of a model with this many bits per byte."""
    nats = -bits * math.log(2) * _SIZE
    return Response("stories-1", "", _TEXT, _SIZE, "stories", log_probabilities=(nats,), choice_tokens=(8,))


EXAMPLE = Example(item=_ITEM, right=_example(1.0), wrong=_example(2.0))
