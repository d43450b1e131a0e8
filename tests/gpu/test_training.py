"""What only a GPU shows: FlashAttention over packed sequences, half precision, memory on the device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, VOCABULARY, model_folder, recipe, rows_file, tiny_model

from tunelab.errors import Interrupted
from tunelab.models import forward
from tunelab.models.forward import packed_attention, packed_hidden_states
from tunelab.models.head import output_head
from tunelab.models.structure import row_layout
from tunelab.training.finetune import finetune, resume

pytestmark = pytest.mark.gpu

LENGTHS = (3, 17, 1, 40, 9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_attention_gives_each_row_s_own_logits(
    family: str, window: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if window is not None and family != "phi3":
        pytest.skip("only Phi-3 has a sliding window here")
    model = tiny_model(family, **({"sliding_window": window} if window else {})).to("cuda", dtype)
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(0, VOCABULARY, (length,), generator=generator).cuda() for length in LENGTHS]
    starts = torch.tensor([0, *LENGTHS]).cumsum(0).cuda()
    calls: list[int] = []
    flash = forward.flash_attention
    monkeypatch.setattr(forward, "flash_attention", lambda *a, **k: (calls.append(1), flash(*a, **k))[1])
    with torch.no_grad():
        apart = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows]).float()
        with packed_attention(model):
            packed = output_head(model)(packed_hidden_states(model, torch.cat(rows), starts)).float()
    assert len(calls) == 2, "one call a layer"
    assert float((packed - apart).abs().max() / apart.abs().max()) < 5e-2
    assert row_layout(model) == "packed"


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_run_learns_and_says_what_it_took(dtype: str, method: str, tmp_path: Path) -> None:
    made = recipe(
        model_folder(tmp_path / "model"), rows_file(tmp_path / "rows.jsonl"), tmp_path / "run",
        method=method, data__held_out=4, train__device="cuda", train__dtype=dtype, train__steps=30,
    )  # fmt: skip
    run = finetune(made)
    losses = [record["loss"] for record in run.metrics("train")]
    assert losses[-1] < losses[0]
    peaks = [record["peak_gpu_bytes"] for record in run.metrics("train")]
    assert 0 < peaks[0] <= peaks[-1] <= run.manifest["peak_gpu_bytes"]
    manifest = run.manifest
    assert manifest["held_out_loss_after"] < manifest["held_out_loss_before"]
    assert manifest["peak_gpu_bytes"] > manifest["model"]["digest"]["bytes"] > 0
    assert manifest["compute"]["gpu"] == torch.cuda.get_device_name()
    assert manifest["compute"]["device"].startswith("cuda")
    assert manifest["compute"]["precision"] == {"fp32": "no"}.get(dtype, dtype)


def test_fp16_is_resumed_with_its_loss_scale(tmp_path: Path) -> None:
    made = recipe(
        model_folder(tmp_path / "model"), rows_file(tmp_path / "rows.jsonl"), tmp_path / "run",
        train__device="cuda", train__dtype="fp16",
    )  # fmt: skip

    def stops(stage: str, done: int, total: int | None, detail: str = "") -> None:
        import os
        import signal

        if stage == "training" and done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        finetune(made, progress=stops)
    whole = finetune({**made, "out": str(tmp_path / "whole")})
    resumed = resume(tmp_path / "run")
    for first, second in zip(resumed.metrics("train"), whole.metrics("train"), strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-2)
