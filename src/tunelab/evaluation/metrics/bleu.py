"""Corpus BLEU by sacrebleu, with its signature and a bootstrap error over items.

Sources: Papineni et al., "BLEU" (ACL 2002); Post, "A Call for Clarity in Reporting BLEU Scores" (WMT 2018), whose
signature is kept; Koehn, "Statistical Significance Tests for Machine Translation Evaluation" (EMNLP 2004) for the
bootstrap. sacrebleu's own bootstrap gives a 95 % interval only, so the resampling is done here, from the n-gram
counts of each sentence that sacrebleu's public interface gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunelab.evaluation.benchmark import Score, check_pairs

RESAMPLES = 1000
SEED = 12345


def bleu_score(
    responses: Sequence[str], references: Sequence[str], *, resamples: int = RESAMPLES, seed: int = SEED
) -> Score:
    """Corpus BLEU (0-100) of responses, one reference each; its error is the deviation of BLEU over resampled items.

    An empty response counts with length 0. The same input gives the same error on every machine.

    Raises:
        DataError: no responses, another number of references, or an empty reference.
    """
    from sacrebleu.metrics.bleu import BLEU

    check_pairs("bleu", responses, references)
    # `force` keeps sacrebleu from guessing, in its log, that texts are tokenised already; it changes no number.
    metric = BLEU(force=True)
    score = metric.corpus_score(list(responses), [list(references)])
    error = None
    if len(responses) > 1:
        # Effective order changes how a sentence's own BLEU is computed, not the counts that are taken from it.
        by_sentence = BLEU(force=True, effective_order=True)
        sentences = [by_sentence.sentence_score(a, [r]) for a, r in zip(responses, references, strict=True)]
        counts = np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in sentences], dtype=np.int64)
        error = _bootstrap_error(counts, resamples, seed)
    protocol = {
        "signature": str(metric.get_signature()),
        "error": f"bootstrap over items, {resamples} resamples, seed {seed}",
    }
    return Score("bleu", float(score.score), error, len(responses), "0-100", higher_is_better=True, protocol=protocol)


def _bootstrap_error(counts: np.ndarray, resamples: int, seed: int) -> float:
    """Deviation of BLEU over resamples; counts [items, 2 + 2 * orders]: lengths, matched n-grams, all n-grams."""
    from sacrebleu.metrics.bleu import BLEU

    items, columns = counts.shape
    orders = (columns - 2) // 2
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        total = counts[generator.integers(0, items, items)].sum(axis=0).tolist()
        resampled = BLEU.compute_bleu(
            correct=total[2 : 2 + orders],
            total=total[2 + orders :],
            sys_len=total[0],
            ref_len=total[1],
            smooth_method="exp",
            max_ngram_order=orders,
        )
        values.append(resampled.score)
    return float(np.std(values, ddof=1))
