"""Recipes as typed settings: the keys (recipe, rules), how they are read (reading), and their reference page."""

from __future__ import annotations

from tunelab.config.reading import (
    RecipeLike,
    as_recipe,
    code_names,
    load_recipe,
    parse_recipe,
    to_yaml,
    with_code_allowed,
)
from tunelab.config.recipe import (
    AdapterSettings,
    DataSettings,
    EvaluateSettings,
    ModelSettings,
    Recipe,
    SourceSettings,
    TrainSettings,
)
from tunelab.config.reference import json_schema, reference_markdown
from tunelab.config.rules import resolve

__all__ = [
    "AdapterSettings",
    "DataSettings",
    "EvaluateSettings",
    "ModelSettings",
    "Recipe",
    "RecipeLike",
    "SourceSettings",
    "TrainSettings",
    "as_recipe",
    "code_names",
    "json_schema",
    "load_recipe",
    "parse_recipe",
    "reference_markdown",
    "resolve",
    "to_yaml",
    "with_code_allowed",
]
