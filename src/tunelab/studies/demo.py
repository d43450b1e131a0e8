"""The study that `tunelab demo` runs: full, LoRA and QLoRA fine-tuning of a small base model, all evaluated.

Model and rows ship with the package (docs/demo-assets.md says how they were made); nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tunelab.config.study import Study, load_study

ASSETS = Path(__file__).resolve().parents[1] / "assets"
STUDY, BASE, ROWS = ASSETS / "demo_study.yaml", ASSETS / "demo_base", ASSETS / "demo_instructions.jsonl"


def demo_study(changes: Sequence[str] = ()) -> Study:
    """The demo study, with the paths of its model and rows on this machine.

    Args:
        changes: "key.key=value" with the value in YAML, as in load_study.

    Raises:
        ConfigError: a change is invalid.
    """
    rows = [{"name": "alpaca", "path": str(ROWS)}]
    # JSON is YAML: paths with any characters stay strings.
    places = (f"model={json.dumps(str(BASE))}", f"recipe.data.sources={json.dumps(rows)}")
    return load_study(STUDY, (*places, *changes))
