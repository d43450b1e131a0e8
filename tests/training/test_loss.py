"""The chunked loss is the plain loss: value and every gradient, whatever the head; and it never holds all logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import FAMILIES, random_table, tiny_model
from torch import Tensor, nn
from torch.nn import functional

from tunelab.data.loader import packed_batch
from tunelab.models.adapters import add_lora
from tunelab.models.forward import packed_attention
from tunelab.training.loss import TargetLoss, chunk_of, chunked_cross_entropy, table_loss

CPU = torch.device("cpu")
LENGTHS = (12, 3, 30, 7, 21, 2, 16)


def both_losses(
    head: nn.Module, around: Callable[[Tensor], Tensor], chunk: int, dtype: torch.dtype = torch.float32
) -> list[tuple[Tensor, list[Tensor]]]:
    """Loss and gradients (hidden first) of the plain loss over 2, and of the chunked one."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 8, generator=generator, dtype=dtype)
    labels = torch.randint(0, 20, (11,), generator=generator)
    parameters = [parameter for parameter in head.parameters() if parameter.requires_grad]
    results = []
    for chunked in (False, True):
        states = hidden.clone().requires_grad_()
        if chunked:
            loss = chunked_cross_entropy(states, labels, around, parameters, chunk)
        else:
            loss = functional.cross_entropy(around(states).float(), labels, reduction="sum")
        results.append((loss.detach(), list(torch.autograd.grad(loss / 2, [states, *parameters]))))
    return results


@pytest.mark.parametrize("chunk", [1, 3, 11, 100])
@pytest.mark.parametrize("trained", [True, False])
def test_chunked_is_plain(chunk: int, trained: bool) -> None:
    torch.manual_seed(1)
    head = nn.Linear(8, 20).requires_grad_(trained)
    (plain, plain_gradients), (chunked, gradients) = both_losses(head, head, chunk)
    torch.testing.assert_close(chunked, plain)
    assert len(gradients) == (3 if trained else 1)
    for got, expected in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(got, expected)


def test_a_soft_cap_around_the_head() -> None:
    torch.manual_seed(1)
    head = nn.Linear(8, 20)
    (plain, plain_gradients), (chunked, gradients) = both_losses(head, lambda x: torch.tanh(head(x) / 0.5) * 0.5, 4)
    torch.testing.assert_close(chunked, plain)
    for got, expected in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(got, expected)


def test_under_bfloat16_autocast() -> None:
    torch.manual_seed(1)
    head = nn.Linear(8, 20)
    with torch.autocast("cpu", torch.bfloat16):
        (plain, plain_gradients), (chunked, gradients) = both_losses(head, head, 4)
    assert chunked.dtype == torch.float32
    torch.testing.assert_close(chunked, plain, rtol=1e-3, atol=0)
    for got, expected in zip(gradients, plain_gradients, strict=True):
        assert got.dtype == expected.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)


def test_dividing_by_the_number_of_targets_is_not_rounded_to_the_states_dtype() -> None:
    """1/11 in bfloat16 is off by 0.2 %; all of a step's gradients would be off by that, in one direction."""
    torch.manual_seed(1)
    head = nn.Linear(8, 20).to(torch.bfloat16).requires_grad_(False)
    hidden = torch.randn(11, 8, dtype=torch.bfloat16)
    sums = []
    for weight in (1.0, 1 / 11):
        states = hidden.clone().requires_grad_()
        (chunked_cross_entropy(states, torch.arange(11), head, [], 4) * weight).backward()
        assert states.grad is not None
        sums.append(states.grad.double())
    expected = sums[0] / 11
    # Rounded once: half of bfloat16's spacing, 2^-8 of the power of two that lies below.
    half_spacing = torch.exp2(torch.frexp(expected).exponent - 1.0) * 2**-8
    assert ((sums[1] - expected).abs() <= half_spacing * (1 + 1e-3)).all()


def test_no_target_at_all_is_a_loss_of_zero_with_gradients_of_zero() -> None:
    head = nn.Linear(8, 20)
    hidden = torch.randn(0, 8, requires_grad=True)
    loss = chunked_cross_entropy(hidden, torch.zeros(0, dtype=torch.int64), head, list(head.parameters()), 4)
    loss.backward()
    assert float(loss.detach()) == 0
    assert head.weight.grad is not None
    assert not head.weight.grad.any()


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def plain_loss(model: Any, table: Any) -> Tensor:
    """Row by row through the model's own forward pass, full logits."""
    total = torch.zeros(())
    for number in range(len(table)):
        ids, mask = (torch.from_numpy(array.copy()).long() for array in table.row(number))
        logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
        total = total + (functional.cross_entropy(logits[:-1], ids[1:], reduction="none") * mask[1:]).sum()
    return total


HEADS = {
    "tied, full": ({"tie_word_embeddings": True}, None),
    "untied, full": ({"tie_word_embeddings": False}, None),
    "tied, LoRA on the head": ({"tie_word_embeddings": True}, ["lm_head"]),
    "untied, LoRA on the head": ({"tie_word_embeddings": False}, ["lm_head"]),
    "frozen head": ({}, "all-linear"),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_s_loss_is_that_of_its_own_logits(family: str, head: str) -> None:
    changes, targets = HEADS[head]
    model = tiny_model(family, **changes)
    if targets is not None:
        model = add_lora(model, rank=4, alpha=8, targets=targets)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    table = random_table(LENGTHS)
    expected = plain_loss(model, table)
    expected.backward()
    wanted = gradients_of(model)
    model.zero_grad()
    module = TargetLoss(model, chunk=5)
    with packed_attention(model):
        loss = module.of_batch(packed_batch(table, range(len(table))))
        loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-4)
    got = gradients_of(model)
    assert got.keys() == wanted.keys() != set()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-3 * float(wanted[name].abs().max()))


def test_logits_exist_for_one_chunk_of_targets_at_a_time() -> None:
    model = tiny_model("llama")
    table = random_table(LENGTHS)
    formed: list[int] = []
    module = TargetLoss(model, chunk=5)
    model.lm_head.register_forward_hook(lambda layer, inputs, output: formed.append(output.shape[-2]))
    with module.attention():
        module.of_batch(packed_batch(table, range(len(table)))).backward()
    assert formed.pop(0) == 1, "what is trained behind the hidden states is seen in one logit"
    assert sum(table.targets) <= sum(formed) < sum(table.targets) + 5  # the last chunk is padded
    assert max(formed) == 5


def test_a_chunk_is_eight_million_logits_unless_told_and_more_on_a_gpu() -> None:
    assert (chunk_of(128_256, "cuda"), chunk_of(151_936, "cuda"), chunk_of(262_144, "cuda")) == (512, 416, 256)
    chunk = chunk_of(264, "cpu")
    assert chunk % 32 == 0
    assert 2**23 - 32 * 264 < chunk * 264 <= 2**23


@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_s_loss_is_the_same_for_any_batch_size_packing_and_number_of_ranks(family: str) -> None:
    model = tiny_model(family)
    module = TargetLoss(model).train()
    table = random_table(LENGTHS)
    expected = float(plain_loss(tiny_model(family), table).detach())
    for micro_batch_tokens in (1, 30, 45, 1000):
        for layout in ("packed", "padded"):
            module.layout = layout
            total, targets = table_loss(
                module, table, micro_batch_tokens=micro_batch_tokens, loss_on="completion", device=CPU
            )
            assert targets == sum(table.targets)
            assert total == pytest.approx(expected, rel=1e-5)
    parts = [
        table_loss(module, table, micro_batch_tokens=30, loss_on="completion", device=CPU, rank=rank, ranks=3)
        for rank in range(3)
    ]
    assert sum(targets for _, targets in parts) == sum(table.targets)
    assert sum(total for total, _ in parts) == pytest.approx(expected, rel=1e-5)
    assert module.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_table_s_loss_knows_no_dropout() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5)
    module, table = TargetLoss(model).train(), random_table(LENGTHS)
    losses = {table_loss(module, table, micro_batch_tokens=50, loss_on="all", device=CPU) for _ in range(3)}
    assert len(losses) == 1
    assert losses.pop()[1] == sum(LENGTHS) - len(LENGTHS)
    assert table_loss(module, random_table([]), micro_batch_tokens=50, loss_on="all", device=CPU) == (0.0, 0)
