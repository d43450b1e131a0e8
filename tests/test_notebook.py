"""Progress bars are shown in notebooks and nowhere else; the guide's notebook runs."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunelab import notebook
from tunelab.notebook import html_table, in_notebook, loss_figure, said_in_notebooks, shown_in_notebooks

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "guides" / "notebook.ipynb"


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook without ipywidgets: a shell with a kernel."""
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipywidgets", None)


def test_a_script_shows_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    shown_in_notebooks("training", 1, 2)
    said_in_notebooks("15 rows are few")
    said: Any = capsys.readouterr()
    assert not in_notebook() and said.out == said.err == ""
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert not in_notebook(), "IPython in a terminal has no kernel"


def test_a_notebook_shows_a_bar_per_stage(kernel: None, capsys: pytest.CaptureFixture[str]) -> None:
    for done in range(4):
        shown_in_notebooks("training", done, 3, f"loss {done}")
    shown_in_notebooks("answering", 1, 2)
    shown_in_notebooks("answering", 0, 2)  # the same stage again, before it ended
    shown_in_notebooks("answering", 2, 2)
    said = capsys.readouterr()
    assert in_notebook() and said.out == ""
    said_in_notebooks("15 rows are few")
    assert capsys.readouterr().err == "15 rows are few\n"
    assert "training: 100%" in said.err and "3/3" in said.err and "loss 3" in said.err and "answering: 100%" in said.err
    assert notebook._BARS == {}


def test_tables_are_escaped() -> None:
    table = html_table("<a>", ("<b>",), [("<c>",)], ["<d>"])
    assert "<b>&lt;a&gt;</b>" in table and "<th>&lt;b&gt;</th>" in table and "<td>&lt;c&gt;</td>" in table
    assert table.endswith("<p>&lt;d&gt;</p>")


def test_the_loss_is_smoothed_over_a_part_of_the_run() -> None:
    records = [{"kind": "train", "step": step, "loss": float(step % 2)} for step in range(1, 101)]
    figure = loss_figure("run", [*records, {"kind": "held-out", "step": 50, "loss": 0.25}])
    raw, smoothed, held_out = figure.axes[0].lines
    assert list(raw.get_ydata())[:3] == [1.0, 0.0, 1.0] and set(list(smoothed.get_ydata())[4:]) == {0.4, 0.6}
    assert list(held_out.get_xdata()) == [50]


def cells() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


def shown(source: str, names: dict[str, Any]) -> Any:
    """What a notebook shows below a cell: its last expression, as the HTML, picture or text that it has."""
    *body, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        body, last = [*body, last], ast.parse("None").body[0]
    assert isinstance(last, ast.Expr)
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    forms = (getattr(value, form)() for form in ("_repr_html_", "_repr_png_", "__repr__") if hasattr(value, form))
    return next(form for form in forms if form is not None)  # as IPython does: matplotlib's HTML may be None


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    found = []
    for cell in cells():
        if cell["cell_type"] == "code":
            source = (
                "".join(cell["source"]).replace("steps = 40", "steps = 2").replace('"held_out": 24', '"held_out": 6')
            )
            found.append(shown(source.replace('"max_new_tokens": 24', '"max_new_tokens": 3'), names))
    everything = "\n".join(map(str, found))
    for said in ("background:", "finished", "PNG", "held-out rows", "p after Holm over 3", "low-lr"):
        assert said in everything, said


def test_the_notebook_holds_no_outputs() -> None:
    assert all(cell["outputs"] == [] for cell in cells() if cell["cell_type"] == "code")
