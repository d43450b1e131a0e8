"""Benchmarks that are killed with SIGKILL, many times and anywhere, end with the bytes of those that nobody killed.

The tests run this file as a script: it asks in forked children (the heavy imports happen once), kills them at random
moments, starts them again, and prints what came of it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

KILLS = 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["choices", "writing"])
def test_killed_at_random_and_asked_again_is_uninterrupted_byte_for_byte(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path), name, str(KILLS)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["lines"] == 1 + 40
    assert len(report["kills"]) >= KILLS
    assert sum(0 < lines < 41 for lines in report["kills"]) >= KILLS // 2, "kills hit the writing of responses"
    assert report["files"] >= 2 and report["differing"] == []


def ask(model: Path, name: str, benchmarks: Any, out: Path) -> None:
    from tunelab.answering.benchmark_responses import BenchmarkSettings, generate_benchmarks

    options = {name: benchmarks.options[name]}
    settings = BenchmarkSettings(options=options, out=out, micro_batch_tokens=200)
    generate_benchmarks(str(model), [str(getattr(benchmarks, name))], settings)


def responses(out: Path) -> Path | None:
    return next(out.glob("*/responses.jsonl"), None)


def forked(model: Path, name: str, benchmarks: Any, out: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ask(model, name, benchmarks, out)
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def killed(child: int, out: Path, more: int | None, seconds: float) -> bool:
    """Kill the child after so many bytes more are in its file, or after some seconds; False: it was done before."""
    path = responses(out)
    begun = path.stat().st_size if path else 0
    deadline = time.monotonic() + (200 if more is not None else seconds)
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        path = path or responses(out)
        if more is not None and path and path.stat().st_size >= begun + more:
            break
        time.sleep(0.0001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main(folder: Path, name: str, kills: int) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from own_benchmarks import write_benchmarks
    from tiny import model_folder

    import tunelab.answering.benchmark_responses  # noqa: F401 - here, so that no child imports it anew

    draw = random.Random(name)
    model, benchmarks = model_folder(folder / "model", "llama"), write_benchmarks(folder, items=40)
    for out in ("warm-up", "whole"):
        started = time.monotonic()
        _, status = os.waitpid(forked(model, name, benchmarks, folder / out), 0)
        assert status == 0
        seconds = time.monotonic() - started
    whole = responses(folder / "whole")
    assert whole is not None
    hits: list[int] = []
    differing: list[int] = []
    number = 0
    while len(hits) < kills:
        number += 1
        out = folder / f"killed-{number}"
        for turn in range(6):
            more = draw.randrange(whole.stat().st_size // 4) if turn % 3 else None
            if not killed(forked(model, name, benchmarks, out), out, more, draw.uniform(0, seconds)):
                break
            path = responses(out)
            hits.append(len(path.read_bytes().splitlines()) if path else 0)
        _, status = os.waitpid(forked(model, name, benchmarks, out), 0)
        assert status == 0, f"{out}: could not be gone on with"
        path = responses(out)
        if path is None or path.read_bytes() != whole.read_bytes() or path.parent.name != whole.parent.name:
            differing.append(number)
    lines = len(whole.read_bytes().splitlines())
    return {"kills": hits, "files": number, "lines": lines, "differing": differing}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
