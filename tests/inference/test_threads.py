"""Several threads that use one loaded model get the answers that each of them would get alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import torch
from architectures import tiny_architecture
from tiny import tiny_tokenizer
from varied_models import VOCABULARY, tiny_model

from tunelab.data.rendering import rendered, rendered_together
from tunelab.evaluation.likelihood import row_likelihoods
from tunelab.inference.engine import generate
from tunelab.inference.sampling import Decoding


def prompts_of(lengths: Sequence[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def answers(model: Any, prompts: Sequence[Sequence[int]]) -> dict[int, tuple[int, ...]]:
    made = generate(model, tiny_tokenizer(), prompts, Decoding(max_new_tokens=10), stop_token_ids=())
    return {one.index: one.token_ids for one in made}


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_answers_of_threads_that_share_a_model(family: str) -> None:
    """One thread's attention was taken away by another that had ended, and rows saw each other."""
    model = tiny_model(family) if family == "llama" else tiny_architecture(family)
    asked = [prompts_of((3, 9, 6)), prompts_of((5, 2)), prompts_of((7, 8, 1))]
    alone = [answers(model, prompts) for prompts in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda prompts: answers(model, prompts), asked * 3))
    assert together == alone * 3


def test_likelihoods_of_threads_that_share_a_model() -> None:
    model = tiny_model("llama")
    rows = [(tuple(ids), (False, *[True] * (len(ids) - 1))) for ids in prompts_of((9, 4, 7))]

    def score() -> list[Any]:
        return list(row_likelihoods(model, rows, micro_batch_tokens=1000))

    alone, answer = score(), answers(model, prompts_of((4, 3)))
    with ThreadPoolExecutor(2) as pool:
        scored = [pool.submit(score) for _ in range(6)]
        answered = [pool.submit(answers, model, prompts_of((4, 3))) for _ in range(6)]
    assert all(one.result() == alone for one in scored) and all(one.result() == answer for one in answered)


def together(apply: Callable[[], str], characters: int) -> str:
    """As rendered(), of a batch of one."""
    texts = rendered_together(lambda: [apply()], [characters])
    return texts[0] if texts else ""


@pytest.mark.parametrize("render", [rendered, together])
def test_templates_that_threads_render_leave_the_limit_of_memory_as_it_was(render: Callable[..., str]) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    first_began, second_began = Event(), Event()

    def first() -> str:
        first_began.set()
        second_began.wait(0.2)
        return "one"

    def second() -> str:
        second_began.set()
        time.sleep(0.1)
        return "two"

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(render, first, 1)
        first_began.wait()
        two = pool.submit(render, second, 1)
        assert (one.result(), two.result()) == ("one", "two")
    found = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert found == before
