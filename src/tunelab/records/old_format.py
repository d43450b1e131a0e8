"""The format version of the files that tunelab writes and reads back; the only module that reads older formats.

Format 1 has no `format_version`; it ended when recipe keys, metrics and likelihood fields were renamed
(config/renamed.py). Format 2 has `format_version: 2` next to a file's own keys: in a run's manifest.json
(which also covers its recipe.yaml), study.json, each job's record, the header line of responses.jsonl
and likelihoods.jsonl, scores.json (which also covers the files next to it) and report.json.

The version belongs to the file only: it is removed on reading, so that it is in no hash and no header comparison.
Files of format 1 are not rewritten. A resumed one keeps its old header and gets records with the new names;
old names are translated on reading, so both kinds of records read alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunelab.config.renamed import LIKELIHOOD_FIELDS, RECIPE_KEYS, metric_renamed
from tunelab.errors import RunError

FORMAT_VERSION, KEY = 2, "format_version"

Tree = dict[str, Any]


def stamped(content: Mapping[str, Any]) -> Tree:
    """The content to write, with its format version in front."""
    return {KEY: FORMAT_VERSION, **content}


def unstamped(content: Mapping[str, Any], path: Path) -> tuple[Tree, int]:
    """The content without its format version, and the version; a file without one has format 1.

    Raises:
        RunError: a later version of tunelab wrote it.
    """
    version = content.get(KEY, 1)
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise RunError(
            f"{path}: has format {version}, but this version of tunelab reads formats up to {FORMAT_VERSION}",
            "a later version wrote it: upgrade tunelab",
        )
    return {key: value for key, value in content.items() if key != KEY}, version


def likelihood_renamed(record: Mapping[str, Any]) -> Tree:
    """A record of likelihoods.jsonl with the current names; any other record unchanged."""
    if "answer_nll" not in record:
        return dict(record)
    return {LIKELIHOOD_FIELDS.get(key, key): value for key, value in record.items()}


def read_scores(content: Mapping[str, Any], path: Path) -> Tree:
    """The content of scores.json, with the current names.

    Raises:
        RunError: a later version of tunelab wrote it.
    """
    found, version = unstamped(content, path)
    if version == 1:
        found["scores"] = [_with(score, "name") for score in found["scores"]]
    return found


def read_report_tree(content: Mapping[str, Any], path: Path) -> Tree:
    """The content of report.json, with the current names.

    Raises:
        RunError: a later version of tunelab wrote it.
    """
    found, version = unstamped(content, path)
    for part, name in (("questions", "verdict"), ("comparisons", "outcome")):
        if isinstance(found.get(part), list):
            found[part] = [_with_outcome(one, name) for one in found[part]]
    if version == 1:
        keys = {key.old: key.new for key in RECIPE_KEYS}
        for part, name in (("scores", "name"), ("comparisons", "metric"), ("published", "metric")):
            if isinstance(found.get(part), list):
                found[part] = [_with(one, name) for one in found[part]]
        if isinstance(found.get("differences"), list):
            found["differences"] = [
                {**one, "key": keys.get(one["key"], one["key"])} if isinstance(one.get("key"), str) else one
                for one in found["differences"]
            ]
    return found


def _with_outcome(record: Mapping[str, Any], name: str) -> Tree:
    """The record with an outcome as it is called now: reports had "no difference" before."""
    return {**record, name: "no difference shown"} if record.get(name) == "no difference" else dict(record)


def _with(record: Mapping[str, Any], name: str) -> Tree:
    """The record with the metric under `name` renamed."""
    metric = record.get(name)
    return {**record, name: metric_renamed(metric)} if isinstance(metric, str) else dict(record)
