"""Can an architecture run packed sequences? Checked in float32, where the answer is exact, once per configuration.

Structure is what can be systematically wrong: rows that see each other, positions that do not restart, logits that are
scaled or capped after the head, a sliding window that is not passed on. A miniature of the model (miniature.py) shows
it with a strict bound, whatever the dtype or format of the model's own weights. Rounding is not structure: in bfloat16
two correct ways of computing one model differ by as much as its own two attention implementations do.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunelab.errors import ModelError
from tunelab.files import cache_home, write_json_atomically
from tunelab.models.forward import output_head, packed_attention, packed_hidden_states, underlying
from tunelab.models.miniature import miniature
from tunelab.version import __version__

#: Largest relative difference of logits in float32. Correct architectures show 1e-6 (summation order); a wrong
#: position, boundary or scale shows 1e-2 and more.
EXACT = 1e-4

#: Lengths of the rows; all but the second exceed a miniature's sliding window.
LENGTHS = (7, 1, 12)

#: Source files that can change the answer.
SOURCES = ("forward.py", "row_attention.py", "miniature.py", "structure.py")

#: Configuration keys that say where weights came from or how they are stored.
NOT_STRUCTURE = ("_name_or_path", "_commit_hash", "transformers_version", "dtype", "quantization_config")

_known: dict[tuple[type, str], Structure] = {}


@dataclass(frozen=True, slots=True)
class Structure:
    """Why an architecture cannot run packed sequences; "" = it can.

    Args:
        together: several rows end to end.
        alone: one row per sequence, as with train.packing=false.
    """

    together: str
    alone: str


def check_packed_forward(model: nn.Module, *, packed: bool = True) -> None:
    """Check that packed sequences give this architecture's own logits, and that the model's logits are finite.

    Args:
        packed: rows are to be run end to end; False = one at a time.

    Raises:
        ModelError: the architecture ignores row boundaries, or changes logits after its head, or needs an attention
            that packed sequences lack; or the model gives logits that are not finite.
    """
    base = underlying(model)
    structure = structure_of(base)
    reason = structure.together if packed else structure.alone
    if reason and not structure.alone:
        raise ModelError(reason, "train.packing=false trains it one row at a time; generation and scoring need packing")
    if reason:
        raise ModelError(
            reason, "tunelab supports attention-only decoders whose logits come directly from their output head"
        )
    _check_finite(base)


def structure_of(model: PreTrainedModel) -> Structure:
    """The result for the model's class and configuration: from this process, from the cache, or computed now.

    A positive result for one of transformers' own classes is kept in the cache directory. Classes that come with a
    checkpoint are checked again by each process: no version identifies their code.
    """
    key = _key(model)
    if (type(model), key) in _known:
        return _known[type(model), key]
    file = cache_home() / "structure" / f"{key}.json"
    is_transformers_own = type(model).__module__.startswith("transformers.models.")
    if is_transformers_own and file.exists():
        found = Structure("", "")
    else:
        found = _found(model)
        if is_transformers_own and found == Structure("", ""):
            _store(file, model)
    _known[type(model), key] = found
    return found


def _store(file: Path, model: PreTrainedModel) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(file, {"class": type(model).__name__, "structure": asdict(Structure("", ""))})
    except OSError:
        return  # without a cache the next start takes a third of a second longer


def _key(model: PreTrainedModel) -> str:
    config = {key: value for key, value in model.config.to_dict().items() if key not in NOT_STRUCTURE}
    content = {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "config": config,
        "attention": model.config._attn_implementation,
        "versions": [__version__, torch.__version__, transformers.__version__],
        "sources": _sources(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@lru_cache(maxsize=1)
def _sources() -> str:
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in SOURCES)).hexdigest()


def _found(model: PreTrainedModel) -> Structure:
    """Run rows through a miniature: separately by its own forward pass, packed together, and packed one at a time."""
    name = type(model).__name__
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        try:
            try:
                small, rows, apart = _apart(model, narrow=True)
            except Exception:  # an architecture that ties its inner width to something else
                small, rows, apart = _apart(model, narrow=False)
        except Exception as error:
            reason = f"{name}: a random model of its configuration cannot be run: {_first_line(error)}"
            return Structure(reason, reason)
        together = _reason(name, "packed rows give different logits than separate rows", small, [rows], apart)
        alone = _reason(name, "a packed row gives different logits than alone", small, [[row] for row in rows], apart)
    return Structure(together, alone)


def _apart(model: PreTrainedModel, *, narrow: bool) -> tuple[PreTrainedModel, list[Tensor], Tensor]:
    """A miniature, rows, and its logits for each row separately: [tokens of all rows, vocabulary]."""
    small = miniature(model, narrow=narrow)
    size = small.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, size, (length,), generator=generator) for length in LENGTHS]
    return small, rows, torch.cat([small(input_ids=row[None], use_cache=False).logits[0] for row in rows])


def _reason(name: str, what: str, small: PreTrainedModel, batches: list[list[Tensor]], apart: Tensor) -> str:
    """Why these packed batches do not give the logits `apart`; "" if they do."""
    try:
        with packed_attention(small):
            packed = torch.cat([_packed_logits(small, batch) for batch in batches])
    except ModelError as error:
        return str(error)
    except Exception as error:
        return f"{name}: packed sequences fail: {_first_line(error)}"
    difference = float((packed - apart).abs().max() / apart.abs().max().clamp_min(1e-6))
    if difference <= EXACT:
        return ""
    return f"{name}: {what} (relative difference {difference:.2g} in float32, tolerated {EXACT:.0e})"


def _packed_logits(model: PreTrainedModel, rows: list[Tensor]) -> Tensor:
    device = model.get_input_embeddings().weight.device
    starts = torch.tensor([0, *(len(row) for row in rows)], device=device).cumsum(0)
    return output_head(model)(packed_hidden_states(model, torch.cat(rows).to(device), starts))


def _check_finite(base: PreTrainedModel) -> None:
    """Run a short row through the model itself, on its device and in its dtype."""
    was_training = base.training
    base.eval()
    size = base.get_input_embeddings().num_embeddings
    row = (torch.arange(7) * 3 + 1) % size
    try:
        with torch.no_grad(), packed_attention(base):
            logits = _packed_logits(base, [row])
    finally:
        base.train(was_training)
    broken = int((~torch.isfinite(logits)).sum())
    if broken:
        raise ModelError(
            f"{type(base).__name__}: {broken} of {logits.numel()} logits of a short row are not finite",
            "the model's weights are broken or its dtype overflows; try bf16 or fp32",
        )


def _first_line(error: BaseException) -> Any:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
