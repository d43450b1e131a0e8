"""The demo's own assets: what ships is what the scripts make, it loads, and it knows what the rows ask for."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.demo import build, instructions, text, world

ASSETS = Path(str(resources.files("tunelab"))) / "assets"
BASE = ASSETS / "demo_base"
ROWS = ASSETS / "demo_instructions.jsonl"


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return dict(json.loads((BASE / "build.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(BASE))


@pytest.fixture(scope="module")
def model() -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(BASE), dtype=torch.float32).eval()


def test_shipped_rows_are_what_the_generator_writes(tmp_path: Path) -> None:
    count = build.write_rows(tmp_path / "rows.jsonl")
    assert (tmp_path / "rows.jsonl").read_bytes() == ROWS.read_bytes()
    assert count >= 2000


def test_rows_are_alpaca_rows_without_duplicate_prompts() -> None:
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    assert all(list(row) == ["instruction", "input", "output"] for row in rows)
    assert all(row["instruction"].strip() and row["output"].strip() for row in rows)
    prompts = [(row["instruction"], row["input"]) for row in rows]
    assert len(set(prompts)) == len(prompts)
    with_input = sum(bool(row["input"]) for row in rows)
    assert 0.25 < with_input / len(rows) < 0.75


def test_every_task_gives_rows_and_none_is_most_of_them() -> None:
    import random

    counts = {task.__name__: len(list(task(random.Random(1)))) for task in instructions.TASKS}
    assert len(counts) >= 8
    assert min(counts.values()) >= 50
    assert max(counts.values()) < sum(counts.values()) / 4


def test_another_seed_gives_other_rows_and_other_prose() -> None:
    assert instructions.instruction_rows(1) != instructions.instruction_rows(2)
    assert instructions.instruction_rows(1) == instructions.instruction_rows(1)
    assert list(text.documents(1, 50)) == list(text.documents(1, 50))
    assert list(text.documents(1, 50)) != list(text.documents(2, 50))


def test_prose_tells_the_facts_and_holds_no_instruction_format() -> None:
    prose = "\n".join(text.documents(build.SEED, 20_000))
    for mark in ("###", "Instruction:", "Response:", "Input:", "<|"):
        assert mark not in prose
    for person in world.PEOPLE:
        assert f"{person.name} lives in {person.town.name}." in prose
        assert f"{person.name} is {world.with_article(person.trade.name)}." in prose
    for word, other in world.OPPOSITES:
        assert f"The opposite of {word} is {other}" in prose
        assert f"The opposite of {other} is {word}" in prose


@pytest.mark.parametrize("table", ["OPPOSITES", "MORE_PLURALS"])
def test_word_pairs_are_whole(table: str) -> None:
    pairs = getattr(world, table)
    assert all(one and other for one, other in pairs)
    assert len({one for one, _ in pairs}) == len(pairs)


def test_people_differ_by_first_name_and_town_names_are_used_evenly() -> None:
    assert len({person.name for person in world.PEOPLE}) == len(world.PEOPLE) == 28
    homes = [person.town.name for person in world.PEOPLE]
    assert {homes.count(town.name) for town in world.TOWNS} == {3, 4}


def test_small_words() -> None:
    assert world.with_article("owl") == "an owl"
    assert world.with_article("fox") == "a fox"
    assert world.listed(["a", "b", "c"]) == "a, b and c"
    assert world.listed(["a"]) == "a"
    assert world.capitalised("old Well") == "Old Well"


def test_tokenizer_trained_again_is_the_shipped_one_to_the_byte(tmp_path: Path, record: dict[str, Any]) -> None:
    import tokenizers
    import transformers

    made_with = record["versions"]
    if (tokenizers.__version__, transformers.__version__) != (made_with["tokenizers"], made_with["transformers"]):
        pytest.skip(f"needs the versions that the shipped tokenizer was made with: {made_with}")
    build.save_tokenizer(build.train_tokenizer(), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (BASE / name).read_bytes(), name


def test_tokenizer_loads_with_end_and_pad_apart(tokenizer: Any) -> None:
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|endoftext|>", 0)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|pad|>", 1)
    assert tokenizer.bos_token is None
    assert tokenizer("A fox.").input_ids == tokenizer("A fox.", add_special_tokens=False).input_ids


@settings(max_examples=50, deadline=None)
@given(written=st.text(st.characters(exclude_categories=["Cs"])))
def test_tokenizer_gives_any_text_back(tokenizer: Any, written: str) -> None:
    assert tokenizer.decode(tokenizer(written).input_ids) == written


def test_rows_are_short_in_tokens(tokenizer: Any) -> None:
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    answers = [len(ids) for ids in tokenizer([row["output"] for row in rows]).input_ids]
    assert max(answers) <= 40
    assert sum(answers) / len(answers) < 15


def test_model_has_the_declared_shape(model: Any, record: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import load_file

    stored = load_file(BASE / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    assert all(weight.isfinite().all() for weight in stored.values())
    assert "lm_head.weight" not in stored  # tied to the embeddings
    assert all(weight.shape[-1] % 64 == 0 for weight in stored.values())
    assert sum(weight.numel() for weight in stored.values()) == record["parameters"] == model.num_parameters()


@pytest.mark.slow
def test_model_has_learnt_the_prose(model: Any, tokenizer: Any, record: dict[str, Any]) -> None:
    loss = build.prose_loss(model, tokenizer.backend_tokenizer)
    assert loss == pytest.approx(record["held_out_loss"], abs=2e-3)
    assert loss < 1.2


@pytest.mark.parametrize(
    ("begun", "ended"),
    [
        ("The opposite of hot is", " cold."),
        ("One mouse, two", " mice."),
        ("7 plus 5 is", " 12"),
        ("A trout is a", " fish."),
    ],
)
def test_model_knows_what_rows_ask_for(model: Any, tokenizer: Any, begun: str, ended: str) -> None:
    given_ids = tokenizer(f"The school learns. {begun}", return_tensors="pt").input_ids
    made = model.generate(given_ids, max_new_tokens=3, do_sample=False, pad_token_id=1)
    assert tokenizer.decode(made[0, given_ids.shape[1] :]).startswith(ended)


def test_pretraining_repeats_on_one_machine() -> None:
    import torch

    rows = torch.arange(10).repeat(3 * build.BATCH_SIZE, 1)  # ten tokens a row: quick

    def losses() -> list[float]:
        torch.manual_seed(build.SEED)
        return build.pretrain(build.make_model(256), rows, 3)

    first = losses()
    assert first == losses()
    assert first[-1] < first[0]


def test_each_row_of_prose_is_read_once() -> None:
    import torch

    rows = torch.arange(4 * build.BATCH_SIZE).unsqueeze(1)
    seen = torch.cat(list(build.batches(rows, 4))).flatten()
    assert sorted(seen.tolist()) == list(range(4 * build.BATCH_SIZE))
    assert seen.tolist() != sorted(seen.tolist())


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [build.learning_rate(step, 500) for step in range(500)]
    assert rates.index(max(rates)) in (build.WARMUP_STEPS - 1, build.WARMUP_STEPS)
    assert max(rates) == pytest.approx(build.PEAK_LEARNING_RATE)
    assert rates[0] < rates[10] and rates[-1] == pytest.approx(0.05 * build.PEAK_LEARNING_RATE, rel=0.01)


def test_a_saved_model_is_rounded_in_memory_as_on_disk(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model = build.make_model(256)
    build.save_model(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    kept = model.state_dict()
    assert all(torch.equal(kept[name], weight.float()) for name, weight in stored.items())
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_readme_shows_the_recorded_figures(record: dict[str, Any]) -> None:
    shown = (BASE / "README.md").read_text(encoding="utf-8")
    assert shown == build.readme(record)
    assert record["seed"] == build.SEED and record["documents"] == build.DOCUMENTS
    assert "Apache-2.0" in shown and f"{record['held_out_loss']:.4f}" in shown


def test_all_assets_stay_small() -> None:
    total = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    assert total < 6_000_000
