"""Values that other fine-tuning tools have for keys that tunelab has too: ours, or why there is none."""

from __future__ import annotations

from typing import Any

_NO_SCHEDULE = "only cosine, linear and constant are implemented"
_NO_OPTIMIZER = "only AdamW is implemented"

#: Our key -> another tool's value -> what to write, or "" and the reason.
OTHER_VALUES: dict[str, dict[str, tuple[str, str]]] = {
    "adapter": {"qlora": ("method=lora precision=nf4", "")},
    "method": {
        "qlora": ("method=lora precision=nf4", ""),
        "none": ("method=full", ""),
        "freeze": ("", "method is lora or full"),
        "oft": ("", "of the adapters, only LoRA is implemented"),
    },
    "adapter.targets": {"all": ("adapter.targets=all-linear", "")},
    "adapter.init": {
        "lora_ga": ("", "LoRA-GA needs gradients of the base; adapter.init=eva or corda also look at training rows"),
        "false": ("", "a random product is for debugging; zero is PEFT's default"),
        "true": ("adapter.init=zero", ""),
    },
    "train.dtype": {
        "bfloat16": ("train.dtype=bf16", ""),
        "float16": ("train.dtype=fp16", ""),
        "half": ("train.dtype=fp16", ""),
        "float32": ("train.dtype=fp32", ""),
        "no": ("train.dtype=fp32", ""),
    },
    "train.optimizer": {
        **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf"), ("train.optimizer=adamw", "")),
        **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), ("train.optimizer=adamw-8bit", "")),
        **dict.fromkeys(
            ("adafactor", "sgd", "lion_8bit", "paged_lion_8bit", "paged_adamw_32bit", "muon"), ("", _NO_OPTIMIZER)
        ),
    },
    "train.schedule": {
        "constant_with_warmup": ("train.schedule=constant", ""),
        **dict.fromkeys(
            ("cosine_with_restarts", "cosine_with_min_lr", "polynomial", "inverse_sqrt", "warmup_stable_decay"),
            ("", _NO_SCHEDULE),
        ),
    },
    "train.trackers": {
        **{name: (f"train.trackers=[{name}]", "") for name in ("wandb", "tensorboard", "trackio")},
        "none": ("train.trackers=[]", ""),
    },
}


def other_value_remedy(path: str, value: Any) -> str:
    """What to write for a value that another tool has for our key `path`, or why there is none; "" if not known."""
    known = OTHER_VALUES.get(path, {}).get(str(value).lower() if isinstance(value, str | bool) else "")
    if known is None:
        return ""
    written, reason = known
    return f"write {written} instead" if written else f"tunelab has no counterpart: {reason}"
