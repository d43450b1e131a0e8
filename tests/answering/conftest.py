"""Fixtures of the generation tests."""

from __future__ import annotations

import pytest
from chat_actor import Actor

from tunelab.inference import engine


@pytest.fixture
def actor(monkeypatch: pytest.MonkeyPatch) -> Actor:
    made = Actor()
    monkeypatch.setattr(engine, "stream", made.stream)
    return made
