"""The load of experts in a process that has no rows left: its passes only take part in the exchange."""

from __future__ import annotations

import torch
from architectures import tiny_architecture

from tunelab.training.expert_load import ExpertLoad


def test_passes_without_rows_add_nothing_but_their_layers() -> None:
    model = tiny_architecture("mixtral").train()
    load = ExpertLoad(model)
    ids = torch.arange(8)[None]
    model(input_ids=ids)
    alone = load.read()
    model(input_ids=ids)
    load.counts = False
    model(input_ids=ids + 20)
    assert load.read() == alone is not None
    model(input_ids=ids)
    assert load._chosen, "a process that never has rows takes part in the sum over processes"
    assert all(not counts.any() for counts in load._chosen.values())
