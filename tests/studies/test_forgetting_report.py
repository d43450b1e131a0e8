"""Forgetting in a report, from stored responses alone: changes by domain, learning beside it, table and plot."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from tunelab.comparison.evaluated import Evaluated, evaluated_in
from tunelab.comparison.paired_comparison import Comparison
from tunelab.config import parse_recipe, to_yaml
from tunelab.errors import DataError
from tunelab.report.content import Arm, StudyReport
from tunelab.report.forgetting import LEARNING, forgetting_plot, forgetting_table
from tunelab.report.forgetting_content import Forgetting
from tunelab.report.html_page import html_page
from tunelab.report.markdown_page import markdown_page
from tunelab.report.plots import all_plots
from tunelab.scoring.score import score_file
from tunelab.studies.comparison_report import compare_report
from tunelab.studies.forgetting_report import forgetting_part

DOMAINS = ("code", "law", "news", "stories", "german", "python")
#: Bits per byte of each arm: the base's, and by how much more an arm has on code and elsewhere.
SHIFTS = {"base": (0.0, 0.0), "lora": (0.3, 0.02), "full": (0.5, 0.1)}


def stored(folder: Path, benchmark: str, responses: Sequence[dict[str, object]], arm: str = "base") -> list[Evaluated]:
    folder.mkdir(parents=True)
    header = {"benchmark": benchmark, "benchmark_options": {}, "items": len(responses), "limit": None, "arm": arm}
    more = {"prompt_hash": folder.name, "cluster": "", "text": "", "choices": [], "stop_reason": ""}
    more |= {"prompt_tokens": 1, "truncated_tokens": 0, "answer_tokens": 0, "choice_tokens": [1]}
    lines = [json.dumps(header), *(json.dumps({**more, **one}) for one in responses)]
    (folder / "responses.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    score_file(folder / "responses.jsonl", workers=1)
    return evaluated_in(folder)


def texts(arm: str) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    for place, domain in enumerate(DOMAINS):
        for number in (1, 2):
            bits = 1.0 + 0.1 * place + 0.01 * number + SHIFTS[arm][0 if domain == "code" else 1]
            values = {"target": 100, "log_probabilities": [-bits * math.log(2) * 100]}
            made.append({"item": f"{domain}-{number}", "question": domain, "cluster": domain, **values})
    return made


def questions(arm: str) -> list[dict[str, object]]:
    """A tuned arm is right on three of four items, the base on every second."""
    every = 2 if arm == "base" else 4
    return [
        {"item": str(number), "question": "q", "target": int(number % every == 0), "choices": ["a", "b"]}
        | {"log_probabilities": [-1.0, -2.0], "choice_tokens": [1, 1]}
        for number in range(60)
    ]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[Evaluated]]:
    folder = tmp_path_factory.mktemp("evaluated")
    found = {(arm, "forgetting"): stored(folder / f"{arm}-texts", "forgetting", texts(arm)) for arm in SHIFTS}
    return found | {(arm, "winogrande"): stored(folder / arm, "winogrande", questions(arm)) for arm in SHIFTS}


def part(evaluated: dict[tuple[str, str], list[Evaluated]], comparisons: Sequence[Comparison] = ()) -> Forgetting:
    pairs = [("base", "lora"), ("base", "full")]
    found = forgetting_part(
        pairs, ["forgetting", "winogrande"], lambda arm, benchmark: evaluated.get((arm, benchmark), []), comparisons
    )
    assert found is not None
    return found


def report(found: Forgetting) -> StudyReport:
    return StudyReport("t", "c", arms=tuple(Arm(name, "m", "none", "none", "") for name in SHIFTS), forgetting=found)


def test_changes_are_tuned_minus_untuned(evaluated: dict[tuple[str, str], list[Evaluated]]) -> None:
    found = part(evaluated)
    lora, full = found.arms
    assert (lora.arm, lora.base, lora.before) == ("lora", "base", pytest.approx(1.265))
    assert lora.lost[0] == pytest.approx((0.3 + 5 * 0.02) / 6) and lora.lost[1] <= lora.lost[0] <= lora.lost[2]
    assert full.lost[0] == pytest.approx(1 / 6)
    assert (found.learned_on, found.learned_metric, found.learned_higher_is_better) == ("winogrande", "accuracy", True)
    assert lora.learned is not None and lora.learned[0] == pytest.approx(0.25)
    of_code = next(one for one in found.domains if (one.arm, one.domain) == ("lora", "code"))
    assert (of_code.texts, of_code.before) == (2, pytest.approx(1.015)) and of_code.change == pytest.approx(0.3)


def test_without_texts_there_is_no_part(evaluated: dict[tuple[str, str], list[Evaluated]]) -> None:
    nothing = forgetting_part([("base", "lora")], ["winogrande"], lambda arm, benchmark: [], [])
    assert nothing is None
    alone = {key: value for key, value in evaluated.items() if key[1] == "forgetting"}
    found = part(alone)
    assert found.learned_on == "" and all(one.learned is None for one in found.arms)
    assert forgetting_plot(report(found)) is None


def test_compare_shows_what_a_run_lost_against_its_base(tmp_path: Path) -> None:
    recipe = parse_recipe({"model": "some/model", "data": {"sources": ["rows.jsonl"]}})
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    for arm, like in (("base", "base"), ("tuned", "lora")):
        stored(tmp_path / "evaluations" / f"forgetting-{arm}-1", "forgetting", texts(like), arm)
    found = compare_report(tmp_path).forgetting
    assert found is not None and [(one.base, one.arm) for one in found.arms] == [("base", "tuned")]
    assert found.arms[0].lost[0] == pytest.approx((0.3 + 5 * 0.02) / 6)


def test_the_table_begins_with_all_texts(evaluated: dict[tuple[str, str], list[Evaluated]]) -> None:
    table = forgetting_table(report(part(evaluated)))
    assert [(one.title, one.unit) for one in table.columns[1:]] == [
        ("Texts", ""),
        ("base", "bits per byte"),
        ("lora", "change from base"),
        ("full", "change from base"),
    ]
    first, code, *_ = ([cell.text for cell in row] for row in table.rows)
    assert first == ["all texts", "12", "1.265", "+0.067", "+0.167"]
    assert code == ["code", "2", "1.015", "+0.300", "+0.500"]
    assert len(table.rows) == 1 + len(DOMAINS) and " to " in table.rows[0][3].notes[0]


def test_the_plot_says_what_was_learned_and_forgotten(evaluated: dict[tuple[str, str], list[Evaluated]]) -> None:
    made = report(part(evaluated))
    plot = forgetting_plot(made)
    assert plot is not None and plot.name == LEARNING
    assert "lora learned +0.250, forgot +0.067" in plot.words
    axes = plot.figure.axes[0]
    assert plot.title == "Learning on winogrande against forgetting" and "No room" not in plot.caption
    assert axes.get_xlabel() == "change of accuracy (0-1), right is better"
    assert axes.get_ylabel() == "change on general texts (bits per byte), lower is better"
    assert axes.get_xlim()[0] < 0 < axes.get_xlim()[1] and axes.get_ylim()[0] < 0 < axes.get_ylim()[1]
    shown = dataclasses.replace(made, curves=())
    assert LEARNING in [one.name for one in all_plots(dataclasses.replace(shown, comparisons=()))]


def test_page_and_markdown_have_the_section(evaluated: dict[tuple[str, str], list[Evaluated]]) -> None:
    made = report(part(evaluated))
    page = html_page(made)
    assert 'id="forgetting"' in page and f'id="plot-{LEARNING}"' in page and "change from base" in page
    assert "## Forgetting" in markdown_page(made)
    assert 'id="forgetting"' not in html_page(dataclasses.replace(made, forgetting=None))


def test_it_is_stored_and_read_and_names_known_arms(evaluated: dict[tuple[str, str], list[Evaluated]]) -> None:
    made = report(part(evaluated))
    assert StudyReport.from_json(json.loads(json.dumps(made.to_json()))) == made
    old = {key: value for key, value in made.to_json().items() if key != "forgetting"}
    assert StudyReport.from_json(old).forgetting is None
    with pytest.raises(DataError, match="forgetting of the report name 'full'"):
        dataclasses.replace(made, arms=made.arms[:2])
