"""Names of the metrics of held-out rows: those that a study compares, and those that it shows."""

from __future__ import annotations

from tunelab.config.questions import COMPLETION_LOSS
from tunelab.config.renamed import METRICS

BLEU, ROUGE_L = "bleu", "rougeL"
CHRF, EXACT_MATCH = "chrf", "exact_match"

#: Metrics that held-out rows are compared by; the first one decides. Other benchmarks use their headline metric.
HELD_OUT_METRICS = (COMPLETION_LOSS, BLEU, ROUGE_L)

#: Metrics that held-out rows are compared by as well if a question names them, or if BLEU or ROUGE cannot see the rows.
HELD_OUT_SUBSTITUTES = (CHRF, EXACT_MATCH)

#: The headline metric of held-out rows.
HELD_OUT_HEADLINE = "completion_perplexity"

#: All metrics of held-out rows.
HELD_OUT_SCORES = (
    *(HELD_OUT_HEADLINE, "completion_bits_per_byte", "sequence_perplexity", "sequence_bits_per_byte"),
    *(BLEU, "rouge1", "rouge2", ROUGE_L, CHRF, EXACT_MATCH),
)


def metric_problem(done: str, metric: str) -> str:
    """Why held-out rows are not `done` (scored, compared) by a metric."""
    renamed = f"renamed: {METRICS[metric]}" if metric in METRICS else ""
    return renamed or f"held-out rows are not {done} by {metric!r}"
