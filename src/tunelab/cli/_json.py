"""`--json`: what a verb found as one JSON document on stdout; docs/reference/json.md describes the fields."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunelab.cli._console import print_data

if TYPE_CHECKING:
    from tunelab.answering.benchmark_responses import BenchmarkScores
    from tunelab.answering.findings import Finding
    from tunelab.answering.held_out_evaluation import Scores
    from tunelab.comparison.paired_comparison import Comparison
    from tunelab.config.shipped_studies import ShippedStudy
    from tunelab.data.prepared import PreparedData
    from tunelab.publishing.export import Exported
    from tunelab.publishing.merge import Merged, MergeFormat
    from tunelab.publishing.push import Pushed
    from tunelab.publishing.quantize import Quantized
    from tunelab.records.cells import Cell
    from tunelab.records.disk_usage import DiskUsage
    from tunelab.records.runs import Run
    from tunelab.scoring.score import ScoredFile

Document = dict[str, Any]


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout instead of tables")


def print_json(document: Document) -> int:
    """Print a document on stdout; characters that stdout cannot encode are escaped. Returns exit code 0."""
    readable = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print_data(json.dumps(document, indent=2, ensure_ascii=not readable, allow_nan=False))
    return 0


def held_out_document(found: Scores) -> Document:
    """`eval` on held-out rows."""
    change = found.loss_change
    return {
        "rows": found.rows,
        "path": str(found.path),
        "arms": {arm: [score.to_json() for score in scores] for arm, scores in found.arms.items()},
        "loss_change": None if change is None else {"value": change.value, "error": change.error, "n": change.n},
    }


def benchmarks_document(found: Sequence[BenchmarkScores]) -> Document:
    """`eval --benchmarks`."""
    return {"benchmarks": [_benchmark(one) for one in found]}


def _benchmark(found: BenchmarkScores) -> Document:
    arms = {}
    for arm, file in found.arms.items():
        stored = found.responses[arm]
        asked = {"template": stored.template, "cut": stored.cut, "truncated": stored.truncated}
        arms[arm] = {**scored_document(file), **asked, "notices": list(stored.notices)}
    return {"benchmark": found.benchmark, "arms": arms}


def scored_document(file: ScoredFile) -> Document:
    """One response file, as `score` lists it."""
    return {
        "path": str(file.path),
        "benchmark": file.benchmark,
        "responses": len(file.graded),
        "scores": [score.to_json() for score in file.scored.scores],
        "groups": {name: [score.to_json() for score in scores] for name, scores in file.scored.groups.items()},
        "warnings": list(file.scored.warnings),
        "scores_path": str(file.scores_path),
        "outputs": [str(path) for path in file.outputs],
    }


def scores_document(files: Iterable[ScoredFile]) -> Document:
    """`score`."""
    return {"files": [scored_document(one) for one in files]}


def check_document(findings: Sequence[Finding]) -> Document:
    """`eval --check`."""
    return {"checks": [asdict(one) for one in findings]}


def comparisons_document(found: Sequence[Comparison]) -> Document:
    """`compare`."""
    from tunelab.comparison.verdict import verdict

    return {"comparisons": [{**one.to_json(), "shown": one.shown, "verdict": verdict(one)} for one in found]}


def inspected_document(data: PreparedData, tokenizer: Any, rows: Iterable[tuple[list[int], list[bool]]]) -> Document:
    """`inspect`; `rows` are the token ids and targets of those that it shows."""
    shown = [{"ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids), "targets": targets} for ids, targets in rows]
    return {
        "rows": shown,
        "training": asdict(data.train_counts),
        "held_out": asdict(data.held_out_counts),
        "validation": asdict(data.validation_counts),
        "sources": [asdict(source) for source in data.sources],
        "bad_rows": list(data.bad_rows),
        "stop_tokens": tokenizer.convert_ids_to_tokens(list(data.stop_token_ids)),
    }


def prepared_document(data: PreparedData, path: Path) -> Document:
    """`prepare`; `path` is the directory in the cache."""
    return {
        "path": str(path),
        "from_cache": data.from_cache,
        "training": asdict(data.train_counts),
        "held_out": asdict(data.held_out_counts),
        "sources": [asdict(source) for source in data.sources],
        "bad_rows": list(data.bad_rows),
    }


def merged_document(merged: Merged) -> Document:
    """`merge --out`."""
    return {"path": str(merged.path), **merged.to_json()}


def merge_formats_document(found: Mapping[str, MergeFormat], left_out: Sequence[str], recommended: str) -> Document:
    """`merge --compare`."""
    formats = {name: one.to_json() for name, one in found.items()}
    return {"formats": formats, "left_out": list(left_out), "recommended": recommended}


def exported_document(done: Exported) -> Document:
    """`export`."""
    return {"path": str(done.path), "files": list(done.files), "checked": done.checked}


def pushed_document(done: Pushed) -> Document:
    """`push`."""
    return {**asdict(done), "notices": list(done.notices)}


def quantized_document(made: Quantized) -> Document:
    """`quantize`."""
    return {**asdict(made), "path": str(made.path)}


def jobs_document(cells: Sequence[Cell], missing: Sequence[str] = ()) -> Document:
    """`study status`, and `study run --dry-run` with what the jobs lack."""
    return {"jobs": [{"title": cell.title, **asdict(cell)} for cell in cells], "missing": list(missing)}


def disk_usage_document(usage: Iterable[DiskUsage]) -> Document:
    """`study status`: the disk usage of its directory."""
    return {"disk_usage": [asdict(one) for one in usage]}


def studies_document(studies: Iterable[tuple[ShippedStudy, str]]) -> Document:
    """`study list`: each study that ships, with its title."""
    return {"studies": [{"name": one.name, "title": title, "needs": one.needs} for one, title in studies]}


def run_document(run: Run) -> Document:
    """`train`: what a finished run's manifest says about outcome and cost; the manifest itself has everything."""
    manifest = run.manifest
    digest, trained, rows = manifest["model"]["digest"], manifest["trained"], manifest["data"]["train"]
    return {
        "run": str(run.path),
        "status": manifest["status"],
        "parameters": digest["parameters"],
        "trained_parameters": digest["trainable"],
        "rows": rows["kept"],
        "dropped_rows": rows["given"] - rows["kept"],
        **{name: trained[name] for name in ("steps", "targets", "tokens", "training_seconds", "tokens_per_second")},
        **{name: trained[name] for name in ("best_step", "best_loss")},
        **{name: manifest[name] for name in ("wall_seconds", "peak_resident_bytes", "peak_gpu_bytes")},
        "held_out_loss_before": manifest.get("held_out_loss_before"),
        "held_out_loss_after": manifest["held_out_loss_after"],
        "validation_loss_before": manifest.get("validation_loss_before"),
        "validation_loss_after": manifest.get("validation_loss_after"),
    }
