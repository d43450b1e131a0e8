"""Corpus chrF by sacrebleu's definition: character n-grams, so that it needs no words; with a bootstrap standard error.

Source: Popović, "chrF: character n-gram F-score for automatic MT evaluation" (WMT 2015), with sacrebleu's defaults
(chrF2: orders 1 to 6, whitespace left out, recall counts twice). As for BLEU, counts per answer are stored, and the
metric is computed from their sum; sacrebleu's public interface gives the n-grams but not the counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Score, check_pairs
from tunelab.evaluation.metrics.bleu import RESAMPLES, SEED, Counts, bootstrap_error

ORDERS = 6
BETA = 2

#: Counts per item: n-grams of the response, of the reference, and in common, for n = 1 to 6.
COLUMNS = 3 * ORDERS


def chrf_counts(responses: Sequence[str], references: Sequence[str]) -> Counts:
    """Counts for chrF per item, [items, 18]; their sum over items gives corpus chrF.

    Raises:
        DataError: no responses, a different number of references, or an empty reference.
    """
    check_pairs("chrf", responses, references)
    rows = [_counts_of_one(response, reference) for response, reference in zip(responses, references, strict=True)]
    return np.array(rows, dtype=np.int64)


def chrf_of_counts(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Corpus chrF (0-100) of summed counts, [..., 18] -> [...], as sacrebleu computes it.

    Precision and recall are means over the orders that both texts are long enough for.

    Raises:
        DataError: the last axis does not have 18 columns.
    """
    summed = np.asarray(counts, dtype=np.float64)
    if not summed.ndim or summed.shape[-1] != COLUMNS:
        raise DataError(f"counts of chrF have the shape {list(summed.shape)}: expected {COLUMNS} columns")
    response, reference, common = np.moveaxis(summed.reshape(*summed.shape[:-1], ORDERS, 3), -1, 0)  # each [..., 6]
    used = (response > 0) & (reference > 0)
    orders = np.maximum(used.sum(axis=-1), 1)
    precision = (np.where(used, common, 0.0) / np.where(used, response, 1.0)).sum(axis=-1) / orders
    recall = (np.where(used, common, 0.0) / np.where(used, reference, 1.0)).sum(axis=-1) / orders
    below = BETA**2 * precision + recall
    return np.asarray(100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1.0), dtype=np.float64)


def chrf_score(responses: Sequence[str], references: Sequence[str], *, counts: Counts | None = None) -> Score:
    """Corpus chrF (0-100) of responses, one reference each; its error is the SD of chrF over resampled items.

    Args:
        counts: the result of chrf_counts, if already computed.

    Raises:
        DataError: no responses, a different number of references, or an empty reference.
    """
    from sacrebleu.metrics.chrf import CHRF

    check_pairs("chrf", responses, references)
    metric = CHRF()
    score = metric.corpus_score(list(responses), [list(references)])
    error = None
    if len(responses) > 1:
        error = bootstrap_error(chrf_counts(responses, references) if counts is None else counts, chrf_of_counts)
    protocol = {
        "signature": str(metric.get_signature()),
        "error": f"bootstrap over items, {RESAMPLES} resamples, seed {SEED}",
    }
    return Score("chrf", float(score.score), error, len(responses), "0-100", higher_is_better=True, protocol=protocol)


def _counts_of_one(response: str, reference: str) -> list[int]:
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    row: list[int] = []
    pairs = (extract_all_char_ngrams(text, ORDERS) for text in (response, reference))
    for ours, theirs in zip(*pairs, strict=True):
        # Like sacrebleu: an order that the reference is too short for does not lower the precision.
        row += [ours.total() if theirs else 0, theirs.total(), (ours & theirs).total()]
    return row
