"""The story of `tunelab quantize`: a model in, a checkpoint with its linear layers in few bits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunelab.config import load_recipe, resolve
from tunelab.errors import UsageError
from tunelab.files import directory_written_atomically
from tunelab.models.digest import digest
from tunelab.models.quantized_linear import quantized_layers
from tunelab.models.quantized_save import save_quantized
from tunelab.workflows.prepare import load_recipe_tokenizer
from tunelab.workflows.setup import checkpoint_dtype, load_base


@dataclass(frozen=True)
class Quantized:
    """A quantised checkpoint.

    Args:
        precision: the format.
        layers: linear layers that are stored in it.
        bits_per_weight: of these layers' weights, scales included.
        bytes: of all parameters.
        dense_bytes: what they take in `dtype`.
        dtype: of what is not quantised: that of the original checkpoint.
    """

    path: Path
    precision: str
    layers: int
    bits_per_weight: float
    bytes: int
    dense_bytes: int
    dtype: str


def quantize(model: str, out: Path | str, *, precision: str, changes: Sequence[str] = ()) -> Quantized:
    """Store a model's linear layers in a format, and write it with its tokenizer.

    Args:
        changes: keys of a recipe as on the command line, such as "precision.options.scale_rule=mse",
            "precision.skip=[down_proj]" or "model.revision=COMMIT".

    Raises:
        UsageError: `out` exists, or precision is none.
        ModelError: the model cannot be loaded, or a weight cannot be quantised.
    """
    target = Path(out)
    if target.exists():
        raise UsageError(f"{target}: exists already", "choose another directory with --out")
    if precision == "none":
        raise UsageError("precision none stores weights as they are", "give a format: --precision nf4")
    # A recipe names rows; none are read here.
    flags = {"model.name": model, "precision.name": precision, "data.sources": ["alpaca"]}
    recipe = resolve(load_recipe(None, list(changes), flags))
    tokenizer = load_recipe_tokenizer(recipe)
    dtype = checkpoint_dtype(recipe)
    loaded = load_base(recipe, dtype=dtype)
    layers = quantized_layers(loaded)
    weights = sum(layer.in_features * layer.out_features for layer in layers.values())
    packed = sum(tensor.nbytes for layer in layers.values() for tensor in layer.packed.values())
    made = digest(loaded)
    with directory_written_atomically(target) as folder:
        save_quantized(loaded, folder)
        tokenizer.save_pretrained(folder)
    name = str(dtype).removeprefix("torch.")
    dense = made.parameters * dtype.itemsize
    return Quantized(target, precision, len(layers), 8 * packed / weights, made.bytes, dense, name)
