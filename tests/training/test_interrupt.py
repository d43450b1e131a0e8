"""Signals become a question, and afterwards they are what they were."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tunelab.training.interrupt import asked_to_stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_an_answer(number: int) -> None:
    before = signal.getsignal(number)
    with asked_to_stop() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), number)
        assert should_stop()
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts_at_once_a_second_sigterm_does_not() -> None:
    with pytest.raises(KeyboardInterrupt), asked_to_stop():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("not reached")


def test_outside_the_main_thread_nobody_asks() -> None:
    answers: list[bool] = []

    def work() -> None:
        with asked_to_stop() as should_stop:
            answers.append(should_stop())

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
    assert signal.getsignal(signal.SIGINT) is before
