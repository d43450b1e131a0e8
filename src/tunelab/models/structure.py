"""In which ways can an architecture's rows be run, so that its own logits come out? Checked in float32, once.

Structure is what can be systematically wrong: rows that see each other or their padding, positions that do not restart,
a sliding window that is not passed on, a prefix or a cache that is not read as it was written. A miniature of the model
(miniature.py) shows it with a strict bound, whatever the dtype or format of the model's own weights. Rounding is not
structure: in bfloat16 two correct ways of computing one model differ by as much as its own two attention
implementations do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunelab.errors import ModelError
from tunelab.failures import is_of_machine
from tunelab.files import cache_home, write_json_atomically
from tunelab.models.forward import RowLayout, attention_name, attention_of, backbone, hidden_states, underlying
from tunelab.models.head import output_head
from tunelab.models.key_value_cache import KeyValueCache, cached_attention, read_tokens
from tunelab.models.miniature import miniature
from tunelab.models.modes import evaluation_mode, one_at_a_time
from tunelab.models.own_generate import left_padded_logits
from tunelab.models.shared_prefix import prefix_attention, read_after_prefix, read_prefix
from tunelab.version import __version__

#: Largest relative difference of logits in float32. Correct architectures show 1e-6 (summation order); a wrong
#: position, boundary or scale shows 1e-2 and more.
EXACT = 1e-4

#: The same between two equal computations in 16 bits, where a kernel may sum in any order.
EXACT_IN_16_BITS = 2e-2

#: Lengths of the rows: all but the second exceed a miniature's sliding window, and two are padded together.
LENGTHS = (12, 1, 15, 6)

#: Tokens that the first and the third row share, more than a miniature's sliding window.
SHARED = 5

#: Tokens that are read from a cache one by one.
STEPS = 5

#: Source files that can change the answer.
SOURCES = (
    "expert_stack.py",
    "flash_attention.py",
    "forward.py",
    "head.py",
    "key_value_cache.py",
    "lora_linear.py",
    "miniature.py",
    "modes.py",
    "own_generate.py",
    "page_locked.py",
    "plain_attention.py",
    "quantized_linear.py",
    "row_attention.py",
    "shared_prefix.py",
    "structure.py",
)

#: Configuration keys that say where weights came from or how they are stored.
NOT_STRUCTURE = ("_name_or_path", "_commit_hash", "transformers_version", "dtype", "quantization_config")

_known: dict[tuple[type, str], Structure] = {}
_checked: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True, slots=True)
class Structure:
    """For each way of running rows the reason why it does not give an architecture's own logits; "" = it does.

    Attributes:
        packed: several rows end to end, with our own attention.
        padded: several rows next to each other, padded at their ends, with the model's own attention.
        prefix: rows after a prefix that is computed once.
        cached: one token per row and step, with our own cache.
        left_padded: transformers' own `generate` for several rows, padded at their beginnings; tried only where
            `cached` is not possible.
        side_by_side: the same for rows of equal length, without padding; tried only where `left_padded` is not right.
    """

    packed: str
    padded: str
    prefix: str
    cached: str
    left_padded: str
    side_by_side: str


class _CannotRunError(Exception):
    """Nothing can be found out of an architecture."""


def row_layout(model: nn.Module, packing: bool | Literal["auto"] = "auto") -> RowLayout:
    """How this model's rows are run together, so that its own logits come out.

    Args:
        packing: True = packed or not at all; False = not packed; "auto" = packed where that is right.

    Raises:
        ModelError: packing is True, and packed rows give other logits; or as check_own_logits().
    """
    structure = structure_of(underlying(model))
    if packing is True and structure.packed:
        raise ModelError(structure.packed, "train.packing=auto pads the rows of such a model")
    check_own_logits(model)
    if packing and not structure.packed:
        return "packed"
    return "alone" if structure.padded else "padded"


def slower_ways(model: nn.Module) -> list[str]:
    """What of evaluation and generation runs in a slower way than tunelab's own, and why: one sentence each."""
    found = structure_of(underlying(model))
    said = []
    if found.packed:
        said.append(f"rows are not packed, but run with the model's own attention: {found.packed}")
    if found.cached:
        why = "" if found.cached == found.packed else f": {found.cached}"
        said.append(f"transformers' own generate answers, not tunelab's engine{why}")
    if found.prefix and found.prefix != found.packed:
        said.append(f"prompts with the same beginning do not share it: {found.prefix}")
    return said


def check_own_logits(model: nn.Module) -> None:
    """Check that the model's logits are finite, and follow from its backbone's last hidden states; once per model.

    Each place's logits must follow from its own hidden state: they are computed from those of some places alone too.

    Raises:
        ModelError: they are not, or do not, or the model cannot be run.
    """
    base = underlying(model)
    if base in _checked:
        return
    table = base.get_input_embeddings().weight
    own, found, some = _own_logits(base)
    if broken := int((~torch.isfinite(own)).sum()):
        raise ModelError(
            f"{type(base).__name__}: {broken} of {own.numel()} logits of a short row are not finite",
            "the model's weights are broken or its dtype overflows; try bf16 or fp32",
        )
    pairs = ((found, own), (some, own[1::2]))
    difference = max(_difference(these.float(), those.float()) for these, those in pairs)
    if difference > (EXACT if table.dtype == torch.float32 and own.dtype == torch.float32 else EXACT_IN_16_BITS):
        raise ModelError(
            f"{type(base).__name__}: its logits do not follow from its backbone's last hidden states "
            f"(relative difference {difference:.2g})",
            "use another architecture",
        )
    _checked.add(base)


def _own_logits(model: PreTrainedModel) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a short row [tokens, vocabulary], those of its hidden states, and those of every second one."""
    table = model.get_input_embeddings().weight
    row = ((torch.arange(7, device=table.device) * 3 + 1) % table.shape[0])[None]
    try:
        with evaluation_mode(model), torch.no_grad():
            own = model(input_ids=row, use_cache=False).logits[0]
            hidden = backbone(model)(input_ids=row, use_cache=False).last_hidden_state[0]
            head = output_head(model)
            return own, head(hidden), head(hidden[1::2])
    except ModelError:
        raise
    except Exception as error:  # the code of any architecture
        if is_of_machine(error):
            raise
        raise ModelError(
            f"{type(model).__name__}: its logits of a short row cannot be computed from token ids alone: "
            f"{_first_line(error)}",
            "use a causal language model, or another architecture",
        ) from error


def structure_of(model: PreTrainedModel) -> Structure:
    """The result for the model's class and configuration: from this process, from the cache, or computed now.

    A result for one of transformers' own classes is kept in the cache directory. Classes that come with a checkpoint
    are checked again by each process: no version identifies their code.
    """
    with one_at_a_time(model):  # another thread may have set its attention
        return _structure_of(model)


def _structure_of(model: PreTrainedModel) -> Structure:
    key = _key(model)
    if (type(model), key) in _known:
        return _known[type(model), key]
    file = cache_home() / "structure" / f"{key}.json"
    is_transformers_own = type(model).__module__.startswith("transformers.models.")
    found = _stored(file) if is_transformers_own else None
    if found is None:
        try:
            found = _found(model)
        except _CannotRunError as error:  # kept by this process alone: another day its cause may be gone
            found = Structure(*[str(error)] * len(fields(Structure)))
            is_transformers_own = False
        if is_transformers_own:
            _store(file, model, found)
    _known[type(model), key] = found
    return found


def _stored(file: Path) -> Structure | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["structure"]
        return Structure(**{one.name: str(found[one.name]) for one in fields(Structure)})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none yet, or of an earlier version


def _store(file: Path, model: PreTrainedModel, found: Structure) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(file, {"class": type(model).__name__, "structure": asdict(found)})
    except OSError:
        return  # without a cache the next start takes a third of a second longer


def _key(model: PreTrainedModel) -> str:
    config = {key: value for key, value in model.config.to_dict().items() if key not in NOT_STRUCTURE}
    content = {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "config": config,
        "attention": attention_name(model),
        "versions": [__version__, torch.__version__, transformers.__version__],
        "sources": _sources(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@lru_cache(maxsize=1)
def _sources() -> str:
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in SOURCES)).hexdigest()


def _found(model: PreTrainedModel) -> Structure:
    """Run rows through a miniature: separately by its own forward pass, and in each of the ways.

    Raises:
        _CannotRunError: there is none of this architecture, or it cannot run.
    """
    name = type(model).__name__
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        small, rows, apart = _apart(model)
        own = torch.cat(apart)
        packed = _reason(name, "packed rows", lambda: (_together(small, rows, "packed"), own))
        padded = _reason(name, "padded rows", lambda: (_together(small, rows, "padded"), own))
        prefix = packed or _reason(name, "rows after a shared prefix", lambda: _after_prefix(small, rows, apart))
        cached = packed or _reason(name, "cached rows", lambda: _one_by_one(small, rows, apart))
        generated = side_by_side = ""
        if cached:
            generated = _reason(name, "rows padded at their beginnings", lambda: _generated(small, rows, apart))
        if generated:
            equal = [[every[number][: LENGTHS[0]] for number in (0, 2)] for every in (rows, apart)]
            side_by_side = _reason(name, "rows of equal length at once", lambda: _generated(small, *equal))
    return Structure(packed, padded, prefix, cached, generated, side_by_side)


def _apart(model: PreTrainedModel) -> tuple[PreTrainedModel, list[Tensor], list[Tensor]]:
    """_apart_in() one that is as narrow as the architecture allows."""
    try:
        return _apart_in(model, narrow=True)
    except Exception as error:  # an architecture that ties its inner width to something else
        if is_of_machine(error):
            raise
    try:
        return _apart_in(model, narrow=False)
    except Exception as error:  # the code of any architecture
        if is_of_machine(error):
            raise
        raise _CannotRunError(
            f"{type(model).__name__}: a random model of its configuration cannot be run: {_first_line(error)}"
        ) from error


def _apart_in(model: PreTrainedModel, *, narrow: bool) -> tuple[PreTrainedModel, list[Tensor], list[Tensor]]:
    """A miniature, rows, and its own logits for each row separately: [tokens, vocabulary] each."""
    small = miniature(model, narrow=narrow)
    size = small.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(0, size, (length,), generator=generator) for length in LENGTHS]
    rows[2][:SHARED] = rows[0][:SHARED]
    return small, rows, [small(input_ids=row[None], use_cache=False).logits[0] for row in rows]


def _reason(name: str, what: str, run: Callable[[], tuple[Tensor, Tensor]]) -> str:
    """Why the first logits that `run` gives are not the second; "" if they are."""
    try:
        difference = _difference(*run())
    except ModelError as error:
        return str(error)
    except Exception as error:  # the code of any architecture
        if is_of_machine(error):
            raise
        return f"{name}: {what} fail: {_first_line(error)}"
    if difference <= EXACT:
        return ""
    return (
        f"{name}: {what} give different logits than separate rows (relative difference {difference:.2g} in float32, "
        f"tolerated {EXACT:.0e})"
    )


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest logit; infinite where one of them is not finite."""
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    return difference if difference == difference else float("inf")


def _together(small: PreTrainedModel, rows: list[Tensor], layout: RowLayout) -> Tensor:
    """Logits of the rows in a layout: [tokens of all rows, vocabulary]."""
    starts = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    with attention_of(small, layout):
        return output_head(small)(hidden_states(small, torch.cat(rows), starts, layout))


def _after_prefix(small: PreTrainedModel, rows: list[Tensor], apart: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits of the rows that share a prefix, behind it, and their own: [tokens, vocabulary] each."""
    with prefix_attention(small):
        prefix = read_prefix(small, rows[0][:SHARED].tolist())
        hidden = read_after_prefix(small, prefix, [rows[number][SHARED:].tolist() for number in (0, 2)])
    return output_head(small)(hidden), torch.cat([apart[number][SHARED:] for number in (0, 2)])


def _one_by_one(small: PreTrainedModel, rows: list[Tensor], apart: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits of prompts and of STEPS tokens after them, read from a cache, and their own: [tokens, vocabulary] each."""
    long = [number for number, row in enumerate(rows) if len(row) > STEPS]
    ids = [rows[number].tolist() for number in long]
    lengths = [len(row) - STEPS for row in ids]
    prompts = [row[:length] for row, length in zip(ids, lengths, strict=True)]
    cache, found = KeyValueCache(len(ids), 64), []
    with cached_attention(small):
        found.append(read_tokens(small, cache, [], [], prompts, range(len(ids))))
        for step in range(STEPS):
            places = [length + step for length in lengths]
            found.append(
                read_tokens(small, cache, [row[place] for row, place in zip(ids, places, strict=True)], places)
            )
    own = [
        apart[number][length - 1 + step]
        for step in range(STEPS + 1)
        for number, length in zip(long, lengths, strict=True)
    ]
    return output_head(small)(torch.cat(found)), torch.stack(own)


def _generated(small: PreTrainedModel, rows: list[Tensor], apart: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits of transformers' own `generate` for prompts at once, and their own: [tokens, vocabulary]."""
    long = [number for number, row in enumerate(rows) if len(row) > STEPS]
    ids = [rows[number].tolist() for number in long]
    found = left_padded_logits(small, [row[:-STEPS] for row in ids], [row[-STEPS:] for row in ids])
    own = [apart[number][len(rows[number]) - STEPS - 1 :] for number in long]
    return found.flatten(0, 1), torch.cat(own)


def _first_line(error: BaseException) -> Any:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
