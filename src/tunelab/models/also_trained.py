"""What an adapter trains besides its matrices: whole modules, and the embeddings of some tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.utils.other import TrainableTokensWrapper
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunelab.errors import ModelError
from tunelab.models.folder_files import json_object
from tunelab.models.forward import backbone, underlying
from tunelab.models.linear_layers import is_end_of
from tunelab.models.new_tokens import module_name

#: Names of `adapter.also_train` that every model has, whatever it calls these modules.
EMBEDDING, HEAD, NORMS = "embed_tokens", "lm_head", "norms"

#: Token ids whose embeddings and logits must stay as they are when PEFT wraps the tables.
PROBED = 16

#: New tokens that an adapter of others may have.
MOST_NEW = 1 << 16


@dataclass(frozen=True)
class AlsoTrained:
    """What PEFT trains besides the matrices.

    Args:
        peft_settings: of LoraConfig.
        before: outputs of embedding and head before they were wrapped, by which of the two.
        is_tied: embedding and head are one table, of which something is trained.
    """

    peft_settings: dict[str, Any]
    before: dict[str, Tensor]
    is_tied: bool

    def begin(self, adapted: PeftModel) -> None:
        """Keep these weights in float32, and check that the wrapped modules compute what they did before.

        Raises:
            ModelError: they do not: PEFT leaves out something, such as a head's bias.
        """
        for parameter in also_trained_parameters(adapted).values():
            parameter.data = parameter.data.float()
        if self.is_tied and not _is_one_table(underlying(adapted)):
            raise ModelError(
                f"{type(underlying(adapted)).__name__}: PEFT trains embedding and head apart, which are one table",
                "train all weights (method=full)",
            )
        if self.peft_settings.get("ensure_weight_tying"):
            # PEFT has removed the head from the list, by which it knows again that there is something to tie.
            adapted.peft_config["default"].modules_to_save = list(self.peft_settings["modules_to_save"])
        after = _outputs(underlying(adapted)) if self.before else {}
        for name, outputs in self.before.items():
            if not torch.allclose(after[name], outputs, rtol=1e-2, atol=1e-3):
                raise ModelError(
                    f"{type(underlying(adapted)).__name__}: PEFT's layer for single tokens leaves out a part of the "
                    f"{name} (a bias, or a scale)",
                    f"train the tables whole: adapter.also_train=[{EMBEDDING}, {HEAD}]",
                )


def also_trained(
    model: PreTrainedModel, names: Sequence[str], tokens: Sequence[int], targets: Sequence[str]
) -> AlsoTrained:
    """The settings of PEFT for modules that are trained in full, and for tokens whose embeddings are trained.

    A tied head is one table with the embedding: it is trained as one, and stays tied.

    Args:
        names: "embed_tokens", "lm_head", "norms", or the end of module names.
        tokens: ids; none of a table that is trained in full.
        targets: layers with matrices, which cannot be trained in full as well.

    Raises:
        ModelError: a name matches no module, or one that has matrices or holds other modules.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is None or head.weight is embedding.weight
    whole = _modules(model, names, embedding if tied else head)
    heads = _modules(model, (HEAD,), head) if head is not None and tied and embedding in whole.values() else {}
    for name, module in {**whole, **heads}.items():
        if any(is_end_of(target, name) for target in targets):
            raise ModelError(
                f"adapter.also_train: {name} of {type(model).__name__} has an adapter already",
                "remove it from adapter.also_train, or name adapter.targets without it",
            )
        if list(module.children()) or not list(module.parameters()):
            raise ModelError(
                f"adapter.also_train: {name} of {type(model).__name__} is no single layer with weights",
                "name its layers, such as " + ", ".join((EMBEDDING, HEAD, NORMS)),
            )
    settings: dict[str, Any] = {}
    if whole:
        settings["ensure_weight_tying"] = tied and head is not None and embedding in whole.values()
        named = [*whole.values(), *([head] if settings["ensure_weight_tying"] else [])]
        settings["modules_to_save"] = sorted({module_name(model, module) for module in named})
    tables = {"embedding": embedding} if tied else {"embedding": embedding, "head": head}
    alone = {name: table for name, table in tables.items() if all(table is not module for module in whole.values())}
    if not tokens or not alone:
        return AlsoTrained(settings, {}, bool(settings.get("ensure_weight_tying")))
    settings["trainable_token_indices"] = {module_name(model, table): list(tokens) for table in alone.values()}
    names_of_head = {name for name, module in model.named_modules() if module is head}
    for target in targets:
        if any(is_end_of(target, name) for name in names_of_head):
            raise ModelError(
                f"model.new_tokens: {target} of {type(model).__name__} has an adapter, so its rows cannot be trained",
                f"name adapter.targets without {target}",
            )
    return AlsoTrained(settings, _outputs(model), tied and head is not None)


def _is_one_table(model: PreTrainedModel) -> bool:
    """Whether what PEFT trains of the embedding is also the head's."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if isinstance(embedding, TrainableTokensWrapper):
        return isinstance(head, TrainableTokensWrapper) and head.token_adapter.tied_adapter is embedding.token_adapter
    return head.weight is embedding.weight


def _modules(model: PreTrainedModel, names: Sequence[str], head: nn.Module) -> dict[str, nn.Module]:
    """Full name -> module, for each name.

    Raises:
        ModelError: a name matches none.
    """
    every = {name: module for name, module in model.named_modules() if name}
    own = {EMBEDDING: [model.get_input_embeddings()], HEAD: [head], NORMS: norms(model)}
    found: dict[str, nn.Module] = {}
    for name in names:
        wanted = own.get(name)
        matching = {
            full: module
            for full, module in every.items()
            if (any(module is one for one in wanted) if wanted is not None else is_end_of(name, full))
        }
        if not matching:
            last = {full.rpartition(".")[2] for full in every}
            raise ModelError(
                f"adapter.also_train: {name!r} matches no module of {type(model).__name__}",
                f"name {EMBEDDING}, {HEAD}, {NORMS}, or the last part of a module's name: "
                + ", ".join(sorted(part for part in last if not part.isdigit())),
            )
        found |= matching
    return found


def norms(model: PreTrainedModel) -> list[nn.Module]:
    """The normalization layers with weights behind the embedding."""
    found = (module for module in backbone(model).modules() if "norm" in type(module).__name__.lower())
    return [module for module in found if not list(module.children()) and list(module.parameters())]


def also_trained_parameters(model: PeftModel) -> dict[str, nn.Parameter]:
    """The weights of an adapted model that an adapter trains besides its matrices, by name."""
    parts = (".modules_to_save.", ".trainable_tokens_delta.")
    return {name: one for name, one in model.named_parameters() if any(part in name for part in parts)}


def ids_needed(model: PreTrainedModel, folder: Path) -> int:
    """How many ids the tables of a model must have for an adapter: one that was trained with new tokens names them.

    Args:
        folder: of adapter_config.json and adapter_model.safetensors.

    Raises:
        ModelError: an id is far beyond the model's.
    """
    tables = {module_name(model, one) for one in (model.get_input_embeddings(), model.get_output_embeddings()) if one}
    named = json_object(folder / "adapter_config.json").get("trainable_token_indices")
    lists = named.values() if isinstance(named, dict) else [named]
    largest = max((id for ids in lists if isinstance(ids, list) for id in ids if isinstance(id, int)), default=-1) + 1
    here = model.get_input_embeddings().weight.shape[0]
    if largest > here + MOST_NEW:
        raise ModelError(
            f"{folder}: adapter_config.json: trainable_token_indices has the id {largest - 1}, but "
            f"{type(model).__name__} embeds {here} ids",
            "load it on the base model it was trained on",
        )
    endings = tuple(f".{table}{part}.weight" for table in tables for part in ("", ".modules_to_save", ".base_layer"))
    try:
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            stored = [file.get_slice(name).get_shape()[0] for name in file.keys() if name.endswith(endings)]  # noqa: SIM118
    except SafetensorError:
        return largest  # said where it is loaded
    return int(max(largest, *stored, 0))


def _outputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """What embedding and head give for the first ids and a few hidden states, in float32."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    weight = table.weight
    ids = torch.arange(min(PROBED, weight.shape[0]), device=weight.device)
    with torch.no_grad():
        found = {"embedding": table(ids).float()}
        if head is not None:
            generator = torch.Generator().manual_seed(0)
            hidden = torch.randn(4, weight.shape[1], generator=generator).to(weight)
            found["head"] = head(hidden).float()
    return found
