"""ROUGE-1, ROUGE-2 and ROUGE-L by rouge-score: mean F-measure over items, with its standard error.

Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), as reimplemented by rouge-score (the
implementation behind HF evaluate's `rouge`), without stemming. Its tokenizer keeps only a-z and 0-9: a reference in
another script has no tokens and scores 0 for any answer, so the protocol counts such references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from tunelab.evaluation.benchmark import Score, check_pairs
from tunelab.evaluation.metrics.unseen import not_seen_by_rouge
from tunelab.statistics.standard_errors import mean_with_error

KINDS = ("rouge1", "rouge2", "rougeL")


def rouge_by_item(responses: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """F-measure (0-100) of each item for "rouge1", "rouge2" and "rougeL". An empty response scores 0.

    Raises:
        DataError: no responses, a different number of references, or an empty reference.
    """
    from rouge_score.rouge_scorer import RougeScorer

    check_pairs("rouge", responses, references)
    scorer = RougeScorer(list(KINDS), use_stemmer=False)
    values: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for response, reference in zip(responses, references, strict=True):
        result = scorer.score(reference, response)
        for kind in KINDS:
            values[kind].append(100 * float(result[kind].fmeasure))
    return values


def rouge_scores(
    responses: Sequence[str], references: Sequence[str], *, by_item: Mapping[str, Sequence[float]] | None = None
) -> list[Score]:
    """Mean F-measure (0-100) over items for ROUGE-1, ROUGE-2 and ROUGE-L, each with the standard error of the mean.

    Args:
        by_item: the result of rouge_by_item, if already computed.

    Raises:
        DataError: see rouge_by_item.
    """
    from rouge_score.tokenizers import DefaultTokenizer

    values = rouge_by_item(responses, references) if by_item is None else by_item
    tokenize = DefaultTokenizer(False).tokenize
    protocol = {
        "implementation": f"rouge-score {version('rouge-score')}",
        "stemming": False,
        "references_without_tokens": sum(not tokenize(reference) for reference in references),
        "error": "standard error of the mean over items",
        **not_seen_by_rouge(references),
    }
    scores = []
    for kind in KINDS:
        mean = mean_with_error(values[kind])
        scores.append(Score(kind, mean.value, mean.error, mean.n, "0-100", higher_is_better=True, protocol=protocol))
    return scores
