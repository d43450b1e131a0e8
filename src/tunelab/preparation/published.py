"""What a model takes along when it leaves: its prompt template as a chat template, and its end tokens."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedModel

from tunelab.config import Recipe
from tunelab.data.chat_template import as_chat_template
from tunelab.data.templates import TEXT_TEMPLATES
from tunelab.preparation.rows import row_encoder


def published_tokenizer(tokenizer: Any, recipe: Recipe) -> Any:
    """A copy of a run's tokenizer whose chat template renders prompts as in training, or none if none can.

    The base's own chat template is never left on a model that was trained in another one.
    """
    published = copy.deepcopy(tokenizer)
    text = TEXT_TEMPLATES.get(recipe.data.template)
    if text is not None:
        published.chat_template = as_chat_template(text, tokenizer)
    return published


def set_end_tokens(model: PreTrainedModel, tokenizer: Any, recipe: Recipe) -> None:
    """Name every token that ends an answer in the model's generation settings, saved as generation_config.json."""
    ends = row_encoder(tokenizer, recipe).stop_token_ids()
    if model.generation_config is not None:
        model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
