"""vLLM as a backend, tried with a stand-in: what it is asked, what becomes of its answers, and what is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from vllm_stand_in import VERSION, Calls, stand_in

from tunelab.errors import ModelError, UsageError
from tunelab.inference import engine, vllm_backend
from tunelab.inference.row import Generation
from tunelab.inference.sampling import Decoding
from tunelab.inference.vllm_backend import (
    VllmEngine,
    VllmModel,
    installed_version,
    loading_arguments,
    lora_rank,
    quantization_argument,
    sampling_arguments,
)
from tunelab.models.precision import weight_format

PROMPTS = [[72, 105], [82, 101, 100, 32], list(range(65, 65 + 30)), [90]]
STOPS = (256,)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return stand_in(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


def model_of(folder: Path, **changes: Any) -> VllmModel:
    return VllmModel(**{"name": str(folder), "tokenizer": str(folder), "dtype": "fp32", **changes})


def answers(folder: Path, decoding: Decoding, **changes: Any) -> list[Generation]:
    made = VllmEngine(model_of(folder, **changes), tiny.tiny_tokenizer())
    return list(made.generate(PROMPTS, decoding, stop_token_ids=STOPS))


class TestAnswers:
    @pytest.mark.parametrize("stops", [(), ("a", "q"), ("ab", " ")])
    def test_they_are_those_of_our_engine_in_the_prompts_order(
        self, stops: tuple[str, ...], calls: Calls, folder: Path
    ) -> None:
        decoding = Decoding(max_new_tokens=24, stop_strings=stops)
        made = answers(folder, decoding, context=40)
        model, tokenizer = tiny.tiny_model("llama", max_position_embeddings=40), tiny.tiny_tokenizer()
        ours = engine.generate(model, tokenizer, PROMPTS, decoding, stop_token_ids=STOPS)
        assert made == sorted(ours, key=lambda one: one.index)
        if not stops:
            assert made[2].stop_reason == "context" and {one.stop_reason for one in made} >= {"length", "context"}

    def test_the_prompts_are_our_token_ids(self, calls: Calls, folder: Path) -> None:
        answers(folder, Decoding(max_new_tokens=3))
        ((prompts, sampling, request),) = calls.asked
        assert prompts == [{"prompt_token_ids": prompt} for prompt in PROMPTS] and request is None
        assert {one.max_tokens for one in sampling} == {3}

    def test_they_come_in_batches_and_what_is_there_is_skipped(
        self, calls: Calls, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(vllm_backend, "BATCH", 2)
        made = VllmEngine(model_of(folder), tiny.tiny_tokenizer()).generate(
            PROMPTS, Decoding(max_new_tokens=2), stop_token_ids=STOPS, skip={1}
        )
        assert next(made).index == 0 and calls.prompts == 2
        assert [one.index for one in made] == [2, 3] and calls.prompts == 3 and len(calls.loaded) == 1

    def test_longer_prompts_load_it_again_shorter_ones_do_not(self, calls: Calls, folder: Path) -> None:
        made = VllmEngine(model_of(folder), tiny.tiny_tokenizer())
        for prompts in (PROMPTS[:2], PROMPTS[:1], PROMPTS):
            assert list(made.generate(prompts, Decoding(max_new_tokens=2), stop_token_ids=STOPS))
        assert [one["max_model_len"] for one in calls.loaded] == [6, 32]

    def test_nothing_to_answer_loads_nothing(self, calls: Calls, folder: Path) -> None:
        made = VllmEngine(model_of(folder), tiny.tiny_tokenizer())
        assert not list(made.generate(PROMPTS, Decoding(), stop_token_ids=STOPS, skip={0, 1, 2, 3}))
        assert not calls.loaded

    def test_a_stop_token_is_no_part_of_them_and_a_stop_strings_tokens_are(self, folder: Path) -> None:
        made = VllmEngine(model_of(folder), tiny.tiny_tokenizer())

        def mapped(token_ids: list[int], finish: str, by: int | str | None, text: str = "") -> Generation:
            completion = SimpleNamespace(token_ids=token_ids, finish_reason=finish, stop_reason=by, text=text)
            return made._generation(0, 3, completion, Decoding(stop_strings=("b",)), STOPS, False)

        assert mapped([64, 256], "stop", 256) == Generation(0, (64,), "a", "stop", 3)
        assert mapped([64, 256], "stop", None) == Generation(0, (64,), "a", "stop", 3)
        assert mapped([64, 65, 66], "stop", "b") == Generation(0, (64, 65, 66), "a", "stop", 3)
        assert mapped([64, 65], "length", None) == Generation(0, (64, 65), "a", "stop", 3)
        assert mapped([64, 66], "stop", "b", "seen by vLLM") == Generation(0, (64, 66), "seen by vLLM", "stop", 3)
        assert mapped([64, 66], "length", None) == Generation(0, (64, 66), "ac", "length", 3)
        with pytest.raises(ModelError, match="ended the answer to prompt 0 with the reason 'abort'"):
            mapped([64], "abort", None)

    @pytest.mark.parametrize("prompts", [[[]], [[1] * 40]])
    def test_prompts_without_room_are_refused(self, prompts: list[list[int]], calls: Calls, folder: Path) -> None:
        made = VllmEngine(model_of(folder, context=40), tiny.tiny_tokenizer())
        with pytest.raises(ModelError, match=r"prompt 0 has (0|40) tokens and the model's context 40"):
            list(made.generate(prompts, Decoding(), stop_token_ids=STOPS))

    def test_what_vllm_says_is_told(self, calls: Calls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise ValueError("No available memory for the cache blocks.\nTry more.")

        monkeypatch.setattr(sys.modules["vllm"], "LLM", full)
        with pytest.raises(ModelError, match=r"vLLM cannot load \S+: No available memory for the cache blocks\.$"):
            answers(folder, Decoding(max_new_tokens=2))


class TestLoading:
    def test_plain(self) -> None:
        made = loading_arguments(VllmModel("gpt2", "gpt2", "bf16"), 90)
        assert made == {
            "model": "gpt2",
            "tokenizer": "gpt2",
            "dtype": "bfloat16",
            "max_model_len": 90,
            "trust_remote_code": False,
            "generation_config": "vllm",
            "load_format": "safetensors",  # "auto" also unpickles
        }

    def test_revision_and_quantization(self) -> None:
        model = VllmModel("gpt2", "gpt2", "fp16", "c0ffee", "c0ffee", "bitsandbytes", trust_remote_code=True)
        made = loading_arguments(model, 90)
        assert (made["revision"], made["tokenizer_revision"], made["dtype"]) == ("c0ffee", "c0ffee", "float16")
        assert made["quantization"] == made["load_format"] == "bitsandbytes" and made["trust_remote_code"]

    @pytest.mark.parametrize(("rank", "allowed"), [(1, 1), (4, 8), (8, 8), (48, 64), (512, 512)])
    def test_an_adapter(self, rank: int, allowed: int, tmp_path: Path) -> None:
        made = loading_arguments(VllmModel("gpt2", "gpt2", "bf16", adapter=adapter(tmp_path, r=rank)), 90)
        assert made["enable_lora"] is True and made["max_loras"] == 1 and made["max_lora_rank"] == allowed

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"use_dora": True}, "cannot run an adapter with use_dora"),
            ({"trainable_token_indices": [1]}, "cannot run an adapter with trainable_token_indices"),
            ({"modules_to_save": ["lm_head"], "bias": "all"}, "cannot run an adapter with modules_to_save, bias"),
            ({"rank_pattern": {"q": 4}, "alpha_pattern": {"q": 4}}, "with rank_pattern, alpha_pattern"),
            ({"target_parameters": ["experts.down_proj"]}, "cannot run an adapter with target_parameters"),
            ({"r": 513}, "rank 513, vLLM runs adapters up to 512"),
        ],
    )
    def test_adapters_that_it_cannot_run(self, config: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=message):
            lora_rank(adapter(tmp_path, **config))

    def test_no_adapter(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no adapter found"):
            lora_rank(tmp_path)

    def test_a_pickled_adapter(self, tmp_path: Path) -> None:
        (adapter(tmp_path) / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
        with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
            lora_rank(tmp_path)


class TestPrecision:
    def test_what_it_has(self) -> None:
        nf4, fp4, int8, mxfp4 = (weight_format(name) for name in ("nf4", "fp4", "int8", "mxfp4"))
        assert quantization_argument(None, None, (), "m") is None
        assert quantization_argument(nf4, None, (), "m") == "bitsandbytes"
        assert [quantization_argument(one, one, (), "m") for one in (nf4, fp4, int8)] == ["bitsandbytes"] * 3
        assert quantization_argument(mxfp4, mxfp4, (), "m") is None

    @pytest.mark.parametrize("name", ["fp4", "int8", "mxfp4"])
    def test_formats_that_it_only_reads(self, name: str) -> None:
        with pytest.raises(UsageError, match=f"precision {name}: vLLM cannot quantize m to it while loading"):
            quantization_argument(weight_format(name), None, (), "m")

    def test_options_that_it_would_ignore(self) -> None:
        with pytest.raises(UsageError, match="always quantizes the scales too"):
            quantization_argument(weight_format("nf4", {"double_quantization": False}), None, (), "m")
        with pytest.raises(UsageError, match=r"precision\.skip: vLLM cannot leave down_proj unquantized"):
            quantization_argument(weight_format("nf4"), None, ("down_proj",), "m")

    def test_another_format_than_the_stored_one(self) -> None:
        with pytest.raises(ModelError, match="its weights are stored in int8, and precision is none"):
            quantization_argument(None, weight_format("int8"), (), "m")


class TestSampling:
    def test_greedy(self) -> None:
        made = sampling_arguments(Decoding(stop_strings=("\n",)), {7, 3}, 5, 100)
        assert made["temperature"] == 0 and made["seed"] is None and made["top_k"] == -1 and made["max_tokens"] == 100
        assert made["stop"] == ["\n"] and made["stop_token_ids"] == [3, 7] and made["ignore_eos"] is True

    def test_everything_that_narrows_is_passed_on(self) -> None:
        decoding = Decoding(temperature=0.7, top_p=0.9, top_k=40, min_p=0.1, repetition_penalty=1.2, seed=1)
        made = sampling_arguments(decoding, (), 5, 100)
        for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
            assert made[name] == getattr(decoding, name)

    def test_each_row_draws_from_its_own_seed(self) -> None:
        def seed(number: int, index: int) -> int:
            made: int = sampling_arguments(Decoding(temperature=1, seed=number), (), index, 1)["seed"]
            return made

        assert seed(0, 3) == seed(0, 3) and len({seed(a, b) for a in range(4) for b in range(4)}) == 16
        assert all(0 <= seed(0, index) < 2**31 for index in range(50))

    def test_a_temperature_that_it_would_change(self) -> None:
        with pytest.raises(UsageError, match=r"temperature 0\.005: vLLM's minimum is 0\.01"):
            sampling_arguments(Decoding(temperature=0.005), (), 0, 1)


def test_the_version_and_the_log_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_LOGGING_STREAM", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    stand_in(monkeypatch)
    assert installed_version() == VERSION
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr" and os.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_where_it_is_not_installed_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError, match="vLLM cannot be imported") as refused:
        installed_version()
    assert 'pip install "tunelab[vllm]"' in (refused.value.hint or "")


def adapter(folder: Path, **config: Any) -> Path:
    content = {"r": 8, "bias": "none", "use_dora": False, "modules_to_save": None, "rank_pattern": {}, **config}
    (folder / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "adapter_model.safetensors").touch()
    return folder
