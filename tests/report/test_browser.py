"""The page in headless Chromium: its script runs, nothing is requested or wider than a phone, no plot's text is cut."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from study_reports import example_page, example_report, without_plots

from tunelab.report.html_page import html_page

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever the browser itself would look up
)


@pytest.fixture(scope="module")
def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs a Chromium to open the page in, which is not installed")
    return found


def opened(chromium: str, page: Path, *flags: str) -> tuple[str, str]:
    """The page's elements after its script ran, and what the browser logged."""
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [chromium, *FLAGS, profile, *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    return done.stdout, done.stderr


def console(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


def test_the_script_runs_without_complaint(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(example_page(), "utf-8")
    shown, log = opened(chromium, page)
    assert console(log) == []
    assert ">60 of 60 shown</p>" in shown
    assert re.search(r'<button type="button" id="theme" aria-label="Switch to (dark|light) colors">', shown)


def test_hostile_texts_do_nothing(chromium: str, tmp_path: Path) -> None:
    report = without_plots(example_report(1))
    evil = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
    flip = dataclasses.replace(report.flips[0], text_a=evil, question=evil)
    page = tmp_path / "report.html"
    page.write_text(html_page(dataclasses.replace(report, title=f"safe{evil}", flips=(flip,))), "utf-8")
    shown, log = opened(chromium, page)
    assert console(log) == []
    assert "<title>safe&lt;img" in shown


def printed_pages(chromium: str, page: Path) -> int:
    """Sheets that the page takes on paper."""
    pdf = page.with_suffix(".pdf")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [chromium, *FLAGS, profile, f"--print-to-pdf={pdf}", page.as_uri()]
    subprocess.run(command, capture_output=True, timeout=200, check=True)
    return len(re.findall(rb"/Type /Page\b", pdf.read_bytes()))


@pytest.mark.slow
def test_it_prints_on_few_sheets(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    counts = []
    for flips in (20, 200):
        page.write_text(html_page(example_report(flips)), "utf-8")
        counts.append(printed_pages(chromium, page))
    assert 5 <= counts[0] <= 10
    assert counts[1] == counts[0], "flips beyond the first twenty are left to the screen"


# Runs beside the page in a frame: tells how wide it is, then searches and switches the colours.
PROBE = """
onload = () => {
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const shown = () => [...page.querySelectorAll(".flip")].filter((one) => one.getClientRects().length).length;
  const told = {width: root.scrollWidth, over: []};
  for (const one of page.querySelectorAll("body *"))
    if (!one.closest("svg, .skip, thead, .more") && one.getBoundingClientRect().right > innerWidth)
      told.over.push(one.className);
  const texts = [...page.querySelectorAll(".plot text")];
  told.texts = texts.length;
  told.cut = texts.filter((one) => {
    const box = one.getBoundingClientRect(), plot = one.closest("svg").getBoundingClientRect();
    return box.left < plot.left || box.right > plot.right || box.top < plot.top - 1 || box.bottom > plot.bottom + 1;
  }).map((one) => one.textContent);
  told.clipped = [...page.querySelectorAll("section > .frame")].filter((one) => one.scrollWidth > one.clientWidth)
    .map((one) => one.getAttribute("aria-label"));
  told.loaded = frames[0].performance.getEntriesByType("resource").map((one) => one.name);
  const search = page.getElementById("flip-search"), kind = page.getElementById("flip-kind");
  kind.value = "=lost"; kind.dispatchEvent(new Event("change")); told.lost = shown();
  search.value = "IFEVAL 1003"; search.dispatchEvent(new Event("input")); told.found = shown();
  told.count = page.getElementById("flip-count").textContent;
  const paper = () => frames[0].getComputedStyle(page.body).backgroundColor;
  const ink = () => frames[0].getComputedStyle(texts[0]).fill, first = ink();
  const before = paper(); page.getElementById("theme").click(); told.papers = [before, paper()].sort();
  told.inks = new Set([first, ink()]).size;
  document.title = JSON.stringify(told);
};
"""


LESS_USUAL = ((1280, 2), (1920, 4))


@pytest.mark.parametrize(
    ("width", "benchmarks"), [(390, 4), (1280, 4), *(pytest.param(*one, marks=pytest.mark.slow) for one in LESS_USUAL)]
)
def test_it_fits_the_screen_and_can_be_searched(chromium: str, tmp_path: Path, width: int, benchmarks: int) -> None:
    report, page = example_report(), example_page()
    if benchmarks < len(report.benchmarks):
        names = report.benchmarks[:benchmarks]
        page = html_page(
            dataclasses.replace(report, scores=tuple(one for one in report.scores if one.benchmark in names))
        )
    # Without its policy, which would hide what the page tries to load.
    page = re.sub(r"<meta http-equiv[^>]*>", "", page)
    outer = tmp_path / "outer.html"
    frame = f'<iframe srcdoc="{html.escape(page)}" style="width:{width}px;height:800px;border:0"></iframe>'
    probe = PROBE.replace("innerWidth", str(width))
    outer.write_text(f"<!doctype html><meta charset=utf-8><script>{probe}</script><body>{frame}", "utf-8")
    shown, _ = opened(chromium, outer, f"--window-size={width + 100},900")
    told = json.loads(html.unescape(re.findall(r"<title>(.*?)</title>", shown)[0]))
    assert told["width"] <= width and told["over"] == []
    assert told["clipped"] == [], "tables that must be scrolled to be read"
    assert told["loaded"] == []
    assert told["texts"] > 80 and told["cut"] == [] and told["inks"] == 2
    assert told["lost"] == sum(flip.kind == "lost" for flip in report.flips)
    assert (told["found"], told["count"]) == (1, "1 of 60 shown")
    assert told["papers"] == ["rgb(20, 24, 30)", "rgb(255, 255, 255)"]
