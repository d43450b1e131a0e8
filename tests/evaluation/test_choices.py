"""Choices scored behind a shared prefix against transformers' own logits of every choice alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from real_tokenizers import load_real_tokenizer
from sampled import sampled
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast
from varied_models import CONTEXT, FAMILIES, VOCABULARY, tiny_model

from tunelab.errors import DataError, ModelError
from tunelab.evaluation import choices
from tunelab.evaluation.choice_question import ChoiceQuestion, choice_question, ending_question
from tunelab.evaluation.choices import ChoiceLikelihood, choice_likelihoods, plain_likelihoods
from tunelab.models.adapters import add_lora
from tunelab.models.load import load_model
from tunelab.models.precision import weight_format


def tokens(count: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())


def questions() -> list[ChoiceQuestion]:
    """Two subjects with their own prefix, one of letters and one of sentences, then some that share nothing."""
    first, second, letters = tokens(25, 1), tokens(20, 2), ((5,), (6,), (7,), (8,))
    made = [ChoiceQuestion(first + tokens(3 + n, 10 + n), letters) for n in range(6)]
    for n in range(5):
        sentences = tuple(tokens(1 + (n + k) % 5, 40 + 7 * n + k) for k in range(3 + n % 2))
        made.append(ChoiceQuestion(second + tokens(2 + n, 20 + n), sentences))
    return made + [ChoiceQuestion(tokens(4 + 9 * n, 30 + n), letters[:2]) for n in range(4)]


def alone(model: Any, asked: Sequence[ChoiceQuestion]) -> list[tuple[float, ...]]:
    """Every prompt with every choice through the model's ordinary forward pass, full logits."""
    result = []
    for question in asked:
        values = []
        for continuation in question.continuations:
            ids = torch.tensor([[*question.prompt_ids, *continuation]])
            with torch.no_grad():
                logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0].double()
            scored = continuation[question.unscored[len(values)] if question.unscored else 0 :]
            log_p = torch.log_softmax(logits[-len(scored) :], dim=-1)
            values.append(float(log_p[torch.arange(len(scored)), torch.tensor(scored)].sum()))
        result.append(tuple(values))
    return result


def scored(model: Any, asked: Sequence[ChoiceQuestion], **options: Any) -> dict[int, tuple[float, ...]]:
    found = choice_likelihoods(model, asked, **{"micro_batch_tokens": 60, **options})
    return {one.index: one.log_probabilities for one in found}


def assert_same(made: dict[int, tuple[float, ...]], expected: Sequence[tuple[float, ...]]) -> None:
    assert sorted(made) == list(range(len(expected)))
    for index, values in enumerate(expected):
        assert made[index] == pytest.approx(values, abs=1e-4)
        assert len(set(values)) == len(values)


@pytest.mark.parametrize(("family", "micro_batch_tokens"), sampled(FAMILIES, [1, 40, 10_000]))
def test_each_choice_has_the_likelihood_that_it_has_alone(
    family: str, micro_batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "CHUNK", 3)
    model, asked = tiny_model(family), questions()
    assert_same(scored(model, asked, micro_batch_tokens=micro_batch_tokens), alone(model, asked))


@pytest.mark.parametrize(("family", "attention"), sampled(FAMILIES, [None, "eager"]))
def test_plain_likelihoods_are_transformers_own(family: str, attention: str | None) -> None:
    model, asked = tiny_model(family), questions()
    before = model.config._attn_implementation
    made = {one.index: one.log_probabilities for one in plain_likelihoods(model, asked, attention)}
    assert_same(made, alone(model, asked))
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("family", FAMILIES)
def test_an_ending_is_scored_after_what_is_only_read(family: str) -> None:
    """Also where the choices share no token with each other before it."""
    ending = tokens(4, 70)
    asked = [
        ChoiceQuestion(
            tokens(length, 71), tuple((*tokens(size, 72 + size), *ending) for size in (1, 3)), unscored=(1, 3)
        )
        for length in (0, 9)
    ]
    model = tiny_model(family)
    assert_same(scored(model, asked), alone(model, asked))
    plain = {one.index: one.log_probabilities for one in plain_likelihoods(model, asked)}
    assert_same(plain, alone(model, asked))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefix_changes_nothing(family: str) -> None:
    model, asked = tiny_model(family), questions()
    shared, apart = scored(model, asked), scored(model, asked, share_prefixes=False)
    for index, values in apart.items():
        # Up to five log-probabilities of logits that float32 gives to about 1e-6; a wrong position is off by 1e-2.
        assert shared[index] == pytest.approx(values, abs=1e-4)


def test_a_sliding_window_shorter_than_the_prefix() -> None:
    torch.manual_seed(7)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        sliding_window=12,
        initializer_range=0.3,
    )
    model = MistralForCausalLM(config).eval()
    model.set_attn_implementation("eager")
    assert_same(scored(model, questions()), alone(model, questions()))


def test_an_adapter_and_a_quantised_base(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    base = load_model(str(tmp_path), dtype=torch.float32, form=weight_format("mxfp4"))
    adapted = add_lora(base, rank=4, alpha=8, targets=["q_proj", "down_proj"])
    torch.manual_seed(3)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    assert_same(scored(adapted, questions()), alone(adapted, questions()))
    with adapted.disable_adapter():
        assert_same(scored(adapted, questions()), alone(base, questions()))


def test_bf16_is_near_and_leaves_the_model_as_it_was() -> None:
    model = tiny_model("llama")
    expected = alone(model, questions())
    model.to(torch.bfloat16).train()
    before = model.config._attn_implementation
    with torch.autocast("cpu", torch.bfloat16):
        made = scored(model, questions())
    assert model.training and model.config._attn_implementation == before
    assert all(made[i] == pytest.approx(values, abs=0.5) for i, values in enumerate(expected))
    assert any(made[i] != pytest.approx(values, abs=1e-4) for i, values in enumerate(expected))


def test_the_prefix_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunelab.models import shared_prefix

    lengths: list[tuple[int, list[int]]] = []
    run = shared_prefix._run

    def counted(model: Any, prefix: Any, rows: Any, *, is_prefix: bool) -> Any:
        lengths.append((prefix.length, [len(row) for row in rows]))
        return run(model, prefix, rows, is_prefix=is_prefix)

    monkeypatch.setattr(shared_prefix, "_run", counted)
    scored(tiny_model("gpt2"), questions()[:6], micro_batch_tokens=1000)
    assert lengths == [(25, [25]), (25, [8, 7, 6, 5, 4, 3])]


def test_what_is_skipped_changes_neither_floats_nor_order() -> None:
    model, asked = tiny_model("llama"), questions()
    whole = list(choice_likelihoods(model, asked, micro_batch_tokens=30))
    assert [one.index for one in whole] != list(range(len(asked)))
    for done in (1, 4, 9, len(whole)):
        skip = {one.index for one in whole[:done]}
        assert list(choice_likelihoods(model, asked, micro_batch_tokens=30, skip=skip)) == whole[done:]


def test_progress_reaches_the_end() -> None:
    told: list[tuple[str, int, int | None]] = []
    scored(tiny_model("gpt2"), questions(), progress=lambda what, done, total: told.append((what, done, total)))
    assert told[-1] == ("scoring choices", 15, 15)


def test_neighbours_are_joined_by_what_they_share() -> None:
    header, first, second = tokens(18, 9), tokens(30, 1), tokens(30, 2)
    prompts = [header + first + tokens(4, n) for n in range(3)] + [header + second + tokens(4, n) for n in range(3)]
    asked = [ChoiceQuestion(prompt, ((5,),)) for prompt in prompts]
    groups = list(choices._groups(asked, None, True))
    assert [(group.indices, group.shared) for group in groups] == [([0, 1, 2], 48), ([3, 4, 5], 48)]
    # A lone subject between two others neither joins nor splits them.
    asked.insert(3, ChoiceQuestion(header + tokens(30, 5), ((5,),)))
    groups = list(choices._groups(asked, None, True))
    assert [(group.indices, group.shared) for group in groups] == [([0, 1, 2], 48), ([4, 5, 6], 48), ([3], 0)]
    # The same prompt twice: a token of each stays its own.
    twice = [asked[0], asked[0]]
    assert [(group.indices, group.shared) for group in choices._groups(twice, None, True)] == [([0, 1], 51)]


class TestTheJoin:
    def test_continuations_begin_where_the_prompt_ends(self) -> None:
        made = choice_question([1, 2, 3], [[1, 2, 3, 4], [1, 2, 3, 5, 6]], context=None)
        assert made == ChoiceQuestion((1, 2, 3), ((4,), (5, 6)), 0)

    def test_a_token_that_spans_the_join_belongs_to_the_continuation_of_all(self) -> None:
        made = choice_question([1, 2, 3], [[1, 2, 9], [1, 2, 3, 5]], context=None)
        assert made == ChoiceQuestion((1, 2), ((9,), (3, 5)), 0)
        # One that all choices share says nothing about them (": " of "Answer: A" in some vocabularies).
        made = choice_question([1, 2, 3], [[1, 2, 9, 5], [1, 2, 9, 6]], context=None)
        assert made == ChoiceQuestion((1, 2, 9), ((5,), (6,)), 0)
        # Fewer tokens than the prompt alone has: still none is empty.
        made = choice_question([1, 2, 3, 4], [[1, 9], [1, 9, 6]], context=None)
        assert made == ChoiceQuestion((1,), ((9,), (9, 6)), 0)

    def test_the_beginning_is_cut_to_the_context(self) -> None:
        made = choice_question([1, 2, 3, 4], [[1, 2, 3, 4, 5], [1, 2, 3, 4, 6, 7]], context=4)
        assert made == ChoiceQuestion((2, 3, 4), ((5,), (6, 7)), 1)
        made = choice_question([1, 2, 3, 4], [[1, 2, 3, 4, 5]], context=4)
        assert made.truncated == 0

    def test_an_ending_is_scored_after_each_choice(self) -> None:
        """Tokens 8 and 9 end the choices; the last token of the second prompt changes once the ending follows."""
        found = ending_question([(1, 2, 8), (1, 2, 9, 5)], [(1, 2, 8, 3, 4), (1, 2, 9, 6, 3, 4)], context=None)
        assert found == ChoiceQuestion((1, 2), ((8, 3, 4), (9, 6, 3, 4)), unscored=(1, 1))
        assert found.scored == ((3, 4), (6, 3, 4))
        cut = ending_question([(1, 2, 8), (1, 2, 9)], [(1, 2, 8, 3, 4), (1, 2, 9, 3, 4)], context=3)
        assert (cut.prompt_ids, cut.truncated, cut.scored) == ((2,), 1, ((3, 4), (3, 4)))
        apart = ending_question([(8,), (9,)], [(8, 3), (9, 3)], context=None)
        assert apart == ChoiceQuestion((), ((8, 3), (9, 3)), unscored=(1, 1))

    def test_an_ending_that_cannot_be_scored(self) -> None:
        with pytest.raises(DataError, match="the ending adds no token to choice 1"):
            ending_question([(1, 2), (1, 3)], [(1, 2, 4), (1, 3)], context=None)
        with pytest.raises(DataError, match="a choice has no token before the ending, so nothing predicts it"):
            ending_question([(), (1,)], [(4,), (1, 4)], context=None)
        with pytest.raises(DataError, match="no choices to score"):
            ending_question([], [], context=None)

    def test_what_cannot_be_scored(self) -> None:
        with pytest.raises(DataError, match="the question has no choices"):
            choice_question([1], [], context=None)
        with pytest.raises(DataError, match="choice 1 adds no token to the prompt"):
            choice_question([1, 2], [[1, 2, 3], [1, 2]], context=None)
        with pytest.raises(DataError, match="the prompt has no token before its choices"):
            choice_question([], [[1], [2]], context=None)
        with pytest.raises(ModelError, match="a choice has 3 tokens, but the model's context is 2"):
            choice_question([1], [[1, 2, 3, 4]], context=2)

    @given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=4))
    def test_any_tokens_give_a_question_or_a_named_error(self, prompt: list[int], wholes: list[list[int]]) -> None:
        try:
            made = choice_question(prompt, wholes, context=None)
        except DataError:
            return
        assert [list(made.prompt_ids + continuation) for continuation in made.continuations] == wholes
        assert all(made.continuations) and made.prompt_ids

    def test_llama_2_letters_are_one_token_in_their_context(self, llama2: PreTrainedTokenizerFast) -> None:
        def encode(text: str) -> list[int]:
            return list(llama2(text, add_special_tokens=False)["input_ids"])

        made = choice_question(encode("Answer:"), [encode(f"Answer: {letter}") for letter in "ABCD"], context=None)
        assert made.continuations == ((319,), (350,), (315,), (360,))
        assert made.prompt_ids == (673, 29901)


@pytest.fixture(scope="module")
def llama2(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return load_real_tokenizer("llama2", shared_data, tmp_path_factory.mktemp("llama2"))


def test_too_long_a_question_is_named() -> None:
    asked = [ChoiceQuestion(tokens(CONTEXT, 1), ((3,),)), ChoiceQuestion(tokens(CONTEXT, 1), ((3, 4),))]
    with pytest.raises(ModelError, match=f"question 1 has {CONTEXT + 1} tokens"):
        list(choice_likelihoods(tiny_model("gpt2"), asked, micro_batch_tokens=10))


def test_numbers_that_are_none_are_refused() -> None:
    model = tiny_model("gpt2")
    head = torch.nn.Linear(32, VOCABULARY)
    head.weight.data.fill_(torch.nan)
    flat = [ChoiceQuestion((3, 4), ((5,), (6,)))]
    list(choice_likelihoods(model, flat, micro_batch_tokens=10))
    checked = choices._score
    model.set_output_embeddings(head)
    from tunelab.models.shared_prefix import SharedPrefix

    with pytest.raises(ModelError, match=r"question 0: log-probabilities of its choices are .*nan"):
        list(checked(model, flat, [0], SharedPrefix(0)))


def test_an_architecture_that_does_not_pass_rows_on_is_named() -> None:
    from tunelab.models import shared_prefix

    with pytest.raises(ModelError, match="Linear does not pass its rows to its attention"):
        states = torch.zeros(1, 1, 1, 1)
        shared_prefix._prefix_attention_forward(torch.nn.Linear(1, 1), states, states, states, None)


def test_a_likelihood_is_plain_data() -> None:
    assert ChoiceLikelihood(0, (-1.0,)) == ChoiceLikelihood(0, (-1.0,))
