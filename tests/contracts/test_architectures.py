"""What holds for every architecture that people tune: it computes what transformers computes, or says why not.

A dozen families run always, all of them with the slow tests; docs/guides/models.md lists them.
"""

from __future__ import annotations

import copy
import math
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, FAST, LAYOUTS, VOCABULARY, tiny_architecture
from tiny import recipe, tiny_tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedModel

from tunelab.answering.held_out_evaluation import evaluate
from tunelab.data.loader import PackedBatch
from tunelab.errors import ModelError
from tunelab.evaluation.choice_question import ChoiceQuestion
from tunelab.evaluation.choices import choice_likelihoods, plain_likelihoods
from tunelab.evaluation.likelihood import row_likelihoods
from tunelab.inference.engine import generate
from tunelab.inference.sampling import Decoding
from tunelab.models.adapters import add_lora
from tunelab.models.forward import RowLayout
from tunelab.models.linear_layers import stacked_weights
from tunelab.models.load import load_model
from tunelab.models.merge import dequantize_layers, merge_adapter
from tunelab.models.precision import weight_format
from tunelab.models.quantized_save import save_quantized
from tunelab.models.structure import row_layout, structure_of
from tunelab.publishing.merge import merge
from tunelab.training.finetune import finetune
from tunelab.training.loss import TargetLoss

every_architecture = pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]
)

GENERATOR = torch.Generator().manual_seed(11)
ROWS = [torch.randint(0, 256, (length,), generator=GENERATOR) for length in (12, 2, 21, 10)]


@cache
def built(name: str) -> PreTrainedModel:
    return tiny_architecture(name)


def model_of(name: str) -> Any:
    return copy.deepcopy(built(name))


def own_loss(model: nn.Module) -> Tensor:
    """Cross-entropy of transformers' own logits, each row alone: nats, summed."""
    losses = []
    for row in ROWS:
        logits = model(input_ids=row[None], use_cache=False).logits[0, :-1].float()
        losses.append(functional.cross_entropy(logits, row[1:], reduction="sum"))
    return torch.stack(losses).sum()


def batch() -> PackedBatch:
    starts = torch.tensor([0, *(len(row) for row in ROWS)]).cumsum(0)
    places = torch.cat([torch.arange(start, end - 1) for start, end in pairwise(starts)])
    return PackedBatch(torch.cat(ROWS), starts, places, torch.cat([row[1:] for row in ROWS]))


def loss_and_gradients(model: Any, layout: RowLayout | None) -> tuple[float, dict[str, Tensor]]:
    """Of tunelab in a layout; None = transformers' own."""
    model.zero_grad()
    if layout is None:
        loss = own_loss(model)
        loss.backward()
    else:
        module = TargetLoss(model, layout=layout, chunk=32)
        with module.attention():
            loss = module.of_batch(batch())
            loss.backward()
    return float(loss.detach()), {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }


@every_architecture
def test_loss_and_gradients_are_transformers_own_in_every_layout(name: str) -> None:
    model = model_of(name).requires_grad_(True)
    expected, gradients = loss_and_gradients(model, None)
    assert row_layout(model) == LAYOUTS.get(name, "packed")
    structure = structure_of(model)
    reasons: dict[RowLayout, str] = {"packed": structure.packed, "padded": structure.padded, "alone": ""}
    for layout in (layout for layout, reason in reasons.items() if not reason):
        loss, found = loss_and_gradients(model, layout)
        assert loss == pytest.approx(expected, rel=1e-5), layout
        assert found.keys() == gradients.keys(), layout
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        for parameter, gradient in gradients.items():
            difference = float((found[parameter] - gradient).abs().max())
            assert difference <= 1e-5 * largest, (layout, parameter)


@every_architecture
def test_likelihoods_are_transformers_own(name: str) -> None:
    model = model_of(name)
    with torch.no_grad():
        expected = float(own_loss(model))
    rows = [(row.tolist(), [True] * len(row)) for row in ROWS]
    found = sum(one.sequence_nll for one in row_likelihoods(model, rows, micro_batch_tokens=64))
    assert found == pytest.approx(expected, rel=1e-5)
    shared = tuple(ROWS[2].tolist())
    questions = [ChoiceQuestion((*shared, *row[:3].tolist()), ((1,), (2, 3), tuple(row.tolist()))) for row in ROWS]
    plain = [one.log_probabilities for one in plain_likelihoods(model, questions)]
    made = sorted(choice_likelihoods(model, questions, micro_batch_tokens=200), key=lambda one: one.index)
    for one, own in zip(made, plain, strict=True):
        assert one.log_probabilities == pytest.approx(own, rel=1e-4, abs=1e-4)


class Numbers:
    def decode(self, ids: list[int], **named: bool) -> str:
        return " ".join(map(str, ids))


@every_architecture
def test_answers_are_those_of_transformers_own_generate(name: str) -> None:
    model = model_of(name)
    assert bool(structure_of(model).cached) == (name in LAYOUTS)
    prompts = [row.tolist() for row in ROWS]
    decoding = Decoding(max_new_tokens=8)
    made = generate(model, Numbers(), prompts, decoding, stop_token_ids=())  # type: ignore[arg-type]
    answers = {one.index: list(one.token_ids) for one in made}
    model.generation_config = GenerationConfig()
    config = GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0)
    for index, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        assert whole[0, len(prompt) :].tolist() == answers[index]
    assert len({token for answer in answers.values() for token in answer}) > 3, "answers must vary"


@every_architecture
def test_a_merged_model_is_the_adapted_one(name: str) -> None:
    adapted = add_lora(model_of(name), rank=2, alpha=4)
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_B" in parameter_name:
            nn.init.normal_(parameter, std=0.3)
    adapted.eval()
    with torch.no_grad():
        before, expected = (model(input_ids=ROWS[2][None], use_cache=False).logits for model in (built(name), adapted))
        assert float((expected - before).abs().max()) > 1e-2, "the adapter must change something"
        if name == "zamba2":
            with pytest.raises(ModelError, match="share one weight, but each has its own adapter"):
                merge_adapter(adapted)
            return
        loss = float(own_loss(adapted))
        merged = merge_adapter(adapted)
        assert float(own_loss(merged)) == pytest.approx(loss, rel=1e-5)
        found = merged(input_ids=ROWS[2][None], use_cache=False).logits
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("form", ["nf4", "int8", "mxfp4"])
@every_architecture
@pytest.mark.slow
def test_each_format_loads_trains_and_saves_or_says_why_not(name: str, form: str, tmp_path: Path) -> None:
    model_of(name).save_pretrained(tmp_path / "dense")
    try:
        model = load_model(str(tmp_path / "dense"), dtype=torch.float32, form=weight_format(form))
    except ModelError as error:
        assert name == "zamba2" and "the weight is missing" in str(error), "it stores a shared weight once"
        return
    with torch.no_grad():
        quantized = float(own_loss(model))
        dense = copy.deepcopy(model)
        dequantize_layers(dense)
        assert float(own_loss(dense)) == pytest.approx(quantized, rel=1e-4), "transformers' own code over these weights"
    expected, _ = loss_and_gradients(add_lora(model, rank=2, alpha=4), row_layout(model))
    with torch.no_grad():
        assert expected == pytest.approx(float(own_loss(model)), rel=1e-4)
    stored = load_model(str(tmp_path / "dense"), dtype=torch.float32, form=weight_format(form))
    try:
        save_quantized(stored, tmp_path / "q")
    except ModelError as error:
        if stacked_weights(stored):
            assert "is a mixture of experts, which cannot be stored quantized" in str(error)
        else:
            assert "compressed-tensors cannot store" in str(error) and form == "mxfp4", "widths are no blocks of 32"
        return
    again = load_model(str(tmp_path / "q"), dtype=torch.float32, form=weight_format(form))
    with torch.no_grad():
        assert float(own_loss(again)) == pytest.approx(expected, rel=1e-4)


def test_a_recurrent_model_goes_through_every_verb(rows: Path, tmp_path: Path) -> None:
    model_of("lfm2").save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    said: list[str] = []
    changes = {"data__held_out": 4, "train__steps": 3, "evaluate": {"max_new_tokens": 3}}
    run = finetune(recipe(tmp_path / "base", rows, tmp_path / "run", **changes), notify=said.append)
    assert any(
        one.startswith("rows are padded, with the model's own attention: Lfm2ForCausalLM: packed") for one in said
    )
    assert any("micro-batches of up to 160 tokens, padded" in one for one in said)
    assert (run.manifest["resolved"]["train.packing"], run.manifest["resolved"]["rows"]) == (False, "padded")
    assert run.manifest["held_out_loss_after"] < run.manifest["held_out_loss_before"]
    scores = evaluate(run)
    assert [one[:25] for one in scores.notices] == ["rows are not packed, but ", "transformers' own generat"]
    tuned = next(one for one in scores.arms["tuned"] if one.name == "completion_perplexity")
    assert math.log(tuned.value) == pytest.approx(run.manifest["held_out_loss_after"], rel=1e-4)
    assert merge(run, tmp_path / "merged")


def test_the_configurations_are_not_the_defaults() -> None:
    assert ARCHITECTURES.keys() >= FAST and LAYOUTS.keys() <= ARCHITECTURES.keys()
    assert all(built(name).config.get_text_config().vocab_size == VOCABULARY for name in FAST)
