"""Greedy answers: the model's own argmax, the same for any batch size, whatever the model's own settings say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)
from varied_models import CONTEXT, FAMILIES, VOCABULARY, tiny_model

from tunelab.errors import ModelError
from tunelab.generate.engine import Generation, generate


class NumbersTokenizer:
    """Decodes token 17 as " 17"; leaves 0 to 2 out, as special tokens."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        assert skip_special_tokens
        assert not clean_up_tokenization_spaces
        return "".join(f" {token}" for token in ids if token > 2)


def prompts_of(lengths: Sequence[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def answers(model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> dict[int, Generation]:
    settings: dict[str, Any] = {"max_new_tokens": 10, "stop_token_ids": (), "batch_tokens": 10_000, **options}
    made = list(generate(model, settings.pop("tokenizer", NumbersTokenizer()), prompts, **settings))
    assert len({one.index for one in made}) == len(made)
    return {one.index: one for one in made}


def argmax_answer(model: Any, prompt: Sequence[int], new: int) -> tuple[int, ...]:
    """Plain greedy search: the whole sequence through the model for each new token, no cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(new):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


LENGTHS = (3, 17, 1, 9, 17, 30, 2, 12)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_the_argmax_and_the_same_for_every_batch_size(family: str) -> None:
    model, prompts = tiny_model(family), prompts_of(LENGTHS)
    expected = {index: argmax_answer(model, prompt, 10) for index, prompt in enumerate(prompts)}
    assert len({token for answer in expected.values() for token in answer}) > 8, "answers must vary"
    for batch_tokens in (1, 60, 100, 10_000):
        made = answers(model, prompts, batch_tokens=batch_tokens)
        assert {index: one.token_ids for index, one in made.items()} == expected, batch_tokens
    assert {one.stop_reason for one in made.values()} == {"length"}
    assert [made[index].prompt_tokens for index in range(len(prompts))] == list(LENGTHS)
    assert made[0].text == "".join(f" {token}" for token in expected[0] if token > 2)


def test_each_row_ends_before_its_own_stop_token() -> None:
    model, prompts = tiny_model("llama"), prompts_of(LENGTHS)
    plain = {index: argmax_answer(model, prompt, 10) for index, prompt in enumerate(prompts)}
    stop = (plain[0][4], plain[3][0])
    made = answers(model, prompts, stop_token_ids=stop)
    for index, answer in plain.items():
        end = next((place for place, token in enumerate(answer) if token in stop), None)
        assert made[index].token_ids == answer[:end]
        assert made[index].stop_reason == ("length" if end is None else "stop")
    assert made[3].token_ids == ()
    assert made[3].text == ""
    assert {one.stop_reason for one in made.values()} == {"stop", "length"}


def test_the_models_own_settings_do_not_leak() -> None:
    model, prompts = tiny_model("llama"), prompts_of(LENGTHS)
    expected = answers(model, prompts)
    first = expected[0].token_ids[0]
    own = model.generation_config
    own.update(do_sample=True, temperature=3.0, max_length=4, repetition_penalty=5.0, suppress_tokens=[first])
    own.update(eos_token_id=first, forced_eos_token_id=5, no_repeat_ngram_size=1, num_return_sequences=3, top_k=3)
    model.config.use_cache = False
    before = own.to_dict()
    assert answers(model, prompts) == expected
    assert model.generation_config is own
    assert own.to_dict() == before


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # from within peft
def test_peft_models_answer_with_the_adapter_and_without_it() -> None:
    base = tiny_model("gpt2")
    prompts = prompts_of(LENGTHS)
    plain = answers(base, prompts)
    lora = LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights=False, fan_in_fan_out=True)
    tuned = get_peft_model(base, lora)
    adapted = answers(tuned, prompts)
    tuned.eval()
    assert adapted[1].token_ids == argmax_answer(tuned, prompts[1], 10)
    assert adapted != plain
    with tuned.disable_adapter():
        assert answers(tuned, prompts) == plain


def test_dropout_is_off_meanwhile_and_every_module_keeps_its_mode() -> None:
    model = tiny_model("gpt2")
    prompts = prompts_of(LENGTHS)
    expected = answers(model, prompts)
    model.train()
    model.transformer.h[1].eval()
    modes = [module.training for module in model.modules()]
    made = generate(
        model,
        NumbersTokenizer(),
        prompts,
        max_new_tokens=10,
        stop_token_ids=(),
        batch_tokens=100,  # type: ignore[arg-type]
    )
    for one in made:
        assert one == expected[one.index]
        assert [module.training for module in model.modules()] == modes


def test_a_full_context_is_told_apart_and_a_prompt_without_room_refused() -> None:
    model = tiny_model("gpt2")
    prompts = prompts_of((CONTEXT - 4, CONTEXT - 1, CONTEXT - 10, 5, CONTEXT - 4))
    made = answers(model, prompts)
    assert [(len(made[i].token_ids), made[i].stop_reason) for i in range(5)] == [
        (4, "context"),
        (1, "context"),
        (10, "length"),
        (10, "length"),
        (4, "context"),
    ]
    for index, prompt in enumerate(prompts):
        assert made[index].token_ids == argmax_answer(model, prompt, len(made[index].token_ids))
    with pytest.raises(ModelError, match="prompt 1 has 64 tokens and the model's context 64: no room for an answer"):
        answers(model, prompts_of((5, CONTEXT)))


def test_skipped_rows_are_not_given_and_batches_stay_those_of_the_whole() -> None:
    model, prompts = tiny_model("llama"), prompts_of(LENGTHS)
    options: dict[str, Any] = {"max_new_tokens": 4, "stop_token_ids": (), "batch_tokens": 60}
    whole = list(generate(model, NumbersTokenizer(), prompts, **options))  # type: ignore[arg-type]
    shapes: list[tuple[int, int]] = []
    own = model.generate
    model.generate = lambda **kwargs: (shapes.append(tuple(kwargs["input_ids"].shape)), own(**kwargs))[1]
    list(generate(model, NumbersTokenizer(), prompts, **options))  # type: ignore[arg-type]
    all_shapes = list(shapes)
    assert len(all_shapes) >= 3
    assert all(rows == 1 or rows * (width + 4) <= 60 for rows, width in all_shapes)
    for done in range(len(whole)):
        shapes.clear()
        skip = {one.index for one in whole[:done]}
        assert list(generate(model, NumbersTokenizer(), prompts, skip=skip, **options)) == whole[done:]  # type: ignore[arg-type]
        assert shapes == all_shapes[len(all_shapes) - len(shapes) :]
    assert len(shapes) == 1, "batches that are done must not run again"


def test_what_cannot_be_answered_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(ModelError, match="prompt 1 is empty: a model needs at least one token"):
        answers(model, [[5], []])
    with pytest.raises(ModelError, match="max_new_tokens is 0: expected at least 1"):
        answers(model, [[5]], max_new_tokens=0)
    assert answers(model, []) == {}


def test_a_real_model_tells_the_same_story_in_any_batch(shared_data: Path) -> None:
    folder = shared_data / "models" / "tinystories656k"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = ["Once upon a time", "The dog", "Lily and Tom went to the park. They saw a big", "One day, a cat"]
    prompts = [[1, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    options: dict[str, Any] = {"tokenizer": tokenizer, "max_new_tokens": 150, "stop_token_ids": [2]}
    alone, together = (answers(model, prompts, batch_tokens=tokens, **options) for tokens in (1, 4096))
    assert alone == together
    assert [one.token_ids[:25] for _, one in sorted(alone.items())] == [argmax_answer(model, p, 25) for p in prompts]
    assert "stop" in {one.stop_reason for one in alone.values()}
    assert all(2 not in one.token_ids for one in alone.values())
    assert all(len(one.text.split()) > 10 for one in alone.values())
