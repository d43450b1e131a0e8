"""What a person should know of the tokens of a training before it begins: new ones, and untrained ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from tunelab.config import Recipe
from tunelab.data.loader import TokenTable
from tunelab.preparation.tokenizer import new_token_ids
from tunelab.units import format_counted


def token_sentences(recipe: Recipe, tokenizer: Any, train: TokenTable) -> list[str]:
    """How many tokens are new, and which of them no training row has."""
    said = []
    if ids := new_token_ids(recipe, tokenizer):
        said.append(f"{format_counted(len(ids), 'new token')}: {', '.join(tokenizer.convert_ids_to_tokens(ids))}")
        present = set(np.unique(train.input_ids).tolist())
        if unseen := [id for id in ids if id not in present]:
            shown = ", ".join(tokenizer.convert_ids_to_tokens(unseen))
            said.append(f"warning: no training row has {shown}: the embedding stays where it starts")
    return said
