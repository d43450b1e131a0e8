"""Corpus BLEU by sacrebleu, with its signature and a bootstrap standard error over items.

Sources: Papineni et al., "BLEU" (ACL 2002); Post, "A Call for Clarity in Reporting BLEU Scores" (WMT 2018), whose
signature is kept; Koehn, "Statistical Significance Tests for Machine Translation Evaluation" (EMNLP 2004) for the
bootstrap; Chen and Cherry, "A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU" (WMT 2014),
method 3, which sacrebleu calls "exp". sacrebleu's own bootstrap gives a 95 % interval only, so the resampling is done
here, from the n-gram counts of each sentence in sacrebleu's public interface. BLEU of counts needs only numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Score, check_pairs
from tunelab.evaluation.metrics.unseen import not_seen_by_bleu

RESAMPLES = 1000
SEED = 12345

#: Resampled items held in memory at a time.
_AT_ONCE = 2**13

#: Counts per item: lengths of response and reference, matched n-grams and all n-grams of the response, n = 1 to 4.
COLUMNS = 10

Counts = NDArray[np.int64]


def bleu_counts(responses: Sequence[str], references: Sequence[str]) -> Counts:
    """Counts for BLEU per item, [items, 10]: length of response and reference in tokens, matching 1- to
    4-grams, 1- to 4-grams of the response. Their sum over items gives corpus BLEU.

    Raises:
        DataError: no responses, a different number of references, or an empty reference.
    """
    from sacrebleu.metrics.bleu import BLEU

    check_pairs("bleu", responses, references)
    # Effective order changes how a sentence's own BLEU is computed, but not the counts used here. `force`
    # suppresses sacrebleu's warning that texts look tokenized; it changes no number.
    metric = BLEU(force=True, effective_order=True)
    sentences = [metric.sentence_score(text, [one]) for text, one in zip(responses, references, strict=True)]
    return np.array([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in sentences], dtype=np.int64)


def bleu_of_counts(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Corpus BLEU (0-100) of summed counts, [..., 10] -> [...], as sacrebleu computes it.

    An order without matches counts as 1 / 2^k matches, k = 1 for the first such order, 2 for the next ("exp"). BLEU
    is 0 if nothing matches, or if no response is long enough for a 4-gram.

    Raises:
        DataError: the last axis does not have 10 columns.
    """
    summed = np.asarray(counts, dtype=np.float64)
    if not summed.ndim or summed.shape[-1] != COLUMNS:
        raise DataError(f"counts of BLEU have the shape {list(summed.shape)}: expected {COLUMNS} columns")
    # Column by column: to reduce an axis of four numbers takes numpy twice as long, and a study asks for millions.
    length, reference, *columns = np.ascontiguousarray(np.moveaxis(summed, -1, 0))
    is_long_enough, is_matched = np.ones(length.shape, dtype=np.bool_), np.zeros(length.shape, dtype=np.bool_)
    missing, logarithms = np.zeros(length.shape, dtype=np.int64), np.zeros(length.shape)
    for matches, totals in zip(columns[:4], columns[4:], strict=True):
        without, is_possible = matches == 0, totals > 0
        missing += without
        smoothed = np.where(without, np.ldexp(1.0, -missing), matches)
        logarithms += np.log(smoothed / np.where(is_possible, totals, 1.0))
        is_long_enough &= is_possible
        is_matched |= ~without
    penalty = np.exp(np.minimum(0.0, 1 - reference / np.where(length > 0, length, 1.0)))
    score = 100 * penalty * np.exp(logarithms / 4)
    is_number = is_long_enough & is_matched
    return np.asarray(np.where(is_number, score, 0.0), dtype=np.float64)


def bleu_score(
    responses: Sequence[str],
    references: Sequence[str],
    *,
    counts: Counts | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Score:
    """Corpus BLEU (0-100) of responses, one reference each; its error is the SD of BLEU over resampled items.

    An empty response counts with length 0. The same input gives the same error on every machine.

    Args:
        counts: the result of bleu_counts, if already computed.

    Raises:
        DataError: no responses, a different number of references, or an empty reference.
    """
    from sacrebleu.metrics.bleu import BLEU

    check_pairs("bleu", responses, references)
    metric = BLEU(force=True)
    score = metric.corpus_score(list(responses), [list(references)])
    error = None
    counts = bleu_counts(responses, references) if counts is None else counts
    if len(responses) > 1:
        error = bootstrap_error(counts, bleu_of_counts, resamples, seed)
    protocol = {
        "signature": str(metric.get_signature()),
        "error": f"bootstrap over items, {resamples} resamples, seed {seed}",
        **not_seen_by_bleu(references, counts[:, 1].tolist()),
    }
    return Score("bleu", float(score.score), error, len(responses), "0-100", higher_is_better=True, protocol=protocol)


def bootstrap_error(
    counts: Counts,
    statistic: Callable[[NDArray[Any]], NDArray[np.float64]],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> float:
    """SD of a corpus metric over resamples of items.

    Args:
        counts: [items, columns].
        statistic: the metric of summed counts, [..., columns] -> [...].
    """
    items = len(counts)
    generator = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // items)
    sizes = (min(at_once, resamples - done) for done in range(0, resamples, at_once))
    summed = [counts[generator.integers(0, items, (size, items))].sum(axis=1) for size in sizes]
    return float(np.std(statistic(np.concatenate(summed)), ddof=1))
