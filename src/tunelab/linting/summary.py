"""What the data checks found, as lines for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from tunelab.linting.finding import Finding
from tunelab.linting.lint import Lint
from tunelab.units import format_counted

#: Where `tunelab lint` is not printing to a terminal, and in logs.
COLUMNS = 100


def table(found: Lint, allowed: Sequence[str] = (), columns: int = COLUMNS) -> str:
    """One line or more per finding, under a line that counts them; "" if there are none."""
    if not found.findings:
        return ""
    width = max(len(one.check) for one in found.findings) + 2
    lines = [f"{counted(found)}; `tunelab lint` shows examples:"]
    for one in found.findings:
        marked = f"error{', allowed' if one.check in allowed else ''}: {one.what}" if one.level == "error" else one.what
        lines += textwrap.wrap(
            f"  {one.check:<{width}}{marked}",
            columns,
            subsequent_indent=" " * (width + 2),
            break_on_hyphens=False,
            drop_whitespace=True,
        )
    return "\n".join(lines)


def counted(found: Lint) -> str:
    """ "data checks: 1 error and 3 warnings in 51,941 rows"."""
    errors = sum(one.level == "error" for one in found.findings)
    levels = (("error", errors), ("warning", len(found.findings) - errors))
    said = " and ".join(format_counted(count, level) for level, count in levels if count) or "nothing found"
    return f"data checks: {said} in {format_counted(sum(found.rows.values()), 'row')}"


def details(found: Lint, columns: int = COLUMNS) -> str:
    """Every finding with examples, the reason and the remedy."""
    return "\n\n".join("\n".join(_detailed(one, columns)) for one in found.findings)


def _detailed(finding: Finding, columns: int) -> Iterator[str]:
    yield from textwrap.wrap(f"{finding.level}: {finding.check}: {finding.what}", columns, subsequent_indent="  ")
    for name, text in (("why", finding.why), ("remedy", finding.remedy)):
        yield from textwrap.wrap(f"  {name}: {text}", columns, subsequent_indent="    ")
    for example in finding.examples:
        shown = f": {example.shown}" if example.shown else ""
        yield from textwrap.wrap(f"  {example.row}{shown}", columns, subsequent_indent="    ")
