"""What is no number is found in models and files, whatever its dtype, and named; integers are fine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_model

from tunelab.errors import ModelError
from tunelab.models.finite import check_files_finite, check_model_finite, is_finite
from tunelab.models.load import load_model
from tunelab.models.loftq import STORED, begin_at_stored
from tunelab.models.precision import weight_format


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_weight_is_enough(dtype: torch.dtype, value: float) -> None:
    tensor = torch.randn(40, 30).to(dtype)
    assert is_finite(tensor)
    tensor[39, 29] = value
    assert not is_finite(tensor)


def test_what_has_no_such_values() -> None:
    for tensor in (torch.zeros(0), torch.ones(3, dtype=torch.uint8), torch.empty(2, 2, device="meta")):
        assert is_finite(tensor)


def test_parameters_and_stored_buffers_but_no_computed_ones() -> None:
    model = tiny_model("llama")
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]), persistent=False)
    check_model_finite(model, "here")
    model.register_buffer("scale", torch.tensor([1.0, float("nan")]))
    with pytest.raises(ModelError, match=r"here: scale: 1 of 2 weights are NaN or infinite \(float32\)"):
        check_model_finite(model, "here")


def test_a_dtype_that_overflows_is_named(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight[3] = 1e5
    model.save_pretrained(tmp_path)
    load_model(str(tmp_path), dtype=torch.bfloat16)
    with pytest.raises(
        ModelError, match=r"model\.norm\.weight: 1 of 32 weights are NaN or infinite \(float16\)"
    ) as found:
        load_model(str(tmp_path), dtype=torch.float16)
    assert "train.dtype=bf16 or fp32" in found.value.hint


def test_files_and_the_adapter_beside_quantized_codes(tmp_path: Path) -> None:
    (tmp_path / STORED).mkdir()
    save_file({"lora_A.weight": torch.tensor([1.0, float("inf")])}, tmp_path / STORED / "adapter_model.safetensors")
    for check in (lambda: check_files_finite(tmp_path / STORED), lambda: begin_at_stored(None, tmp_path)):
        with pytest.raises(ModelError, match=r"lora_A\.weight: 1 of 2 weights are NaN"):
            check()


def test_a_scale_of_mxfp4_that_stands_for_nan() -> None:
    form = weight_format("mxfp4")
    stored = form.to_checkpoint(form.quantize(torch.randn(4, 64)), (4, 64), torch.bfloat16)
    stored["weight_scale"][2, 1] = 255
    with pytest.raises(ModelError, match=r"a scale in mxfp4 is NaN \(255\)"):
        form.from_checkpoint(stored, (4, 64))


def test_a_file_that_is_no_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors: .*header too small") as caught:
        check_files_finite(tmp_path)
    assert "use another copy" in caught.value.hint
