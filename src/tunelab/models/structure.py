"""Can an architecture be run on flat rows? Asked in float32, where the answer is exact, once for each configuration.

Structure is what can be wrong for good: rows that see each other, positions that go on, logits that are scaled or
capped behind the head, a sliding window that is not passed on. A miniature of the model (miniature.py) shows it with a
real bound, whatever dtype or format the model's own weights have. Rounding is no matter of structure: in bfloat16 two
correct ways of computing one model differ by as much as its two own kinds of attention do.
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

#: Largest relative difference of logits in float32. Correct architectures show 1e-6, the order of sums; a wrong
#: position, border or scale shows 1e-2 and more.
EXACT = 1e-4

#: Lengths of the rows that are run; each but the second is longer than a miniature's sliding window.
LENGTHS = (7, 1, 12)

#: Source files whose change can change the answer.
SOURCES = ("forward.py", "row_attention.py", "miniature.py", "structure.py")

#: Keys of a configuration that say where weights came from or how they are stored.
NOT_STRUCTURE = ("_name_or_path", "_commit_hash", "transformers_version", "dtype", "quantization_config")

_known: dict[tuple[type, str], Structure] = {}


@dataclass(frozen=True, slots=True)
class Structure:
    """Why an architecture cannot be run on flat rows; "" = it can.

    Args:
        together: several rows end to end.
        alone: one flat row at a time, as train.packing=false does.
    """

    together: str
    alone: str


def check_packed_forward(model: nn.Module, *, packed: bool = True) -> None:
    """Make sure that flat rows give this architecture's own logits, and that the model's logits are numbers.

    Args:
        packed: rows are to be run end to end; False = one at a time.

    Raises:
        ModelError: the architecture ignores row borders, or changes logits after its head, or needs an attention that
            flat rows do not have; or the model gives logits that are not finite.
    """
    base = underlying(model)
    structure = structure_of(base)
    reason = structure.together if packed else structure.alone
    if reason and not structure.alone:
        raise ModelError(
            reason, "train.packing=false trains it one row at a time; generating and scoring need rows end to end"
        )
    if reason:
        raise ModelError(
            reason, "tunelab supports attention-only decoders whose logits are what their output head gives"
        )
    _check_finite(base)


def structure_of(model: PreTrainedModel) -> Structure:
    """What is known of the model's class and configuration, from this process or the cache, or else found out now.

    A good answer about a class of transformers' own is kept in the cache directory. Classes that come with a checkpoint
    are asked anew by each process: no version tells one state of their code from the next.
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
        return  # a cache that cannot be written costs a third of a second at the next start, and nothing else


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
    """Run rows through a miniature: apart by its own forward pass, flat together, and flat one at a time."""
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
        together = _reason(name, "rows in one flat sequence give other logits than apart", small, [rows], apart)
        alone = _reason(name, "a flat row gives other logits than by itself", small, [[row] for row in rows], apart)
    return Structure(together, alone)


def _apart(model: PreTrainedModel, *, narrow: bool) -> tuple[PreTrainedModel, list[Tensor], Tensor]:
    """A miniature, rows, and the logits that it gives to each by itself: [tokens of all rows, vocabulary]."""
    small = miniature(model, narrow=narrow)
    size = small.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, size, (length,), generator=generator) for length in LENGTHS]
    return small, rows, torch.cat([small(input_ids=row[None], use_cache=False).logits[0] for row in rows])


def _reason(name: str, what: str, small: PreTrainedModel, batches: list[list[Tensor]], apart: Tensor) -> str:
    """Why these flat batches do not give the logits `apart`; "" where they do."""
    try:
        with packed_attention(small):
            flat = torch.cat([_packed_logits(small, batch) for batch in batches])
    except ModelError as error:
        return str(error)
    except Exception as error:
        return f"{name}: flat rows cannot be run: {_first_line(error)}"
    difference = float((flat - apart).abs().max() / apart.abs().max().clamp_min(1e-6))
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
