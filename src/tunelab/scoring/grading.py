"""Grade responses on all cores: in this process first, and in worker processes if that is faster.

A worker is a fresh interpreter that reads and writes JSON. It is not forked from a process that may have threads
or a GPU, and it does not rerun the caller's script, as multiprocessing's `spawn` does.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from tunelab.allowed_code import allowed_code, only_allowed, own_module_path
from tunelab.cpu import usable_cores
from tunelab.errors import RunError, TunelabError
from tunelab.evaluation.benchmark import BenchmarkOptions, Response
from tunelab.evaluation.benchmark_files import load_benchmark

WORKER_SECONDS = 0.5  # start-up time of a worker: interpreter and imports
WORKER = "from tunelab.scoring.grading import work; work()"

Values = dict[str, Any]
Numbered = tuple[int, Response]


def grade_responses(
    module: ModuleType,
    name: str,
    options: BenchmarkOptions,
    responses: Sequence[Response],
    places: Sequence[str],
    workers: int | None = None,
) -> list[Values]:
    """Values of each response, after a JSON round trip; independent of the number of workers.

    Args:
        module: the benchmark.
        name: its name or the path of its file, from which a worker loads it.
        options: its options.
        responses: what is graded.
        places: location of each response ("FILE: line 3"), for messages.
        workers: maximum number of processes; None = one per core.

    Raises:
        RunError: a response cannot be graded; names the first one, with its location and item.
    """
    workers = workers or usable_cores()
    numbered = list(enumerate(responses))
    found: dict[int, Values] = {}
    seconds: list[float] = []
    for index, response in numbered:
        if workers > 1 and _pays(seconds, len(numbered) - index, workers):
            found.update(_shared(module, name, options, numbered[index:], places, workers))
            break
        started = time.monotonic()
        found.update(_graded(module, name, options, [(index, response)], places))
        seconds.append(time.monotonic() - started)
    return [found[index] for index, _ in numbered]


def _pays(seconds: Sequence[float], left: int, workers: int) -> bool:
    """Whether workers would save more time than they cost; checked again whenever twice as many are graded.

    Time beyond the median so far went into loading what grading needs (a tokenizer's data, a language detector), which
    every worker would load again.
    """
    done = len(seconds)
    if done < 2 or done & (done - 1):
        return False
    usual = statistics.median(seconds)
    loading = sum(seconds) - usual * done
    return usual * left * (1 - 1 / workers) > WORKER_SECONDS + loading


def _graded(
    module: ModuleType, name: str, options: BenchmarkOptions, part: Iterable[Numbered], places: Sequence[str]
) -> dict[int, Values]:
    values, failure = _grade_part(module, name, options, part)
    if failure:
        raise _error(failure, places)
    return values


def _grade_part(
    module: ModuleType, name: str, options: BenchmarkOptions, part: Iterable[Numbered]
) -> tuple[dict[int, Values], dict[str, Any] | None]:
    """Values by number; on a failure also its number, the error and the remedy, and grading stops there."""
    values: dict[int, Values] = {}
    metric = module.BENCHMARK.metric
    for index, response in part:
        failure = {"index": index, "item": response.item, "hint": ""}
        try:
            with contextlib.redirect_stdout(sys.stderr):  # a benchmark's own output must not mix with ours
                values_given = dict(module.grade(response, options))
            given: Values = json.loads(json.dumps(values_given, allow_nan=False))
        except TunelabError as error:
            return values, {**failure, "message": error.message, "hint": error.hint}
        except Exception as error:  # a user's own benchmark may raise anything
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(frame.filename).name}:{frame.lineno}"
            message = f"grade of benchmark {name} failed: {type(error).__name__}: {error} ({where})"
            return values, {**failure, "message": message}
        # Another tool's response may lack the metric's input but allow another value (TruthfulQA's MC2 alone).
        if not given or not _is_value(given.get(metric)):
            message = f"grade of benchmark {name} gave no number for {metric!r}, but {given}"
            return values, {**failure, "message": message}
        values[index] = given
    return values, None


def _is_value(value: Any) -> bool:
    """A finite number, or None if a response cannot be judged."""
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _error(failure: dict[str, Any], places: Sequence[str]) -> RunError:
    item = f"item {failure['item']!r}"
    return RunError(f"{places[failure['index']]}, {item}: {failure['message']}", failure["hint"])


def _shared(
    module: ModuleType,
    name: str,
    options: BenchmarkOptions,
    part: list[Numbered],
    places: Sequence[str],
    workers: int,
) -> dict[int, Values]:
    """Each worker takes every n-th response; this process is one of them."""
    shares = [share for share in (part[first::workers] for first in range(workers)) if share]
    with ThreadPoolExecutor(max_workers=max(1, len(shares) - 1)) as threads:
        asked = [threads.submit(_ask_worker, name, options, share) for share in shares[1:]]
        results = [_grade_part(module, name, options, shares[0]), *(one.result() for one in asked)]
    failures = [failure for _, failure in results if failure]
    if failures:
        raise _error(min(failures, key=lambda failure: int(failure["index"])), places)
    return {index: value for values, _ in results for index, value in values.items()}


def _ask_worker(
    name: str, options: BenchmarkOptions, share: list[Numbered]
) -> tuple[dict[int, Values], dict[str, Any] | None]:
    job = {
        "benchmark": name,
        "allowed": allowed_code(),
        "options": options.model_dump(mode="json"),
        "responses": [[index, response.to_json()] for index, response in share],
    }
    environment = {**os.environ, **own_module_path()}
    done = subprocess.run(
        [sys.executable, "-c", WORKER], input=json.dumps(job), capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(f"a grading process of {len(share)} responses died: {said[-1]}", "use --workers 1")
    result = json.loads(done.stdout)
    return {index: values for index, values in result["values"]}, result["failure"]


def work() -> None:
    """A worker: grade the responses given as JSON on stdin, and write their values as JSON to stdout."""
    answer, sys.stdout = sys.stdout, sys.stderr  # keep output printed during imports apart from the values
    job = json.load(sys.stdin)
    with only_allowed(job["allowed"], is_closed=True):
        module = load_benchmark(job["benchmark"])
    part = [(index, Response.from_json(record)) for index, record in job["responses"]]
    values, failure = _grade_part(module, job["benchmark"], module.Options(**job["options"]), part)
    json.dump({"values": list(values.items()), "failure": failure}, answer)
