"""Run the demo and the commands of docs/guides/did-it-help.md; write the output to benchmarks/results/DATE-demo.md.

Usage: python scripts/record_demo.py [--folder DIR]

Run it on an idle machine, then run scripts/quote_results.py, which copies the numbers into the documents. With --folder
(for example after an interruption) finished work is kept; the demo's time is then the previous page's, with its date.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from datetime import date
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.measuring import machine  # noqa: E402
from scripts.quote_results import newest_blocks  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results"
WIDTH = 140


def tunelab(folder: Path, *words: str) -> tuple[str, str]:
    """Run one command in a folder: what it printed on stdout and on stderr, without progress bars.

    Raises:
        RuntimeError: the command failed.
    """
    done = subprocess.run([sys.executable, "-m", "tunelab", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"tunelab {' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout.strip("\n"), done.stderr.strip("\n")


def sections(printed: str) -> dict[str, str]:
    """The demo's stdout in its parts: "answers", and each titled table by its title in lower case."""
    answers, *tables = re.split(r"\n\n(?=\S+\n)", printed)
    titled = (table.partition("\n") for table in tables)
    return {"answers": answers} | {title.lower(): table.strip("\n") for title, _, table in titled}


def run_of(report: str, arm: str, seed: int = 0) -> str:
    """The directory of an arm's training run with a seed, relative to the study, from its report.md."""
    found = re.search(rf"^### {re.escape(arm)}, seed {seed}$.*?^- run: (\S+)$", report, re.MULTILINE | re.DOTALL)
    if found is None:
        raise RuntimeError(f"report.md names no run of {arm} with seed {seed}")
    return found[1]


def fenced(text: str) -> str:
    """A code block; sentences are wrapped, tables are not as wide."""
    fill = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_on_hyphens=False).fill
    shown = "\n".join(fill(line) if len(line) > WIDTH else line for line in text.splitlines())
    return f"\n```\n{shown}\n```\n"


def record(folder: Path) -> dict[str, str]:
    """Run everything in a folder; the blocks of the page by name."""
    fresh, start = not (folder / "demo").exists(), time.monotonic()
    printed, said = tunelab(folder, "demo", "--out", "demo")
    seconds = round(time.monotonic() - start)
    found = {name: fenced(text) for name, text in sections(printed).items()}
    took = f"{seconds // 60} min {seconds % 60:02} s"
    found["time"] = took if fresh else newest_blocks(RESULTS)["demo"][1]["time"]
    report = (folder / "demo" / "report.md").read_text(encoding="utf-8")
    for name, (arm, seed) in {"full": ("full", 0), "lora": ("lora", 0), "lora-seed-1": ("lora", 1)}.items():
        if not (link := folder / name).exists():
            link.symlink_to(Path("demo") / run_of(report, arm, seed))
        tunelab(folder, "eval", name)
    for name, runs in {"base": ["lora"], "methods": ["full", "lora"], "seeds": ["lora", "lora-seed-1"]}.items():
        printed, said = tunelab(folder, "compare", *runs)
        sentences = [line for line in said.splitlines() if not line.startswith("costs, settings")]
        found[f"compare-{name}"] = fenced("\n".join([printed, *sentences]))
    return found


def page(found: dict[str, str], today: str) -> str:
    """The page of results: every block between its markers, under the machine that it was measured on."""
    here = machine()
    versions = ", ".join(f"{name} {version}" for name, version in here["libraries"].items())
    head = (
        f"# tunelab demo, {today}\n\n`python scripts/record_demo.py`; {here['processor']}, {here['cores']} cores; "
        f"python {here['python']}, {versions}. `tunelab demo`, then the commands of docs/guides/did-it-help.md.\n"
    )
    shown = (f"\n## {name}\n\n<!-- block {name} -->{text}<!-- end {name} -->\n" for name, text in found.items())
    return head + "".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as temporary:
        found = record(folder or Path(temporary))
    today = str(date.today())
    target = RESULTS / f"{today}-demo.md"
    target.write_text(page(found, today), encoding="utf-8")
    print(f"wrote {target.relative_to(REPOSITORY)}; now run scripts/quote_results.py")


if __name__ == "__main__":
    main()
