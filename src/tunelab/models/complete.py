"""Does a checkpoint have exactly the weights of its model? What is missing, misshapen or left over is named.

A library initializes what is missing at random and drops what is left over: a config.json with fewer layers than the
files would load as another model without a word.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunelab.errors import ModelError

#: Parts of stored names that no causal language model reads and that do not change its logits: buffers of before, which
#: are computed now (an attention's own "bias" is a causal mask); layers that predict further tokens; a value head;
#: encoders and projections of other modalities.
NOT_READ = re.compile(
    r"(^|\.)(inv_freq|cos_cached|sin_cached|(self_)?(attn|attention)\.bias|masked_bias|causal_mask|position_ids"
    r"|mtp\w*|nextn\w*|v_head"
    r"|vision\w*|visual\w*|image\w*|vit|audio\w*|speech\w*|talker|token2wav|code2wav|multi_modal_projector|mm_projector"
    r")(\.|$)"
)

#: Numbers of the layers in names of weights: "model.layers.3.mlp", "transformer.h.3.attn".
LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks)\.(\d+)\.")

#: Names shown of many.
SHOWN = 3


def lacking(name: str, model: PreTrainedModel, missing: Collection[str]) -> ModelError:
    """The error for a checkpoint that lacks these weights of the model."""
    return ModelError(
        f"{name}: the weight files lack {len(missing)} weights of {type(model).__name__}: {_listed(missing)}",
        "they would be random; use a complete causal language model checkpoint",
    )


def check_nothing_left_over(name: str, model: PreTrainedModel, unused: Iterable[str]) -> None:
    """Check the names in a checkpoint that no weight of the model was loaded from.

    Those that transformers itself expects to be there, and NOT_READ, are fine.

    Args:
        name: the folder or hub name of the checkpoint.
        unused: as the model would call them.

    Raises:
        ModelError: others are left: the model is not the one that was saved.
    """
    left = [key for key in unused if not _is_expected(key, model)]
    if not left:
        return
    deepest = 1 + max((int(found.group(1)) for key in left if (found := LAYER.search(key))), default=-1)
    built = getattr(model.config.get_text_config(), "num_hidden_layers", deepest)
    of_layers = f"; config.json names {built} layers, the files have {deepest}" if deepest > built else ""
    raise ModelError(
        f"{name}: {type(model).__name__} as config.json describes it does not have {len(left)} of the stored weights: "
        f"{_listed(left)}{of_layers}",
        "they would be dropped, and another model would remain: restore config.json; if that is what you want, save "
        "the smaller model with transformers' save_pretrained and use its folder",
    )


def check_shapes(name: str, mismatched: Iterable[tuple[str, Collection[int], Collection[int]]]) -> None:
    """Check for weights whose shape in the checkpoint is not the model's.

    Args:
        mismatched: (weight, stored shape, the model's shape) of each.

    Raises:
        ModelError: there are such weights; the message names the first.
    """
    for weight, stored, expected in sorted(mismatched):
        raise ModelError(
            f"{name}: {weight} is {tuple(stored)}, the model expects {tuple(expected)}",
            "config.json and the weight files are of different models: restore config.json, or download both again",
        )


def check_head(name: str, model: PreTrainedModel, head: Tensor, embedding: Tensor) -> None:
    """Check the output head that a checkpoint has, where config.json says that it is the embedding.

    Raises:
        ModelError: the two differ.
    """
    ties_them = bool(getattr(model, "_tied_weights_keys", None))  # of classes that tie nothing, the key says nothing
    if ties_them and head is not embedding and not torch.equal(head, embedding):
        raise ModelError(
            f"{name}: config.json sets tie_word_embeddings, but the weight files have an output head of "
            f"{type(model).__name__} that differs from its embedding",
            "set tie_word_embeddings to false in config.json to use the stored head",
        )


def _is_expected(key: str, model: PreTrainedModel) -> bool:
    own = model._keys_to_ignore_on_load_unexpected or ()
    if NOT_READ.search(key) or any(re.search(pattern, key) for pattern in own):
        return True
    config = model.config.get_text_config()
    extra = getattr(config, "num_nextn_predict_layers", None) or 0
    layer = LAYER.search(key)
    return bool(extra and layer and 0 <= int(layer.group(1)) - config.num_hidden_layers < extra)


def _listed(names: Collection[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:SHOWN]) + (f" and {len(first) - SHOWN} more" if len(first) > SHOWN else "")
