"""Embeddings of tokens that a tokenizer got after its model was trained: rows of the embedding table and the head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

#: No id starts from words.
MEAN: Mapping[int, Sequence[int]] = MappingProxyType({})


def add_embeddings(model: PreTrainedModel, ids: Sequence[int], words: Mapping[int, Sequence[int]] = MEAN) -> None:
    """Give new ids an embedding and a row of the head: the mean over all ids below them, as transformers does, or over
    those of some words.

    Both tables grow only if they are too short: many are padded beyond their tokenizer. The same ids always give the
    same rows.

    Args:
        ids: of the new tokens, all above those of the tokenizer that the model was trained with.
        words: new id -> the ids that it starts from.

    Source: Hewitt 2021, "Initializing new word embeddings for pretrained language models". Without its tiny noise.
    """
    if not ids:
        return
    grow(model, max(ids) + 1)
    with torch.no_grad():
        for table in _tables(model):
            table[list(ids)] = table[: min(ids)].float().mean(0).to(table.dtype)
            for id, known in words.items():
                table[id] = table[list(known)].float().mean(0).to(table.dtype)


def grow(model: PreTrainedModel, size: int) -> None:
    """Lengthen the embedding table and the head to `size` ids if they are shorter; new rows are the mean of the others.

    A tied head stays tied. Weights of other layers are untouched, whatever their format.
    """
    before = model.get_input_embeddings().num_embeddings
    if size <= before:
        return
    is_trained = model.get_input_embeddings().weight.requires_grad
    model.resize_token_embeddings(size, mean_resizing=False)
    model.get_input_embeddings().weight.requires_grad_(is_trained)
    with torch.no_grad():
        for table in _tables(model):
            table[before:] = table[:before].float().mean(0).to(table.dtype)


def _tables(model: PreTrainedModel) -> Iterator[Tensor]:
    """The embedding table [ids, hidden], and the head's weight [ids, hidden] and bias [ids] where it has its own."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    yield embedding.weight
    if head is None:
        return
    if head.weight is not embedding.weight:
        yield head.weight
    if isinstance(bias := getattr(head, "bias", None), Tensor):
        yield bias


def module_name(model: PreTrainedModel, module: nn.Module) -> str:
    """The module's name in the model: the fewest last parts that end no other module's name (PEFT compares endings)."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    own = str(next(name for name, found in model.named_modules() if found is module))
    parts = own.split(".")
    for count in range(1, len(parts) + 1):
        ending = ".".join(parts[-count:])
        if sum(name.endswith(ending) for name in names) == 1:
            return ending
    return own
