"""The study that `tunelab demo` runs: a small base model, tuned fully and with LoRA, also over 4 bits, all measured.

Model and rows ship with the package (docs/demo-assets.md says how they were made), so nothing is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tunelab.config.study import Study, load_study

ASSETS = Path(__file__).resolve().parents[1] / "assets"
STUDY, BASE, ROWS = ASSETS / "demo_study.yaml", ASSETS / "demo_base", ASSETS / "demo_instructions.jsonl"


def demo_study(changes: Sequence[str] = ()) -> Study:
    """The demo's study, its model and rows named by where they lie on this machine.

    Args:
        changes: "key.key=value" with the value in YAML, as load_study takes them.

    Raises:
        ConfigError: a change does not fit.
    """
    rows = [{"name": "alpaca", "path": str(ROWS)}]
    # JSON is YAML: whatever letters the paths hold, they stay texts.
    places = (f"model={json.dumps(str(BASE))}", f"recipe.data.sources={json.dumps(rows)}")
    return load_study(STUDY, (*places, *changes))
