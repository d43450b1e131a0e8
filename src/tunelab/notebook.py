"""What a notebook shows: progress bars, tables, data frames and loss plots. tqdm, pandas and matplotlib load on use."""

from __future__ import annotations

import html
import io
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunelab.errors import UsageError

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

#: Open bars by stage.
_BARS: dict[str, Any] = {}

#: Steps in a moving average of the training loss: one in this many parts of the run.
_SMOOTHED_PARTS = 20


def shown_in_notebooks(stage: str, done: int, total: int | None, detail: str = "") -> None:
    """The default progress of the Python API: a bar per stage in a notebook, nothing elsewhere.

    Pass tunelab.progress.silent for no bar, or your own function.
    """
    if not in_notebook():
        return
    bar = _BARS.get(stage)
    if bar is None or done < bar.n:  # a new stage, or the same one again
        if bar is not None:
            bar.close()
        bar = _BARS[stage] = _new_bar(stage, total, done)
    bar.total = total
    if detail:
        bar.set_postfix_str(detail, refresh=False)
    bar.update(done - bar.n)
    if total is not None and done >= total:
        bar.close()
        del _BARS[stage]


def said_in_notebooks(sentence: str) -> None:
    """The default listener of the Python API: prints a sentence on stderr in a notebook, nothing elsewhere."""
    if in_notebook():
        sys.stderr.write(f"{sentence}\n")


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this code. IPython is not imported."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def data_frame(records: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Records as a data frame, one row each.

    Raises:
        UsageError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise UsageError("to_frame() needs pandas, which is not installed", "pip install pandas") from None
    return pandas.DataFrame.from_records([dict(record) for record in records])


def html_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """A table for a notebook, with notes below it; every text is escaped."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    caption = f"<p><b>{html.escape(title)}</b></p>" if title else ""
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f"{caption}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"


def loss_figure(title: str, records: Sequence[Mapping[str, Any]]) -> Figure:
    """The loss over steps as a matplotlib figure: each training step faintly, its moving average, and other rows' loss.

    Args:
        records: lines of metrics.jsonl, of the kinds "train", "validation" and "held-out": step, loss.

    Raises:
        UsageError: no training step was logged.
    """
    train, *others = (
        [(int(one["step"]), float(one["loss"])) for one in records if one.get("kind") == kind]
        for kind in ("train", "validation", "held-out")
    )
    if not train:
        raise UsageError(f"{title}: no training step was logged yet", "train first")
    figure = _new_figure()
    axes = figure.add_subplot()
    steps, losses = zip(*train, strict=True)
    axes.plot(steps, losses, color="C0", alpha=0.3, linewidth=0.8)
    axes.plot(steps, _smoothed(losses), color="C0", label="training (moving average)")
    for name, points in zip(("validation", "held-out"), others, strict=True):
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color="C1", label=f"{name} rows")
    axes.set(title=title, xlabel="optimizer step", ylabel="loss (nats per target token)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


def _new_figure() -> Figure:
    """A figure that a notebook shows as it is, without pyplot and its state."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            with io.BytesIO() as file:
                self.savefig(file, format="png", dpi=100)
                return file.getvalue()

    return ShownFigure(figsize=(7, 3.5), layout="constrained")


def _smoothed(values: Sequence[float]) -> list[float]:
    window = max(1, len(values) // _SMOOTHED_PARTS)
    parts = [values[max(0, place - window + 1) : place + 1] for place in range(len(values))]
    return [sum(part) / len(part) for part in parts]


def _new_bar(stage: str, total: int | None, done: int) -> Any:
    """tqdm's widget where ipywidgets is installed, else its line of text, which needs nothing."""
    from tqdm.std import tqdm as text_bar

    try:
        import ipywidgets  # noqa: F401
        from tqdm.notebook import tqdm as widget_bar
    except ImportError:
        return text_bar(desc=stage, total=total, initial=done, leave=True)
    return widget_bar(desc=stage, total=total, initial=done, leave=True)
