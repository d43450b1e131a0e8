"""One way of LoRA training, measured in a process of its own: `python train_contenders.py NAME JOB.json OUT.json`.

Every contender trains the same adapter, saved beforehand, on the same rows in the same order. The first step warms up
and is not timed.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from shapes import read_rows

RANK, ALPHA, BATCH_SIZE, LEARNING_RATE = 16, 32, 8, 1e-3


@dataclass
class Trace:
    """When each step ended, and its loss (mean over its targets)."""

    ended: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def step(self, loss: float, tokens: int) -> None:
        self.ended.append(time.perf_counter())
        self.losses.append(loss)
        self.tokens.append(tokens)

    def result(self) -> dict[str, Any]:
        return {
            "tokens": sum(self.tokens[1:]),
            "seconds": self.ended[-1] - self.ended[0],
            "tokens_per_second": sum(self.tokens[1:]) / (self.ended[-1] - self.ended[0]),
            "losses": self.losses,
            "step_tokens": self.tokens,
        }


def tunelab(
    job: dict[str, Any], dtype: str, precision: str | None = None, every_weight: bool = False
) -> dict[str, Any]:
    """tunelab's own loop, with what its workflow would set up."""
    import numpy as np
    import torch
    from accelerate import Accelerator

    from tunelab.data.loader import TokenTable, TrainingPlan, epoch_order
    from tunelab.models.adapters import load_adapter
    from tunelab.models.load import DTYPES, load_model
    from tunelab.models.precision import weight_format
    from tunelab.training.loop import LoopSettings, TrainingLoop
    from tunelab.training.loss import TargetLoss
    from tunelab.training.optimizer import adamw

    torch.manual_seed(0)
    rows = read_rows(Path(job["rows"]))
    # The plan shuffles: laid out so, its order is the order of the file.
    order = epoch_order(len(rows), seed=0, epoch=0)
    laid_out = [row for _, row in sorted(zip(order, rows, strict=True), key=lambda pair: pair[0])]
    table = TokenTable(
        np.concatenate([np.array(row["input_ids"], dtype=np.int32) for row in laid_out]),
        np.concatenate([np.array(row["answer_mask"], dtype=np.bool_) for row in laid_out]),
        np.concatenate([[0], np.cumsum([len(row["input_ids"]) for row in laid_out])]),
        np.zeros(len(rows), dtype=np.int64),
    )
    plan = TrainingPlan(
        table, job.get("epochs", 1), None, BATCH_SIZE, None, micro_batch_tokens=job["micro_batch_tokens"], seed=0
    )
    device = job["device"]
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision={"fp32": "no", "bf16": "bf16"}[dtype])
    form = weight_format(precision) if precision else None
    base = load_model(job["model"], dtype=torch.float32 if every_weight else DTYPES[dtype], device=device, form=form)
    if every_weight:
        module = TargetLoss(base.requires_grad_(True))
    else:
        module = TargetLoss(load_adapter(base, Path(job["adapter"]), trainable=True))
    optimizer = adamw(module.parameters(), lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8)
    trace = Trace()
    settings = LoopSettings(lr=LEARNING_RATE, schedule="constant", max_grad_norm=1.0)
    TrainingLoop(
        module,
        optimizer,
        plan,
        settings,
        accelerator,
        log=lambda record: trace.step(record["loss"], record["tokens"]),
    ).run()
    return trace.result()


def _peer_model(job: dict[str, Any], dtype: str, bits: int | None = None) -> Any:
    """PEFT's model; `bits`: over a base that bitsandbytes stores, set up as its and PEFT's guides say."""
    import torch
    from peft import PeftModel, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if bits == 4:
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    elif bits == 8:
        how["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    base = AutoModelForCausalLM.from_pretrained(job["model"], **how)
    if bits:
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    return PeftModel.from_pretrained(base, job["adapter"], is_trainable=True)


def _counting(trainer_class: type, trace: Trace) -> type:
    """The trainer, its steps timed and their real tokens counted (collators pad; attention masks say with how many)."""

    class Counting(trainer_class):  # type: ignore[misc]
        seen = 0

        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            self.seen = int(mask.sum()) if mask is not None else int(inputs["input_ids"].numel())
            loss = super().training_step(model, inputs, *rest, **named)
            self.step_loss = float(loss)
            return loss

    return Counting


def _callback(trace: Trace, owner: Callable[[], Any]) -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            trace.step(owner().step_loss, owner().seen)

    return Clock()


def _shared_arguments(job: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": job["scratch"],
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": job["device"] == "cpu",
        "seed": 0,
    }


def transformers_trainer(job: dict[str, Any], *, bf16: bool, sampling: str, bits: int | None = None) -> dict[str, Any]:
    """transformers' Trainer on PEFT's model, batches padded to their longest row."""
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    rows = read_rows(Path(job["rows"]))
    table = Dataset.from_list(
        [
            {
                "input_ids": row["input_ids"],
                "attention_mask": [1] * len(row["input_ids"]),
                "labels": [
                    token if learned else -100
                    for token, learned in zip(row["input_ids"], row["answer_mask"], strict=True)
                ],
            }
            for row in rows
        ]
    )
    trace = Trace()
    trainer = _counting(Trainer, trace)(
        model=_peer_model(job, "bfloat16" if bits else job["dtype"], bits),
        args=TrainingArguments(**_shared_arguments(job), bf16=bf16, train_sampling_strategy=sampling),
        train_dataset=table,
        data_collator=DataCollatorForSeq2Seq(_padding_tokenizer(job), padding=True),
    )
    trainer.add_callback(_callback(trace, lambda: trainer))
    trainer.train()
    return trace.result()


def trl_trainer(job: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """TRL's SFTTrainer; what `settings` leave away is as shipped (bf16, activation checkpointing on)."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = read_rows(Path(job["rows"]))
    table = Dataset.from_list([{"input_ids": row["input_ids"], "completion_mask": row["answer_mask"]} for row in rows])
    trace = Trace()
    trainer = _counting(SFTTrainer, trace)(
        model=_peer_model(job, job["dtype"]),
        args=SFTConfig(
            **_shared_arguments(job),
            train_sampling_strategy="sequential",
            completion_only_loss=True,  # without it, rows that are tokenised already are learned whole
            **settings,
        ),
        train_dataset=table,
        processing_class=_padding_tokenizer(job),
    )
    trainer.add_callback(_callback(trace, lambda: trainer))
    trainer.train()
    return trace.result()


def _padding_tokenizer(job: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"])
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


#: Name -> how it trains. "as shipped" leaves away every setting that a user need not give.
CONTENDERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "tunelab bf16": lambda job: tunelab(job, "bf16"),
    "tunelab fp32": lambda job: tunelab(job, "fp32"),
    "Trainer + PEFT": lambda job: transformers_trainer(job, bf16=False, sampling="sequential"),
    "Trainer + PEFT, best": lambda job: transformers_trainer(job, bf16=True, sampling="group_by_length"),
    "TRL": lambda job: trl_trainer(job),
    "TRL packing": lambda job: trl_trainer(job, packing=True),
    "TRL packing, best": lambda job: trl_trainer(job, packing=True, gradient_checkpointing=False),
}

#: The same over a base in few bits, for qlora_speed.py.
OVER_FEW_BITS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "tunelab full": lambda job: tunelab(job, "bf16", every_weight=True),
    "tunelab nf4": lambda job: tunelab(job, "bf16", "nf4"),
    "tunelab int8": lambda job: tunelab(job, "bf16", "int8"),
    "tunelab mxfp4": lambda job: tunelab(job, "bf16", "mxfp4"),
    "Trainer + PEFT + bitsandbytes nf4": lambda job: transformers_trainer(
        job, bf16=True, sampling="sequential", bits=4
    ),
    "Trainer + PEFT + bitsandbytes int8": lambda job: transformers_trainer(
        job, bf16=True, sampling="sequential", bits=8
    ),
}


def main() -> None:
    name, job_path, out = sys.argv[1:]
    result = {**CONTENDERS, **OVER_FEW_BITS}[name](json.loads(Path(job_path).read_text(encoding="utf-8")))
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import torch

    if torch.cuda.is_available():
        result["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    Path(out).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
