"""Whether other programs can load a model in a weight format, from its configuration: before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tunelab import plugins
from tunelab.config import Recipe
from tunelab.errors import ModelError
from tunelab.models.formats._format import WeightFormat
from tunelab.models.load import load_config
from tunelab.models.precision import FOLDER, weight_format
from tunelab.models.quantized_load import empty_model, layers_to_quantize
from tunelab.models.quantized_save import check_loadable, check_no_experts


def format_of_sum(recipe: Recipe, into: str) -> WeightFormat | None:
    """The weight format that a merge into `into` quantizes the sum to; None if it stays dense."""
    if into not in plugins.names(FOLDER):
        return None
    return weight_format(into, recipe.precision.options if recipe.precision.name == into else {})


def check_stored_layers(recipe: Recipe, form: WeightFormat) -> None:
    """Check that a checkpoint of the recipe's model in this format is one that the format's own library loads.

    Raises:
        ModelError: a layer cannot be stored that way, or is no linear layer; or the configuration is not available.
    """
    check_loadable(form, _layers(recipe))


def storable(recipe: Recipe, forms: Mapping[str, WeightFormat | None]) -> list[str]:
    """The names whose format passes check_stored_layers(), and those without one (dense); the model is built once."""
    try:
        layers = _layers(recipe)
    except ModelError:  # a mixture of experts, which no format stores
        return [name for name, form in forms.items() if form is None]
    return [name for name, form in forms.items() if form is None or _is_loadable(form, layers)]


def _layers(recipe: Recipe) -> dict[str, nn.Module]:
    """The layers of the recipe's model that a format quantizes, without their weights."""
    model = recipe.model
    config = load_config(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    empty = empty_model(config, torch.bfloat16, model.trust_remote_code)
    check_no_experts(empty)
    return {name: empty.get_submodule(name) for name in layers_to_quantize(empty, recipe.precision.skip)}


def _is_loadable(form: WeightFormat, layers: Mapping[str, nn.Module]) -> bool:
    try:
        check_loadable(form, layers)
    except ModelError:
        return False
    return True
