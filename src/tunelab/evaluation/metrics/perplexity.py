"""Perplexity and bits per byte from stored row likelihoods, weighted by tokens, with standard errors over rows.

Perplexity is exp(sum of nats / number of tokens), which does not depend on the batch size; a mean of perplexities of
batches or rows would. Perplexities compare models with one tokenizer only; bits per byte compare any two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Score
from tunelab.evaluation.held_out import LikelihoodRecord
from tunelab.statistics.standard_errors import Estimate, ratio_with_error
from tunelab.units import format_significant

BYTES = "UTF-8 bytes of the decoded text after the row's first token, special tokens left out (their nats are counted)"
ERROR = "ratio estimator, rows as clusters (Cochran 1977, section 2.11)"


def predicted_bytes(
    decode: Callable[[Sequence[int]], str], input_ids: Sequence[int], answer_mask: Sequence[bool]
) -> tuple[int, int]:
    """UTF-8 bytes of a row's answers, and of all its text after the first token: (completion_bytes, sequence_bytes).

    A span's bytes are those that it adds to the decoded text before it, so that spans sum to the whole even
    if a tokenizer drops a leading space.

    Args:
        decode: token ids -> text; should leave special tokens out.
        input_ids: the row's tokens.
        answer_mask: which of them belong to an answer; the first token never counts, as it has no prediction.
    """

    def size(end: int) -> int:
        return len(decode(input_ids[:end]).encode("utf-8", errors="surrogatepass"))

    completion_bytes = 0
    start = None
    for place in range(1, len(input_ids) + 1):
        inside = place < len(input_ids) and answer_mask[place]
        if inside and start is None:
            start = place
        elif not inside and start is not None:
            completion_bytes += size(place) - size(start)
            start = None
    return completion_bytes, size(len(input_ids)) - size(1)


def perplexity_scores(records: Sequence[LikelihoodRecord]) -> list[Score]:
    """Perplexity and bits per byte, of the completions and of the full sequences.

    Raises:
        DataError: there are no rows, no tokens or bytes to divide by, or a perplexity overflows.
    """
    parts = (
        (
            "completion",
            "the answers' tokens, end-of-sequence included",
            [record.completion_nll for record in records],
            [record.completion_tokens for record in records],
            [record.completion_bytes for record in records],
        ),
        (
            "sequence",
            "all tokens of a row but its first",
            [record.sequence_nll for record in records],
            [record.sequence_tokens for record in records],
            [record.sequence_bytes for record in records],
        ),
    )
    scores = []
    for part, which, nats, tokens, sizes in parts:
        for unit, counts in (("tokens", tokens), ("bytes", sizes)):
            if not sum(counts):
                raise DataError(f"{part}: {len(records)} rows have no {unit} to divide by")
        protocol = {"predicted": which, "tokens": sum(tokens), "error": ERROR}
        mean = _perplexity(part, ratio_with_error(nats, tokens))
        scores.append(_score(f"{part}_perplexity", mean, "per token", protocol))
        bits = ratio_with_error([nat / math.log(2) for nat in nats], sizes)
        protocol = {**protocol, "bytes": sum(sizes), "which_bytes": BYTES}
        scores.append(_score(f"{part}_bits_per_byte", bits, "bits/byte", protocol))
    return scores


def _perplexity(part: str, nats_per_token: Estimate) -> Estimate:
    """exp of a mean; its error is exp(mean) times the mean's error (delta method)."""
    try:
        value = math.exp(nats_per_token.value)
    except OverflowError:
        raise DataError(
            f"{part}: {format_significant(nats_per_token.value)} nats per token have no finite perplexity",
            "the model is broken",
        ) from None
    error = None if nats_per_token.error is None else value * nats_per_token.error
    return Estimate(value, error, nats_per_token.n)


def _score(name: str, estimate: Estimate, unit: str, protocol: dict[str, object]) -> Score:
    return Score(name, estimate.value, estimate.error, estimate.n, unit, higher_is_better=False, protocol=protocol)
