"""`tunelab push`: every file with its size and the card are shown; a study's run is pushed like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from verbs import Bench, Command

from tunelab.records.runs import Run


def test_a_dry_run_shows_files_and_card(tunelab: Command, bench: Bench, tmp_path: Path) -> None:
    run = Run(tmp_path / "study" / "runs" / "train-0123456789")
    shutil.copytree(bench.lora, run.path)
    said = tunelab("push", run.path, "me/tuned", "--base", "owner/base", "--dry-run")
    assert said.code == 0, said.err
    assert "adapter_model.safetensors" in said.cells and said.cells["total"][0].endswith("KiB")
    assert "base_model: owner/base" in said.out and "## Caveats" in said.out
    assert "warning: owner/base: the hub was not asked" in said.err and "nothing was sent (--dry-run)" in said.err
    found = json.loads(tunelab("push", run.path, "me/tuned", "--base", "owner/base", "--dry-run", "--json").out)
    assert set(found) == {"repository", "url", "commit", "files", "card", "notices"}
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    assert [name for name in found if f"`{name}`" not in page.partition("\n## push\n")[2].partition("\n## ")[0]] == []


def test_a_push_without_a_network_says_what_to_do(
    tunelab: Command, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = tunelab("push", bench.full, "me/tuned")
    assert said.code == 1 and said.out == ""
    assert said.err.splitlines()[-2:] == [
        "error: the hub cannot be written to: HF_HUB_OFFLINE is set",
        "hint: unset it; --dry-run shows what would be pushed",
    ]
