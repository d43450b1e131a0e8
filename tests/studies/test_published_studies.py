"""Every study that ships: short, honest in its header; three at tiny scale on real rows and items, killed at random.

Every study runs at tiny scale, on stand-ins, in test_tiny_scale.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import tiny
import yaml
from tiny_studies import ON_REAL_DATA, STUDIES

from tunelab.config.study import load_study
from tunelab.errors import ModelError
from tunelab.report.content import Verdict
from tunelab.studies.toy_model import toy_model

KILLS = 4


@pytest.fixture(params=STUDIES, ids=[path.stem for path in STUDIES])
def path(request: pytest.FixtureRequest) -> Path:
    value: Path = request.param
    return value


def test_the_eleven_are_there() -> None:
    assert len(STUDIES) >= 11 and len(ON_REAL_DATA) == 3


def test_the_minutes_of_small_scale_are_estimates() -> None:
    for path in STUDIES:
        header = " ".join(re.findall(r"^# *(.*)", path.read_text(encoding="utf-8"), re.MULTILINE))
        said = re.search(r"`--scale small` [^;]*", header)
        assert said is None or said[0].endswith("minutes on two cores by estimate"), path.stem


def test_the_guide_says_how_many_show_published_numbers() -> None:
    trees = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in STUDIES]
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "studies.md").read_text(encoding="utf-8")
    assert sum("published" in tree for tree in trees) == 9 and "Nine show the published numbers" in guide


def test_one_of_them_has_search_and_forgetting_by_their_defaults() -> None:
    trees = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in STUDIES}
    both = [name for name, tree in trees.items() if tree.get("search") == {} and tree.get("forgetting") == {}]
    assert "llama32-1b-alpaca2k-own-rates" in both


def test_every_arm_that_was_published_by_training_has_their_mean(path: Path) -> None:
    """load_study() checks that they agree; here, that Qwen3's three seeds are the study's."""
    study = load_study(path)
    for one in study.published:
        assert {len(values) for values in one.by_training.values()} <= {len(study.seeds)}


def test_a_study_is_short_and_says_what_it_does(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60 and max(map(len, lines)) <= 130
    header = " ".join(line for line in lines if line.startswith("#"))
    for word in ("What it does:", "Needs:", "Expect:", f"Run:          tunelab study run {path.stem}"):
        assert word in header
    asked = [question.ask for question in load_study(path).questions]
    leaning = [ask for ask in asked if re.search(r"^(And|Or)\b|\b(it|its|them)\b", ask) or len(ask.split()) < 4]
    assert not leaning, f"these questions lean on others: {leaning}"
    load_study(path, scale="tiny")


@pytest.fixture(params=ON_REAL_DATA, ids=[path.stem for path in ON_REAL_DATA])
def real(request: pytest.FixtureRequest) -> Path:
    value: Path = request.param
    return value


@pytest.fixture(scope="module")
def outcomes(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three studies at tiny scale, whole and killed at random."""
    folder = tmp_path_factory.mktemp("studies")
    driver = Path(__file__).with_name("study_kill_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(folder), str(shared_data), str(KILLS), "0"],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "NLTK_DATA": str(shared_data / "nltk_data"), "TUNELAB_CACHE": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_it_runs_at_tiny_scale(real: Path, outcomes: dict[str, Any]) -> None:
    study, whole = load_study(real, scale="tiny"), outcomes[real.stem]["whole"]
    assert whole["failed"] == {}
    report = whole["report"]
    assert {arm["status"] for arm in report["arms"]} == {"done"}
    assert len(report["questions"]) == len(study.questions) and report["published"] == []
    assert report["note"].startswith(
        "Tiny scale, a smoke test: a few steps on a few rows. No figure here means anything"
    )
    assert {one["verdict"] for one in report["questions"]} <= {*get_args(Verdict)} - {"unknown"}
    assert report["comparisons"]
    assert not any("were not compared" in sentence for sentence in report["not_proved"])


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_killed_at_random_it_ends_in_the_same_report(real: Path, outcomes: dict[str, Any]) -> None:
    outcome = outcomes[real.stem]
    assert len(outcome["hits"]) >= KILLS - 1, "it was killed in several places"
    assert outcome["killed"]["failed"] == {} and outcome["left"] == []
    assert outcome["killed"]["report"] == outcome["whole"]["report"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_toy_is_of_its_family_and_made_once(family: str, tmp_path: Path) -> None:
    wide = {"gpt2": {"n_embd": 160, "n_head": 4}}.get(family, {"hidden_size": 160, "intermediate_size": 320})
    tiny.model_folder(tmp_path / "model", family, **wide)
    toy = toy_model(str(tmp_path / "model"), tmp_path / "toy")
    assert toy is not None
    toy.write()
    config = json.loads((toy.folder / "config.json").read_text(encoding="utf-8"))
    assert config.get("hidden_size", config.get("n_embd")) == 64
    assert config.get("num_key_value_heads", 2) == 2, "two heads share keys and values, as in the model"
    assert config["architectures"] == json.loads((tmp_path / "model/config.json").read_text())["architectures"]
    before = (toy.folder / "model.safetensors").stat().st_mtime_ns
    toy.write()
    assert (toy.folder / "model.safetensors").stat().st_mtime_ns == before
    assert toy_model(str(toy.folder), tmp_path / "other") is None, "small enough to be used as it is"


def test_a_model_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nobody/nothing"):
        toy_model("nobody/nothing", tmp_path / "toy")
