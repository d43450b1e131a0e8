"""Quantizing a model: a model in, a checkpoint with quantized linear layers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunelab.config import load_recipe, resolve
from tunelab.errors import UsageError
from tunelab.files import as_path, check_is_new, directory_written_atomically
from tunelab.models.adapters import add_lora
from tunelab.models.checkpoint_files import checkpoint_folder
from tunelab.models.digest import digest
from tunelab.models.loftq import STORED, alternate, set_products
from tunelab.models.precision import weight_format
from tunelab.models.quantized_linear import quantized_layers
from tunelab.models.quantized_save import save_quantized
from tunelab.preparation.model import checkpoint_dtype, load_base
from tunelab.preparation.tokenizer import load_recipe_tokenizer
from tunelab.publishing.stored_layers import check_stored_layers


@dataclass(frozen=True)
class Quantized:
    """A quantized checkpoint.

    Args:
        precision: the format.
        layers: number of linear layers stored in it.
        bits_per_weight: of these layers' weights, scales included.
        bytes: of all parameters.
        dense_bytes: the same in `dtype`, without quantization.
        dtype: of the weights that are not quantized: that of the original checkpoint.
    """

    path: Path
    precision: str
    layers: int
    bits_per_weight: float
    bytes: int
    dense_bytes: int
    dtype: str


def quantize(
    model: Path | str,
    out: Path | str,
    *,
    precision: str,
    changes: Sequence[str] | str = (),
    loftq_rank: int | None = None,
    loftq_alternations: int = 5,
) -> Quantized:
    """Store a model's linear layers in a format, and write it with its tokenizer.

    Args:
        loftq_rank: find codes and an adapter of this rank in turns (models/loftq.py); the adapter is stored next to the
            codes, and training with adapter.init=loftq starts from it. None = the codes of the weights themselves.
        loftq_alternations: how many turns; the paper uses 5.
        changes: keys of a recipe as on the command line, such as "precision.options.scale_rule=mse",
            "precision.skip=[down_proj]" or "model.revision=COMMIT".

    Raises:
        UsageError: `out` exists, precision is none, or a number of LoftQ's is below 1.
        ModelError: the model cannot be loaded, a weight cannot be quantized, or other programs could not load a layer.
    """
    target = as_path(out, "out")
    check_is_new(target)
    if precision == "none":
        raise UsageError("precision none does not quantize", "give a format: --precision nf4")
    if min(loftq_rank or 1, loftq_alternations) < 1 or loftq_rank == 0:
        raise UsageError(f"LoftQ with rank {loftq_rank}, {loftq_alternations} alternations", "both must be at least 1")
    # A recipe names rows; none are read here.
    flags = {"model.name": str(as_path(model, "model")), "precision.name": precision, "data.sources": ["alpaca"]}
    recipe = resolve(load_recipe(None, [changes] if isinstance(changes, str) else list(changes), flags))
    check_stored_layers(recipe, weight_format(precision, recipe.precision.options))
    tokenizer = load_recipe_tokenizer(recipe, keep_date=True)
    dtype = checkpoint_dtype(recipe)
    loaded = load_base(recipe, dtype=dtype)
    layers = quantized_layers(loaded)
    weights = sum(layer.in_features * layer.out_features for layer in layers.values())
    packed = sum(tensor.nbytes for layer in layers.values() for tensor in layer.packed.values())
    made = digest(loaded)
    products = {}
    if loftq_rank is not None:
        original = checkpoint_folder(recipe.model.name, recipe.model.revision)
        products = alternate(loaded, original, rank=loftq_rank, alternations=loftq_alternations, seed=recipe.train.seed)
    with directory_written_atomically(target) as folder:
        save_quantized(loaded, folder)
        tokenizer.save_pretrained(folder)
        if loftq_rank is not None:
            adapted = add_lora(loaded, rank=loftq_rank, alpha=loftq_rank, targets=list(products))
            set_products(adapted, products)
            adapted.save_pretrained(str(folder / STORED))
    name = str(dtype).removeprefix("torch.")
    dense = made.parameters * dtype.itemsize
    return Quantized(target, precision, len(layers), 8 * packed / weights, made.bytes, dense, name)
