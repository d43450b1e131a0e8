"""Which architectures of the installed transformers train right: a tiny random model of each, in float32.

    python benchmarks/model_families.py [MODEL_TYPE ...] > benchmarks/results/YYYY-MM-DD-model-families.md

For every model type of AutoModelForCausalLM whose configuration can be made small, with packing and without: how are
its rows run; is the loss on target tokens that of transformers' own logits; does a LoRA step run and change the loss. A
refusal before the first step is right. Another loss, or an exception that is no TunelabError, is not.
"""

from __future__ import annotations

import platform
import signal
import sys
import warnings
from contextlib import contextmanager
from datetime import date
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tunelab.errors import TunelabError
from tunelab.models.adapters import add_lora
from tunelab.models.structure import row_layout
from tunelab.training.loss import TargetLoss
from tunelab.version import __version__

#: Seconds for one architecture.
PATIENCE = 60

#: Largest relative difference of two float32 losses that are the same.
SAME = 1e-4

#: Parameters above which a configuration counts as one that cannot be made small.
MOST_PARAMETERS = 20_000_000

SMALL = {
    "vocab_size": 96, "vocab_size_per_layer_input": 96, "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64,
    "embedding_size": 64, "word_embed_proj_dim": 64, "intermediate_size": 96, "ffn_dim": 96, "n_inner": 96,
    "d_ff": 96, "ffn_hidden_size": 96, "num_hidden_layers": 4, "n_layer": 4, "n_layers": 4, "num_layers": 4,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128, "max_seq_len": 128, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "moe_num_experts": 4, "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2, "n_shared_experts": 1, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 16, "qk_head_dim": 16, "mamba_n_heads": 8, "mamba_d_head": 16,
    "mamba_num_heads": 8, "mamba_head_dim": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "state_size": 8,
    "n_groups": 1, "rotary_dim": 8, "lru_width": 64, "attention_window_size": 16, "sliding_window": 16,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "hidden_size_per_layer_input": 16, "laurel_rank": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "type_vocab_size": 2, "logits_scaling": 8.0, "logit_scale": 0.25, "lm_head_multiplier": 0.5,
}  # fmt: skip


#: Keys that stay as they are, tried in turn, where an architecture ties them to others.
WITHOUT: tuple[tuple[str, ...], ...] = (
    (),
    ("head_dim",),
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    ("head_dim", "num_key_value_heads", "num_hidden_layers"),
    ("mamba_n_heads", "mamba_d_head", "mamba_num_heads", "mamba_head_dim"),
    ("num_attention_heads", "num_heads", "n_heads", "num_key_value_heads", "head_dim"),
)


class TooSlowError(Exception):
    """An architecture took longer than PATIENCE."""


@contextmanager
def bounded() -> Any:
    """Raise TooSlowError in the block after PATIENCE seconds."""

    def stop(*_: Any) -> None:
        raise TooSlowError(f"longer than {PATIENCE} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)


def small_model(kind: str) -> PreTrainedModel:
    """A random model of this model type, in float32, with weights large enough that attention is not uniform."""
    default = AutoConfig.for_model(kind)
    text = default.get_text_config()
    if text is not default:
        raise ValueError("a model of several parts")
    known = {key: value for key, value in SMALL.items() if _is_key(text, key)}
    known |= {key: SMALL[key] for key in ("pad_token_id", "bos_token_id", "eos_token_id")}
    if "qk_rope_head_dim" in known:  # latent attention: the head's width follows from its parts
        known.pop("head_dim", None)
    config = _first_that_builds(kind, known)
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 1.2 * max(parameter.shape[-2:]) ** -0.5)
    return model.eval()


def _is_key(config: Any, key: str) -> bool:
    """Whether a configuration has this key, and not as a property computed from others or from its layers."""
    try:
        return getattr(config, key, None) is not None and not isinstance(getattr(type(config), key, None), property)
    except Exception:  # a key that differs from layer to layer
        return False


def _first_that_builds(kind: str, known: dict[str, Any]) -> Any:
    """The configuration with as many small values as its own checks allow."""
    failure: Exception | None = None
    for left_out in WITHOUT:
        try:
            config = AutoConfig.for_model(kind, **{key: value for key, value in known.items() if key not in left_out})
            with torch.device("meta"):
                built = AutoModelForCausalLM.from_config(config)
            size = sum(parameter.numel() for parameter in built.parameters())
            if size <= MOST_PARAMETERS:
                return config
            raise ValueError(f"{size:,} parameters at the smallest")
        except Exception as error:
            failure = failure or error
    assert failure is not None
    raise failure


ROWS = [[5, 9, 31, 7, 40, 41, 17], [8, 12, 13, 90, 4], [3 + 5 * number % 80 for number in range(40)]]


def own_loss(model: PreTrainedModel) -> float:
    """Cross-entropy of transformers' own logits, each row alone: nats per token."""
    total = 0.0
    with torch.no_grad():
        for row in ROWS:
            logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum"))
    return total / sum(len(row) - 1 for row in ROWS)


def our_loss(module: TargetLoss) -> torch.Tensor:
    """The loss that training computes for the same rows."""
    starts = torch.tensor([0, *(len(row) for row in ROWS)]).cumsum(0)
    ids = torch.tensor([token for row in ROWS for token in row])
    begins = starts[:-1].tolist()
    places = [start + place for start, row in zip(begins, ROWS, strict=True) for place in range(len(row) - 1)]
    labels = torch.tensor([token for row in ROWS for token in row[1:]])
    total: torch.Tensor = module(ids, starts, torch.tensor(places), labels)
    return total / sum(len(row) - 1 for row in ROWS)


def outcome(kind: str, packing: bool) -> str:
    """One cell of the table."""
    model = small_model(kind)
    try:
        layout = row_layout(model, packing)
    except TunelabError as error:
        return f"refused: {error}"
    expected = own_loss(model)
    adapted = add_lora(model, rank=2, alpha=4)
    module = TargetLoss(adapted, layout=layout)
    with module.attention():
        found = our_loss(module)
        difference = abs(float(found) - expected) / expected
        if not difference <= SAME:
            return f"WRONG: loss {float(found):.4f}, transformers' own {expected:.4f}"
        module.train()
        our_loss(module).backward()
        gradients = [p.grad for p in module.parameters() if p.requires_grad and p.grad is not None]
        if not any(bool(gradient.any()) for gradient in gradients):
            return "FAILS: no gradient"
        with torch.no_grad():
            for parameter in (p for p in module.parameters() if p.requires_grad and p.grad is not None):
                parameter -= 0.5 * parameter.grad
        module.eval()
        after = float(our_loss(module))
    return f"trains {layout} (loss {expected:.4f}, after one step {after:.4f})"


def cell(kind: str, packing: bool) -> str:
    """outcome(), or what went wrong."""
    try:
        with bounded():
            return outcome(kind, packing)
    except TunelabError as error:
        return f"refused: {error}"
    except Exception as error:
        lines = str(error).strip().splitlines()
        return f"FAILS: {type(error).__name__}: {lines[0][:120] if lines else ''}"


def main() -> None:
    """Print one row per architecture."""
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    kinds = sys.argv[1:] or [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind in CONFIG_MAPPING_NAMES]
    print(
        f"# Model families: which train right\n\n{date.today()}, tunelab {__version__}, "
        f"transformers {transformers.__version__}, torch {torch.__version__}, "
        f"{platform.machine()}, float32. A refusal comes before the first step.\n"
    )
    print("| model type | class | packed | train.packing=false |\n|---|---|---|---|", flush=True)
    counts: dict[str, int] = {}
    for kind in kinds:
        try:
            with bounded():
                name = type(small_model(kind)).__name__
        except Exception as error:
            lines = str(error).strip().splitlines()
            print(f"| {kind} | not built: {type(error).__name__}: {lines[0][:100] if lines else ''} | | |", flush=True)
            counts["not built"] = counts.get("not built", 0) + 1
            continue
        cells = [cell(kind, packing) for packing in (True, False)]
        for how, text in zip(("packed", "not packed"), cells, strict=True):
            key = f"{how}: {text.replace(':', ' ').split()[0]}"
            counts[key] = counts.get(key, 0) + 1
        print(f"| {kind} | {name} | {cells[0]} | {cells[1]} |".replace("\n", " "), flush=True)
    print("\n" + "; ".join(f"{name}: {count}" for name, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
