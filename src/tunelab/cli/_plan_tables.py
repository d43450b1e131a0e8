"""What `tunelab plan` shows: methods side by side, the timeline of the recipe's own, and what else it costs."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tunelab.cli._console import is_terminal, print_data, print_table, say
from tunelab.planning.advice import what_would_fit
from tunelab.planning.cards import Card
from tunelab.planning.estimate import COMPARED, Plan
from tunelab.planning.fit import largest_micro_batch, longest_row, verdict
from tunelab.planning.known import Config
from tunelab.planning.memory import HELD, PROCESS_BYTES
from tunelab.planning.rows import RowLengths, format_hours, hours
from tunelab.planning.sharding import on_several
from tunelab.units import GIB, UNKNOWN, format_bytes, format_count, format_counted, format_number, format_share

#: Where a configuration was found, in words.
SOURCES = {"folder": "the folder's config.json", "table": "the table of common models", "hub": "the hub's config.json"}

_PROCESS = format_number(PROCESS_BYTES / GIB, 1)


def show_plan(plan: Plan, config: Config, card: Card | None, rows: RowLengths | None, gpus: int) -> None:
    """All that a plan says, on stdout; what makes it less certain on stderr."""
    shape = plan.shape
    counted = f"{config.name}: {format_count(shape.total)} parameters in {format_counted(shape.layers, 'layer')}"
    print_data(counted)
    print_data(f"micro-batches of {plan.tokens:,} tokens, rows up to {plan.longest:,}; memory in GiB")
    show_methods(plan, card)
    show_timeline(plan)
    show_costs(plan, card, rows, gpus)
    show_notes(plan, config.source, card)


def compared(plan: Plan) -> dict[str, Plan]:
    """The plan of each method, the recipe's own among them; of a checkpoint that is stored quantized, its own alone."""
    if plan.shape.quantization:
        return {plan.method: plan}
    found = {name: plan.as_method(keys) for name, keys in COMPARED.items()}
    return {**found, plan.method: plan}


def show_methods(plan: Plan, card: Card | None) -> None:
    """One row per method; the recipe's own is marked."""
    columns = ["method", "trained", "weights", "peak", "on the device"]
    columns += [f"fits {card.name}?", "largest micro-batch", "longest row"] if card else []
    rows = []
    for name, one in compared(plan).items():
        least, most = one.card_bytes()
        cells = [format_count(one.trained), _gib(one.base_bytes), _gib(one.peak().allocated), _range(least, most)]
        if card:
            cells += [_ANSWERS[verdict(one, card.memory)], *(_tokens(find(one, card.memory)) for find in _SEARCHES)]
        rows.append([f"{name} *" if name == plan.method else name, *cells])
    _print_below(columns, rows)


_ANSWERS = {"fits": "yes", "may fit": "maybe", "does not fit": "no"}

_SEARCHES = (largest_micro_batch, longest_row)


def show_timeline(plan: Plan) -> None:
    """Parts of the memory at each moment of a step, in GiB; the highest moment is the peak."""
    peak = plan.peak()
    parts = list(dict.fromkeys(part for moment in peak.moments for part in moment.parts))
    rows = []
    for part in parts:
        sizes = [moment.parts.get(part, 0.0) for moment in peak.moments]
        if any(size >= 0.005 * GIB for size in sizes):
            rows.append([part, *(_gib(size) if size else UNKNOWN for size in sizes)])
    rows.append(["sum", *(_gib(moment.total) for moment in peak.moments)])
    heads = [moment.name + (" (peak)" if moment is peak.highest else "") for moment in peak.moments]
    _print_below([f"{plan.method}, GiB", *heads], rows)


def show_costs(plan: Plan, card: Card | None, rows: RowLengths | None, gpus: int) -> None:
    """Host memory, disk, time, and several GPUs."""
    disk = plan.disk_bytes
    found = [
        ("host memory while loading", f"{format_bytes(plan.host_bytes)}, and about {_PROCESS} GiB for Python"),
        ("disk", ", ".join(f"{name} {format_bytes(size)}" for name, size in disk.items())),
    ]
    if plan.peak().paged:
        found.append(("paged optimizer moments", f"{format_bytes(plan.peak().paged)}, on the host if need be"))
    if rows:
        found.append(("rows", _rows_text(plan, rows)))
    if card and (time := hours(plan, card, rows)):
        what = f"{rows.steps(plan.recipe.train):,} steps" if rows else "per million tokens"
        found.append((f"time on {card.name}", f"{format_hours(*time)}, {what}"))
    if gpus > 1:
        several = on_several(plan, gpus)
        found.append((f"on each of {gpus} GPUs", f"{_range(*several.copies)} GiB with copies (DDP)"))
        can = "train.sharding=full" if plan.recipe.method == "lora" and plan.recipe.precision.name == "none" else ""
        how = can or "which train cannot do yet"
        found.append(("", f"{_range(*several.sharded)} GiB sharded (FSDP), {how}"))
    _print_below(("cost", "prediction"), found)


def _print_below(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table after an empty line; drawn ones have their own."""
    if not is_terminal(sys.stdout):
        print_data("")
    print_table(columns, rows)


def _rows_text(plan: Plan, rows: RowLengths) -> str:
    median, high, longest = rows.quantiles
    full = rows.filled(plan.recipe.train) / plan.tokens
    gone = [(rows.dropped, "left out"), (rows.truncated, "cut")]
    too_long = [f"{count:,} longer than {plan.longest:,} tokens {what}" for count, what in gone if count]
    return "; ".join(
        [
            f"{len(rows.lengths):,} of {median:,} (median), {high:,} (95 %), {longest:,} tokens (longest)",
            *too_long,
            f"micro-batches are {format_share(full, 0)} full",
        ]
    )


def show_notes(plan: Plan, source: str, card: Card | None) -> None:
    """Where the numbers come from, what makes them less certain, and what would fit."""
    if card:
        several = f" on each of {plan.gpus} GPUs, with a copy of the model on each (DDP)" if plan.gpus > 1 else ""
        _note(f"{card.name}: {round(card.memory):,} bytes ({format_bytes(card.memory)}){several}")
    shown = "1.02 to 1.25 times that is reserved, and 0.2 to 0.8 GiB are the CUDA context"
    if not plan.on_gpu:
        shown = f"the process, which holds 1 to {HELD[1]} times that, and about {_PROCESS} GiB for Python"
    _note(
        f"shape from {SOURCES[source]}; peak: allocated bytes, within ±{format_share(plan.error, 0)}; on the device: "
        f"{shown}"
    )
    for doubt in plan.doubts:
        _note(f"less certain: {doubt}")
    if card and verdict(plan, card.memory) != "fits":
        _note(f"{plan.method} {_SURELY[verdict(plan, card.memory)]}; {what_would_fit(plan, card.memory)}")


def _note(text: str) -> None:
    """A sentence on stderr, in lines no longer than the terminal's."""
    width = shutil.get_terminal_size().columns if is_terminal(sys.stderr) else 10**6
    say(textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False))


_SURELY = {"may fit": "may not fit", "does not fit": "does not fit"}


def plan_document(plan: Plan, source: str, card: Card | None, rows: RowLengths | None, gpus: int) -> dict[str, Any]:
    """`plan --json`: bytes, tokens, hours."""
    methods = {}
    for name, one in compared(plan).items():
        peak, on_card = one.peak(), one.card_bytes()
        entry = {
            "trained_parameters": one.trained,
            "weight_bytes": one.base_bytes,
            "moments": {moment.name: moment.parts for moment in peak.moments},
            "peak_at": peak.highest.name,
            "allocated_bytes": peak.allocated,
            "error": one.error,
            "device_bytes": on_card,
            "paged_bytes": peak.paged,
            "host_bytes": one.host_bytes,
            "disk_bytes": one.disk_bytes,
            "less_certain": one.doubts,
        }
        if card:
            entry["fits"] = verdict(one, card.memory)
            entry["largest_micro_batch_tokens"], entry["longest_row"] = (find(one, card.memory) for find in _SEARCHES)
            entry["hours"] = hours(one, card, rows)
        if gpus > 1:
            entry["on_each_of_several"] = asdict(on_several(one, gpus))
        methods[name] = entry
    return {
        "model": plan.recipe.model.name,
        "source": source,
        "parameters": plan.shape.parameters,
        "method": plan.method,
        "micro_batch_tokens": plan.tokens,
        "longest_row": plan.longest,
        "gpu": asdict(card) if card else None,
        "gpus": gpus,
        "rows": {"count": len(rows.lengths), "tokens": rows.tokens, "targets": rows.targets} if rows else None,
        "hours_are_of": "the training" if rows else "a million tokens",
        "methods": methods,
    }


def _gib(size: float) -> str:
    return format_number(size / GIB, 2)


def _range(least: float, most: float) -> str:
    return f"{format_number(least / GIB, 1)} to {format_number(most / GIB, 1)}"


def _tokens(count: int) -> str:
    return f"{count:,}" if count else UNKNOWN
