"""Scoring that is killed with SIGKILL, anywhere, leaves the old scores or the new ones, each whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sums_benchmark import write_benchmark, write_responses

from tunelab.scoring.score import score_file

KILLS = 40
NAMES = ("scores.json", "grades.jsonl")
# Scores without end, with other options each time, writing slowly; gives what every kill left behind, a line each.
DRIVER = """
import builtins, io, json, os, random, signal, sys, time
from pathlib import Path
from tunelab.allowed_code import allow_code
from tunelab.scoring.score import score_file

path, kills, benchmark, names = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
allow_code(benchmark)
plain = io.open

def slow_open(file, mode="r", *more, **named):
    handle = plain(file, mode, *more, **named)
    if "w" in mode:
        write = handle.write
        def in_halves(text):
            write(text[: len(text) // 2])
            handle.flush()
            time.sleep(0.01)
            return write(text[len(text) // 2 :])
        handle.write = in_halves
    return handle

def score_without_end():
    builtins.open = io.open = slow_open
    while True:
        for strict in (False, True):
            score_file(path, options={"strict": strict})

draw, seen, count = random.Random(0), set(), 0
while count < kills or (len(seen) < 2 and count < 20 * kills):  # until kills came after either of the two writings
    count += 1
    child = os.fork()
    if child == 0:
        score_without_end()
    time.sleep(draw.uniform(0, 0.3))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), status
    left = [path.with_name(name).read_text() for name in names]
    seen.add(left[0])
    print(json.dumps(left))
"""


@pytest.mark.slow
def test_killed_at_random_leaves_whole_files(tmp_path: Path) -> None:
    benchmark = str(write_benchmark(tmp_path))
    path = write_responses(tmp_path / "arm" / "responses.jsonl", benchmark, [f" {n}" for n in range(1, 60)])
    whole: dict[str, list[str]] = {name: [] for name in NAMES}
    for strict in (False, True):
        score_file(path, options={"strict": strict})
        for name in NAMES:
            whole[name].append(path.with_name(name).read_text())
    assert all(first != second for first, second in whole.values()), "strict or not makes a difference"
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(path), str(KILLS), benchmark, *NAMES],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    left = [dict(zip(NAMES, json.loads(line), strict=True)) for line in done.stdout.splitlines()]
    assert len(left) >= KILLS
    for files in left:
        for name in NAMES:
            assert files[name] in whole[name], f"{name} is neither the old nor the new"
    assert {files["scores.json"] for files in left} == set(whole["scores.json"]), "kills before and after both writings"
    again = score_file(path, options={"strict": True})
    assert again.scores_path.read_text() == whole["scores.json"][1], "scored again it ends the same"


def test_a_file_that_is_killed_while_it_is_written_is_scored_as_far_as_it_goes(tmp_path: Path) -> None:
    benchmark = str(write_benchmark(tmp_path))
    path = write_responses(tmp_path / "responses.jsonl", benchmark, ["1", "2", "x", "4"], items=4)
    complete = path.read_bytes()
    whole = score_file(path).scores_path.read_bytes()
    for length in range(complete.index(b"\n", complete.index(b"\n") + 1) + 1, len(complete), 97):
        path.write_bytes(complete[:length])
        found = score_file(path)
        assert len(found.graded) == complete[:length].count(b"\n") - 1
        assert any("the file has answers to" in warning for warning in found.scored.warnings)
        assert path.read_bytes() == complete[:length]
    path.write_bytes(complete)
    assert score_file(path).scores_path.read_bytes() == whole
