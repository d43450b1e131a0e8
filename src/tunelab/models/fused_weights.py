"""Weights that a model has in one tensor and a checkpoint in several: read one at a time, as transformers does.

Most checkpoints of mixtures store each expert's weights apart (`experts.3.up_proj.weight`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, apply_converters, dot_natural_key

from tunelab.errors import ModelError
from tunelab.models.checkpoint_files import CheckpointFiles


def stored_otherwise(files: CheckpointFiles, name: str) -> ModelError:
    """The error for a checkpoint that has codes of each expert apart."""
    return ModelError(
        f"{files.folder}: experts are stored quantized, each apart ({name}), which cannot be read",
        "use the unquantized checkpoint with the same precision: its experts are quantized when it is loaded",
    )


class FusedWeights:
    """The stored tensors from which transformers builds weights of a model.

    Args:
        files: names the tensors as the model would.
        known: names of the model's weights.
    """

    def __init__(self, model: PreTrainedModel, files: CheckpointFiles, known: Collection[str]) -> None:
        converters = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightConverter)]
        self._converters = {pattern: one for one in converters for pattern in one.source_patterns}
        self._model, self._files = model, files
        self._sources: dict[str, list[tuple[str, str]]] = {}  # built weight -> (pattern, stored name)
        for stored in sorted((name for name in files if name not in known), key=dot_natural_key):
            built, pattern = apply_converters(stored, converters)
            if pattern is not None and built in known:
                self._sources.setdefault(built, []).append((pattern, stored))

    @property
    def stored(self) -> set[str]:
        """Names of all tensors that a weight is built from."""
        return {name for parts in self._sources.values() for _, name in parts}

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight with its name.

        Raises:
            ModelError: what is stored are codes, each expert's apart.
        """
        for built, parts in self._sources.items():
            converter = copy.deepcopy(self._converters[parts[0][0]])
            for pattern, stored in parts:
                if not (part := self._files.tensor(stored)).is_floating_point():
                    raise stored_otherwise(self._files, stored)
                converter.add_tensor(built, stored, pattern, part)
            made = converter.convert(built, model=self._model, config=self._model.config)
            for name, tensor in made.items():
                yield name, tensor[0] if isinstance(tensor, list) else tensor
