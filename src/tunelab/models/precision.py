"""A weight format by name and options, and the format that a checkpoint's configuration declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

from tunelab import plugins
from tunelab.errors import ModelError, UsageError
from tunelab.models.formats._format import WeightFormat

FOLDER = "models/formats"


def weight_format(name: str, options: Mapping[str, Any] | None = None) -> WeightFormat:
    """The format of this name (a file in models/formats/, an entry point, or the path of a .py file).

    Raises:
        UsageError: there is no such format, or it has no such option.
    """
    form = getattr(plugins.load(FOLDER, name), "Format", None)
    if not (isinstance(form, type) and is_dataclass(form)):
        raise UsageError(f"precision {name!r} has no dataclass Format", "models/formats/_format.py documents it")
    known = [one.name for one in fields(form)]
    for option in options or {}:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"precision.options: {name} has no option {option!r}", has)
    return cast(WeightFormat, form(**(options or {})))


def stored_format(quantization: Mapping[str, Any] | None, name: str) -> WeightFormat | None:
    """The format that a checkpoint's linear layers are already stored in, from its `quantization_config`.

    Raises:
        ModelError: tunelab cannot read how they are stored.
    """
    if not quantization:
        return None
    method = quantization.get("quant_method")
    if method == "bitsandbytes" and quantization.get("load_in_8bit"):
        return weight_format("int8")
    if method == "bitsandbytes" and quantization.get("load_in_4bit"):
        double = bool(quantization.get("bnb_4bit_use_double_quant", False))
        return weight_format(quantization.get("bnb_4bit_quant_type", "fp4"), {"double_quantization": double})
    if method == "compressed-tensors" and quantization.get("format") == "mxfp4-pack-quantized":
        return weight_format("mxfp4")
    if method == "mxfp4":  # gpt-oss: its experts alone
        return weight_format("mxfp4")
    raise ModelError(
        f"{name}: its weights are stored by {method}"
        + (f" as {quantization['format']}" if "format" in quantization else ""),
        "supported: bitsandbytes (4 and 8 bits), compressed-tensors' mxfp4-pack-quantized and gpt-oss's mxfp4; "
        "otherwise use the unquantized checkpoint",
    )


def check_format(asked: WeightFormat | None, stored: WeightFormat | None, name: str) -> None:
    """Loading cannot change the format of a checkpoint.

    Raises:
        ModelError: another format than the stored one, or none, is requested.
    """
    if stored is None:
        return
    if asked is None or asked.name != stored.name:
        raise ModelError(
            f"{name}: its weights are stored in {stored.name}, and precision is {asked.name if asked else 'none'}",
            f"set precision: {stored.name}, or use the unquantized checkpoint",
        )
    for option in ("double_quantization",):
        if getattr(asked, option, None) != getattr(stored, option, None):
            raise ModelError(
                f"{name}: its weights are stored with {option}={getattr(stored, option)}",
                f"set precision.options.{option}: {str(getattr(stored, option)).lower()}",
            )
