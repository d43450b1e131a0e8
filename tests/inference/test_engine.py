"""Greedy answers: the model's own argmax, the same for any batch size, whatever the model's own settings say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from sampled import sampled
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)
from varied_models import CONTEXT, FAMILIES, VOCABULARY, tiny_model

from tunelab.errors import ModelError
from tunelab.inference import engine, own_generation
from tunelab.inference.engine import generate, stream
from tunelab.inference.row import Generation
from tunelab.inference.sampling import Decoding
from tunelab.models import key_value_cache, structure
from tunelab.models.structure import Structure

MODELS = {family: tiny_model(family) for family in FAMILIES}


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
    settings: dict[str, Any] = {"stop_token_ids": (), "micro_batch_tokens": 10_000, **options}
    tokenizer = settings.pop("tokenizer", NumbersTokenizer())
    names = [field.name for field in dataclasses.fields(Decoding)]
    decoding = Decoding(**{"max_new_tokens": 10, **{name: settings.pop(name) for name in names if name in settings}})
    made = list(generate(model, tokenizer, prompts, decoding, **settings))
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
def test_answers_are_those_of_transformers_own_generate(family: str) -> None:
    model, prompts = tiny_model(family), prompts_of(LENGTHS)
    free = answers(model, prompts, max_new_tokens=20)
    stops = [free[0].token_ids[9], free[5].token_ids[12]]
    made = answers(model, prompts, micro_batch_tokens=300, stop_token_ids=stops, max_new_tokens=20)
    for index, prompt in enumerate(prompts):
        config = GenerationConfig(max_new_tokens=20, do_sample=False, eos_token_id=stops, pad_token_id=0)
        ids = torch.tensor([prompt])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        answer = theirs[0, len(prompt) :].tolist()
        if answer[-1] in stops:
            assert made[index].stop_reason == "stop"
            answer.pop()
        assert list(made[index].token_ids) == answer
    assert "stop" in {one.stop_reason for one in made.values()}


def assert_no_answer_depends_on_others(
    prompts: list[list[int]], micro_batch_tokens: int, family: str, **options: Any
) -> None:
    model = MODELS[family]
    together = answers(model, prompts, micro_batch_tokens=micro_batch_tokens, **options)
    assert len(together) == len(prompts)
    for index in range(len(prompts)):
        alone = answers(model, prompts, micro_batch_tokens=1, skip=set(range(len(prompts))) - {index}, **options)
        assert together[index] == alone[index]


SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "top_k": 40, "repetition_penalty": 1.2, "seed": 3}


@pytest.mark.parametrize(("family", "is_drawn"), sampled(FAMILIES, [False, True]))
def test_no_answer_depends_on_the_rows_beside_it(family: str, is_drawn: bool) -> None:
    options = {"stop_token_ids": {5, 40, 71}, "max_new_tokens": 8} | (SAMPLED if is_drawn else {})
    assert_no_answer_depends_on_others(prompts_of([3, 40, 1, 17]), 130, family, **options)


@pytest.mark.slow  # the test above is its sample
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    micro_batch_tokens=st.integers(1, 700),
    stops=st.sets(st.integers(3, 96), max_size=6),
    max_new_tokens=st.integers(1, 30),
    sampled=st.booleans(),
    family=st.sampled_from(FAMILIES),
)
def test_no_answer_depends_on_any_rows_beside_it(
    lengths: list[int], micro_batch_tokens: int, stops: set[int], max_new_tokens: int, sampled: bool, family: str
) -> None:
    options = {"stop_token_ids": stops, "max_new_tokens": max_new_tokens} | (SAMPLED if sampled else {})
    assert_no_answer_depends_on_others(prompts_of(lengths), micro_batch_tokens, family, **options)


def test_a_sampled_answer_depends_on_its_seed_and_index_alone() -> None:
    model, prompts = tiny_model("llama"), prompts_of([7, 7, 7])
    same = [prompts[0]] * 3
    made = [answers(model, same, temperature=1.0, seed=seed) for seed in (0, 0, 1)]
    assert made[0] == made[1]
    assert len({made[seed][row].token_ids for seed in (1, 2) for row in range(3)}) == 6
    assert answers(model, [same[0], prompts[1]], temperature=1.0)[0] == made[0][0]


def test_rows_are_admitted_as_others_finish_and_the_cache_is_not_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = tiny_model("llama"), prompts_of([9] * 12)
    expected = answers(model, prompts, max_new_tokens=40)
    stop = expected[3].token_ids[5]  # some rows end early
    sizes: list[int] = []
    made_caches: list[Any] = []
    read_tokens, cache_class = key_value_cache.read_tokens, key_value_cache.KeyValueCache

    def spy(model: Any, cache: Any, tokens: list[int], positions: list[int], prompts: Any, slots: Any) -> Any:
        sizes.append(len(tokens) + len(prompts))
        return read_tokens(model, cache, tokens, positions, prompts, slots)

    monkeypatch.setattr(key_value_cache, "read_tokens", spy)
    monkeypatch.setattr(
        key_value_cache, "KeyValueCache", lambda *a: made_caches.append(cache_class(*a)) or made_caches[-1]
    )
    made = answers(model, prompts, max_new_tokens=40, micro_batch_tokens=4 * 64, stop_token_ids=[stop])
    assert {one.stop_reason for one in made.values()} == {"stop", "length"}
    wanted = sum(len(one.token_ids) + (one.stop_reason == "stop") for one in made.values())
    assert sum(sizes) == wanted, "no step is spent on a row that has ended"
    full = max(place for place, size in enumerate(sizes) if size == 4)
    assert set(sizes[: full + 1]) == {4}, "a slot that is free is filled while rows wait"
    (cache,) = made_caches
    assert cache.keys[0].shape == (4, 2, 64, 8)


def test_the_cache_is_laid_out_in_more_slots_where_the_rows_left_are_short() -> None:
    model = tiny_model("llama")
    model.config.max_position_embeddings = 400
    prompts = prompts_of([300, 280, 20, 21, 22, 23, 24, 25])
    made = answers(model, prompts, micro_batch_tokens=640)
    assert made == answers(model, prompts, micro_batch_tokens=1)


@pytest.mark.parametrize(("family", "left_padded"), sampled(FAMILIES, ["", "padding changes it"]))
def test_transformers_own_generate_answers_where_the_engine_cannot(
    family: str, left_padded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = tiny_model(family), prompts_of(LENGTHS)
    free = answers(model, prompts, max_new_tokens=12)
    stops = (free[0].text[7:13], free[5].text[20:24])
    settings = {"max_new_tokens": 12, "temperature": 0.8, "seed": 4, "repetition_penalty": 1.1, "stop_strings": stops}
    expected = [answers(model, prompts, **one) for one in (settings, {"stop_token_ids": [free[0].token_ids[3]]})]
    pieces = streamed(model, prompts[1], **settings)

    calls: list[int] = []
    generate = own_generation._run
    monkeypatch.setattr(own_generation, "_run", lambda *a: (calls.append(len(a[1])), generate(*a))[1])
    monkeypatch.setattr(structure, "structure_of", lambda model: Structure("", "", "", "no numbers", left_padded, ""))
    made = [answers(model, prompts, **one) for one in (settings, {"stop_token_ids": [free[0].token_ids[3]]})]
    assert made == expected, "the same sampling, stop tokens, stop strings and texts"
    if "longrope" not in family:  # there long rows run alone
        assert max(calls) == (2 if left_padded else len(LENGTHS))
    assert answers(model, prompts, micro_batch_tokens=64, **settings) == expected[0]
    calls.clear()
    assert answers(model, prompts, skip=range(1, len(LENGTHS)), **settings) == {0: expected[0][0]}
    if left_padded:
        assert calls == [1], "a batch of which nothing is wanted does not run"
    assert streamed(model, prompts[1], **settings) == pieces


def test_a_stream_from_transformers_own_generate_ends_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama").train()
    monkeypatch.setattr(structure, "structure_of", lambda model: Structure("", "", "", "no numbers", "", ""))
    pieces = stream(model, NumbersTokenizer(), [5, 6], Decoding(max_new_tokens=60), stop_token_ids=())  # type: ignore[arg-type]
    next(pieces)
    pieces.close()
    assert model.training and torch.is_grad_enabled()
    monkeypatch.setattr(own_generation, "next_tokens", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(stream(model, NumbersTokenizer(), [5, 6], Decoding(), stop_token_ids=()))  # type: ignore[arg-type]


def streamed(model: Any, prompt: Sequence[int], **options: Any) -> tuple[list[str], Generation]:
    """The pieces of a stream, and its result."""
    answer = stream(model, NumbersTokenizer(), prompt, Decoding(**options), stop_token_ids=())  # type: ignore[arg-type]
    pieces = []
    while True:
        try:
            pieces.append(next(answer))
        except StopIteration as end:
            return pieces, end.value


def test_stop_strings_end_an_answer_across_token_borders() -> None:
    model, prompts = tiny_model("llama"), prompts_of(LENGTHS)
    free = answers(model, prompts, max_new_tokens=20)
    stops = (free[0].text[7:13], free[5].text[20:24])  # begin and end within tokens
    made = answers(model, prompts, max_new_tokens=20, stop_strings=stops)
    for index, one in made.items():
        places = [free[index].text.find(stop) for stop in stops if stop in free[index].text]
        assert one.text == (free[index].text[: min(places)] if places else free[index].text)
        assert one.stop_reason == ("stop" if places else "length")
        assert one.token_ids == free[index].token_ids[: len(one.token_ids)]
        if places:
            text_before = NumbersTokenizer().decode(one.token_ids[:-1], True, False)
            assert not any(stop in text_before for stop in stops), "it ends with the token that completes the string"
    assert {one.stop_reason for one in made.values()} == {"stop", "length"}


def test_a_stream_gives_the_answer_in_pieces() -> None:
    model, prompts = tiny_model("llama"), prompts_of(LENGTHS)
    for options in ({}, {"temperature": 1.0, "seed": 5}):
        whole = answers(model, prompts[:1], **options)[0]
        stop = whole.text[-6:-3]
        for stops in ((), (stop,)):
            pieces, result = streamed(model, prompts[0], max_new_tokens=10, stop_strings=stops, **options)
            assert "".join(pieces) == result.text == (whole.text[: whole.text.find(stop)] if stops else whole.text)
            assert len(pieces) > 5


def test_between_pieces_of_a_stream_the_model_is_its_owners() -> None:
    model = tiny_model("gpt2").train()
    before = model.config._attn_implementation
    pieces = stream(model, NumbersTokenizer(), [5, 6], Decoding(), stop_token_ids=())  # type: ignore[arg-type]
    next(pieces)
    assert model.training
    assert model.config._attn_implementation == before
    assert torch.is_grad_enabled()
    pieces.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("family", "micro_batch_tokens"), sampled(FAMILIES, [1, 60, 100, 10_000]))
def test_answers_are_the_argmax_and_the_same_for_every_batch_size(family: str, micro_batch_tokens: int) -> None:
    model, prompts = tiny_model(family), prompts_of(LENGTHS)
    expected = {index: argmax_answer(model, prompt, 10) for index, prompt in enumerate(prompts)}
    assert len({token for answer in expected.values() for token in answer}) > 8, "answers must vary"
    made = answers(model, prompts, micro_batch_tokens=micro_batch_tokens)
    assert {index: one.token_ids for index, one in made.items()} == expected
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
        Decoding(max_new_tokens=10),
        stop_token_ids=(),
        micro_batch_tokens=100,  # type: ignore[arg-type]
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


def test_skipped_rows_are_not_given_and_groups_stay_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BATCHES_PER_GROUP", 1)
    model, prompts = tiny_model("llama"), prompts_of(LENGTHS)
    options: dict[str, Any] = {"stop_token_ids": (), "micro_batch_tokens": 130}  # two rows at a time
    computed: list[list[list[int]]] = []
    read_tokens = key_value_cache.read_tokens

    def spy(model: Any, cache: Any, tokens: Any, positions: Any, prompts: list[list[int]], slots: Any) -> Any:
        if prompts:
            computed.append(prompts)
        return read_tokens(model, cache, tokens, positions, prompts, slots)

    monkeypatch.setattr(key_value_cache, "read_tokens", spy)

    def run(skip: Any = ()) -> list[Generation]:
        computed.clear()
        return list(generate(model, NumbersTokenizer(), prompts, Decoding(max_new_tokens=4), skip=skip, **options))  # type: ignore[arg-type]

    whole = run()
    groups = list(computed)
    assert [len(group) for group in groups] == [2, 2, 2, 2]
    for done in range(len(whole)):
        assert run({one.index for one in whole[:done]}) == whole[done:]
        assert computed == groups[done // 2 :], "a group that is done is not computed again, any other is, as it was"


def test_what_cannot_be_answered_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(ModelError, match="prompt 1 is empty: a model needs at least one token"):
        answers(model, [[5], []])
    assert answers(model, []) == {}


TEXTS = ("Once upon a time", "Lily and Tom went to the park. They saw a big", "The dog", "One day, a cat")


@pytest.mark.parametrize("texts", [TEXTS[:2], pytest.param(TEXTS, marks=pytest.mark.slow)], ids=len)
def test_a_real_model_tells_the_same_story_in_any_batch(texts: tuple[str, ...], shared_data: Path) -> None:
    folder = shared_data / "models" / "tinystories656k"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [[1, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in texts]
    options: dict[str, Any] = {"tokenizer": tokenizer, "max_new_tokens": 150, "stop_token_ids": [2]}
    alone, together = (answers(model, prompts, micro_batch_tokens=tokens, **options) for tokens in (1, 4096))
    assert alone == together
    assert [one.token_ids[:25] for _, one in sorted(alone.items())] == [argmax_answer(model, p, 25) for p in prompts]
    assert "stop" in {one.stop_reason for one in alone.values()}
    assert all(2 not in one.token_ids for one in alone.values())
    assert all(len(one.text.split()) > 10 for one in alone.values())
