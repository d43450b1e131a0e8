"""What config.json says about a model: its layers, their widths, and how many parameters each part has.

Nothing is loaded and torch is not imported. The counts are exact for the families below; for another architecture they
are those of the nearest one, and `is_known` is false.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from tunelab.errors import ModelError

Norms = Literal["before", "around", "after"]

#: Model types that are built like Llama but for what Family says.
LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text", "smollm3", "mixtral")

#: What a configuration means where a key is missing: the defaults of transformers' configuration classes,
#: which a published config.json may leave out. An explicit null stays.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {"num_key_value_heads": 8},
    "mixtral": {"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "gemma": {"num_key_value_heads": 16, "head_dim": 256},
    "gemma2": {"num_key_value_heads": 4, "head_dim": 256},
    "gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208},
    "smollm3": {"num_key_value_heads": 4, "tie_word_embeddings": True},
}

#: Classes of encoders, as `architectures` names them.
_ENCODERS = ("ForMaskedLM", "ForPreTraining", "ForSequenceClassification", "ForTokenClassification")

#: Bytes per number of each dtype that a configuration may name.
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

#: Keys without which nothing can be counted, and what none of them reaches.
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
_GPT2_SIZES = ("n_embd", "n_layer", "n_head", "n_positions", "vocab_size")
_LARGEST_SIZE, _MOST_LAYERS = 10_000_000, 10_000

_ARCHITECTURE_HINT = "give a model whose config.json has the widths and the number of layers of a decoder"


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer that each of the model's layers has.

    Args:
        name: its last parts: "self_attn.q_proj".
        inputs, outputs: widths.
        bias: whether it has one.
    """

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        return self.weights + self.outputs * self.bias


@dataclass(frozen=True)
class ModelShape:
    """The shape of a causal language model.

    Args:
        family: its model type, or that of the family whose rules are used.
        heads, key_heads, head: numbers of query and key heads, and the width of one.
        linears: linear layers of each layer, experts aside.
        prefix: names of layers begin with it: "model.layers.".
        rotated: of a head's numbers, those that rotary positions turn.
        norms: where each layer has norms: before its two parts, around them, or after.
        is_tied: the LM head is the embedding.
        context: longest sequence in tokens; None = not said.
        experts, experts_per_token: of a mixture; 0 for a dense model.
        other_parameters: of parts that a text model does not have (vision).
        checkpoint_bytes: per parameter in the checkpoint.
        is_known: the family's rules were compared with transformers; False = counted like Llama.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    key_heads: int
    head: int
    linears: tuple[Linear, ...]
    prefix: str = "model.layers."
    norms: Norms = "before"
    norm_has_bias: bool = False
    has_head_norms: bool = False
    rotated: int = 0
    positions: int = 0
    is_tied: bool = False
    activation: str = "silu"
    context: int | None = None
    window: int | None = None
    experts: int = 0
    experts_per_token: int = 0
    other_parameters: int = 0
    checkpoint_bytes: int = 2
    quantization: Mapping[str, Any] = field(default_factory=dict)
    dropout: float = 0.0
    softcaps: bool = False
    is_known: bool = True

    @property
    def query_width(self) -> int:
        return self.heads * self.head

    @property
    def key_width(self) -> int:
        return self.key_heads * self.head

    @property
    def norm_parameters(self) -> int:
        """Of one layer."""
        each = self.hidden * (2 if self.norm_has_bias else 1)
        whole = {"before": 2, "around": 4, "after": 2}[self.norms] * each
        return whole + (2 * self.head if self.has_head_norms else 0)

    @property
    def expert_weights(self) -> int:
        """Of one layer's experts."""
        return self.experts * 3 * self.hidden * self.intermediate

    @property
    def router_weights(self) -> int:
        return self.experts * self.hidden

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Parameters by part; a tied head is counted with the embeddings."""
        attention = sum(one.parameters for one in self.linears if "attn" in one.name)
        mlp = sum(one.parameters for one in self.linears if "attn" not in one.name)
        final = self.hidden * (2 if self.norm_has_bias else 1)
        parts = {
            "embeddings": (self.vocabulary + self.positions) * self.hidden,
            "attention": self.layers * attention,
            "MLP": self.layers * mlp,
            "experts": self.layers * self.expert_weights,
            "routers": self.layers * self.router_weights,
            "norms": self.layers * self.norm_parameters + final,
            "LM head": 0 if self.is_tied else self.vocabulary * self.hidden,
            "vision": self.other_parameters,
        }
        return {name: count for name, count in parts.items() if count}

    @property
    def total(self) -> int:
        return sum(self.parameters.values())

    @property
    def text(self) -> int:
        """Parameters without those of other parts, which full fine-tuning leaves as they are."""
        return self.total - self.other_parameters

    @property
    def active(self) -> int:
        """Weights that one token is multiplied with: without the embeddings, and of experts those that it is sent to;
        a tied head counts."""
        found = self.text - (self.positions + (0 if self.is_tied else self.vocabulary)) * self.hidden
        return found - self.layers * (self.experts - self.experts_per_token) * 3 * self.hidden * self.intermediate


def shape_of(config: Mapping[str, Any], name: str = "") -> ModelShape:
    """The shape that a config.json describes.

    Raises:
        ModelError: it lacks a width or the number of layers, or one is no positive integer; or it is of an encoder, or
            of a mixture of experts whose parameters cannot be counted.
    """
    text = {**config, **config["text_config"]} if isinstance(config.get("text_config"), Mapping) else dict(config)
    if config.get("is_encoder_decoder"):
        raise ModelError(f"{name}: an encoder-decoder model cannot be planned", "give a causal language model")
    if encoder := next((one for one in config.get("architectures") or () if str(one).endswith(_ENCODERS)), None):
        raise ModelError(f"{name}: {encoder} generates no text: it cannot be planned", "give a causal language model")
    text = {**_DEFAULTS.get(str(text.get("model_type")), {}), **text}
    is_gpt2 = text.get("model_type") == "gpt2"
    for key in _GPT2_SIZES if is_gpt2 else _SIZES:
        value = text.get(key)
        most = _MOST_LAYERS if "layer" in key else _LARGEST_SIZE
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            said = f"{key}={value!r}" if key in text else f"no {key}"
            raise ModelError(f"{name}: config.json ({text.get('model_type')}) has {said}", _ARCHITECTURE_HINT)
    try:
        return _gpt2(text) if is_gpt2 else _like_llama(config, text, name)
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ModelError(f"{name}: config.json has a value that no decoder has: {error}", _ARCHITECTURE_HINT) from error


def _gpt2(config: Mapping[str, Any]) -> ModelShape:
    hidden, heads = int(config["n_embd"]), int(config["n_head"])
    inner = int(config.get("n_inner") or 4 * hidden)
    linears = (
        Linear("attn.c_attn", hidden, 3 * hidden, True),
        Linear("attn.c_proj", hidden, hidden, True),
        Linear("mlp.c_fc", hidden, inner, True),
        Linear("mlp.c_proj", inner, hidden, True),
    )
    return ModelShape(
        family="gpt2",
        layers=int(config["n_layer"]),
        hidden=hidden,
        intermediate=inner,
        vocabulary=int(config["vocab_size"]),
        heads=heads,
        key_heads=heads,
        head=hidden // heads,
        linears=linears,
        prefix="transformer.h.",
        norm_has_bias=True,
        positions=int(config["n_positions"]),
        is_tied=bool(config.get("tie_word_embeddings", True)),
        activation=str(config.get("activation_function", "gelu_new")),
        context=int(config["n_positions"]),
        checkpoint_bytes=_dtype_bytes(config),
        quantization=config.get("quantization_config") or {},
        dropout=max(float(config.get(key, 0.1)) for key in ("attn_pdrop", "resid_pdrop", "embd_pdrop")),
    )


def _like_llama(config: Mapping[str, Any], text: Mapping[str, Any], name: str) -> ModelShape:
    kind = str(text.get("model_type", ""))
    hidden, heads, inner = (int(text[key]) for key in ("hidden_size", "num_attention_heads", "intermediate_size"))
    key_heads = int(text.get("num_key_value_heads") or heads)
    head = int(text.get("head_dim") or hidden // heads)
    experts = max((value for key, value in text.items() if _counts_experts(key, value)), default=0)
    if experts and kind != "mixtral":
        raise ModelError(
            f"{name}: {kind} is a mixture of experts whose parameters cannot be counted from config.json",
            "the mixture that can be planned is Mixtral",
        )
    is_gemma = kind.startswith("gemma")
    is_nested = isinstance(config.get("text_config"), Mapping)
    return ModelShape(
        family=kind if kind in LIKE_LLAMA else "llama",
        layers=int(text["num_hidden_layers"]),
        hidden=hidden,
        intermediate=inner,
        vocabulary=int(text["vocab_size"]),
        heads=heads,
        key_heads=key_heads,
        head=head,
        linears=_linears(kind, text, hidden, heads * head, key_heads * head, 0 if experts else inner),
        prefix="model.language_model.layers." if is_nested else "model.layers.",
        norms="around" if kind in ("gemma2", "gemma3_text") else "before",
        has_head_norms=kind in ("qwen3", "gemma3_text"),
        rotated=int(head * _rotary_share(text)),
        is_tied=bool(text.get("tie_word_embeddings", is_gemma)),
        activation=str(text.get("hidden_activation") or text.get("hidden_act") or ("gelu" if is_gemma else "silu")),
        context=_length(text, "max_position_embeddings"),
        window=_length(text, "sliding_window"),
        experts=experts,
        experts_per_token=int(text.get("num_experts_per_tok") or 0),
        other_parameters=_vision_parameters(config, hidden),
        checkpoint_bytes=_dtype_bytes(config),
        quantization=config.get("quantization_config") or {},
        dropout=max(float(text.get(key) or 0.0) for key in ("attention_dropout", "resid_pdrop", "embd_pdrop")),
        softcaps=bool(text.get("attn_logit_softcapping", 50.0 if kind == "gemma2" else None)),
        is_known=kind in LIKE_LLAMA and (not is_nested or config.get("model_type") == "gemma3"),
    )


def _counts_experts(key: str, value: object) -> bool:
    """Whether a key says how many experts there are; each architecture has a name of its own for it."""
    return "experts" in key and "per_tok" not in key and isinstance(value, int) and value > 1


def _length(text: Mapping[str, Any], key: str) -> int | None:
    value = text.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{key}={value!r}")
    return value


def _rotary_share(text: Mapping[str, Any]) -> float:
    parameters = text.get("rope_parameters")
    inner = parameters.get("partial_rotary_factor") if isinstance(parameters, Mapping) else None
    return float(inner or text.get("partial_rotary_factor") or 1.0)


def _linears(kind: str, text: Mapping[str, Any], hidden: int, query: int, key: int, inner: int) -> tuple[Linear, ...]:
    """The linear layers of each layer; inner = 0 for a mixture, whose experts are no linear layers."""
    if kind == "phi3":
        return (
            Linear("self_attn.qkv_proj", hidden, query + 2 * key),
            Linear("self_attn.o_proj", query, hidden),
            Linear("mlp.gate_up_proj", hidden, 2 * inner),
            Linear("mlp.down_proj", inner, hidden),
        )
    bias = bool(text.get("attention_bias", False))
    of_inputs = bias or kind == "qwen2"
    attention = (
        Linear("self_attn.q_proj", hidden, query, of_inputs),
        Linear("self_attn.k_proj", hidden, key, of_inputs),
        Linear("self_attn.v_proj", hidden, key, of_inputs),
        Linear("self_attn.o_proj", query, hidden, bias),
    )
    if not inner:
        return attention
    bias = bool(text.get("mlp_bias", False))
    return (
        *attention,
        Linear("mlp.gate_proj", hidden, inner, bias),
        Linear("mlp.up_proj", hidden, inner, bias),
        Linear("mlp.down_proj", inner, hidden, bias),
    )


def _vision_parameters(config: Mapping[str, Any], hidden: int) -> int:
    """Parameters of Gemma 3's vision part (SigLIP without its head) and of the projection after it; else 0."""
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping) or config.get("model_type") != "gemma3":
        return 0
    wide, inner, layers = (int(vision[key]) for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    patch, image = int(vision["patch_size"]), int(vision["image_size"])
    embeddings = 3 * patch * patch * wide + wide + (image // patch) ** 2 * wide
    attention, mlp, norms = 4 * (wide * wide + wide), 2 * wide * inner + inner + wide, 4 * wide
    return embeddings + layers * (attention + mlp + norms) + 2 * wide + wide * hidden + wide


def _dtype_bytes(config: Mapping[str, Any]) -> int:
    inner = config.get("text_config")
    named = config.get("torch_dtype") or config.get("dtype")
    if named is None and isinstance(inner, Mapping):
        named = inner.get("torch_dtype") or inner.get("dtype")
    return DTYPE_BYTES.get(str(named), 4)
