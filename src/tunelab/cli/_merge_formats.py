"""`merge --compare`: every format that a run can be merged into, with its size and what it loses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.cli._console import print_table, progress_bar, say
from tunelab.cli._json import merge_formats_document, print_json
from tunelab.units import format_bytes, format_loss, format_scientific, format_share, format_values

if TYPE_CHECKING:
    from tunelab.inference.divergence import Divergence

COLUMNS = ("KL from the trained model", "perplexity", "changed tokens", "improvement kept")


def show_merge_formats(run: str, base: str | None, *, as_json: bool = False) -> None:
    """Measure all formats; the table (or JSON) on stdout, what to choose on stderr."""
    from tunelab.publishing.merge import compare_merges, merge_formats, recommended_merge
    from tunelab.records.runs import open_run

    with progress_bar() as progress:
        found = compare_merges(run, base=base, progress=progress)
    recipe = open_run(Path(run)).recipe
    left_out = [name for name in merge_formats(recipe) if name not in found]
    recommended = recommended_merge(recipe, found)
    if as_json:
        print_json(merge_formats_document(found, left_out, recommended))
        return
    cells = quality_cells([one.quality for one in found.values()])
    sizes = [format_bytes(one.bytes) for one in found.values()]
    rows = [(name, size, *row) for name, size, row in zip(found, sizes, cells, strict=True)]
    print_table(("format", "size", *COLUMNS), rows)
    first = next(iter(found.values())).quality
    say(
        f"{measured_on(first)} Loss: base {format_loss(first.base_loss)}, "
        f"trained model {format_loss(first.trained_loss)} nats per token."
    )
    for name in left_out:
        say(f"Left out: {name}, in which other programs could not load this model (--format {name} says why).")
    say(f"Recommended: --format {recommended}")


def measured_on(quality: Divergence) -> str:
    """What KL and perplexity are measured on, and why the perplexity may differ from that of `eval`."""
    return (
        f"On the first {quality.tokens:,} completion tokens of held-out rows (4,096 at most); "
        "`tunelab eval` measures the perplexity on all of them."
    )


def quality_cells(qualities: Sequence[Divergence]) -> list[tuple[str, str, str, str]]:
    """One row of cells under COLUMNS for each."""
    perplexities = format_values([one.perplexity for one in qualities])
    return [
        (
            f"{format_scientific(one.kl)} nats",
            perplexity,
            format_share(one.changed, 2),
            "no improvement" if one.kept_improvement is None else format_share(one.kept_improvement),
        )
        for one, perplexity in zip(qualities, perplexities, strict=True)
    ]
